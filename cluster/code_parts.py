"""A job's code on Kubernetes: sent as ConfigMaps, which hold 1 MiB each, and joined in every pod before Ray starts."""

from __future__ import annotations

import base64
from typing import Any

from understudy.errors import UserError

CODE, PARTS = "/understudy", "/understudy-parts"
"""Where pods have the joined code, and its parts."""
CODE_ZIP = "code.zip"
PART_BYTES, MOST_PARTS = 1_000_000, 8
"""The values of a ConfigMap may have 2**20 bytes, before base64 (Kubernetes' ValidateConfigMap): one for each part."""


def split(job: str, content: bytes) -> list[tuple[str, str, str]]:
    """Return (ConfigMap, key, base64 text) of each part of a job's zipped code; UserError when there are too many."""
    parts = [content[begin : begin + PART_BYTES] for begin in range(0, len(content), PART_BYTES)]
    if len(parts) > MOST_PARTS:
        raise UserError(
            f"the code and its plug-ins are {len(content) / 1e6:.1f} MB zipped, and a job may bring"
            f" {MOST_PARTS * PART_BYTES / 1e6:g} MB: keep data and weights out of the plug-ins' folders"
        )
    return [(_name(job, at), f"{CODE_ZIP}.{at}", base64.b64encode(part).decode()) for at, part in enumerate(parts)]


def volumes(job: str) -> list[dict[str, Any]]:
    """Return a pod's volumes `code`, empty at first, and `parts`, with all parts that there are."""
    maps = [{"configMap": {"name": _name(job, at), "optional": at > 0}} for at in range(MOST_PARTS)]
    return [{"name": "code", "emptyDir": {}}, {"name": "parts", "projected": {"sources": maps}}]


def joining(image: str, amounts: dict[str, str]) -> dict[str, Any]:
    """Return the container that joins the parts, in their order."""
    return {
        "name": "code",
        "image": image,
        "command": ["sh", "-c", f"cat {PARTS}/{CODE_ZIP}.* >{CODE}/{CODE_ZIP}"],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [
            {"name": "parts", "mountPath": PARTS, "readOnly": True},
            {"name": "code", "mountPath": CODE},
        ],
    }


def _name(job: str, at: int) -> str:
    return f"{job}-{at}" if at else job
