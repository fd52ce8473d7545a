"""Turn raw trajectories into episodes in parallel, each kept on disk as soon as it is ready.

What was ready when the command was killed is there when it is given again. Episodes come in the order asked for,
whatever the number of processes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.processes import end_with_parent, process_pool
from understudy.envs.files.reading import DAMAGE, read_npz
from understudy.envs.sources.bridge.trajectory import Reading, read_trajectory
from understudy.envs.sources.bridge.tree import Trajectory
from understudy.errors import DatasetError
from understudy.files import write_atomic

AHEAD = 4
"""Trajectories handed out for each process before the first of them is asked for."""
REASON = "reason"


def episodes_in_order(
    trajectories: Iterable[tuple[Trajectory, Path]], reading: Reading, workers: int
) -> Generator[tuple[Trajectory, dict[str, Any] | str], None, None]:
    """Yield each trajectory with its episode, or with the reason why it has none; parts go to the folders given."""
    if workers <= 1:
        for trajectory, folder in trajectories:
            file = part_file(folder, trajectory, reading)
            if not file.exists():
                make_part(trajectory, reading, file)
            yield trajectory, _load(trajectory, reading, file)
        return
    pending: deque[tuple[Trajectory, Path, Future[None] | None]] = deque()
    feed = iter(trajectories)
    died = "a process that reads trajectories died; the same command goes on, try fewer workers"
    with process_pool(workers, died, alone="try --num_workers 1", initializer=_start) as pool:
        while True:
            while len(pending) < AHEAD * workers and (item := next(feed, None)) is not None:
                trajectory, folder = item
                file = part_file(folder, trajectory, reading)
                future = None if file.exists() else pool.submit(make_part, trajectory, reading, file)
                pending.append((trajectory, file, future))
            if not pending:
                return
            trajectory, file, future = pending.popleft()
            if future is not None:
                future.result()
            yield trajectory, _load(trajectory, reading, file)


def make_part(trajectory: Trajectory, reading: Reading, file: Path) -> None:
    """Write the trajectory's episode, or the reason why it has none."""
    try:
        arrays: dict[str, Any] = read_trajectory(trajectory.path, trajectory.is_late, reading)
    except DatasetError as error:
        arrays = {REASON: str(error)}
    except DAMAGE as error:
        said = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
        arrays = {REASON: f"cannot be read ({said})"}
    write_atomic(file, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def part_file(folder: Path, trajectory: Trajectory, reading: Reading) -> Path:
    """Return where a part is kept: by its trajectory, how it is read, and what its folder looks like now."""
    try:
        looks = [(item.name, item.stat()) for item in sorted(trajectory.path.iterdir())]
        changed = [(name, held.st_size, held.st_mtime_ns) for name, held in looks]
    except OSError:  # it went, or cannot be looked into: reading it says so
        changed = []
    name = f"{trajectory.task}/{trajectory.name}|{trajectory.is_late}|{astuple(reading)}|{changed}"
    return folder / f"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.npz"


def _load(trajectory: Trajectory, reading: Reading, file: Path) -> dict[str, Any] | str:
    try:
        arrays = _read(file)
    except DatasetError:  # after a power cut, say
        make_part(trajectory, reading, file)
        arrays = _read(file)
    return str(arrays[REASON]) if REASON in arrays else {**arrays, "language": str(arrays["language"])}


def _read(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        names = archive.files
    return read_npz(file, names)


def _start() -> None:
    """Leave one core to each process, whatever library computes."""
    import cv2
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
