"""A pack: K members (seeds, and settings of their own) of one algorithm trained at once on one device.

Their networks lie in blocks of memory (`Networks`), so that clearing, averaging over workers and the fused AdamW step
each touch one. A single run is a pack of one. A batch may be computed in parts (`grad_accumulation`) in turn.

On the CPU a step's operations are written down once and then done again from that tape (`tape.py`).

Two ways to run the members give the same numbers: `loop` (one after the other; a member is then bit for
bit the seed trained alone) and `vmap` (one stacked model through torch.func; equal within float tolerance,
and faster where kernel launches dominate, that is on GPUs).

Workers share a pack's gradient by ONE all-reduce of the flat buffer instead of DistributedDataParallel:
DDP would copy the gradients into buckets of its own, K modules would send K sets of buckets, and for
networks of a few MB one message costs less than overlapping several with the backward pass. Workers start equal
because weights are a pure function of the seed.

An update is one or several phases, each with an optimiser of its own over the parts that it moves: a phase that is left
out leaves its parts' parameters and moments as they are, bit for bit.

Networks must be stateless apart from parameters and constant buffers (no BatchNorm). Nothing here knows of
data files, logging or checkpoints' files. Shape suffixes: K members, P padded parameters of one, b samples of
this worker, R rows of observations, O observation dims.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Algorithm, Batch, Phase
from understudy.errors import CheckpointError
from understudy.normaliser import Normaliser
from understudy.observations import Arrays, Observations
from understudy.randomness import global_generator, torch_generator
from understudy.trainables.packs.captured import check_capture
from understudy.trainables.packs.divergence import Divergence
from understudy.trainables.packs.inputs import Inputs
from understudy.trainables.packs.members import Own, Settings
from understudy.trainables.packs.memory import keep_memory
from understudy.trainables.packs.networks import Networks
from understudy.trainables.packs.optimiser import SMALLEST_SCALE, Optimiser
from understudy.trainables.packs.phase_metrics import PhaseMetrics
from understudy.trainables.packs.phases import phases_of
from understudy.trainables.packs.precision import check_precision
from understudy.trainables.packs.runners import Mode, micro_batches, named_loss, part_of
from understudy.trainables.packs.running import Running
from understudy.trainables.packs.transfer import LoadedEncoder
from understudy.trainables.packs.workers import Worker

Tensors = dict[str, torch.Tensor]


class Pack:
    """K members of `algorithm`, their optimiser, and their policy."""

    def __init__(
        self,
        algorithm: Algorithm,
        seeds: Sequence[int],
        *,
        normaliser: Normaliser | None = None,
        device: torch.device | str = "cpu",
        own: Sequence[Own] | None = None,
        worker: Worker = Worker(),
        mode: Mode | None = None,
        training_steps: int | None = None,
        freezes: bool = False,
        captures: bool = False,
    ) -> None:
        """Build the members; `own` holds each one's own values of settings that may differ, in place of the config's.

        With `freezes` a member whose loss is no number stays as it was, and the others go on; else all end. With
        `captures` losses and gradients are replayed as CUDA graphs.
        """
        self.algorithm = algorithm
        self.seeds = [int(seed) for seed in seeds]
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_memory()
        mode = mode or ("vmap" if self.device.type == "cuda" and len(self.seeds) > 1 else "loop")
        self.worker = worker
        check_precision(algorithm.config.precision, self.device)
        check_capture(captures, self.device)
        self.normaliser = normaliser or Normaliser.identity(algorithm.observation_shape)
        self._inputs = Inputs(self.normaliser, self.device, algorithm.config.chunks.action_clip)

        self._settings = Settings(algorithm, len(self.seeds), own)
        self._networks = Networks(algorithm, self.seeds, self.device, self._settings.learners)
        self.members, self.layout = self._networks.members, self._networks.layout
        self.parameters = self._networks.parameters
        self._step = 0
        self.phases = phases_of(algorithm, self.layout)
        self._metrics = PhaseMetrics(len(self.seeds), self.device)
        self._divergence = Divergence(self.seeds, self.device, freezes=freezes)
        self._running = Running(
            algorithm, self._networks, self._settings, self._seeded, mode=mode, device=self.device, captures=captures
        )
        self._optimisers = {
            phase.name: Optimiser(algorithm, phase, self._networks, training_steps=training_steps)
            for phase in self.phases
        }
        for index, settings in enumerate(self._settings.own):
            self._apply(index, settings)

    def _seeded(self, index: int) -> AbstractContextManager[None]:
        """Seed torch's global generator for a member's loss at this step, where a plug-in's code may draw from it."""
        if not self.algorithm.draws_globally:
            return nullcontext()
        return global_generator(self.seeds[index], "global loss", self._step, self.worker.rank)

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def mode(self) -> Mode:
        """How the members are run now; a method that cannot be stacked has brought it to `loop`."""
        return self._running.mode

    def update(
        self, batch: Batch, step: int, only: Collection[str] | None = None, members: Sequence[int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Take update number `step`, from 1, for every member; return metrics, each [K], detached, not synchronised.

        `batch` holds observations [K, b, *O] (raw), actions [K, b, H, A] and valid [K, b, H], b being this
        worker's share. `only` names the phases that are taken, where not all that are due are. Metrics are of this
        worker's share and of each phase's last step; `<phase>_loss` is the phase's loss; SpecError where two phases
        name one alike. On the CPU a loss that is not finite raises TrainingDiverged before the phase touches any
        parameter; on an accelerator `check_finite` finds it later.

        With `members`, indices, these alone are updated, and batch and metrics are of them, [M, ...]: all else of the
        others stays as it is, bit for bit, and these become what they would have with the others.
        """
        self._step = step
        taking = list(range(len(self)) if members is None else members)
        draws = self._draw(batch["actions"].shape[1], step, taking)
        whole = self.algorithm.config.grad_accumulation == 1
        batch = self._inputs.prepare(batch) if whole else batch  # else part by part
        asked = taking
        for phase in self.phases:
            if (step - 1) % phase.every == 0 and (only is None or phase.name in only):
                metrics, sound = self._take(phase, batch, draws, step, taking)
                self._metrics.note(phase.name, metrics, taking)
                if len(sound) < len(taking):
                    rows = [taking.index(k) for k in sound]
                    batch, draws, taking = part_of(batch, rows), [draws[row] for row in rows], sound
                if not taking:
                    break
        if self._networks.average is not None:
            self._networks.average.follow(step, taking)
        return self._metrics.all(asked)

    def _take(
        self, phase: Phase, batch: Batch, draws: list[Tensors], step: int, members: list[int]
    ) -> tuple[Tensors, list[int]]:
        """Take one optimiser step of a phase of `members`, and let the targets of what it moved follow.

        Return their metrics [M], and those whose loss was a number, which took the step.
        """
        optimiser = self._optimisers[phase.name]
        if self.algorithm.config.grad_accumulation > 1:
            optimiser.clear()
            self._networks.losses.zero_()
        metrics = self._backward(phase, batch, draws, members)
        self.worker.average(self._networks.gradients)
        scaled, sound = self.algorithm.config.precision == "fp16", members
        if not scaled:
            sound = self._divergence.note(self._networks.losses, step, members)
        if phase.targets_first:
            self._networks.targets.follow(phase, sound)
        taken = optimiser.step(step, sound)
        if scaled:  # an overflow is what the scale is for; one that never ends is not
            endless = torch.where(taken["loss_scale"] < SMALLEST_SCALE, torch.nan, 0.0)
            sound = self._divergence.note(endless, step, members)
        if not phase.targets_first:
            self._networks.targets.follow(phase, sound)
        prefix = f"{phase.name}/" if len(self.phases) > 1 else ""
        if len(members) < len(self):
            taken = {name: value[members] for name, value in taken.items()}
        return {**metrics, **{prefix + name: value for name, value in taken.items()}}, sound

    @torch.no_grad()
    def losses(self, batch: Batch, number: int, members: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """Return every member's metrics, each [K], on a batch that is not learnt from; or those of M `members`.

        All members get the same random draws, those of batch `number`, so that their losses compare. Nothing is
        dropped out.
        """
        batch = self._inputs.prepare(batch)
        draws = self.algorithm.draw(
            batch["actions"].shape[1], torch_generator(0, "validation", number, device=self.device)
        )
        draws = {name: value for name, value in draws.items() if not name.startswith("keep")}
        collected: list[Tensors] = []
        for row, index in enumerate(range(len(self)) if members is None else members):
            part, target = part_of(batch, row), self._networks.targets.members[index]
            of_member: dict[str, Any] = {}
            with self._networks.without_dropout(), self._seeded(index):
                for phase in self._settings.learners[index].phases:
                    of_member |= named_loss(phase, *phase.loss(self.members[index], target, part, draws))
            collected.append({name: torch.as_tensor(value, device=self.device) for name, value in of_member.items()})
        return {name: torch.stack([metrics[name] for metrics in collected]) for name in collected[0]}

    def load_encoder(
        self, weights: Mapping[str, torch.Tensor], origin: str, members: Sequence[int] | None = None
    ) -> LoadedEncoder:
        """Put another network's encoder weights into members; return what was loaded. SpecError if nothing was."""
        report = self._networks.load_encoder(weights, origin, range(len(self)) if members is None else members)
        self._running.again()  # a stacked one holds copies of the buffers
        return report

    def check_finite(self, members: Sequence[int] | None = None) -> None:
        """Raise TrainingDiverged, naming step and seed, if a loss (of `members`) was not finite. Synchronises."""
        self._divergence.check(members)

    def _draw(self, share: int, step: int, members: Sequence[int] | None = None) -> list[dict[str, torch.Tensor]]:
        """Draw each member's random numbers for the global batch and keep this worker's rows."""
        draws: list[Tensors] = []
        for k in range(len(self)) if members is None else members:
            generator = torch_generator(self.seeds[k], "draw", step, device=self.device)
            draws.append(
                self.worker.share(self._settings.learners[k].draw(share * self.worker.world, generator), share)
            )
        return draws

    def _backward(self, phase: Phase, batch: Batch, draws: list[Tensors], members: Sequence[int]) -> Tensors:
        """Fill a phase's gradients, part by part of the batch; return metrics [K]. Parts are prepared in their turn."""
        scales = self._optimisers[phase.name].loss_scales()
        total: Tensors = {}
        for share, part, drawn in micro_batches(batch, draws, self.algorithm.config.grad_accumulation):
            part = self._inputs.prepare(part) if self.algorithm.config.grad_accumulation > 1 else part
            for name, value in self._running.backward(phase, part, drawn, members, share, scales).items():
                value = value if share == 1.0 else value * share
                total[name] = total[name] + value if name in total else value
        return total

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
        inputs = self._inputs.seen(observations)
        noise = torch.as_tensor(noise).to(self.device, torch.float32)
        with self._networks.without_dropout():
            actions = self._running.runner.act(policy, chosen, inputs, noise)
        return self._inputs.done(actions)

    # ---- members that differ ----

    def own(self, k: int) -> Own:
        """Return the settings that member k has in place of the config's."""
        return self._settings.own[k]

    def change(self, k: int, settings: Own) -> None:
        """Give member k its own values of some settings from the next update on; SpecError for one it cannot have.

        The others go on as they would have: a member is what it would be alone with these settings.
        """
        losses = self._settings.of_losses
        self._settings.change(k, settings)
        self._apply(k, settings)
        if self._settings.of_losses != losses:
            self._running.again()

    def _apply(self, k: int, settings: Own) -> None:
        """Tell member k's optimisers and its average of its own settings."""
        for optimiser in self._optimisers.values():
            optimiser.change(k, self._settings.learners[k], self._settings.own[k])
        if self._networks.average is not None and "ema_rate" in settings:
            self._networks.average.rates[k] = settings["ema_rate"]

    # ---- state ----

    @property
    def acting_values(self) -> torch.Tensor:
        """The parameters [K, P] that the members act with: the trained ones, or their averages where kept."""
        return self._networks.acting_values

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Return copies, on the CPU, of the weights that member k acts with (the averaged ones where kept)."""
        return self._networks.weights(k)

    def member_state(self, k: int) -> dict[str, Any]:
        """Return all that training of member k goes on from; loadable with `torch.load(weights_only=True)`."""
        state = self._networks.member_state(k)
        optimisers = {name: optimiser.member_state(k) for name, optimiser in self._optimisers.items()}
        if len(self.phases) == 1:
            state["optimiser"] = next(iter(optimisers.values()))
        else:  # metrics of phases that are not taken at every update are logged after a resume too
            state["optimisers"] = optimisers
            state["metrics"] = self._metrics.member_state(k)
        if own := self._settings.own[k]:
            state["own"] = dict(own)
        return state

    def load_member_state(self, k: int, state: dict[str, Any]) -> None:
        """Take member k back to what `member_state` returned; CheckpointError if it is of another network."""
        optimisers = {self.phases[0].name: state["optimiser"]} if "optimiser" in state else state["optimisers"]
        if optimisers.keys() != self._optimisers.keys():
            raise CheckpointError(
                f"the saved optimisers are of the phases {', '.join(optimisers)}, not {', '.join(self._optimisers)}"
            )
        self._networks.load_member_state(k, state)
        self.change(k, state.get("own", {}))
        if "buffers" in state:
            self._running.again()  # a stacked one holds copies of them
        self._divergence.forget(k)
        self._metrics.load_member_state(k, state.get("metrics", {}))
        for name, optimiser in self._optimisers.items():
            optimiser.load_member_state(k, optimisers[name])
