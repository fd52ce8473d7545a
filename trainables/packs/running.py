"""How a pack runs its members: in the mode that was asked for while the method allows it, recorded where it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from understudy.algorithm import Algorithm, Batch, Phase
from understudy.trainables.packs.captured import Captured, cuda_graph
from understudy.trainables.packs.members import Settings
from understudy.trainables.packs.networks import Networks
from understudy.trainables.packs.precision import tf32
from understudy.trainables.packs.runners import Looped, Mode, Runner, Stacked, Unstackable
from understudy.trainables.packs.tape import tape

Tensors = dict[str, torch.Tensor]


class Running:
    """The runner of a pack; a stacked one gives way to members in turn where a method does what it cannot do."""

    def __init__(
        self,
        algorithm: Algorithm,
        networks: Networks,
        settings: Settings,
        seeded: Callable[[int], AbstractContextManager[None]],
        *,
        mode: Mode,
        device: torch.device,
        captures: bool,
    ) -> None:
        """Make the runner; `seeded` seeds torch's global generator for a member's loss."""
        self._algorithm, self._networks, self._settings, self._seeded = algorithm, networks, settings, seeded
        self.mode: Mode = mode
        self._captures = captures
        self._taped = device.type == "cpu" and not algorithm.config.compile
        self.runner: Runner = self._made()

    def again(self) -> None:
        """Make the runner anew: a stacked one holds copies of buffers and of settings that losses differ in."""
        self.runner = self._made()

    def _made(self) -> Runner:
        if self._networks.drops and self.mode == "vmap":  # stacked layers would share their draws, or refuse to draw
            self.mode = "loop"
        if self.mode == "vmap":
            try:
                own = self._settings.of_losses if self._settings.losses_differ else ()
                return self._recorded(Stacked(self._algorithm, self._networks, own))
            except Unstackable:
                self.mode = "loop"
        return self._recorded(Looped(self._algorithm, self._networks, self._seeded, self._settings.of_loss))

    def _recorded(self, runner: Runner) -> Runner:
        """Have recordings done again: of methods of this package, as others may do more than a recording has."""
        if self._algorithm.draws_globally or not (self._captures or self._taped):
            return runner
        return Captured(runner, len(self._networks.members), cuda_graph if self._captures else tape)

    def backward(
        self,
        phase: Phase,
        part: Batch,
        drawn: list[Tensors],
        members: Sequence[int],
        share: float,
        scales: torch.Tensor | None,
    ) -> Tensors:
        """Do what `Runner.backward` says; members go in turn from the moment on at which stacking fails.

        It fails for losses which draw from the global generator, and those that branch by a setting members differ in.
        """
        try:
            with tf32(self._algorithm.config.precision):
                return self.runner.backward(phase, part, drawn, members, share, scales)
        except (RuntimeError, Unstackable) as error:
            draws = self._algorithm.draws_globally and "random" in str(error)
            branches = self._settings.losses_differ and "data-dependent" in str(error)
            if self.mode != "vmap" or not (draws or branches or isinstance(error, Unstackable)):
                raise
            self.mode = "loop"
            self.again()
            return self.runner.backward(phase, part, drawn, members, share, scales)
