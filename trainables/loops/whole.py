"""All that a run trains on, as its losses see it: for methods that compute something of the whole data (`fit`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from understudy.algorithm import Algorithm, Batch
from understudy.envs.windows.windows import Windows
from understudy.errors import UserError
from understudy.normaliser import Normaliser
from understudy.observations import each
from understudy.plugins import plug_in_errors
from understudy.randomness import numpy_generator
from understudy.trainables.packs.inputs import ACTION_LIMIT


class Whole:
    """The transitions of the training episodes."""

    def __init__(self, windows: Windows, normaliser: Normaliser, algorithm: Algorithm) -> None:
        self._windows, self._scaling = windows, normaliser.on(torch.device("cpu"))
        self._algorithm = algorithm
        self._clip = algorithm.config.chunks.action_clip

    def batches(self, size: int = 4096) -> Iterator[Batch]:
        """Yield every transition once, in order: observations [B, *O], actions [B, H, A], valid [B, H]."""
        count = self._windows.num_transitions
        for begin in range(0, count, size):
            indices = np.arange(begin, min(begin + size, count))
            places = None
            if self._windows.goals != "none":
                places = numpy_generator(0, "goals of all data", begin).random((2, len(indices)))
            batch = self._windows.gather(indices, (len(indices),), places)
            batch["observations"] = self._scaling.observations(each(torch.as_tensor, batch["observations"]))
            actions = self._scaling.actions(torch.as_tensor(batch["actions"]))
            batch["actions"] = actions.clamp(-ACTION_LIMIT, ACTION_LIMIT) if self._clip else actions
            yield batch

    def actions(self) -> torch.Tensor:
        """Return all actions [N, A]: of each transition that of its newest observation."""
        newest = self._algorithm.config.sampling.before
        return torch.cat([batch["actions"][:, newest] for batch in self.batches()])


def fit(algorithm: Algorithm, windows: Windows, normaliser: Normaliser) -> None:
    """Let an algorithm compute its constants; UserError where they are not those that it names."""
    if not algorithm.fits:
        return
    what = f"algorithm {algorithm.name!r} ({type(algorithm).__module__})"
    with plug_in_errors(algorithm):
        found = dict(algorithm.fit(Whole(windows, normaliser, algorithm)))
    values: list[object] = list(found.values())  # by a plug-in, whatever its annotation says
    if set(found) != set(algorithm.fits) or not all(isinstance(item, torch.Tensor) for item in values):
        raise UserError(f"{what}: fit must return tensors called {', '.join(algorithm.fits)}, not {', '.join(found)}")
    algorithm.constants = found
    held = dict(algorithm.network(torch.Generator()).named_buffers())
    for name in algorithm.fits:
        if name not in held or held[name].shape != found[name].shape:
            raise UserError(f"{what}: network must register the buffer {name!r} from self.constants[{name!r}]")
