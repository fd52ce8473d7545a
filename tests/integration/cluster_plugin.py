"""A user's plug-in for the tests of submitted jobs: bc that writes down where it was made, and what it found there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from understudy.registry import algorithms, search_spaces
from understudy.spec.space import Choice, SearchSpace
from understudy.trainables.algorithms.bc import BC, BCConfig


@algorithms.register("plugged_bc")
class PluggedBC(BC):
    """bc under another name."""

    name = "plugged_bc"

    Config = BCConfig

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        notes = os.environ.get("PLUGGED_NOTES")
        if notes:
            secret = os.environ.get("PLUGGED_PASSWORD", "")
            found = {"node": _node(), "secret": hashlib.sha256(secret.encode()).hexdigest(), "code": __file__}
            Path(notes, f"{os.getpid()}.json").write_text(json.dumps(found))


def _node() -> str:
    """Return the Ray node's id; nothing outside of Ray."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


search_spaces.register("plugged")(SearchSpace(algo="plugged_bc", dimensions={"lr": Choice(values=(1e-4, 3e-4, 1e-3))}))
