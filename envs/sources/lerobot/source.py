"""LeRobot (Hugging Face): datasets of the v3 format, read and written without the lerobot package.

A dataset's name is `lerobot:` and where it is: `lerobot:/path/to/dataset`, `lerobot:~/dataset`, or
`lerobot:user/name` for one below $UNDERSTUDY_HOME/lerobot or $HF_LEROBOT_HOME. Its files name a robot at most, no
simulator; those written by understudy keep the name and the settings of their environment in meta/understudy.json, and
policies are evaluated there.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.envs.sources.lerobot.meta import is_dataset
from understudy.envs.sources.lerobot.reader import data_files, declared, provenance, read_episodes
from understudy.envs.sources.lerobot.video import TOLERANCE
from understudy.envs.sources.lerobot.writer import LeRobotWriter, new_dataset
from understudy.envs.sources.own_env import OwnTask
from understudy.envs.sources.source import Source, task_of
from understudy.envs.sources.task import Episode, Task
from understudy.envs.sources.unplayed import UnplayedTask
from understudy.envs.store.column_kinds import Declared
from understudy.envs.store.row_texts import TASK_TEXTS
from understudy.errors import DatasetError, UnknownName, did_you_mean
from understudy.files import home, tools_path, user_path
from understudy.registry import sources

NAME = re.compile(r"lerobot:(?P<place>[/~].*|[\w.-]+/[\w.-]+)")
FPS = 10
"""Frames a second where nothing says how many: gym-hil's."""
"""Steps of an episode where no environment says how many."""
BUFFER_MB = 64


class LeRobot(Source):
    """Datasets in LeRobot's format; environments only where the dataset names one."""

    name = "lerobot"
    title = "LeRobot"
    example = "lerobot:/path/to/dataset or lerobot:user/name"
    unit_actions = False
    simulated = False

    def parse(self, env_name: str) -> LeRobotTask | None:
        """Return the task of a name that is `lerobot:` with a path or `user/name`."""
        found = NAME.fullmatch(env_name)
        return None if found is None else LeRobotTask(self, env_name, found["place"])

    def known_names(self) -> list[str]:
        """Return the names of the datasets that lie where `lerobot:user/name` is looked for, and a name for others."""
        return [*_names_here(), "lerobot:/path/to/dataset"]

    def name_of(self, path: Path) -> str:
        """Return `lerobot:` with the folder's absolute path."""
        return f"lerobot:{path.absolute()}"

    def files(self, path: Path) -> list[Path]:
        """Return the files of the dataset's folder."""
        return data_files(path)

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a dataset's folder; videos are lossy.

        `provenance` may say `fps`, `robot_type` and `pictures` (av1, h264, or image for no loss).
        """
        note = {key: provenance[key] for key in ("environment", "made_by", TASK_TEXTS) if provenance.get(key)}
        with (
            new_dataset(path) as folder,
            LeRobotWriter(
                folder,
                fps=float(provenance.get("fps", FPS)),
                pictures=str(provenance.get("pictures", "av1")),
                robot_type=provenance.get("robot_type"),
                task=env_name,
                note={"env_name": env_name, **note},
                buffer_mb=BUFFER_MB,
            ) as writer,
        ):
            for episode in episodes:
                writer.add_episode(episode)
            if not writer.num_episodes:
                raise DatasetError(f"{path}: no episodes, nothing to write")


@dataclass(frozen=True)
class LeRobotTask(UnplayedTask):
    """A dataset at a place; one that names an environment is evaluated there, under that name."""

    WHY = (
        "its files name no simulator, so there is none to evaluate in: give eval_episodes=0, and judge policies on"
        " held-out episodes (validation_fraction=0.1)"
    )

    place: str
    """A path, or `user/name` in one of the folders that are looked in."""

    def local(self) -> Path:
        """Return the folder that a dataset's name stands for; UserError where there is none."""
        found, env_name = self.place, self.env_name
        if found[0] in "/~":
            folder = user_path(found)
            if is_dataset(folder):
                return folder
            raise DatasetError(f"{env_name}: {folder} is no LeRobot dataset, it has no meta/info.json")
        for root in roots():
            if is_dataset(root / found):
                return root / found
        places = " or ".join(str(root) for root in roots())
        fetch = f"`hf download {found} --repo-type dataset --local-dir {shlex.quote(str(roots()[0] / found))}`"
        hint = did_you_mean(env_name, _names_here())
        raise DatasetError(f"{env_name}: no such dataset in {places}{hint}; {fetch} fetches one of the hub")

    def found(self) -> Path | None:
        """Return the folder that the name stands for, where it is a dataset's."""
        try:
            return self.local()
        except DatasetError:
            return None

    @property
    def env_id(self) -> str:
        """The dataset's own place: its files may name an environment."""
        return self.place

    def env_id_in(self, provenance: Mapping[str, Any]) -> str:
        """Return the name of the environment that the files name; empty where they name none."""
        known = _known(provenance.get("env_name"))
        return "" if known is None else known.env_id

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return rate, robot and cameras; and which environment the data are of, where that is known here."""
        found = provenance(path)
        if _known(found.get("env_name")) is None:
            found.pop("env_name", None)
        return found

    def declared(self, path: Path) -> Mapping[str, Declared]:
        """Return the order of the axes of pictures that are kept as plain numbers, where info.json names the axes."""
        return declared(path)

    def read(self, path: Path, *, tolerance_s: float = TOLERANCE) -> Iterator[Episode]:
        """Yield the dataset's episodes; pictures are those of the videos, which are not what the camera saw.

        `tolerance_s` is LeRobot's: seconds that a frame may be from the time it is looked for at.
        """
        yield from read_episodes(path, tolerance_s)


def roots() -> list[Path]:
    """Return the folders that datasets called `user/name` are looked for in; the last one is LeRobot's own."""
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return [home() / "lerobot", tools_path(os.environ.get("HF_LEROBOT_HOME", f"{cache}/lerobot"))]


def _known(env_name: Any) -> Task | None:
    """Return the task of an environment that a note names: a dataset's name, or a gymnasium id registered here.

    None for names that nothing here knows, for LeRobot's datasets, which name others, and for `module:Class`: what
    came as data calls no code of its choice.
    """
    try:
        task = task_of(str(env_name or ""))
    except UnknownName:
        return None
    return None if isinstance(task, LeRobotTask | OwnTask) else task


def _names_here() -> list[str]:
    folders = [folder for root in roots() if root.is_dir() for folder in sorted(root.glob("*/*"))]
    names = [f"lerobot:{folder.parent.name}/{folder.name}" for folder in folders if is_dataset(folder)]
    return [name for name in dict.fromkeys(names) if NAME.fullmatch(name)]


sources.register("lerobot")(LeRobot())
