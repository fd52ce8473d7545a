"""The optimiser of one phase of a pack: AdamW over flat rows, and its learning rates, clipping and loss scaling.

It steps the parameters of its phase alone: those of others, and their moments, stay bit for bit as they are.

The learning rate is a pure function of the step, so a schedule has no state to save. With fp16 every member has a
loss scale of its own: a member whose gradients overflow skips its step, and the others, which know nothing of it,
take theirs. Shape suffixes: K members, P padded parameters of one.
"""

from __future__ import annotations

import itertools
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
        self._config, self._layout = config, layout
        self._schedule = Schedule.of(config, training_steps)
        self._moved = moved_by(phase, layout)
        self._groups = groups(algorithm.learning_rates, layout, self._moved)
        # Of all members' rows, in stretches without a gap: padding is zero and moves nothing.
        places = [place for moved, place in layout.stretches(self._moved.__contains__) if moved]
        self._rows = [[gradients[k, place] for place in places] for k in range(count)]
        self._rates = torch.full((count,), config.lr, dtype=torch.float64, device=parameters.device)
        self._differ = False
        self._members = [self._groups_of(parameters[k], gradients[k]) for k in range(count)]
        fp16 = config.precision == "fp16"
        self._scalers = [GradScaler(parameters.device.type) for _ in range(count)] if fp16 else []
        betas, eps = (config.adam_beta1, config.adam_beta2), config.adam_eps
        # Whoever may skip a step alone, as scalers have torch's own class do, needs an AdamW alone.
        self._alone = [torch.optim.AdamW(own, betas=betas, eps=eps, fused=True) for own in self._members if fp16]
        self._together = Adam([group for own in self._members for group in own], betas=betas, eps=eps)
        self._one = torch.ones((), device=parameters.device)

    def _groups_of(self, row: torch.Tensor, gradient: torch.Tensor) -> list[dict[str, Any]]:
        """Return a member's parameter groups: one, or one for each stretch of a learning rate of its own."""
        rate, decay = self._config.lr, self._config.weight_decay
        found: list[dict[str, Any]] = []
        for group in self._groups:
            part = row[group.place].detach().requires_grad_()
            part.grad = gradient[group.place]
            own = rate if group.rate is None else group.rate
            found.append({"params": [part], "lr": own, "initial_lr": own, "weight_decay": decay})
        return found

    def change(self, k: int, own: Own) -> None:
        """Have member k learn with its own `lr` and `weight_decay`, where they are in `own`; parts' own rates stay."""
        rate, decay = own.get("lr", self._config.lr), own.get("weight_decay", self._config.weight_decay)
        self._rates[k] = rate
        self._differ = self._differ or "lr" in own
        for place, group in zip(self._groups, self._members[k], strict=True):
            if place.rate is None:
                group["lr"] = group["initial_lr"] = rate
            group["weight_decay"] = decay

    def clear(self) -> None:
        """Make the phase's gradients zero, for a batch that comes in parts."""
        every = [row for rows in self._rows for row in rows]
        torch._foreach_zero_(every)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def loss_scales(self) -> torch.Tensor | None:
        """Return the factors [K] that losses are multiplied by before they are differentiated; None: by none."""
        return torch.stack([scaler.scale(self._one) for scaler in self._scalers]) if self._scalers else None

    def step(self, step: int) -> dict[str, torch.Tensor]:
        """Take update number `step` with the gradients as they are; return metrics, each [K].

        They are `grad_norm` (before clipping), `lr` where it varies or members differ in it and `loss_scale` (the next
        one) with fp16.
        """
        metrics: dict[str, torch.Tensor] = {}
        for scaler, adam in zip(self._scalers, self._alone, strict=True):
            scaler.unscale_(adam)
        if self._config.grad_clip is not None:
            metrics["grad_norm"] = self._clip(self._config.grad_clip)
        if self._schedule.varies:
            factor = self._schedule.factor(step)
            metrics["lr"] = self._rates * factor
            for group in itertools.chain(*self._members):
                group["lr"] = group["initial_lr"] * factor
        elif self._differ:
            metrics["lr"] = self._rates.clone()
        for scaler, adam in zip(self._scalers, self._alone, strict=True):
            scaler.step(adam)
            scaler.update()
        if self._scalers:
            metrics["loss_scale"] = torch.stack([scaler.scale(self._one) for scaler in self._scalers])
        else:
            self._together.step()
        return metrics

    def _clip(self, largest: float) -> torch.Tensor:
        """Scale each member's gradient down to the norm `largest`; return the norms before, [K]."""
        # Member by member: a reduction over [K, P] may add in another order than one over [1, P].
        norms = torch.stack([_norm(rows) for rows in self._rows])
        for rows, scale in zip(self._rows, (largest / (norms + 1e-6)).clamp(max=1.0), strict=True):
            for row in rows:
                row.mul_(scale)
        return norms

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


def _norm(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    linear: Any = torch.linalg  # whose functions have no types
    norms: list[torch.Tensor] = [linear.vector_norm(row) for row in rows]
    return norms[0] if len(norms) == 1 else linear.vector_norm(torch.stack(norms))
