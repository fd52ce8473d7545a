"""Batches as networks get them: on the pack's device, scaled, actions clipped; and actions back in the data's units.

Shape suffixes: K members, M chosen ones, b samples, R rows, H steps of a chunk, A action dims, O observation dims.
"""

from __future__ import annotations

import numpy as np
import torch

from understudy.algorithm import EXECUTED, EXPERT, Batch
from understudy.normaliser import Normaliser
from understudy.observations import Arrays, Observations, each

ACTION_LIMIT = 1.0 - 1e-5
"""Demonstrated actions are clipped to +- this, as the reference does."""
SEEN = {f"{whose}{name}" for whose in ("", EXPERT) for name in ("observations", "next_observations")}
"""Arrays of a batch that are scaled as observations."""
DONE = {"actions", EXECUTED, f"{EXPERT}actions"}
"""Arrays that are scaled as actions."""


class Inputs:
    """A normaliser on one device; `action_clip` says whether actions of batches are clipped."""

    def __init__(self, normaliser: Normaliser, device: torch.device, action_clip: bool) -> None:
        self._scaling, self._device, self._clips = normaliser.on(device), device, action_clip

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch on the device, with observations and actions scaled, and the actions clipped."""
        moved = dict(batch)
        if self._device.type != "cpu":
            moved = {
                name: each(lambda part: part.to(self._device, non_blocking=True), value)
                for name, value in batch.items()
            }
        for name in SEEN & moved.keys():
            moved[name] = self._scaling.observations(moved[name])
        for name in DONE & moved.keys():
            moved[name] = self._scaling.actions(moved[name])
            if self._clips:
                moved[name] = moved[name].clamp(-ACTION_LIMIT, ACTION_LIMIT)
        return moved

    def seen(self, observations: Arrays | Observations) -> Observations:
        """Return raw observations [M, R, *O] as a policy sees them."""
        return self._scaling.observations(each(lambda part: torch.as_tensor(part).to(self._device), observations))

    def done(self, actions: torch.Tensor) -> np.ndarray:
        """Return a policy's actions [M, R, H, A] in the data's units."""
        return self._scaling.actions_back(actions).cpu().numpy()
