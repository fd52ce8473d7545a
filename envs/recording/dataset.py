"""The LeRobot dataset that a recording goes to, which a killed recording goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.recording.session import Played, Stage
from understudy.envs.recording.settings import RecordSettings
from understudy.envs.sources.lerobot.meta import is_dataset, read_note
from understudy.envs.sources.lerobot.reader import read_episodes
from understudy.envs.sources.lerobot.writer import LeRobotWriter
from understudy.errors import DatasetError, UserError, did_you_mean

RECORDING = "recording"
"""What our note of a dataset calls how it was recorded."""


@contextmanager
def writer_of(stage: Stage, root: Path, made_by: str) -> Iterator[LeRobotWriter]:
    """Open the dataset to add episodes to; DatasetError where another environment's are in it, or another seed's."""
    settings = stage.settings
    begun = {"seed": settings.seed, "environment": stage.environment, "env_name": settings.env_name}
    if is_dataset(root):
        _check_begun(root, begun)
    names = list(stage.task.action_names) or None
    count = len(stage.driven.low)
    writer = LeRobotWriter(
        root,
        {"action": {"dtype": "float32", "shape": [count], "names": names}},
        stage.fps,
        pictures=settings.pictures,
        task=settings.task or settings.env_name,
        note={
            "env_name": settings.env_name,
            "made_by": made_by,
            RECORDING: begun,
            **({"environment": stage.environment} if stage.environment else {}),
        },
    )
    with writer:
        yield writer


def _check_begun(root: Path, begun: dict[str, Any]) -> None:
    found = read_note(root).get(RECORDING)
    if found is None:
        raise DatasetError(f"{root}: was not recorded by `understudy record`; choose another folder")
    for key, value in begun.items():
        if found.get(key) != value:
            raise DatasetError(
                f"{root}: was begun with {key}={found.get(key)!r}, not {value!r}; give that, or choose another folder"
            )


def keep(writer: LeRobotWriter, played: Played, settings: RecordSettings) -> bool:
    """Write an episode, durable when this returns, unless only successful ones are kept; return whether it was."""
    if settings.keep == "successful" and not played.success:
        return False
    writer.add_episode(played.columns)
    return True


def recorded_actions(root: Path, number: int) -> tuple[np.ndarray, int]:
    """Return the actions [T, A] of an episode, and the seed of its recording; UserError where there is none."""
    if not is_dataset(root):
        raise DatasetError(f"{root}: no LeRobot dataset to replay")
    count = 0
    for episode in read_episodes(root):
        if count == number:
            return np.asarray(episode["actions"]), int(read_note(root).get(RECORDING, {}).get("seed", 0))
        count += 1
    raise UserError(f"replay_episode={number}: {root} has {count}{did_you_mean(str(number), map(str, range(count)))}")
