"""BridgeData V2 (Walke et al. 2023, arXiv 2308.12952): a real WidowX arm, several cameras, one sentence a trajectory.

Names are `bridge:` and the task's folder: `bridge:lift_carrot_100`, `bridge:rss/toykitchen2/set_table/00`. The format
is out.npy: a file, or a folder of `train/out.npy` and `val/out.npy` for one task or for many (all that are below it).
Episodes of `train` and `val` are marked as filter keys `train` and `valid`. Raw trees are read by `raw.py`
(`understudy data import bridge-raw`). There is no simulator: policies are scored on held-out episodes.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.downloads import OnBytes
from understudy.envs.sources.bridge.out_npy import NumpyWriter, read_trajectories
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode
from understudy.envs.sources.unplayed import UnplayedTask
from understudy.envs.store.store import MASK
from understudy.errors import DatasetError, UserError, did_you_mean
from understudy.files import storage_errors, write_atomic
from understudy.folders import replaced_folder
from understudy.registry import sources

NAME = re.compile(r"bridge:[^\s/.:][^/\n:]*(/[^\s/.:][^/\n:]*)*")
KNOWN = ("lift_carrot_100", "pull_pot_100")
"""Tasks with a preset; any other name of a task's folder will do."""
OUT = "out.npy"
FILTER_KEYS = {"train": "train", "val": "valid"}
"""Folders of a task, and the filter keys of their episodes."""
PUBLISHED = "https://rail.eecs.berkeley.edu/datasets/bridge_release/data/"
ROBOT, LIMIT = "widowx250", 120
"""The robot, and the steps that upstream's evaluation gives it."""


@dataclass(frozen=True)
class BridgeTask(UnplayedTask):
    """A task of the robot, which is what the dataset's folder is called."""

    WHY = (
        "is played by a real robot and has no simulator: give eval_episodes=0, and judge policies with"
        " validation_filter_key=valid"
    )

    @property
    def env_id(self) -> str:
        """The robot's name."""
        return ROBOT

    @property
    def max_episode_steps(self) -> int:
        """The limit of upstream's evaluation."""
        return LIMIT

    def download(self, folder: Path, progress: OnBytes | None = None) -> Path:
        """Raise UserError: what is published are raw trees of many tasks, hundreds of gigabytes."""
        how = f"unpack the raw data of {PUBLISHED} and give `understudy data import bridge-raw`"
        raise UserError(f"{self.env_name}: {how}")

    def below(self, root: Path) -> Path | None:
        """Return the task's folder in a tree of `<task>/{train,val}/out.npy` of any depth."""
        task = self.env_name.partition(":")[2]
        found = [folder for name, folder in tasks_in(root).items() if f"/{name}".endswith(f"/{task}")]
        if len(found) > 1:
            places = ", ".join(str(folder) for folder in found[:4])
            raise DatasetError(f"{self.env_name}: several folders of {root} are called so: {places}")
        return found[0] if found else None

    def like_in(self, root: Path) -> str:
        """Return the nearest task that the tree has; of a raw tree, how it is imported."""
        if names := list(tasks_in(root)):
            return did_you_mean(self.env_name.partition(":")[2], names)
        raw = next(root.rglob("traj_group*"), None)
        return (
            f"; it is a raw tree: `understudy data import bridge-raw {shlex.quote(str(root))}` reads it" if raw else ""
        )

    def import_commands(self) -> list[str]:
        """Return the commands for out.npy files and for raw trees."""
        name = shlex.quote(self.env_name)
        return [
            f"understudy data import bridge FOLDER --name {name}",
            f"understudy data import bridge-raw ROOT --name {name}",
        ]

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the trajectories of every out.npy, with filter keys where a file is of `train` or `val`."""
        files = self.source.files(path)
        split = any(file.parent.name in FILTER_KEYS for file in files)
        for file in files:
            mine = FILTER_KEYS.get(file.parent.name)
            masks = {MASK + key: np.uint8(key == mine) for key in FILTER_KEYS.values()} if split else {}
            for episode in read_trajectories(file):
                yield {**episode, **masks}


class Bridge(Source):
    """BridgeData's tasks; out.npy."""

    name = "bridge"
    title = "BridgeData"
    example = "bridge:lift_carrot_100"
    unit_actions = False
    simulated = False

    def parse(self, env_name: str) -> BridgeTask | None:
        """Return the task of a name `bridge:<task>`."""
        return BridgeTask(self, env_name) if NAME.fullmatch(env_name) else None

    def known_names(self) -> list[str]:
        """Return the names that have presets."""
        return [f"bridge:{task}" for task in KNOWN]

    def parts(self, path: Path) -> dict[str, Path]:
        """Return a dataset for each task of a tree: `bridge:` and the task's path in it."""
        found = tasks_in(path) if path.is_dir() else {}
        if len(found) < 2:
            return super().parts(path)
        return {f"bridge:{name}": folder for name, folder in found.items()}

    def name_of(self, path: Path) -> str:
        """Return `bridge:` with the task's folder's name."""
        folder = path.absolute()
        folder = folder.parent if folder.is_file() or folder.suffix == ".npy" else folder
        return f"bridge:{(folder.parent if folder.name in FILTER_KEYS else folder).name}"

    def files(self, path: Path) -> list[Path]:
        """Return the out.npy files of a folder, task by task, training before validation; or the file itself."""
        if not path.is_dir():
            return [path]
        order = [*FILTER_KEYS]
        found = [(file.parent, file) for file in path.rglob(OUT)]
        keyed = [
            (folder.parent, order.index(folder.name), file) if folder.name in order else (folder, len(order), file)
            for folder, file in found
        ]
        if not keyed:
            raise DatasetError(f"{path}: has no {OUT} in it; raw trees are imported with `data import bridge-raw`")
        return [file for *_, file in sorted(keyed)]

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a folder of `train/out.npy` and `val/out.npy`, or a single file where the path is one (`.npy`).

        Episodes without filter keys are in `out.npy` itself. State and time are kept as the store has them; of the
        time stamp and the saliency after the last action, which a store does not hold, those before are repeated.
        """
        if path.suffix == ".npy":
            write_atomic(path, lambda stream: self._write_all(NumpyWriter(stream), episodes, env_name))
            return
        other = next((file for file in path.rglob("*") if file.is_file() and file.name != OUT), None)
        if other is not None or path.is_file():
            raise DatasetError(f"{path}: holds something else than {OUT} ({other or path}); choose another folder")
        with replaced_folder(path) as folder, storage_errors(path), contextlib.ExitStack() as closing:
            writers: dict[str, NumpyWriter] = {}
            for episode in episodes:
                place = _folder_of(episode)
                if place not in writers:
                    (folder / place).mkdir(exist_ok=True)
                    writers[place] = NumpyWriter(closing.enter_context(open(folder / place / OUT, "w+b")))
                own = {key: value for key, value in episode.items() if not (place and _is_split(key))}
                writers[place].add(own)
            if not writers:
                raise DatasetError(f"{env_name}: no episodes, nothing to write")
            for writer in writers.values():
                writer.finish()

    @staticmethod
    def _write_all(writer: NumpyWriter, episodes: Iterable[Episode], env_name: str) -> None:
        for episode in episodes:
            writer.add(episode)
        if writer.count == 0:
            raise DatasetError(f"{env_name}: no episodes, nothing to write")
        writer.finish()


def tasks_in(root: Path) -> dict[str, Path]:
    """Return the folders of tasks in a tree of out.npy files, by their path below the root."""
    found: dict[str, Path] = {}
    for file in sorted(root.rglob(OUT)):
        folder = file.parent.parent if file.parent.name in FILTER_KEYS else file.parent
        found[folder.relative_to(root).as_posix()] = folder
    return found


def _folder_of(episode: Episode) -> str:
    chosen = [folder for folder, key in FILTER_KEYS.items() if np.any(episode.get(MASK + key, 0))]
    return chosen[-1] if chosen else ""


def _is_split(column: str) -> bool:
    return column.startswith(MASK) and column.removeprefix(MASK) in FILTER_KEYS.values()


sources.register("bridge")(Bridge())
