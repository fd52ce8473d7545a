"""The batches of a run, in order: drawn in this process, or ahead of it by workers of their own.

A batch is a pure function of (seed, step), so workers change nothing but the time: each takes whole steps, and they
come back in order. PyTorch's DataLoader carries them over through shared memory, pinned where the device is CUDA.
A worker that dies is an error that names it, never a hang.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, get_worker_info

from understudy.algorithm import Batch
from understudy.devices import check_semaphores, deaf_to_ctrl_c
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.resident import Resident
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError, UnderstudyError
from understudy.observations import has_pictures
from understudy.spec.run import RunSpec
from understudy.trainables.loops.data import Data, open_data

logger = logging.getLogger("understudy")
AHEAD = 2
"""Batches that each worker keeps ready."""
HELD_OUT = 16
"""Batches of held-out episodes that an evaluation looks at, always the same ones."""


class LoaderDied(UnderstudyError):
    """A worker process that prepares batches ended by itself, or failed."""


def held_out_batch(windows: Windows, members: int, number: int, batch_size: int) -> Batch:
    """Return a batch of held-out episodes, number 0 to HELD_OUT - 1, the same for each member."""
    return windows.sample([0] * members, number, batch_size)


class Steps(Dataset[Batch]):
    """Batch number s of a run, for s from 1; s = 0, -1, -2 ... are those of its held-out episodes.

    The store is opened by the process that reads from it.
    """

    def __init__(
        self,
        spec: RunSpec,
        seeds: Sequence[int],
        rank: int,
        world: int,
        data: Data | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Draw from `data`; with a `device` from a copy of all samples that lies there."""
        self._spec, self._seeds, self._rank, self._world = spec, list(seeds), rank, world
        self._data, self._device = data, device
        self._resident: Resident | None = None

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of update number `step`, or of held-out episodes."""
        batch = self._made(step)
        if get_worker_info() is not None:
            # Here, not by the thread that sends: what goes wrong there loses the batch, and training waits for ever.
            tree_map_only(torch.Tensor, torch.Tensor.share_memory_, batch)
        return batch

    def _made(self, step: int) -> Batch:
        if self._data is None:
            self._data = open_data(self._spec)
        spec = self._spec
        share: dict[str, Any] = {"rank": self._rank, "world": self._world}
        if step <= 0:
            assert self._data.validation is not None
            return held_out_batch(self._data.validation, len(self._seeds), -step, spec.config.batch_size)
        batch = self._windows(step).sample(self._seeds, step, spec.config.batch_size, **share)
        if spec.augment.augment_where == "workers":
            batch = augment_batch(batch, spec.augment, self._seeds, step, obs_horizon=spec.data.obs_horizon, **share)
        return batch

    def _windows(self, step: int) -> Windows | Resident:
        """Return what the batch of a step is drawn from."""
        assert self._data is not None
        windows = self._data.windows(step)
        if self._device is None:
            return windows
        if self._resident is None or self._resident.windows is not windows:
            self._resident = Resident(windows, self._device)
        return self._resident

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped store behind: the other process opens it anew."""
        return {**self.__dict__, "_data": None}


@dataclass(frozen=True)
class Order:
    """The numbers of a run's batches: its steps, and HELD_OUT held-out batches after each that is `validated`."""

    first: int
    last: int
    validated: Callable[[int], bool] = lambda step: False
    unfinished: bool = False
    """Whether the evaluation after the step before `first` is still to be made."""

    def __iter__(self) -> Iterator[int]:
        """Yield what Steps takes."""
        if self.unfinished and self.validated(self.first - 1):
            yield from range(0, -HELD_OUT, -1)
        for step in range(self.first, self.last + 1):
            yield step
            if self.validated(step):
                yield from range(0, -HELD_OUT, -1)


class Batches:
    """An iterator over the batches of `steps` in an order, and how long they were waited for."""

    def __init__(self, steps: Steps, order: Order, workers: int, device: torch.device) -> None:
        self.waited = 0.0
        """Seconds that the trainer waited since `waited` was last set."""
        self._steps, self._order = steps, iter(order)
        self._iterator: Iterator[Batch] | None = None
        if workers > 0 and order.first <= order.last:
            check_semaphores("try loader_workers=0")
            loader = DataLoader(
                steps,
                batch_size=None,
                sampler=order,
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=device.type == "cuda",
                multiprocessing_context="spawn",
                worker_init_fn=_start_worker,
            )
            with _told_by_next(), deaf_to_ctrl_c():
                self._iterator = iter(loader)

    def __iter__(self) -> Iterator[Batch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        begun, step = time.perf_counter(), next(self._order)
        try:
            if self._iterator is None:
                batch = self._steps[step]
            else:
                batch = next(self._iterator)
        except UnderstudyError as error:
            if self._iterator is None:
                raise
            # The worker's traceback is in the message; its last line is what went wrong.
            raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            said = " ".join(str(error).split())
            raise LoaderDied(
                f"step {step}: a process that prepares batches died ({said}): it may have had too little memory or"
                " shared memory (a container's 64 MB: --shm-size=2g); try fewer loader_workers, or loader_workers=0"
            ) from error
        self.waited += time.perf_counter() - begun
        return batch

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return [process.pid for process in getattr(self._iterator, "_workers", [])]

    def close(self) -> None:
        """End the workers: the iterator's going away does."""
        self._iterator = None


def check_resident(spec: RunSpec, windows: Windows) -> None:
    """Raise SpecError where samples cannot all lie on the device (`data_on_device`)."""
    if windows.goals != "none":
        raise SpecError(f"data_on_device=true: goals ({windows.goals}) are drawn anew at each step; leave it out")
    if spec.placement.loader_workers > 0:
        raise SpecError(f"loader_workers={spec.placement.loader_workers} changes nothing with data_on_device=true")
    if spec.augment.augment_where == "workers" and spec.augment.augmentation:
        raise SpecError("augment_where=workers: with data_on_device=true pictures are augmented there: device")


def loader_workers(spec: RunSpec, data: Data) -> int:
    """Return how many processes prepare batches: as `loader_workers` says, else none for states, some for pictures."""
    if spec.placement.data_on_device:
        return 0
    if spec.placement.loader_workers >= 0:
        return spec.placement.loader_workers
    return max(1, spec.placement.cpus - 1) if has_pictures(data.windows(1).observation_shape) else 0


@contextmanager
def _told_by_next() -> Generator[None]:
    """Leave the handler of ended children as it was: torch's raises wherever the trainer is just then.

    A worker's death is found without it, by the next batch.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _start_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent decides
    torch.set_num_threads(1)
    if find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(1)
