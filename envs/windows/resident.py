"""Windows that lie on the accelerator: batches are gathered there, and only the places of samples are sent.

Every transition's sample is made once, as the store's windows make it, so a batch is theirs to the bit. It takes as
many bytes as all samples have: for states a few hundred MB, for pictures often too many. Goals, which are drawn anew at
each step, are left to the store's windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.windows.windows import Windows
from understudy.observations import each


class Resident:
    """All samples of some windows on a device."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.windows, self._device = windows, device
        count = windows.num_transitions
        whole = windows.gather(np.arange(count), (count,))
        self._whole: Batch = {name: each(lambda part: part.to(device), value) for name, value in whole.items()}

    def sample(self, seeds: Sequence[int], step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return what the windows' `sample` does, on the device."""
        draws = np.stack([self.windows.indices(seed, step, batch_size, rank, world) for seed in seeds])
        places = torch.from_numpy(draws).to(self._device, non_blocking=True)
        return {name: each(lambda part: part[places], value) for name, value in self._whole.items()}
