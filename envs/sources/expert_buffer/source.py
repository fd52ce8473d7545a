"""Expert buffers (RLOpt's `expert_buffer.pt`): transitions of a trained expert in one saved TensorDict.

A dataset's name is `expert:` and the gymnasium id of its environment: `expert:Pendulum-v1`. An id alone, which no other
source knows, names the environment and a buffer that was imported as it. A buffer is a folder with
`expert_buffer.pt` (rows [N], keys as torchrl has them), `metadata.pt` (a dict) and `README.txt`; the .pt alone does
too. Files are unpickled with `weights_only`, and a TensorDict becomes a plain dict: tensordict itself is not needed.
Where it is installed buffers are written as TensorDicts, else as plain dicts of the same keys.

An episode ends where a done flag is set; without flags, where the next row's observation does not follow (see
`episode_ends`). Some published files have every next observation equal to its observation; these are read without
their ends.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.hdf5 import UnfailingFile
from understudy.envs.simulators.registered import make_registered, registered_spec
from understudy.envs.sources.expert_buffer.rows import ends_of, flags_of, read_rows, repeats_itself, seen, unread_keys
from understudy.envs.sources.expert_buffer.unpickling import load_tensors
from understudy.envs.sources.source import Source, task_of
from understudy.envs.sources.task import Episode, Settings, Task
from understudy.envs.store.episode import check_same_columns, prepare_episode
from understudy.envs.store.store import FINAL, IMAGES
from understudy.errors import DatasetError, UnknownName, UserError
from understudy.files import write_atomic
from understudy.folders import replaced_folder
from understudy.observations import PIXELS
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

BUFFER, METADATA, README = "expert_buffer.pt", "metadata.pt", "README.txt"
NAME = re.compile(r"expert:(?P<id>(?:[\w.-]+/)?[\w.-]+-v\d+)")
KNOWN = ("Pendulum-v1", "MountainCarContinuous-v0", "InvertedPendulum-v5", "Reacher-v5", "Pusher-v5", "Swimmer-v5",
         "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")  # fmt: skip
LIMIT = 1000
"""Steps of an episode where the environment registers no limit."""


@dataclass(frozen=True)
class ExpertBufferTask(Task):
    """A buffer of an environment of gymnasium's registry."""

    registered: str
    """The gymnasium id."""

    @property
    def env_id(self) -> str:
        """The gymnasium id."""
        return self.registered

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the registered environment."""
        return make_registered(self.env_name, self.registered, render=render, size=size)

    @property
    def max_episode_steps(self) -> int:
        """The time limit that is registered."""
        return registered_spec(self.env_name, self.registered).max_episode_steps or LIMIT

    @property
    def has_success(self) -> bool:
        """Whether the task tells success: gymnasium's own do not (where one does, rollouts see it anyway)."""
        return False

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return metadata.pt, and how the episodes were found."""
        file = self.source.files(path)[0]
        rows = read_rows(file)
        repeats = repeats_itself(rows)
        ends = "done flags" if repeats or flags_of(rows)[0].any() else "observations that do not follow"
        note: dict[str, Any] = {"episode_ends": ends}
        if file.with_name(METADATA).is_file():
            note["metadata"] = _plain(load_tensors(file.with_name(METADATA)))
        if repeats:
            note["next_observations"] = "left out: each repeats its own observation"
        said = ends_of(rows, not repeats and seen(rows)[1] is not None, file)[1]
        unread = unread_keys(file)
        left_out = {"left_out": [f"keys that are not read: {', '.join(unread)}"]} if unread else {}
        return {**note, **left_out, **({"notes": [said]} if said else {})}

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes of a buffer."""
        file = self.source.files(path)[0]
        rows = read_rows(file)
        usable = seen(rows)[1] is not None and not repeats_itself(rows)
        columns = {name: column for column, name in _COLUMNS.items() if name in rows}
        terminals = flags_of(rows)[1]
        begin = 0
        for end in ends_of(rows, usable, file)[0]:
            steps = slice(begin, end + 1)
            episode = {column: rows[name][steps] for name, column in columns.items()}
            episode["terminals"] = terminals[steps]
            if usable:
                episode |= {column: rows[name][end] for column, name in _AFTER.items() if name in rows}
            yield episode
            begin = end + 1


_PIXELS = f"{IMAGES}{PIXELS}"
_COLUMNS = {"observations": "observations", _PIXELS: "pixels", "actions": "actions", "rewards": "rewards"}
_SEEN = {"observations": "observation", _PIXELS: "pixels"}
_AFTER = {"final_observation": "next_observations", f"{FINAL}{_PIXELS}": "next_pixels"}
"""Columns of an episode, and of what came after its last action, by their rows here."""


class ExpertBuffer(Source):
    """Buffers of a trained expert."""

    name = "expert_buffer"
    title = "expert buffer's"
    example = "expert:Pendulum-v1"
    unit_actions = False

    def parse(self, env_name: str) -> ExpertBufferTask | None:
        """Return the task of a name `expert:<gymnasium id>`."""
        found = NAME.fullmatch(env_name)
        return None if found is None else ExpertBufferTask(self, env_name, found["id"])

    def registered(self, env_name: str) -> ExpertBufferTask | None:
        """Return the task of a gymnasium id that is registered on this machine."""
        if NAME.fullmatch(f"expert:{env_name}") is None:
            return None
        with suppress(UserError):
            registered_spec(env_name, env_name)
            return ExpertBufferTask(self, env_name, env_name)
        return None

    def known_names(self) -> list[str]:
        """Return the names of gymnasium's own continuous-control tasks; any registered id will do."""
        return [f"expert:{env_id}" for env_id in KNOWN]

    def files(self, path: Path) -> list[Path]:
        """Return the .pt file, which may be given by its folder."""
        return [path / BUFFER if path.is_dir() else path]

    def environment_in(self, path: Path) -> str:
        """Return the environment that metadata.pt names, else the folder's name where that is a registered id."""
        file = self.files(path)[0]
        if not file.is_file():
            known = self.registered(file.parent.name)
            env = shlex.quote(known.env_id if known is not None else "ENV")
            parent = file.parent.parent
            where = "" if parent == Path("expert_data").absolute() or known is None else f" --save-dir {parent}"
            raise DatasetError(f"no expert buffer {file}: make it with `understudy expert --env {env}{where}`")
        if file.with_name(METADATA).is_file():
            facts = load_tensors(file.with_name(METADATA))
            named = facts.get("env_name") if isinstance(facts, dict) else None
            if isinstance(named, str) and named:
                return named
        if self.registered(file.parent.name) is not None:
            return file.parent.name
        raise DatasetError(f"{file}: no {METADATA} beside it says which environment it is of: give env_name=, too")

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write `expert_buffer.pt`, `metadata.pt` and `README.txt` into a folder, or beside the .pt file `path`."""
        import torch

        kept: list[dict[str, np.ndarray]] = []
        for number, episode in enumerate(episodes):
            kept.append(_transitions(number, episode))
            check_same_columns(kept[-1], kept[0], number)
        if not kept:
            raise DatasetError(f"{env_name}: no episodes, nothing to write")
        arrays = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        data: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items() if "/" not in name}
        data["next"] = {name[5:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("next/")}
        if importlib.util.find_spec("tensordict") is not None:
            from tensordict import TensorDict

            data = TensorDict(data, batch_size=[len(arrays["action"])])  # type: ignore[assignment]
        returns = [float(part["next/reward"].sum(dtype=np.float64)) for part in kept]
        metadata = {
            **_plain(provenance.get("metadata", {})),
            **({"made_by": str(provenance["made_by"])} if provenance.get("made_by") else {}),
            "env_name": _environment(env_name),
            "num_transitions": len(arrays["action"]),
            "num_expert_episodes": len(kept),
            "expert_avg_reward": float(np.mean(returns)),
            "expert_avg_length": len(arrays["action"]) / len(kept),
        }
        with _folder(path) as buffer:
            write_atomic(buffer, lambda file: _save(torch, data, file))
            write_atomic(buffer.with_name(METADATA), lambda file: _save(torch, metadata, file))
            write_atomic(buffer.with_name(README), lambda file: file.write(_readme(metadata, buffer.name).encode()))


def _environment(env_name: str) -> str:
    """Return the environment's own name for a dataset's name of any source."""
    try:
        return task_of(env_name).env_id
    except UnknownName:
        return env_name


def _transitions(number: int, episode: Episode) -> dict[str, np.ndarray]:
    prepare_episode(episode, number)
    odd = [name for name in episode if name.startswith(IMAGES) and name != _PIXELS]
    if odd:
        raise DatasetError(f"episode {number}: column {odd[0]!r}: expert buffers keep one camera, {_PIXELS}")
    seen_here: dict[str, np.ndarray] = {}
    for (column, name), after in zip(_SEEN.items(), _AFTER, strict=True):
        if column not in episode:
            continue
        if after not in episode:
            raise DatasetError(f"episode {number}: has no final observation, which expert buffers need")
        rows = np.asarray(episode[column])
        following = np.concatenate([rows[1:], np.asarray(episode[after])[None]])
        seen_here |= {name: rows, f"next/{name}": following.astype(rows.dtype)}
    last = np.arange(len(episode["actions"])) == len(episode["actions"]) - 1
    terminated = np.asarray(episode["terminals"]) != 0
    columns = {"next/reward": np.asarray(episode["rewards"], np.float32), "next/terminated": terminated}
    columns |= {"next/truncated": last & ~terminated, "next/done": last}
    return {
        **seen_here,
        "action": np.asarray(episode["actions"]),
        **{name: array[:, None] for name, array in columns.items()},
    }


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a metadata dict; anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _save(torch: Any, data: Any, file: Any) -> None:
    """Save into an open file; torch would hide a full disk behind an error of its own."""
    kept = UnfailingFile(file)
    torch.save(data, kept)
    kept.check()


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Give the .pt file to write: `path` itself, or one in a folder that takes the place of `path` when it is whole."""
    if path.suffix != ".pt":
        others = sorted({item.name for item in path.glob("*")} - {BUFFER, METADATA, README})
        if others or path.is_file():
            raise DatasetError(f"{path}: is no expert buffer ({(others or [path])[0]}); choose another folder")
        with replaced_folder(path) as folder:
            yield folder / BUFFER
        return
    new = not path.parent.exists()
    try:
        yield path
    finally:
        if new:
            with suppress(OSError):  # it is not there, or not empty
                path.parent.rmdir()


def _readme(metadata: dict[str, Any], buffer: str) -> str:
    facts = "".join(f"{key}: {value}\n" for key, value in metadata.items())
    return (
        f"Expert data for {metadata['env_name']}\n\n{facts}\n"
        f"{buffer}: transitions: observation, action and next: observation, reward, done, terminated, truncated."
        " A TensorDict, for torch.load(..., weights_only=False), or where it was written without tensordict a dict for"
        f" TensorDict(torch.load(...), batch_size=[{metadata['num_transitions']}]).\n{METADATA}: the facts above\n"
    )


sources.register("expert_buffer")(ExpertBuffer())
