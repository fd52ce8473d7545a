"""A pack: K members (seeds, learning rates, weight decays) of one algorithm trained at once on one device.

All members' parameters live in one float32 tensor [K, P] (row k is member k) and their gradients in another of
the same layout, so that clearing, averaging over workers and the fused AdamW step each touch one block of memory.
A single run is a pack of one.

Two ways to run the members give the same numbers: `loop` (one after the other; a member is then bit for
bit the seed trained alone) and `vmap` (one stacked model through torch.func; equal within float tolerance,
and faster where kernel launches dominate, that is on GPUs).

Workers share a pack's gradient by ONE all-reduce of the flat buffer instead of DistributedDataParallel:
DDP would copy the gradients into buckets of its own, K modules would send K sets of buckets, and for
networks of a few MB one message costs less than overlapping several with the backward pass. Workers start equal
because weights are a pure function of the seed.

Networks must be stateless apart from parameters and constant buffers (no BatchNorm). Nothing here knows of
data files, logging or checkpoints' files. Shape suffixes: K members, P padded parameters of one, b samples of
this worker, R rows of observations, O observation dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.func import functional_call, stack_module_state, vmap

from understudy.algorithm import Algorithm, Batch
from understudy.errors import TrainingDiverged
from understudy.normaliser import Normaliser
from understudy.observations import Arrays, Observations, each
from understudy.randomness import torch_generator
from understudy.trainables.flat import ALIGNMENT, Caller, Layout, move_into

Mode = Literal["loop", "vmap"]
ACTION_LIMIT = 1.0 - 1e-5
"""Demonstrated actions are clipped to +- this, as the reference does."""
NEVER = 2**62


class Pack:
    """K members of `algorithm`, their optimiser, and their policy."""

    def __init__(
        self,
        algorithm: Algorithm,
        seeds: Sequence[int],
        *,
        normaliser: Normaliser | None = None,
        device: torch.device | str = "cpu",
        learning_rates: Sequence[float] | None = None,
        weight_decays: Sequence[float] | None = None,
        world_size: int = 1,
        rank: int = 0,
        mode: Mode | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.seeds = [int(seed) for seed in seeds]
        self.device = torch.device(device)
        self.mode: Mode = mode or ("vmap" if self.device.type == "cuda" and len(self.seeds) > 1 else "loop")
        self.world_size, self.rank = world_size, rank
        self.normaliser = normaliser or Normaliser.identity(algorithm.observation_shape)
        self._scaling = self.normaliser.on(self.device)

        # Weights are drawn on the CPU, so that a seed means the same network on every device.
        self.members = [algorithm.network(torch_generator(seed, "weights")) for seed in self.seeds]
        self.layout = Layout(self.members[0])
        count, size = len(self.seeds), self.layout.size
        # One more block of columns carries the loss, so that workers average it in the same message.
        self._gradients = torch.zeros(count, size + ALIGNMENT, device=self.device)
        self.parameters = torch.zeros_like(self._gradients)[:, :size]
        self._losses = self._gradients[:, size]
        self._first_bad_step = torch.full((count,), NEVER, dtype=torch.int64, device=self.device)
        for index, member in enumerate(self.members):
            move_into(member, self.layout.views(self.parameters[index]), self.layout.views(self._gradients[index]))
            member.to(self.device)
        self._acting, self._averages = self.members, None
        if algorithm.target_rate is not None:
            self._averages = self.parameters.clone()
            self._acting = [algorithm.network(torch_generator(seed, "weights")) for seed in self.seeds]
            for index, member in enumerate(self._acting):
                move_into(member, self.layout.views(self._averages[index]), None)
                member.to(self.device)

        self._stacked = self._stack(self.parameters) if self.mode == "vmap" else {}
        self._leaf_gradients = list(self.layout.views(self._gradients).values())
        self._leaves = [
            self._stacked[f"network.{name}"].requires_grad_() for name in self.layout.shapes if self._stacked
        ]
        self._caller = Caller(self.members[0])
        self._optimiser = self._make_optimiser(learning_rates, weight_decays)

    def __len__(self) -> int:
        return len(self.seeds)

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Take one optimiser step for every member and return its metrics, each [K], detached, not synchronised.

        `batch` holds observations [K, b, *O] (raw), actions [K, b, H, A] and valid [K, b, H], b being this
        worker's share. Metrics are of this worker's share; `actor_loss` is the total loss. On the CPU a
        loss that is not finite raises TrainingDiverged before any parameter is touched; on an accelerator
        `check_finite` finds it later.
        """
        batch = self._prepare(batch)
        draws = self._draw(batch["actions"].shape[1], step)
        self._gradients.zero_()
        metrics = self._backward_loop(batch, draws) if self.mode == "loop" else self._backward_vmap(batch, draws)
        if self.world_size > 1:
            dist.all_reduce(self._gradients)
            self._gradients.div_(self.world_size)
        self._note_divergence(step)
        if self.algorithm.config.grad_clip is not None:
            metrics["grad_norm"] = self._clip_gradients(self.algorithm.config.grad_clip)
        self._optimiser.step()
        if self._averages is not None:
            self._averages.lerp_(self.parameters, self.algorithm.target_rate or 0.0)
        return metrics

    @torch.no_grad()
    def losses(self, batch: Batch, number: int) -> dict[str, torch.Tensor]:
        """Return every member's metrics, each [K], on a batch that is not learnt from.

        All members get the same random draws, those of batch `number`, so that their losses compare.
        """
        batch = self._prepare(batch)
        draws = self.algorithm.draw(
            batch["actions"].shape[1], torch_generator(0, "validation", number, device=self.device)
        )
        collected: list[dict[str, torch.Tensor]] = []
        for index, member in enumerate(self.members):
            loss, metrics = self.algorithm.loss(member, _of_member(batch, index), draws)
            collected.append({"actor_loss": loss, **metrics})
        return {name: torch.stack([metrics[name] for metrics in collected]) for name in collected[0]}

    def check_finite(self) -> None:
        """Raise TrainingDiverged, naming step and seed, if any loss so far was not finite. Synchronises."""
        steps = self._first_bad_step.tolist()
        index = min(range(len(steps)), key=steps.__getitem__)
        if steps[index] != NEVER:
            raise TrainingDiverged(
                f"the loss of seed {self.seeds[index]} stopped being finite at step {steps[index]}:"
                " lower lr, or set grad_clip"
            )

    def average_over_workers(self, metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return metrics averaged over the workers; every worker must call it. For log points, not each step."""
        if self.world_size == 1:
            return metrics
        stacked = torch.stack(list(metrics.values()))
        dist.all_reduce(stacked)
        return dict(zip(metrics, (stacked / self.world_size).unbind(), strict=True))

    def any_worker(self, vote: bool) -> bool:
        """Say whether any worker votes yes; every worker must call it."""
        if self.world_size == 1:
            return vote
        votes = torch.tensor(float(vote), device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item())

    def _prepare(self, batch: Batch) -> Batch:
        """Move a batch to the device, scale observations and actions, and clip the actions."""
        moved = {
            name: each(lambda part: part.to(self.device, non_blocking=True), value) for name, value in batch.items()
        }
        moved["observations"] = self._scaling.observations(moved["observations"])
        moved["actions"] = self._scaling.actions(moved["actions"])
        if self.algorithm.config.action_clip:
            moved["actions"] = moved["actions"].clamp(-ACTION_LIMIT, ACTION_LIMIT)
        return moved

    def _draw(self, share: int, step: int) -> list[dict[str, torch.Tensor]]:
        """Draw each member's random numbers for the global batch and keep this worker's rows."""
        draws = []
        for seed in self.seeds:
            drawn = self.algorithm.draw(
                share * self.world_size, torch_generator(seed, "draw", step, device=self.device)
            )
            if self.world_size > 1:
                drawn = {name: value[self.rank * share : (self.rank + 1) * share] for name, value in drawn.items()}
            draws.append(drawn)
        return draws

    def _backward_loop(self, batch: Batch, draws: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        collected: list[dict[str, torch.Tensor]] = []
        for index, member in enumerate(self.members):
            loss, metrics = self.algorithm.loss(member, _of_member(batch, index), draws[index])
            loss.backward()
            self._losses[index] = loss.detach()
            collected.append({"actor_loss": loss.detach(), **{k: v.detach() for k, v in metrics.items()}})
        return {name: torch.stack([metrics[name] for metrics in collected]) for name in collected[0]}

    def _backward_vmap(self, batch: Batch, draws: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        stacked_draws = {name: torch.stack([drawn[name] for drawn in draws]) for name in draws[0]}

        def one(state: dict[str, torch.Tensor], batch: Batch, draws: dict[str, torch.Tensor]) -> Any:
            return functional_call(self._caller, state, (self.algorithm.loss, batch, draws))

        losses, metrics = vmap(one)(self._stacked, batch, stacked_draws)
        # Copied, not accumulated: autograd would warn of leaves that are strided over the rows.
        gradients = torch.autograd.grad(losses.sum(), self._leaves)
        torch._foreach_copy_(self._leaf_gradients, gradients)  # pyright: ignore[reportPrivateImportUsage]
        self._losses.copy_(losses.detach())
        return {"actor_loss": losses.detach(), **{name: value.detach() for name, value in metrics.items()}}

    def _note_divergence(self, step: int) -> None:
        if self.device.type == "cpu":
            for index, loss in enumerate(self._losses.tolist()):
                if not math.isfinite(loss):
                    self._first_bad_step[index] = min(int(self._first_bad_step[index]), step)
                    self.check_finite()
        else:
            bad = torch.where(self._losses.isfinite(), NEVER, step)
            torch.minimum(self._first_bad_step, bad, out=self._first_bad_step)

    def _clip_gradients(self, largest: float) -> torch.Tensor:
        """Scale each member's gradient down to the norm `largest`; return the norms before, [K]."""
        # Member by member: a reduction over [K, P] may add in another order than one over [1, P].
        rows = [self._gradients[index, : self.layout.size] for index in range(len(self))]
        norms = torch.stack([torch.linalg.vector_norm(row) for row in rows])
        for row, scale in zip(rows, (largest / (norms + 1e-6)).clamp(max=1.0), strict=True):
            row.mul_(scale)
        return norms

    def _make_optimiser(self, rates: Sequence[float] | None, decays: Sequence[float] | None) -> torch.optim.AdamW:
        """Return AdamW with one group a member; with decay 0 it is plain Adam."""
        config, count = self.algorithm.config, len(self)
        groups = []
        for index, (rate, decay) in enumerate(
            zip(rates or [config.lr] * count, decays or [config.weight_decay] * count, strict=True)
        ):
            row = self.parameters[index].requires_grad_()
            row.grad = self._gradients[index, : self.layout.size]
            groups.append({"params": [row], "lr": float(rate), "weight_decay": float(decay)})
        return torch.optim.AdamW(groups, fused=True)

    def _stack(self, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return [K, ...] views of the flat storage, and the members' constant buffers, named for `Caller`."""
        stacked = self.layout.views(parameters.detach())
        buffers = stack_module_state([*self.members])[1]
        return {f"network.{name}": value for name, value in {**stacked, **buffers}.items()}

    # ---- acting ----

    @torch.inference_mode()
    def act(
        self,
        observations: Arrays | Observations,
        noise: np.ndarray | torch.Tensor,
        members: Sequence[int] | None = None,
        algorithm: Algorithm | None = None,
    ) -> np.ndarray:
        """Return actions [M, R, H, A] float32 of the M `members` (indices; all when None).

        `observations` [M, R, *O] are raw; `noise` [M, R, *noise_shape()] is already scaled by the temperature.
        `algorithm` replaces the pack's own, to act with other evaluation-time settings.
        """
        policy = algorithm or self.algorithm
        chosen = list(range(len(self))) if members is None else list(members)
        inputs = self._scaling.observations(each(lambda part: torch.as_tensor(part).to(self.device), observations))
        noise = torch.as_tensor(noise).to(self.device, torch.float32)
        if self.mode == "loop" or len(chosen) == 1:
            actions = [policy.act(self._acting[k], each(lambda part, i=i: part[i], inputs), noise[i]) for i, k in enumerate(chosen)]
            return self._scaling.actions_back(torch.stack(actions)).cpu().numpy()

        def one(state: dict[str, torch.Tensor], observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return functional_call(self._caller, state, (policy.act, observations, noise))

        source = self.parameters if self._averages is None else self._averages
        state = self._stack(source)
        if chosen != list(range(len(self))):
            state = {name: value[chosen] for name, value in state.items()}
        return self._scaling.actions_back(vmap(one)(state, inputs, noise)).cpu().numpy()

    # ---- state ----

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Return copies, on the CPU, of the weights that member k acts with (the averaged ones where kept)."""
        return {name: value.detach().cpu().clone() for name, value in self._acting[k].state_dict().items()}

    def member_state(self, k: int) -> dict[str, Any]:
        """Return all that training of member k goes on from; loadable with `torch.load(weights_only=True)`."""
        state: dict[str, Any] = {"weights": self.layout.copies(self.parameters[k]), "optimiser": {"step": 0}}
        if self._averages is not None:
            state["averages"] = self.layout.copies(self._averages[k])
        moments = self._optimiser.state.get(self._row(k), {})
        if moments:
            state["optimiser"] = {
                "step": int(moments["step"].item()),
                "exp_avg": self.layout.copies(moments["exp_avg"]),
                "exp_avg_sq": self.layout.copies(moments["exp_avg_sq"]),
            }
        return state

    def load_member_state(self, k: int, state: dict[str, Any]) -> None:
        """Take member k back to what `member_state` returned; CheckpointError if it is of another network."""
        self.layout.fill(self.parameters[k], state["weights"])
        if self._averages is not None:
            self.layout.fill(self._averages[k], state["averages"])
        self._first_bad_step[k] = NEVER
        optimiser, row = state["optimiser"], self._row(k)
        self._optimiser.state.pop(row, None)
        if "exp_avg" in optimiser:
            moments = {name: torch.zeros_like(row, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            for name, moment in moments.items():
                self.layout.fill(moment, optimiser[name])
            step = torch.tensor(float(optimiser["step"]), device=self.device)
            self._optimiser.state[row] = {"step": step, **moments}

    def _row(self, k: int) -> torch.Tensor:
        return self._optimiser.param_groups[k]["params"][0]


def _of_member(batch: Batch, index: int) -> Batch:
    return {name: each(lambda part: part[index], value) for name, value in batch.items()}
