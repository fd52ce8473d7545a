"""Expert buffers (RLOpt's `expert_buffer.pt`): transitions of a trained expert in one saved TensorDict.

A dataset's name is `expert:` and the gymnasium id of its environment: `expert:Pendulum-v1`. A buffer is a folder with
`expert_buffer.pt` (rows [N], keys as torchrl has them), `metadata.pt` (a dict) and `README.txt`; the .pt alone does
too. Files are unpickled with `weights_only`, and a TensorDict becomes a plain dict: tensordict itself is needed for
writing only.

An episode ends where a done flag is set; without flags, where the next row's observation does not follow (see
`episode_ends`). Some published files have every next observation equal to its observation; these are read without
their ends.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.hdf5 import UnfailingFile
from understudy.envs.simulators.registered import make_registered, registered_spec
from understudy.envs.sources.episode_ends import breaks_in, episode_ends
from understudy.envs.sources.expert_buffer.unpickling import load_tensors
from understudy.envs.sources.source import Source, task_of
from understudy.envs.sources.task import Episode, Settings
from understudy.envs.store.episode import check_alike, prepare_episode
from understudy.errors import DatasetError, UnknownName, UserError, did_you_mean, to_install
from understudy.files import replaced_folder, write_atomic
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

BUFFER, METADATA, README = "expert_buffer.pt", "metadata.pt", "README.txt"
NAME = re.compile(r"expert:(?P<id>(?:[\w.-]+/)?[\w.-]+-v\d+)")
KNOWN = ("Pendulum-v1", "MountainCarContinuous-v0", "InvertedPendulum-v5", "Reacher-v5", "Pusher-v5", "Swimmer-v5",
         "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")  # fmt: skip
SPELLINGS = {
    "observations": ("observation", "obs", "observations", "state"),
    "actions": ("action", "actions"),
    "rewards": ("next/reward", "reward", "rewards"),
    "next_observations": ("next/observation", "next/obs", "next_observation", "next_obs", "next_observations"),
    "done": ("next/done", "done", "dones"),
    "terminated": ("next/terminated", "terminated", "terminations", "terminals"),
    "truncated": ("next/truncated", "truncated", "truncations", "timeouts"),
    "step_count": ("step_count",),
}
"""What a key may be called, the first one found is taken; nested keys with a slash."""
FLAGS = ("done", "terminated", "truncated")
LIMIT = 1000
"""Steps of an episode where the environment registers no limit."""


class ExpertBuffer(Source):
    """Buffers of a trained expert in an environment of gymnasium's registry."""

    name = "expert_buffer"
    unit_actions = False

    def matches(self, env_name: str) -> bool:
        """Return whether the name is `expert:<gymnasium id>`."""
        return NAME.fullmatch(env_name) is not None

    def known_names(self) -> list[str]:
        """Return the names of gymnasium's own continuous-control tasks; any registered id will do."""
        return [f"expert:{env_id}" for env_id in KNOWN]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id."""
        found = NAME.fullmatch(env_name)
        if found is None:
            raise DatasetError(f"{env_name!r} is no expert buffer's name, like expert:Pendulum-v1")
        return found["id"]

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the registered environment."""
        return make_registered(env_name, self.env_id(env_name), render=render, size=size)

    def max_episode_steps(self, env_name: str) -> int:
        """Return the time limit that is registered."""
        return registered_spec(env_name, self.env_id(env_name)).max_episode_steps or LIMIT

    def has_success(self, env_name: str) -> bool:
        """Return False: gymnasium's own tasks report none (where an environment does, rollouts see it all the same)."""
        return False

    def files(self, path: Path) -> list[Path]:
        """Return the .pt file, which may be given by its folder."""
        return [path / BUFFER if path.is_dir() else path]

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return metadata.pt, and how the episodes were found."""
        file = self.files(path)[0]
        rows = _rows(file)
        repeats = _repeats_itself(rows)
        ends = "done flags" if repeats or _flags(rows)[0].any() else "observations that do not follow"
        note: dict[str, Any] = {"episode_ends": ends}
        if file.with_name(METADATA).is_file():
            note["metadata"] = _plain(load_tensors(file.with_name(METADATA)))
        if repeats:
            note["next_observations"] = "left out: each repeats its own observation"
        said = _episode_ends(rows, not repeats and "next_observations" in rows, file)[1]
        return {**note, **({"notes": [said]} if said else {})}

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of a buffer."""
        file = self.files(path)[0]
        rows = _rows(file)
        usable = "next_observations" in rows and not _repeats_itself(rows)
        terminals = _flags(rows)[1]
        begin = 0
        for end in _episode_ends(rows, usable, file)[0]:
            steps = slice(begin, end + 1)
            episode = {name: rows[name][steps] for name in ("observations", "actions", "rewards")}
            episode["terminals"] = terminals[steps]
            if usable:
                episode["final_observation"] = rows["next_observations"][end]
            yield episode
            begin = end + 1

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write `expert_buffer.pt`, `metadata.pt` and `README.txt` into a folder, or beside the .pt file `path`."""
        if importlib.util.find_spec("tensordict") is None:
            raise UserError(f"writing expert buffers needs 'tensordict'; {to_install('buffers')}")
        import torch
        from tensordict import TensorDict

        kept: list[dict[str, np.ndarray]] = []
        for number, episode in enumerate(episodes):
            kept.append(_transitions(number, episode))
            check_alike(kept[-1], kept[0], number)
        if not kept:
            raise DatasetError(f"{env_name}: no episodes, nothing to write")
        arrays = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        data = TensorDict({"next": {}}, batch_size=[len(arrays["action"])])
        for name, array in arrays.items():
            data[tuple(name.split("/"))] = torch.from_numpy(array)
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


def _rows(file: Path) -> dict[str, np.ndarray]:
    """Return the buffer's arrays under this module's names, checked against each other."""
    found = load_tensors(file)
    if not isinstance(found, dict):
        raise DatasetError(f"{file}: holds a {type(found).__name__}, not a TensorDict of transitions")
    arrays = dict(_flattened(found))
    rows: dict[str, np.ndarray] = {}
    for name, spellings in SPELLINGS.items():
        spelling = next((item for item in spellings if item in arrays), None)
        if spelling is not None:
            rows[name] = arrays[spelling]
        elif name in ("observations", "actions", "rewards"):
            raise DatasetError(f"{file}: no key {spellings[0]!r}{did_you_mean(spellings[0], arrays)}")
    for name in ("rewards", "step_count", *FLAGS):
        if name in rows and rows[name].ndim == 2 and rows[name].shape[1] == 1:
            rows[name] = rows[name][:, 0]
    _check_rows(rows, file)
    return {name: array.astype(bool) if name in FLAGS else array for name, array in rows.items()}


def _flattened(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    import torch

    for key, value in tree.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{name}/")
        elif isinstance(value, torch.Tensor):
            value = value.detach()
            yield name, (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _check_rows(rows: dict[str, np.ndarray], file: Path) -> None:
    count = len(rows["actions"]) if rows["actions"].ndim else 0
    if rows["actions"].ndim != 2 or rows["rewards"].ndim != 1 or count == 0:
        shapes = f"action {rows['actions'].shape}, reward {rows['rewards'].shape}"
        raise DatasetError(f"{file}: {shapes}: must be [N, A] and [N] or [N, 1] with N at least 1")
    for name, array in rows.items():
        if array.ndim == 0 or len(array) != count:
            raise DatasetError(f"{file}: {name} have shape {array.shape}, the actions have {count} rows")
        if name in FLAGS and array.ndim != 1:
            raise DatasetError(f"{file}: {name} have shape {array.shape}, one flag a row is needed")
    if "next_observations" in rows and rows["next_observations"].shape != rows["observations"].shape:
        shapes = f"next observations {rows['next_observations'].shape}, observations {rows['observations'].shape}"
        raise DatasetError(f"{file}: {shapes}: must be alike")


def _repeats_itself(rows: dict[str, np.ndarray]) -> bool:
    """Return whether each next observation is its own observation although the observations change."""
    looks = rows["observations"]
    if "next_observations" not in rows or not np.array_equal(rows["next_observations"], looks):
        return False
    return bool(breaks_in(len(looks), lambda begin, stop: (looks[begin:stop], looks[begin:stop])).any())


def _flags(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return where episodes are done, for whatever reason, and where the environment terminated, bool [N] each."""
    nothing = np.zeros(len(rows["actions"]), bool)
    done = rows.get("done", rows.get("terminated", nothing) | rows.get("truncated", nothing))
    return done, rows["terminated"] if "terminated" in rows else done & ~rows.get("truncated", nothing)


def _episode_ends(rows: dict[str, np.ndarray], usable: bool, file: Path) -> tuple[np.ndarray, str]:
    """Return the last row of each episode, and what is to be said of how they were found, or ""."""
    over = _flags(rows)[0]
    if usable:
        looks, after = rows["observations"], rows["next_observations"]
        breaks = breaks_in(len(over), lambda begin, stop: (looks[begin:stop], after[begin:stop]))
        return episode_ends(over, breaks, complete="done" in rows or "truncated" in rows)
    if "step_count" in rows:
        over = over | np.append(np.diff(rows["step_count"].astype(np.int64)) <= 0, True)
    elif not over.any() and len(over) > 1:
        why = "its next observations repeat the observations" if "next_observations" in rows else "no next observations"
        raise DatasetError(
            f"{file}: {why} and no done flag is set: where episodes end cannot be told; collect it again"
        )
    return episode_ends(over, None, complete=True)


def _transitions(number: int, episode: Episode) -> dict[str, np.ndarray]:
    if "final_observation" not in episode:
        raise DatasetError(f"episode {number}: has no final observation, which expert buffers need")
    prepare_episode(episode, number)
    observations = np.asarray(episode["observations"])
    following = np.concatenate([observations[1:], np.asarray(episode["final_observation"])[None]])
    last = np.arange(len(observations)) == len(observations) - 1
    terminated = np.asarray(episode["terminals"]) != 0
    columns = {"next/reward": np.asarray(episode["rewards"], np.float32), "next/terminated": terminated}
    columns |= {"next/truncated": last & ~terminated, "next/done": last}
    return {
        "observation": observations,
        "action": np.asarray(episode["actions"]),
        "next/observation": following.astype(observations.dtype),
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
        f"{buffer}: TensorDict of transitions, for torch.load; {METADATA}: the facts above as a dict\n"
    )


sources.register("expert_buffer")(ExpertBuffer())
