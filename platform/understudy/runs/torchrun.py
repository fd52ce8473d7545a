"""Train as one of torchrun's workers: join its process group, share the batch, and let worker 0 write and track.

torchrun starts the same command in every worker. Until training begins the workers agree after each thing that may
fail, so that an error of any of them ends all, and is said once. The command line imports this module at its start:
torch, numpy and pydantic are imported only where a worker joins.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from understudy import errors
from understudy.errors import SpecError, Stopped, TrainingDiverged, UnderstudyError, UserError
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.stop import STOP

if TYPE_CHECKING:
    import torch

    from understudy.runs.loop import Loop, Trains
    from understudy.spec.run import RunSpec

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets in each worker."""
LONGEST = timedelta(days=7)
"""Worker 0 evaluates while the others wait; a worker that dies is noticed at once."""


class _Collectives(Protocol):
    """What is used of torch.distributed, whose functions have types in part only."""

    def all_gather_object(self, object_list: list[Any], obj: Any, /) -> object:
        """Fill the list with every worker's object."""
        ...

    def all_reduce(self, tensor: torch.Tensor, /) -> object:
        """Add up every worker's tensor, in place."""
        ...


def _collectives() -> _Collectives:
    import torch.distributed

    return torch.distributed


class WorkerGone(UnderstudyError):
    """Another worker of torchrun ended, and this one cannot go on without it."""


@dataclass(frozen=True)
class TorchrunWorker:
    """One of torchrun's workers, by its environment."""

    rank: int
    world: int
    local_rank: int


def this_worker() -> TorchrunWorker | None:
    """Return which of torchrun's workers this process is; None where it is alone."""
    if any(name not in os.environ for name in VARIABLES):
        return None
    try:
        rank, world, local_rank = (int(os.environ[name]) for name in VARIABLES[:3])
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE and LOCAL_RANK are torchrun's whole numbers: {error}") from None
    return TorchrunWorker(rank, world, local_rank) if world > 1 else None


class TorchrunGroup:
    """The process group of torchrun's workers, as one of them sees it."""

    def __init__(self, worker: TorchrunWorker) -> None:
        self.rank, self.world, self.local_rank = worker.rank, worker.world, worker.local_rank
        self.training = False
        """Whether the workers' messages are gradients by now: there is no agreeing any more."""
        self._settled = False
        """Whether the workers know already how they end."""
        self._alone = False
        """Whether this worker failed on its own in training, so that nobody will answer it."""

    def agree(self, value: Any = None, error: UnderstudyError | None = None) -> list[Any]:
        """Return every worker's value; raise the first error of any of them, in all of them."""
        mine = (None, value) if error is None else ((type(error).__name__, str(error)), None)
        told: list[Any] = [None] * self.world
        with _gone():
            _collectives().all_gather_object(told, mine)
        for failure, _ in told:
            if failure is not None:
                self._settled = True
                raise getattr(errors, failure[0], UnderstudyError)(failure[1])
        return [given for _, given in told]

    def from_first(self, work: Callable[[], T]) -> T:
        """Return what worker 0 gets from `work`, which it alone does; the value is sent to the others."""
        return self.agree(work() if self.rank == 0 else None)[0]

    def end(self, error: UnderstudyError | None) -> tuple[UnderstudyError | None, bool]:
        """Return the error that this worker ends with, and whether it prints it: only worker 0 prints what all
        share."""
        if not self.training and not self._settled:
            try:
                self.agree(error=error)
            except UnderstudyError as first:
                error = first
        shared = not self.training or isinstance(error, Stopped | TrainingDiverged)
        self._alone = error is not None and not shared
        return error, error is not None and (self.rank == 0 or (self._alone and not isinstance(error, WorkerGone)))

    def wait(self) -> None:
        """Wait for the other workers when all end alike: torchrun kills those still at work when one exits."""
        import torch

        if self._alone:
            return
        with suppress(RuntimeError):  # one that is gone already is not waited for
            _collectives().all_reduce(torch.zeros(1))

    def train(self, spec: RunSpec, lead: Callable[[Trains], None]) -> None:
        """Train `spec` in all workers: worker 0 by `lead`, which launches the loop that it is given."""
        from understudy.runs.loop import make_loop

        self._check(spec)
        if self.rank == 0:
            loop = make_loop(spec)
            self.agree()  # it may have imported the dataset
            self.agree()
            lead(_Shared(loop, self))
            return
        self.agree()
        loop = make_loop(spec)
        self.agree()
        path = self.agree()[0]
        if path is None:  # worker 0 has ended: there was nothing left to train
            self._settled = True
            return
        missing = UserError(f"worker {self.rank} on {os.uname().nodename} does not see {path}: save_dir must be shared")
        self.agree(error=None if (Path(path) / "flags.json").is_file() else missing)
        self.training = True
        with _passing_on(Path(path)), _gone():
            loop.run(Path(path), rank=self.rank, world=self.world)

    def _check(self, spec: RunSpec) -> None:
        """Raise SpecError for what a worker of torchrun cannot do."""
        import torch

        launcher, device = spec.placement.launcher, spec.placement.device
        if launcher != "inline":
            raise SpecError(f"launcher={launcher} starts workers of its own: leave it out, or torchrun")
        if spec.config.batch_size % self.world:
            raise SpecError(
                f"batch_size={spec.config.batch_size} does not divide by the {self.world} workers of torchrun"
            )
        if spec.placement.device.startswith("cuda:"):
            raise SpecError(
                f"device={spec.placement.device}: each worker of torchrun takes a GPU of its own; give device=cuda"
            )
        if device == "cpu" or not torch.cuda.is_available():
            return
        if self.local_rank >= torch.cuda.device_count():
            raise SpecError(
                f"worker {self.local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; give"
                " torchrun a smaller --nproc_per_node, or device=cpu"
            )
        torch.cuda.set_device(self.local_rank)

    def announce(self, path: Path) -> None:
        """Tell the other workers which run directory is trained in; from here on they train."""
        self.agree(str(path.absolute()))
        self.agree()
        self.training = True


class _Shared:
    """Worker 0's loop: it has the others train along."""

    def __init__(self, loop: Loop, group: TorchrunGroup) -> None:
        self._loop, self._group = loop, group

    def run(
        self,
        path: Path,
        *,
        report: OnEvaluation | None = None,
        progress: OnProgress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> RunResult:
        """Train as worker 0 of the group."""
        self._group.announce(path)
        with _gone():
            return self._loop.run(
                path, report=report, progress=progress, grid=grid, rank=self._group.rank, world=self._group.world
            )


_joined: list[TorchrunGroup] = []


def group() -> TorchrunGroup | None:
    """Return the group of torchrun's workers that this process has joined."""
    return _joined[-1] if _joined else None


@contextmanager
def joined(worker: TorchrunWorker) -> Generator[TorchrunGroup]:
    """Join the other workers inside the block."""
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=LONGEST)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"cannot join torchrun's other workers at {where}: {str(error).splitlines()[0]}") from error
    group = TorchrunGroup(worker)

    def handle(number: int, _frame: object) -> None:
        # When one worker ends, torchrun sends the others SIGTERM: they are about to say how the training ended.
        if not group.training:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    _joined.append(group)
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield group
    finally:
        signal.signal(signal.SIGTERM, before)
        _joined.pop()
        dist.destroy_process_group()


@contextmanager
def _gone() -> Generator[None]:
    """Say that another worker ended, where torch says that a connection did."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(words in text for words in ("onnection", "gloo", "NCCL", "peer")):
            raise WorkerGone(f"another worker of torchrun ended: {text.splitlines()[0][:200]}") from error
        raise


@contextmanager
def _passing_on(run: Path) -> Generator[None]:
    """Leave worker 0 the notice of a signal: the workers stop together, after its checkpoint."""

    def handle(number: int, _frame: object) -> None:
        (run / STOP).write_text(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
