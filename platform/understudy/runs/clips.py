"""Filmed episodes of a run, in `videos/`: each a video, its actions and states, and what it is.

    seed001_episode0003_step400_from1000003.mp4   frames: before the first step, each `frame_skip` steps, at the end
                                           .npz   actions [T, A], rewards [T], observations [T, O], if they are numbers
                                           .json  a Clip; written last, so that a clip that has one is whole

The name has the start state's seed and, where there is one, the evaluation-time setting. Files that are half-written or
damaged are no clips.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UserError
from understudy.files import read_object, write_atomic, write_json
from understudy.runs.episodes import Played

FOLDER = "videos"
WIDEST = 256
"""Numbers of one observation that are kept beside a video."""
FRAMES_PER_SECOND = 30


@dataclass(frozen=True)
class Clip:
    """One filmed episode."""

    seed: int
    episode: int
    reset_seed: int
    step: int
    setting: str
    returns: float
    length: int
    success: float | None
    frame_skip: int
    """Environment steps between two frames."""
    fps: int
    """Frames in a second of the video."""
    env_name: str = ""
    file: Path = field(default_factory=Path, compare=False)
    """The video's place; not written."""

    def is_of(self, returns: float, length: int) -> bool:
        """Whether it is the episode that ended with this return and length: the same policy in the same simulator."""
        return self.length == length and bool(np.isclose(self.returns, returns, rtol=1e-6, atol=1e-6))

    @property
    def stem(self) -> str:
        """Its files' name."""
        setting = re.sub(r"[^\w=.-]+", "_", self.setting)[:60]
        name = f"seed{self.seed:03d}_episode{self.episode:04d}_step{self.step}_from{self.reset_seed}"
        return f"{name}_{setting}" if setting else name


def fps_of(frame_skip: int) -> int:
    """Return the frames a second that videos are written with."""
    return max(1, FRAMES_PER_SECOND // max(1, frame_skip))


def numbers_of(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of an episode that are few numbers a step, as float32 [T, N]."""
    kept: dict[str, np.ndarray] = {}
    length = len(columns["actions"])
    for name, values in columns.items():
        if values.ndim > 2 or len(values) != length or values.dtype.kind not in "fiub":
            continue
        rows = values.reshape(length, -1).astype(np.float32)
        if 0 < rows.shape[1] <= WIDEST:
            kept[name] = rows
    return kept


def write_clip(folder: Path, clip: Clip, columns: Mapping[str, np.ndarray]) -> Clip:
    """Write what belongs to a video that is in `folder` already, under the clip's stem; return the clip with its file.

    Raises StorageError where the disk takes no more.
    """
    arrays = numbers_of(columns)
    write_atomic(folder / f"{clip.stem}.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    record = {key: value for key, value in asdict(clip).items() if key != "file"}
    write_json(folder / f"{clip.stem}.json", record)
    return replace(clip, file=folder / f"{clip.stem}.mp4")


def read_clips(run: Path) -> list[Clip]:
    """Return the clips of a run or a sweep, failures first, then by seed and episode; damaged ones are left out."""
    found = [clip for file in sorted((run / FOLDER).glob("*.json")) if (clip := _read(file)) is not None]
    return sorted(found, key=lambda clip: ((clip.success or 0) >= 1, -clip.step, clip.seed, clip.episode))


def _read(file: Path) -> Clip | None:
    video = file.with_suffix(".mp4")
    try:
        held = read_object(file)
        given: dict[str, Any] = {
            **{key: int(held[key]) for key in ("seed", "episode", "reset_seed", "step", "length", "frame_skip", "fps")},
            "setting": str(held["setting"]),
            "returns": float(held["returns"]),
            "success": None if held["success"] is None else float(held["success"]),
            "env_name": str(held.get("env_name", "")),
        }
    except (UserError, OSError, KeyError, TypeError, ValueError, IndexError):
        return None
    return Clip(**given, file=video) if video.is_file() and min(given["frame_skip"], given["fps"]) > 0 else None


def arrays_of(clip: Clip) -> dict[str, np.ndarray]:
    """Return what was recorded beside a video, columns [T, N] by name; {} where it is missing or damaged."""
    try:
        with np.load(clip.file.with_suffix(".npz"), allow_pickle=False) as held:
            return {name: np.atleast_2d(held[name]) for name in held.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def failures_first(played: list[Played], count: int) -> list[tuple[int, int]]:
    """Return which (seed, episode) to film: those that failed, else those that did worst; `count` of them.

    Where nobody knows of success, a low return is a failure.
    """

    def rank(one: Played) -> tuple[bool, float, int, int]:
        won = one.success is not None and one.success >= 1
        worst = 0.0 if one.success is not None else one.returns
        return won, worst, one.episode, one.seed

    return [(one.seed, one.episode) for one in sorted(played, key=rank)[:count]]
