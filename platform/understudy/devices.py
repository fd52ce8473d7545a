"""Which torch device a run gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.errors import SpecError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> torch.device:
    """Return the torch device; `auto` is CUDA where there is one. Raises SpecError for one that is not here."""
    import torch  # it takes seconds, and most commands need no device

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise SpecError(f"device={device!r}: allowed are auto, cpu, cuda, cuda:N") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device={device!r}: torch {torch.__version__} sees no CUDA device here; use device=cpu")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device={device!r}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0")
    return resolved
