"""One pack for several trainings of different configurations: each has a share, which is to it what a pack alone is.

The trainings run in threads that take turns (`understudy.runs.turns`). Their updates of one step are one update of the
pack; those that are behind, after a resume, catch up first, without the others. Knows nothing of loops or files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Algorithm, Batch, Phase
from understudy.errors import SpecError
from understudy.normaliser import Normaliser
from understudy.observations import Arrays, Observations, named_parts
from understudy.runs.turns import Turns
from understudy.trainables.packs.members import Own
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.pack import Pack, Tensors
from understudy.trainables.packs.transfer import LoadedEncoder
from understudy.trainables.packs.workers import Worker


@dataclass(frozen=True)
class Wanted:
    """What a training would make a pack of its own of."""

    algorithm: Algorithm
    seeds: tuple[int, ...]
    normaliser: Normaliser
    device: torch.device
    training_steps: int | None


@dataclass(frozen=True)
class _Step:
    """One training's part in an update."""

    number: int
    batch: Batch
    only: tuple[str, ...] | None


def common_pack(wanted: Mapping[int, Wanted]) -> tuple[Pack, dict[int, list[int]]]:
    """Return one pack of all that is wanted, and whose members are whose; SpecError where it cannot be one."""
    first = next(iter(wanted.values()))
    own: list[Own] = []
    places: dict[int, list[int]] = {}
    for place, one in wanted.items():
        differ = differences(first, one)
        places[place] = list(range(len(own), len(own) + len(one.seeds)))
        own += [differ] * len(one.seeds)
    pack = Pack(
        first.algorithm,
        [seed for one in wanted.values() for seed in one.seeds],
        normaliser=first.normaliser,
        device=first.device,
        own=own,
        training_steps=first.training_steps,
        freezes=True,
    )
    return pack, places


def differences(first: Wanted, other: Wanted) -> Own:
    """Return the settings that another training has in place of the first's; SpecError for others than members may
    have."""
    mine, its = first.algorithm.config.held(), other.algorithm.config.held()
    differ = {name: its[name] for name in mine if its[name] != mine[name]}
    alone = sorted(differ.keys() - first.algorithm.config.may_differ())
    facts = replace(other, algorithm=first.algorithm, seeds=first.seeds, normaliser=first.normaliser)
    if alone or facts != first or other.normaliser.to_dict() != first.normaliser.to_dict():
        raise SpecError(f"these trainings cannot be one pack: they differ in {', '.join(alone) or 'their data'}")
    return differ


class Share:
    """One training's members of a common pack, with the methods of a pack that loops ask for."""

    def __init__(self, turns: Turns, place: int, wanted: Wanted) -> None:
        """Wait for the others to say what they want, and take part in the one pack of it all."""
        self.algorithm, self.seeds = wanted.algorithm, list(wanted.seeds)
        self.device, self.normaliser, self.worker = wanted.device, wanted.normaliser, Worker()
        self._turns, self._place = turns, place
        config = wanted.algorithm.config
        self._left_out = {  # metrics of others' settings, which a pack alone would not have
            *([] if Schedule.of(config, wanted.training_steps).varies else ["lr"]),
            *([] if config.grad_clip is not None else ["grad_norm"]),
        }
        self._pack, self._places = turns.meet(place, wanted, _join)

    @property
    def _members(self) -> list[int]:
        return self._places[self._place]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def phases(self) -> Sequence[Phase]:
        """The phases of an update."""
        return self._pack.phases

    def update(self, batch: Batch, step: int, only: Collection[str] | None = None) -> Tensors:
        """Take an update with those of the other trainings; TrainingDiverged where a loss of these is no number."""
        mine = _Step(step, batch, None if only is None else tuple(only))
        metrics = self._turns.meet(self._place, mine, self._all)
        if self.device.type == "cpu":
            self.check_finite()
        return {name: value for name, value in metrics.items() if name.rpartition("/")[2] not in self._left_out}

    def _all(self, steps: Mapping[int, _Step]) -> dict[int, Tensors]:
        """Take the update of those that are at the earliest step."""
        number = min(step.number for step in steps.values())
        taking = {place: step for place, step in steps.items() if step.number == number}
        members = [k for place in taking for k in self._places[place]]
        batch = _joined([step.batch for step in taking.values()])
        only = next(iter(taking.values())).only
        metrics = self._pack.update(batch, number, only, None if len(members) == len(self._pack) else members)
        found: dict[int, Tensors] = {}
        begin = 0
        for place in taking:
            end = begin + len(self._places[place])
            found[place] = {name: value[begin:end] for name, value in metrics.items()}
            begin = end
        return found

    def losses(self, batch: Batch, number: int) -> Tensors:
        """Return each member's metrics on a batch that is not learnt from."""
        return self._pack.losses(batch, number, self._members)

    def act(
        self,
        observations: Arrays | Observations,
        noise: np.ndarray | torch.Tensor,
        members: Sequence[int] | None = None,
        algorithm: Algorithm | None = None,
    ) -> np.ndarray:
        """Return actions of some of the members, as a pack does."""
        chosen = [self._members[k] for k in (range(len(self)) if members is None else members)]
        return self._pack.act(observations, noise, chosen, algorithm or self.algorithm)

    def load_encoder(self, weights: Mapping[str, torch.Tensor], origin: str) -> LoadedEncoder:
        """Put another network's encoder weights into these members."""
        return self._pack.load_encoder(weights, origin, self._members)

    def check_finite(self) -> None:
        """Raise TrainingDiverged where a loss of these members was no number."""
        self._pack.check_finite(self._members)

    def own(self, k: int) -> Own:
        """Return nothing: what member k has of its own is this training's configuration."""
        return {}

    def change(self, k: int, settings: Own) -> None:
        """Give member k its own values of some settings from the next update on."""
        self._pack.change(self._members[k], settings)

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Return copies of the weights that member k acts with."""
        return self._pack.weights(self._members[k])

    def member_state(self, k: int) -> dict[str, Any]:
        """Return all that training of member k goes on from, alone or in a share."""
        state = self._pack.member_state(self._members[k])
        state.pop("own", None)
        if "metrics" in state:
            state["metrics"] = {
                phase: {key: value for key, value in of.items() if key.rpartition("/")[2] not in self._left_out}
                for phase, of in state["metrics"].items()
            }
        return state

    def load_member_state(self, k: int, state: dict[str, Any]) -> None:
        """Take member k back to what `member_state` returned."""
        self._pack.load_member_state(self._members[k], state)


def _join(wanted: Mapping[int, Wanted]) -> dict[int, tuple[Pack, dict[int, list[int]]]]:
    joined = common_pack(wanted)
    return dict.fromkeys(wanted, joined)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return batches [K, b, ...] as one, of all members."""
    if len(batches) == 1:
        return batches[0]
    found: Batch = {}
    for name, value in batches[0].items():
        parts = named_parts(value)
        if parts is None:
            found[name] = torch.cat([batch[name] for batch in batches])
        else:
            found[name] = {key: torch.cat([batch[name][key] for batch in batches]) for key in parts}
    return found
