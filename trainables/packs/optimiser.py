"""The optimiser of one phase of a pack: AdamW over flat rows, and its learning rates, clipping and loss scaling.

It steps the parameters of its phase alone: those of others, and their moments, stay bit for bit as they are.

The learning rate is a pure function of the step, so a schedule has no state to save. With fp16 every member has a
loss scale of its own: a member whose gradients overflow skips its step, and the others, which know nothing of it,
take theirs. Shape suffixes: K members, P padded parameters of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from understudy.algorithm import Algorithm, AlgorithmConfig, Phase
from understudy.errors import SpecError
from understudy.trainables.packs.adam import Adam
from understudy.trainables.packs.members import Own
from understudy.trainables.packs.networks import Networks
from understudy.trainables.packs.phases import groups, moved_by

MOMENTS = ("exp_avg", "exp_avg_sq")
SMALLEST_SCALE = 2.0**-10
"""Smallest scale of an fp16 loss: a loss that overflows even with it (26 halvings of the first) has diverged."""


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate: step / warmup_steps up to 1, then 1, or (1 + cos(pi u)) / 2 down to 0.

    u is how much of the way from `warmup_steps` to `decay_steps` is done; steps count from 1.
    """

    warmup_steps: int = 0
    decay_steps: int | None = None

    @classmethod
    def of(cls, config: AlgorithmConfig, training_steps: int | None) -> Schedule:
        """Return the schedule of a run of so many steps; SpecError where the cosine has no room."""
        if config.lr_schedule == "constant":
            return cls(config.warmup_steps)
        end = config.decay_steps or training_steps
        if end is None:
            raise SpecError("lr_schedule=cosine needs decay_steps= where training has no known end")
        if end <= config.warmup_steps:
            raise SpecError(f"lr_schedule=cosine: warmup_steps={config.warmup_steps} leaves none of the {end} steps")
        return cls(config.warmup_steps, end)

    @property
    def varies(self) -> bool:
        """Return whether the factor is ever anything but 1."""
        return self.warmup_steps > 0 or self.decay_steps is not None

    def factor(self, step: int) -> float:
        """Return the factor of update number `step`, in [0, 1]."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.decay_steps is None:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps))
        return 0.5 * (1.0 + math.cos(math.pi * done))


class Optimiser:
    """AdamW of K members over a phase's part of their parameters and gradients; with decay 0 plain Adam."""

    def __init__(
        self, algorithm: Algorithm, phase: Phase, networks: Networks, *, training_steps: int | None = None
    ) -> None:
        layout, parameters, gradients = networks.layout, networks.parameters, networks.gradients
        config, count = algorithm.config, len(parameters)
        self._layout, self._training_steps = layout, training_steps
        self._schedules = [Schedule.of(config, training_steps)] * count
        self._moved = moved_by(phase, layout)
        self._groups = groups(algorithm.learning_rates, layout, self._moved)
        # Of all members' rows, in stretches without a gap: padding is zero and moves nothing.
        places = [place for moved, place in layout.stretches(self._moved.__contains__) if moved]
        self._rows = [[gradients[k, place] for place in places] for k in range(count)]
        self._rates = torch.full((count,), config.lr, dtype=torch.float64, device=parameters.device)
        self._differ = False
        self._clips = [config.grad_clip] * count
        self._members = [self._groups_of(config, parameters[k], gradients[k]) for k in range(count)]
        fp16 = config.precision == "fp16"
        self._scalers = [GradScaler(parameters.device.type) for _ in range(count)] if fp16 else []
        # Whoever may skip a step alone, as scalers have torch's own class do, needs an AdamW alone.
        self._alone = [torch.optim.AdamW(own, fused=True) for own in self._members if fp16]
        self._together = Adam()
        self._one = torch.ones((), device=parameters.device)

    def _groups_of(self, config: AlgorithmConfig, row: torch.Tensor, gradient: torch.Tensor) -> list[dict[str, Any]]:
        """Return a member's parameter groups: one, or one for each stretch of a learning rate of its own."""
        found: list[dict[str, Any]] = []
        for group in self._groups:
            part = row[group.place].detach().requires_grad_()
            part.grad = gradient[group.place]
            found.append({"params": [part], **_settings(config, group.rate)})
        return found

    def change(self, k: int, algorithm: Algorithm, own: Own) -> None:
        """Have member k learn as `algorithm`, the pack's with its `own` settings, says from the next step on."""
        config = algorithm.config
        self._rates[k], self._clips[k] = config.lr, config.grad_clip
        self._schedules[k] = Schedule.of(config, self._training_steps)
        self._differ = self._differ or "lr" in own
        for place, group in zip(self._groups, self._members[k], strict=True):
            group.update(_settings(config, place.rate))

    def clear(self) -> None:
        """Make the phase's gradients zero, for a batch that comes in parts."""
        every = [row for rows in self._rows for row in rows]
        torch._foreach_zero_(every)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def loss_scales(self) -> torch.Tensor | None:
        """Return the factors [K] that losses are multiplied by before they are differentiated; None: by none."""
        return torch.stack([scaler.scale(self._one) for scaler in self._scalers]) if self._scalers else None

    def step(self, step: int, members: Sequence[int]) -> dict[str, torch.Tensor]:
        """Take update number `step` of `members` with the gradients as they are; return metrics, each [K].

        They are `grad_norm` (before clipping), `lr` where it varies or members differ in it and `loss_scale` (the next
        one) with fp16. What is not known of a member, or not of it at this step, is no number.
        """
        metrics: dict[str, torch.Tensor] = {}
        for k in members if self._scalers else ():
            self._scalers[k].unscale_(self._alone[k])
        if any(clip is not None for clip in self._clips):
            metrics["grad_norm"] = self._clip(members)
        if any(schedule.varies for schedule in self._schedules):
            factors = [schedule.factor(step) for schedule in self._schedules]
            each: Any = factors[0] if len(set(factors)) == 1 else self._rates.new_tensor(factors)
            metrics["lr"] = self._rates * each
            for k in members:
                for group in self._members[k]:
                    group["lr"] = group["initial_lr"] * factors[k]
        elif self._differ:
            metrics["lr"] = self._rates.clone()
        for k in members if self._scalers else ():
            self._scalers[k].step(self._alone[k])
            self._scalers[k].update()
        if self._scalers:
            metrics["loss_scale"] = torch.stack([scaler.scale(self._one) for scaler in self._scalers])
        else:
            self._together.step(group for k in members for group in self._members[k])
        return metrics

    def _clip(self, members: Sequence[int]) -> torch.Tensor:
        """Scale gradients of `members` down to their largest norms; return the norms before, [K]."""
        # Member by member: a reduction over [K, P] may add in another order than one over [1, P].
        norms = [torch.full((), torch.nan, device=self._rates.device) for _ in self._rows]
        for k in members:
            largest = self._clips[k]
            if largest is None:
                continue
            norms[k] = _norm(self._rows[k])
            scale = (largest / (norms[k] + 1e-6)).clamp(max=1.0)
            for row in self._rows[k]:
                row.mul_(scale)
        return torch.stack(norms)

    # ---- state ----

    def member_state(self, k: int) -> dict[str, Any]:
        """Return member k's moments by parameter, how many steps it took, and its loss scale."""
        state: dict[str, Any] = {"step": 0}
        kept = self._state_of(k)
        parts = [kept.get(group["params"][0], {}) for group in self._members[k]]
        if parts[0]:
            state = {"step": int(parts[0]["step"].item())}
            for name in MOMENTS:
                row = torch.zeros(self._layout.size)
                for group, part in zip(self._groups, parts, strict=True):
                    row[group.place] = part[name].cpu()
                copies = self._layout.copies(row)
                state[name] = {parameter: copies[parameter] for parameter in self._moved}
        return {**state, "scaler": self._scalers[k].state_dict()} if self._scalers else state

    def load_member_state(self, k: int, state: dict[str, Any]) -> None:
        """Take member k back to what `member_state` returned."""
        kept = self._state_of(k)
        for group in self._members[k]:
            kept.pop(group["params"][0], None)
        if "exp_avg" in state:
            moments = {name: torch.zeros(self._layout.size, device=self._rates.device) for name in MOMENTS}
            for name, moment in moments.items():
                self._layout.fill(moment, state[name], only=self._moved)
            for member, group in zip(self._members[k], self._groups, strict=True):
                own = {name: moment[group.place].clone() for name, moment in moments.items()}
                step = torch.tensor(float(state["step"]), device=self._rates.device)
                kept[member["params"][0]] = {"step": step, **own}
        if self._scalers and "scaler" in state:
            self._scalers[k] = GradScaler(self._rates.device.type)
            self._scalers[k].load_state_dict(state["scaler"])

    def _state_of(self, k: int) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
        return self._alone[k].state if self._scalers else self._together.state


def _settings(config: AlgorithmConfig, rate: float | None) -> dict[str, Any]:
    """Return what AdamW is told of one group, whose learning rate is `rate` or, where that is None, the member's."""
    own = config.lr if rate is None else rate
    betas = (config.adam_beta1, config.adam_beta2)
    return {"lr": own, "initial_lr": own, "weight_decay": config.weight_decay, "betas": betas, "eps": config.adam_eps}


def _norm(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    linear: Any = torch.linalg  # whose functions have no types
    norms: list[torch.Tensor] = [linear.vector_norm(row) for row in rows]
    return norms[0] if len(norms) == 1 else linear.vector_norm(torch.stack(norms))
