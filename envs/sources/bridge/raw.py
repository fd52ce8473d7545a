"""Import a raw BridgeData tree: a store for each task, or one for all, and out.npy files where they are wanted.

Trajectories that cannot be used are left out, counted and named with the reason. A killed import goes on where it
was; one that is complete is left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.sources.bridge.parts import episodes_in_order
from understudy.envs.sources.bridge.source import FILTER_KEYS, NAME, ROBOT, Bridge
from understudy.envs.sources.bridge.trajectory import MAIN_CAMERA, Reading, cameras_of
from understudy.envs.sources.bridge.tree import Trajectory, Tree, scan
from understudy.envs.store.columns import RAW_PICTURES, PictureEncoding
from understudy.envs.store.episode import check_same_columns, prepare_episode
from understudy.envs.store.finding import store_path
from understudy.envs.store.store import MASK, EpisodeStore
from understudy.envs.store.transfer import episodes_of
from understudy.envs.store.writer import StoreWriter
from understudy.errors import DatasetError

OnTrajectory = Callable[[int, int, str], None]
"""Called with (trajectories so far, in all, a note)."""
TRAIN, VALID = FILTER_KEYS.values()
PARTS = ".importing"
"""Folder of the data directory that trajectories are kept in until their store is whole."""
_Feed = Iterator[tuple[Trajectory, dict[str, Any] | str]]


@dataclass(frozen=True)
class RawImport:
    """What is imported and how; `reading.cameras` are found in the tree where `cameras` is None."""

    root: Path
    data_dir: Path
    depth: int = 5
    train_proportion: float = 0.9
    seed: int = 0
    reading: Reading = field(default_factory=Reading)
    cameras: tuple[str, ...] | None = None
    name: str = ""
    """Name of one store for all tasks; empty: each task has a store of its own."""
    output_path: Path | None = None
    """Where `<task>/{train,val}/out.npy` are written too."""
    num_workers: int = 1
    overwrite: bool = False
    pictures: PictureEncoding = RAW_PICTURES


@dataclass
class ImportReport:
    """What came of an import."""

    stores: list[str] = field(default_factory=list)
    """Those that were written."""
    already: list[str] = field(default_factory=list)
    """Stores that were complete before."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Trajectories (and folders) that were left out, and why."""
    cameras: tuple[str, ...] = ()
    without: dict[str, int] = field(default_factory=dict)
    """Cameras that were left out, for so many trajectories do not have them."""
    empty: list[str] = field(default_factory=list)
    """Stores that were not written, for no trajectory was left."""
    files: list[Path] = field(default_factory=list)
    """Folders of out.npy files."""


@dataclass(frozen=True)
class _Plan:
    """One store to make."""

    name: str
    path: Path
    parts: Path
    tasks: dict[str, list[Trajectory]]
    recipe: str

    @property
    def trajectories(self) -> list[Trajectory]:
        return [item for items in self.tasks.values() for item in items]


def import_raw(job: RawImport, progress: OnTrajectory | None = None) -> ImportReport:
    """Import a tree and report. DatasetError, before anything is written, for stores of other data in the way."""
    tree = scan(job.root, job.depth, job.train_proportion, job.seed)
    report = ImportReport(skipped=list(tree.passed_over))
    cameras, report.without = _cameras(tree, job.cameras)
    reading = replace(job.reading, cameras=cameras)
    report.cameras = cameras
    plans = _plans(job, reading, tree)
    todo = [plan for plan in plans if not _is_there(plan, job)]
    report.already = [plan.name for plan in plans if plan not in todo]
    total, done = sum(len(plan.trajectories) for plan in todo), 0
    feed = episodes_in_order(
        ((item, plan.parts) for plan in todo for item in plan.trajectories), reading, job.num_workers
    )

    def counted() -> _Feed:
        nonlocal done
        for item in feed:
            done += 1
            yield item
            if progress is not None:
                progress(done, total, f"{len(report.skipped)} left out")

    with contextlib.closing(feed):
        counting = counted()
        for plan in todo:
            made = _write_store(plan, job, reading, islice(counting, len(plan.trajectories)), report)
            (report.stores if made else report.empty).append(plan.name)
        next(counting, None)  # so that the last progress is told
    for plan in plans:
        shutil.rmtree(plan.parts, ignore_errors=True)
    with contextlib.suppress(OSError):  # where another import is under way
        (job.data_dir / PARTS).rmdir()
    for plan in plans:
        if job.output_path is not None and plan.name not in report.empty:
            report.files += _write_files(plan, job, job.output_path)
    return report


def _cameras(tree: Tree, wanted: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the cameras that are asked for, else those that all trajectories with the main one have."""
    if wanted is not None:
        return wanted, {}
    present = [cameras_of(item.path) for item in tree.trajectories]
    present = [cameras for cameras in present if MAIN_CAMERA in cameras]
    counts = Counter(camera for cameras in present for camera in cameras)
    common = sorted((name for name, count in counts.items() if count == len(present)), key=lambda name: int(name[6:]))
    without = {name: len(present) - count for name, count in sorted(counts.items()) if count < len(present)}
    return tuple(common) or (MAIN_CAMERA,), without


def _plans(job: RawImport, reading: Reading, tree: Tree) -> list[_Plan]:
    if job.name:
        groups = {job.name if job.name.startswith("bridge:") else f"bridge:{job.name}": tree.tasks}
    else:
        groups = {f"bridge:{task}": {task: items} for task, items in tree.tasks.items()}
    plans = []
    for name, tasks in groups.items():
        if NAME.fullmatch(name) is None:
            raise DatasetError(f"{name!r} is no name for a store, like bridge:lift_carrot_100; give --name")
        path = store_path(name, job.data_dir)
        listed = [(item.task, item.name, item.is_training) for items in tasks.values() for item in items]
        recipe = hashlib.blake2b(
            repr((reading, job.pictures.name, job.pictures.quality, listed)).encode(), digest_size=8
        )
        parts = job.data_dir / PARTS / path.name
        plans.append(_Plan(name, path, parts, tasks, recipe.hexdigest()))
    return plans


def _is_there(plan: _Plan, job: RawImport) -> bool:
    """Return whether a store is complete already; DatasetError where other data are in its place."""
    targets = [job.output_path / task for task in plan.tasks] if job.output_path is not None else []
    same = False
    if plan.path.exists() and not job.overwrite:
        same = EpisodeStore.open(plan.path).manifest.provenance.get("recipe") == plan.recipe
        if not same:
            raise DatasetError(
                f"{plan.path} exists already, of other trajectories or settings; choose another --name or --data_dir, "
                "or give --overwrite"
            )
    taken = [target for target in targets if target.exists() and not same and not job.overwrite]
    if taken:
        raise DatasetError(f"{taken[0]} exists already; choose another --output_path, or give --overwrite")
    return same


def _write_store(plan: _Plan, job: RawImport, reading: Reading, feed: _Feed, report: ImportReport) -> bool:
    """Write a store of what `feed` has; False, and nothing is written, where no trajectory can be used."""
    writer = StoreWriter(
        plan.path,
        name=plan.name,
        source=Bridge.name,
        env_id=ROBOT,
        overwrite=job.overwrite,
        pictures=job.pictures,
    )
    try:
        with writer:
            counts, skipped = _add_all(writer, plan, feed, report)
            if writer.num_episodes == 0:
                raise _NothingLeft
            split = {"depth": job.depth, "train_proportion": job.train_proportion, "seed": job.seed}
            writer.provenance = {
                "env_name": plan.name,
                "made_by": f"raw BridgeData, {job.root.absolute().name}",
                "raw": {**split, **asdict(reading)},
                "tasks": counts,
                "skipped": skipped,
                "recipe": plan.recipe,
                "rewards": "none, 0",
            }
    except _NothingLeft:
        return False
    return True


def _add_all(
    writer: StoreWriter, plan: _Plan, feed: _Feed, report: ImportReport
) -> tuple[dict[str, dict[str, int]], list[list[str]]]:
    """Add every episode; return how many there are of each task and split, and what was left out."""
    first: dict[str, np.ndarray] = {}
    skipped: list[list[str]] = []
    counts = {task: {TRAIN: 0, VALID: 0, "skipped": 0} for task in plan.tasks}
    for trajectory, episode in feed:
        split = TRAIN if trajectory.is_training else VALID
        reason = episode if isinstance(episode, str) else _oddity(episode, first)
        if reason or isinstance(episode, str):
            skipped.append([f"{trajectory.task}/{trajectory.name}", reason])
            report.skipped.append((skipped[-1][0], reason))
            counts[trajectory.task]["skipped"] += 1
            continue
        writer.add_episode({**episode, **{MASK + key: np.uint8(key == split) for key in (TRAIN, VALID)}})
        counts[trajectory.task][split] += 1
    return counts, skipped


class _NothingLeft(Exception):
    """Every trajectory of a store was left out: it is not written."""


def _oddity(episode: dict[str, Any], first: dict[str, np.ndarray]) -> str:
    """Return how an episode differs from the first one in columns or dims; empty where it does not."""
    rows = prepare_episode(episode, 0)
    if not first:
        first.update({name: array[:1] for name, array in rows.items()})
    try:
        check_same_columns(rows, first, 0)
    except DatasetError as error:
        return str(error).removeprefix("episode 0: ")
    return ""


def _write_files(plan: _Plan, job: RawImport, output_path: Path) -> list[Path]:
    """Write each task's out.npy files that are not there yet, from the store; return their folders."""
    store = EpisodeStore.open(plan.path)
    episodes = episodes_of(store)
    written = []
    for task, counts in store.manifest.provenance["tasks"].items():
        own = islice(episodes, counts[TRAIN] + counts[VALID])
        target = output_path / task
        if counts[TRAIN] + counts[VALID] and (job.overwrite or not target.exists()):
            Bridge().write(target, own, plan.name, store.manifest.provenance)
            written.append(target)
        else:
            for _ in own:  # go past them
                continue
    return written
