"""Export a policy: one file of a format, compared with the policy before it is kept, and a JSON that describes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import __version__
from understudy.errors import UnderstudyError, UserError, did_you_mean
from understudy.exporting.formats import FORMATS, Format
from understudy.exporting.function import NOISE, PolicyFunction
from understudy.files import sha256, write_json
from understudy.folders import replaced_folder
from understudy.observations import LANGUAGE, told_text
from understudy.policy import Policy

DOCUMENT = "export.json"
VERSION = 1
TOLERANCE = 1e-4
"""Largest difference from the policy's own actions, of their largest, with which a file is still kept."""
BATCHES = (1, 5)


def format_named(name: str) -> Format:
    """Return a format; UserError with the nearest name, or with what is not installed."""
    if name not in FORMATS:
        raise UserError(f"--format {name}: no such format{did_you_mean(name, FORMATS)}")
    FORMATS[name].check()
    return FORMATS[name]


def export_policy(
    policy: Policy,
    folder: Path | str,
    format: str = "exported",
    *,
    member: int = 0,
    temperature: float | None = None,
    source: str = "",
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write one member of a policy as a file of a format, with export.json beside it; return what that says.

    The folder is written whole or not at all, and replaces an earlier export there. The file is read back and must
    give the policy's own actions; `difference` in the JSON is the largest that was found. `source` is where the
    policy came from. The JSON holds the vectors of `texts`, for a policy that is told its task's.
    """
    kind, folder = format_named(format), Path(folder)
    if folder.is_file() or (any(folder.glob("*")) and not (folder / DOCUMENT).is_file()):
        raise UserError(f"{folder}: holds something else than an exported policy; choose another folder")
    function = PolicyFunction(policy.on("cpu"), member, temperature)
    language = _texts(policy, texts)
    with replaced_folder(folder) as beside:
        path = beside / kind.file
        facts = kind.write(function, path)
        difference = compare(function, kind, path)
        document = {
            "export_version": VERSION,
            "format": format,
            "file": kind.file,
            "sha256": sha256(path),
            **facts,
            **_described(policy, function, member, source),
            **language,
            "difference": difference,
            "made_with": {"understudy": __version__, "torch": torch.__version__},
        }
        write_json(beside / DOCUMENT, document)
    return document


def compare(function: PolicyFunction, kind: Format, path: Path) -> float:
    """Return the largest difference between a file's actions and the policy's; UnderstudyError where it is too large.

    Both are asked for batches of made-up observations, one of them a single one.
    """
    run = kind.read(path, [port.name for port in function.inputs])
    largest = 0.0
    for key, rows in enumerate(BATCHES, start=1):
        inputs = [port.sample(rows, key) for port in function.inputs]
        with torch.inference_mode():
            own = function(*inputs).numpy()
        found = run(inputs)
        difference = float(np.abs(found - own).max())
        if found.shape != own.shape or not difference <= TOLERANCE * max(1.0, float(np.abs(own).max())):
            raise UnderstudyError(
                f"{kind.file} gives other actions than the policy ({found.shape} and {own.shape}, up to"
                f" {difference:.2g} apart): nothing was written; another --format may do, and please report it"
            )
        largest = max(largest, difference)
    return largest


def _texts(policy: Policy, texts: Sequence[str]) -> dict[str, Any]:
    """Return what the JSON says of task texts: the encoder, the text that is inside or the vectors of those given.

    UserError for texts where the file takes none.
    """
    language = policy.algorithm.config.language
    if not told_text(policy.algorithm.observation_shape):
        if texts:
            raise UserError(f"--text {texts[0]!r}: this policy of {policy.algorithm.name} is told no task texts")
        return {}
    if texts and language.eval_language is not None:
        raise UserError(f"--text {texts[0]!r}: eval_language={language.eval_language!r} is inside, and no text goes in")
    encoder = {"encoder": language.language_encoder, "table": language.language_table}
    inside = {} if language.eval_language is None else {"inside": language.eval_language}
    vectors = {text: vector.tolist() for text, vector in zip(texts, policy.embed(list(texts)), strict=True)}
    return {LANGUAGE: {**encoder, **inside, **({"vectors": vectors} if texts else {})}}


def _described(policy: Policy, function: PolicyFunction, member: int, source: str) -> dict[str, Any]:
    """Return what whoever runs the file has to know: what goes in, what comes out, and how a robot executes it."""
    algorithm, spec = policy.algorithm, policy.spec
    stochastic = any(port.name == NOISE for port in function.inputs)
    return {
        "policy": {
            "source": source,
            "algorithm": algorithm.name,
            "env_name": policy.env_name,
            "seed": policy.seeds[member],
            "settings": {name: getattr(algorithm.config, name) for name in algorithm.evaluation_parameters},
        },
        "inputs": [port.to_dict() for port in function.inputs],
        "outputs": [function.output.to_dict()],
        "temperature": function.temperature if stochastic else 0.0,
        "noise": "standard normal, drawn for each decision; the temperature is inside" if stochastic else "none",
        "chunk": {
            "length": algorithm.chunk_length,
            "executed": algorithm.executed,
            "temporal_ensemble_coeff": algorithm.config.chunks.temporal_ensemble_coeff,
        },
        "history": int(spec.get("obs_horizon", 1)),
        "units": "observations and actions are the environment's own: the normaliser is inside; pictures are uint8 RGB",
    }
