"""Scale observations with statistics of the training split; part of the checkpoint and of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

Mode = Literal["none", "zscore", "bounds"]
SAFE_RANGE = 1e-6
"""A dimension that varies less than this (in its own unit) is centred but not scaled."""


@dataclass(frozen=True)
class Normaliser:
    """y = (x - shift) * scale, per dimension. `mode` none is the identity (and what pixels get)."""

    mode: Mode
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Normaliser:
        """Return the normaliser that changes nothing; `shape` is that of one observation."""
        return cls("none", np.zeros(shape, np.float32), np.ones(shape, np.float32))

    @classmethod
    def fit(cls, values: np.ndarray, mode: Mode) -> Normaliser:
        """Fit to `values` [N, *shape]: zscore gives mean 0 and std 1, bounds maps [min, max] to [-1, 1]."""
        if mode == "none" or values.dtype == np.uint8:
            return cls.identity(values.shape[1:])
        if mode == "zscore":
            shift = values.mean(axis=0, dtype=np.float64)
            spread = values.std(axis=0, dtype=np.float64)
        else:
            low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
            shift, spread = (low + high) / 2, (high - low) / 2
        scale = np.where(spread > SAFE_RANGE, 1 / np.maximum(spread, SAFE_RANGE), 1.0)
        return cls(mode, shift.astype(np.float32), scale.astype(np.float32))

    @classmethod
    def join(cls, parts: Sequence[Normaliser]) -> Normaliser:
        """Return the normaliser of values joined along the last axis (a history of observations, and a goal)."""
        shift, scale = (np.concatenate([getattr(part, name) for part in parts], -1) for name in ("shift", "scale"))
        return cls(parts[0].mode, shift, scale)

    def tensors(self, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (shift, scale) on a device."""
        return torch.as_tensor(self.shift, device=device), torch.as_tensor(self.scale, device=device)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; float32 values survive the round trip exactly."""
        return {"mode": self.mode, "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Normaliser:
        """Read back what `to_dict` wrote."""
        return cls(data["mode"], np.asarray(data["shift"], np.float32), np.asarray(data["scale"], np.float32))
