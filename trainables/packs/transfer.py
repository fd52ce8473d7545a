"""Move a picture encoder's weights from a file or from another algorithm's policy into a network, and say what moved.

Tensors find each other by name within a camera's encoder: `encoder.front.layer1.0.conv1.weight` is filled from the
same name, else from camera `front` anywhere in the file, else from the file's shared or only encoder. A file of bare
names, such as torchvision's (and timm's) `layer1.0.conv1.weight`, is one encoder too, and so are the names and axes of
flax's ResNetV1 (`conv_init/kernel`, `ResNetBlock_0/Conv_0/kernel`: HIL-SERL's, BridgeData's). What does not fit stays
as it was drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from understudy import checkpoints
from understudy.errors import CheckpointError, SpecError, UserError
from understudy.loading import load_policy
from understudy.spec.part import ADDRESS
from understudy.trainables.networks.observation import SHARED, ObservationEncoder

NESTED = ("weights", "state_dict", "model")
"""Keys below which .pt files keep the tensors: a run's models, and other tools'."""
SHOWN = 3
"""Skipped tensors that a report's line names."""


@dataclass
class LoadedEncoder:
    """What `load_encoder` did, by the network's tensor names."""

    loaded: list[str] = field(default_factory=list[str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Tensors of the network that stayed as they were, and why."""
    unused: list[str] = field(default_factory=list[str])
    """Tensors of the file that went nowhere."""

    def line(self) -> str:
        """Return it in one line, for logs; the first few of what was skipped by name."""
        parts = [f"{len(self.loaded)} encoder tensors loaded, {len(self.skipped)} kept as drawn"]
        if self.skipped:
            named = [f"{name}: {reason}" for name, reason in list(self.skipped.items())[:SHOWN]]
            more = len(self.skipped) - len(named)
            parts.append(f"({'; '.join(named)}{f'; and {more} more' if more else ''})")
        return " ".join(parts) + f"; {len(self.unused)} tensors of the file unused"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, for a run's state."""
        return {"loaded": self.loaded, "skipped": self.skipped, "unused": self.unused}


def read_weights(path: Path | str, tracking_uri: str | None = None) -> dict[str, torch.Tensor]:
    """Read named tensors: a safetensors or .pt file, or the first member of whatever `load_policy` finds a policy at.

    `tracking_uri` is where the addresses of models are looked up. SpecError or CheckpointError, in one line with the
    path, for anything else; nothing in a file is ever run.
    """
    file = Path(path)
    if ADDRESS.match(str(path)) or file.is_dir():
        try:
            return load_policy(path, tracking_uri=tracking_uri).weights()
        except UserError as error:
            raise SpecError(f"encoder_weights={path}: {error}") from None
    if not file.is_file():
        raise SpecError(
            f"encoder_weights={file}: no such file or folder; a weights file, a run directory, a policy folder,"
            " models:/NAME@ALIAS or runs:/RUN_ID/model is needed"
        )
    found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise SpecError(f"encoder_weights={file}: holds no named tensors")
    return from_flax(tensors) if any(_FLAX_STEM.search(name) for name in tensors) else tensors


_FLAX_STEM = re.compile(r"(^|[./])conv_init[./]kernel$")
_FLAX_BLOCK = re.compile(
    r"ResNetBlock_(\d+)\.(Conv|MyGroupNorm|GroupNorm|conv_proj|norm_proj)(?:_(\d+))?\.(kernel|scale|bias)$"
)
_FLAX_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def from_flax(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of flax's ResNetV1 of basic blocks by torchvision's names, kernels as [out, in, h, w].

    A block that projects what it adds to begins a new stage. Tensors of other names stay as they are.
    """
    dotted = {name.replace("/", "."): value for name, value in tensors.items()}
    firsts = sorted(
        {int(found[1]) for name in dotted if (found := _FLAX_BLOCK.search(name)) and found[2] == "conv_proj"}
    )
    renamed: dict[str, torch.Tensor] = {}
    for name, value in dotted.items():
        ours = _from_flax(name, firsts)
        renamed[ours] = value.permute(3, 2, 0, 1).contiguous() if name.endswith("kernel") and value.ndim == 4 else value
    return renamed


def _from_flax(name: str, firsts: list[int]) -> str:
    stem = re.search(r"(conv_init|norm_init)\.(kernel|scale|bias)$", name)
    if stem:
        return f"{'conv1' if stem[1] == 'conv_init' else 'bn1'}.{_FLAX_NAMES[stem[2]]}"
    found = _FLAX_BLOCK.search(name)
    if found is None:
        return name
    block, kind, place = int(found[1]), found[2], int(found[3] or 0)
    stage = sum(first <= block for first in firsts)
    inside = block - (firsts[stage - 1] if stage else 0)
    part = {"conv_proj": "downsample.0", "norm_proj": "downsample.1", "Conv": f"conv{place + 1}"}.get(
        kind, f"bn{place + 1}"
    )
    return f"layer{stage + 1}.{inside}.{part}.{_FLAX_NAMES[found[4]]}"


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"encoder_weights={path} cannot be read: {error}") from None


def _read_torch(path: Path) -> dict[str, Any]:
    """Return the mapping that holds the tensors, at the top or one level below."""
    if path.with_name(path.name + ".sha256").is_file():
        return checkpoints.load(path).get("weights", {})
    checkpoints.check_unpacked(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch raises many types for a damaged or a dangerous file)
        raise CheckpointError(f"encoder_weights={path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise SpecError(f"encoder_weights={path}: holds no named tensors")
    named = cast("Mapping[str, Any]", state)
    return dict(next((named[key] for key in NESTED if isinstance(named.get(key), Mapping)), named))


@torch.no_grad()
def load_encoder(network: nn.Module, weights: Mapping[str, torch.Tensor], origin: str = "the weights") -> LoadedEncoder:
    """Copy what fits of `weights` into the picture encoders of `network`, in place; return what was and what was not.

    SpecError when nothing fits; `origin` names the weights in it.
    """
    report = LoadedEncoder()
    used: set[str] = set()
    for prefix, camera, encoder in _picture_encoders(network):
        wanted = encoder.state_dict()
        source, problem = _source(prefix, camera, wanted, weights)
        for name, value in wanted.items():
            found = None if source is None else weights.get(source + name)
            reason = problem or _misfit(name, value, found, wanted, weights, str(source))
            if reason:
                report.skipped[prefix + name] = reason
            elif found is not None:
                value.copy_(found)
                report.loaded.append(prefix + name)
                used.add(f"{source}{name}")
    report.unused = [name for name in weights if name not in used]
    if not report.loaded:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(report.skipped.items())[:SHOWN])
        raise SpecError(f"no tensor of {origin} fits the encoder ({named or 'the network has no picture encoder'})")
    return report


def _picture_encoders(network: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield (name prefix with its dot, camera, module) of every picture encoder in a network."""
    for path, module in cast("Iterator[tuple[str, nn.Module]]", network.named_modules()):
        if isinstance(module, ObservationEncoder):
            for camera, encoder in module.named_children():
                yield f"{path}.{camera}.".removeprefix("."), camera, encoder


def _source(
    prefix: str, camera: str, wanted: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> tuple[str | None, str]:
    """Return the prefix in the file of the encoder to load from, or None and why there is none."""
    # The deepest names tell encoders apart: `conv1.weight` also ends `layer1.0.conv1.weight`.
    depth = max(name.count(".") for name in wanted)
    deepest = {name for name in wanted if name.count(".") == depth}
    ends = {name: ".".join(name.split(".")[-depth - 1 :]) for name in weights}
    prefixes = sorted({name[: len(name) - len(end)] for name, end in ends.items() if end in deepest})
    if prefix in prefixes or not prefixes:
        return (prefix, "") if prefixes else (None, "not in the file")
    for known in (camera, SHARED):
        of_name = [item for item in prefixes if item == f"{known}." or item.endswith(f".{known}.")]
        if len(of_name) == 1:
            return of_name[0], ""
    if len(prefixes) == 1:
        return prefixes[0], ""
    return None, f"the file has several encoders ({', '.join(prefixes)}) and none for {camera}"


def _misfit(
    name: str,
    value: torch.Tensor,
    found: torch.Tensor | None,
    wanted: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    source: str,
) -> str:
    """Return why `found` cannot fill `value`, or ''."""
    if found is None:
        return "not in the file"
    statistics = f"{name.rpartition('.')[0]}.running_mean"
    if (statistics in wanted) != (source + statistics in weights):
        return "of another kind of normalisation"  # a batch norm's scale means nothing to a GroupNorm
    if found.shape != value.shape:
        return f"shape {tuple(found.shape)} in the file, {tuple(value.shape)} here"
    return ""
