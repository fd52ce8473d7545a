"""Scale observations and actions with statistics of the training split; part of the checkpoint and of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from understudy.observations import Observations, ObservationShape

Mode = Literal["none", "zscore", "bounds"]
SAFE_RANGE = 1e-6
"""A dimension that varies less than this (in its own unit) is centred but not scaled."""


@dataclass(frozen=True)
class Normaliser:
    """y = (x - shift) * scale, per dimension. `mode` none is the identity (and what pictures get).

    Observations of several parts have a normaliser for each part in `parts` (those without one are left alone), and
    no shift of their own. `action` is that of the actions, where they are scaled too.
    """

    mode: Mode
    shift: np.ndarray
    scale: np.ndarray
    parts: Mapping[str, Normaliser] = field(default_factory=dict[str, "Normaliser"])
    action: Normaliser | None = None

    @classmethod
    def identity(cls, shape: ObservationShape) -> Normaliser:
        """Return the normaliser that changes nothing; `shape` is that of one observation."""
        if isinstance(shape, dict):
            return cls.of_parts({})
        return cls("none", np.zeros(shape, np.float32), np.ones(shape, np.float32))

    @classmethod
    def of_parts(cls, parts: Mapping[str, Normaliser]) -> Normaliser:
        """Return the normaliser of observations with several parts."""
        nothing = np.zeros(0, np.float32)
        return cls("none", nothing, nothing, {name: part for name, part in parts.items() if part.mode != "none"})

    def with_actions(self, action: Normaliser) -> Normaliser:
        """Return the same for observations, and `action` for the actions."""
        return replace(self, action=None if action.mode == "none" else action)

    @classmethod
    def fit(cls, values: np.ndarray, mode: Mode) -> Normaliser:
        """Fit to `values` [N, *shape]: zscore gives mean 0 and std 1, bounds maps [min, max] to [-1, 1]."""
        if mode == "none":
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

    def on(self, device: torch.device | str) -> NormaliserOn:
        """Return what scales tensors on a device."""
        return NormaliserOn(self, device)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; float32 values survive the round trip exactly."""
        plain: dict[str, Any] = {"mode": self.mode, "shift": self.shift.tolist(), "scale": self.scale.tolist()}
        if self.parts:
            plain["parts"] = {name: part.to_dict() for name, part in self.parts.items()}
        if self.action is not None:
            plain["action"] = self.action.to_dict()
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Normaliser:
        """Read back what `to_dict` wrote."""
        shift, scale = (np.asarray(data[name], np.float32) for name in ("shift", "scale"))
        parts = {name: cls.from_dict(part) for name, part in data.get("parts", {}).items()}
        return cls(data["mode"], shift, scale, parts, cls.from_dict(data["action"]) if "action" in data else None)


class NormaliserOn:
    """A normaliser's numbers on one device."""

    def __init__(self, normaliser: Normaliser, device: torch.device | str) -> None:
        def tensors(of: Normaliser) -> tuple[torch.Tensor, torch.Tensor] | None:
            if of.mode == "none":
                return None
            return torch.as_tensor(of.shift, device=device), torch.as_tensor(of.scale, device=device)

        self._whole = tensors(normaliser)
        self._parts = {name: tensors(part) for name, part in normaliser.parts.items()}
        self._action = None if normaliser.action is None else tensors(normaliser.action)

    def observations(self, observations: Observations) -> Observations:
        """Return observations scaled, as float32; uint8 pictures stay as they are."""
        if isinstance(observations, dict):
            return {name: _scaled(part, self._parts.get(name)) for name, part in observations.items()}
        return _scaled(observations, self._whole)

    def actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Return actions [..., A] as the network learns them."""
        return actions if self._action is None else _scaled(actions, self._action)

    def actions_back(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the network's actions [..., A] in the environment's units."""
        if self._action is None:
            return actions
        shift, scale = self._action
        return actions / scale + shift


def _scaled(values: torch.Tensor, by: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    if values.dtype == torch.uint8:
        return values
    values = values.to(torch.float32)
    return values if by is None else (values - by[0]).mul_(by[1])
