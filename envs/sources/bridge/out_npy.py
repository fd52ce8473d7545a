"""BridgeData's out.npy: read without running what is in it, written one trajectory at a time.

The file is numpy's: a header and a pickled array of trajectories. Each is a dict: `observations` and
`next_observations` are lists of dicts, one a step (`images0` and other cameras as uint8 [H, W, C], `state`,
`time_stamp`, `saliency` [H, W, 1]); `actions` and `terminals` are lists; `language` is a list of texts. `rewards` is
ours, and only there where some are not 0.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from understudy.envs.files.reading import damage
from understudy.envs.sources.bridge.unpickling import map_file, unpickle_buffer
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import check_same_columns, prepare_episode, steps_of_final
from understudy.envs.store.store import FINAL, IMAGES, MASK, SALIENCY
from understudy.errors import DatasetError

OBSERVATIONS, NEXT, STATE, LANGUAGE = "observations", "next_observations", "state", "language"
UNFOLDING = 4
"""A file's observations are at most so many times its size: one that shows a picture again and again is refused."""
STEP_COLUMNS = ("actions", "rewards", "terminals")


def read_trajectories(file: Path) -> Iterator[Episode]:
    """Yield the episodes of an out.npy; a damaged one, or one that holds more than data, raises DatasetError."""
    data = map_file(file)
    with damage(file, "npy"), open(file, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise ValueError(f"numpy's format version {version}")
        read = np.lib.format.read_array_header_1_0 if version < (2, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(stream)
        begin = stream.tell()
    if not dtype.hasobject:
        raise DatasetError(f"{file}: an array of {dtype}, BridgeData's out.npy holds trajectories")
    found = unpickle_buffer(data[begin:], str(file))
    trajectories = found.tolist() if isinstance(found, np.ndarray) and found.ndim == 1 else found
    if not isinstance(trajectories, list) or not all(isinstance(item, dict) for item in trajectories):
        raise DatasetError(f"{file}: not a list of trajectories")
    left = UNFOLDING * len(data)
    for number, trajectory in enumerate(trajectories):
        where = f"{file}: trajectory {number}"
        with damage(file, f"BridgeData (trajectory {number})"):
            episode = _episode(trajectory, where, left)
        left -= sum(array.nbytes for array in episode.values() if isinstance(array, np.ndarray))
        yield episode


def _episode(trajectory: Mapping[str, Any], where: str, most: int) -> dict[str, Any]:
    for key in (OBSERVATIONS, NEXT, "actions"):
        if key not in trajectory:
            raise DatasetError(f"{where}: has no {key!r}")
    steps, nexts, actions = (trajectory[key] for key in (OBSERVATIONS, NEXT, "actions"))
    count = len(actions)
    if not isinstance(steps, list) or not isinstance(nexts, list) or not len(steps) == len(nexts) == count:
        sizes = [len(item) if hasattr(item, "__len__") else item for item in (steps, nexts)]
        raise DatasetError(f"{where}: {sizes[0]} observations, {sizes[1]} next ones and {count} actions")
    if count == 0:
        raise DatasetError(f"{where}: has no steps")
    if not all(isinstance(step, dict) for step in (*steps, nexts[-1])):
        raise DatasetError(f"{where}: its observations are not one dict a step")
    claimed = sum(value.nbytes for step in steps for value in step.values() if isinstance(value, np.ndarray))
    if claimed > most:
        raise DatasetError(f"{where}: unfolds to {claimed} bytes, far more than the file has")
    episode: dict[str, Any] = {}
    for key in steps[0]:
        values = [step.get(key) for step in steps]
        if any(value is None for value in values):
            raise DatasetError(f"{where}: not every observation has {key!r}")
        rows = np.stack([np.asarray(value) for value in values])
        name = _column_name(str(key), rows, steps[0])
        episode[name] = rows
        if (name == OBSERVATIONS or name.startswith(IMAGES)) and key in nexts[-1]:
            final = "final_observation" if name == OBSERVATIONS else FINAL + name
            episode[final] = np.asarray(nexts[-1][key])
    episode["actions"] = np.stack([np.asarray(action) for action in actions])
    episode["rewards"] = np.asarray(trajectory.get("rewards", np.zeros(count, np.float32)))
    episode["terminals"] = np.asarray(trajectory.get("terminals", np.zeros(count, np.uint8)))
    episode |= {key: np.uint8(value) for key, value in trajectory.items() if str(key).startswith(MASK)}
    return episode if LANGUAGE not in trajectory else {**episode, LANGUAGE: _text(trajectory[LANGUAGE], where)}


def _column_name(key: str, rows: np.ndarray, step: Mapping[str, Any]) -> str:
    """Return the column of a step's key: cameras are uint8 pictures; a lone saliency map is the first camera's."""
    if key == STATE:
        return OBSERVATIONS
    if key == "saliency":
        cameras = sorted(str(name) for name, value in step.items() if np.asarray(value).dtype == np.uint8)
        return SALIENCY + (cameras[0] if cameras else "images0")
    picture = rows.dtype == np.uint8 and rows.ndim == 4
    return IMAGES + key if picture and not key.startswith(SALIENCY) else key


def _text(language: Any, where: str) -> str:
    lines = [language] if isinstance(language, str) else language
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DatasetError(f"{where}: its language is not a text or a list of texts")
    return "\n".join(lines)


class NumpyWriter:
    """Write an out.npy trajectory by trajectory: memory does not grow with the file.

    Each is pickled alone. They share the numbers under which a pickle remembers values, and none refers to another's.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.count = 0
        self._first: dict[str, np.ndarray] = {}
        self._stream = stream
        module = np.empty(0, object).__reduce__()[0].__module__  # numpy._core.multiarray, numpy.core.multiarray of old
        self._head = b"\x80\x03c%b\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" % module.encode()
        self._write_head()

    def _write_head(self) -> None:
        """Write numpy's header and the pickle up to its items; of the same length for any count."""
        np.lib.format.write_array_header_1_0(
            self._stream, {"descr": "|O", "fortran_order": False, "shape": (self.count,)}
        )
        shape = b"J" + struct.pack("<i", self.count) + b"\x85"
        dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ%bJ%bK\x3ftb"
        minus = struct.pack("<i", -1)
        self._stream.write(self._head + shape + dtype % (minus, minus) + b"\x89](")

    def add(self, episode: Episode) -> None:
        """Write one episode."""
        rows = prepare_episode(episode, self.count)
        self._first = self._first or rows
        check_same_columns(rows, self._first, self.count)
        if "final_observations" not in rows and "observations" in rows:
            raise DatasetError(f"episode {self.count}: has no final observation, out.npy needs next observations")
        texts = {LANGUAGE: str(rows[LANGUAGE][0]).split("\n")} if LANGUAGE in rows else {}
        self._stream.write(pickle.dumps({**_trajectory(rows), **texts}, protocol=3)[2:-1])
        self.count += 1

    def finish(self) -> None:
        """Close the list of trajectories and write how many there are."""
        self._stream.write(b"etb.")
        self._stream.seek(0)
        self._write_head()


def _trajectory(rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    count = len(rows["actions"])
    finals = {of: name for name in rows if (of := steps_of_final(name)) is not None}
    cameras = sorted(name.removeprefix(IMAGES) for name in rows if name.startswith(IMAGES))
    parts: dict[str, list[Any]] = {}
    for name, values in rows.items():
        kept = name in STEP_COLUMNS or name == LANGUAGE or name.startswith(MASK) or steps_of_final(name) is not None
        if kept:
            continue
        last = rows[finals[name]][0] if name in finals else values[-1]  # what is not known of after the end stays
        parts[_key(name, values.ndim, cameras)] = [*values, last]
    steps = [{key: values[t] for key, values in parts.items()} for t in range(count + 1)]
    trajectory: dict[str, Any] = {OBSERVATIONS: steps[:-1], NEXT: steps[1:], "actions": [*rows["actions"]]}
    trajectory["terminals"] = rows["terminals"].tolist()
    if rows["rewards"].view(np.uint8).any():
        trajectory["rewards"] = rows["rewards"]
    return trajectory | {name: int(values[0]) for name, values in rows.items() if name.startswith(MASK)}


def _key(name: str, rank: int, cameras: list[str]) -> str:
    """Return the key of a step for a column of `rank` dims; `_column_name` is the inverse, but for a lone picture."""
    if name == OBSERVATIONS:
        return STATE if rank < 4 else "images0"
    lone = SALIENCY + (cameras[0] if cameras else "images0")
    return "saliency" if name == lone else name.removeprefix(IMAGES)
