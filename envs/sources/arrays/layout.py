"""Find episodes in named arrays: which are observed and acted, and where each episode begins and ends.

Episodes are groups of arrays (`data/demo_0/actions`, a file each), or rows one after another with a word on their ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.envs.files.reading import WrongContent
from understudy.envs.sources.arrays.trees import Tree, in_order, rows_of
from understudy.envs.store.store import FINAL, IMAGES
from understudy.errors import did_you_mean

OBSERVED = ("observations", "observation", "obs", "states", "state")
ACTED = ("actions", "action")
REWARDED = ("rewards", "reward")
TERMINATED = ("terminals", "terminal", "terminated", "dones", "done")
ENDS = ("episode_ends", "ends", "episode_index", "episode_id", "episode")
FLAGS = ("dones", "done", "terminals", "terminal", "terminated", "timeouts", "timeout", "truncateds", "truncated")
FOLLOWING = {"obs": "next_obs", "observations": "next_observations", "observation": "next_observation"}
SIDE = 16
"""Least height and width of arrays of bytes [T, H, W] that are pictures."""


@dataclass(frozen=True)
class Keys:
    """What the user calls the arrays; empty: found by the usual names."""

    obs: str = ""
    """Names, by commas; what is pictures becomes cameras, the others one vector in this order."""
    action: str = ""
    reward: str = ""
    terminal: str = ""
    ends: str = ""


@dataclass(frozen=True)
class Found:
    """The arrays of one group, by their paths."""

    action: str
    states: tuple[str, ...]
    cameras: dict[str, str]
    """Paths by the cameras' names."""
    reward: str = ""
    terminal: str = ""
    after: dict[str, str] = field(default_factory=dict[str, str])
    """For paths of observations, those of what followed each row."""


class Layout:
    """How a tree's arrays are episodes."""

    def __init__(self, tree: Tree, keys: Keys) -> None:
        self._tree, self._keys = tree, keys
        self.groups = self._groups()
        self.first = self._found(self.groups[0])

    @property
    def notes(self) -> list[str]:
        """Lines on what was taken for what."""
        found = self.first
        lines: list[str] = []
        if not found.reward:
            lines.append("rewards: not given, zeros")
        if not found.terminal:
            lines.append("terminals: not given, zeros")
        elif found.terminal.rpartition("/")[2] in ("done", "dones"):
            lines.append(f"terminals: from {found.terminal.rpartition('/')[2]!r}")
        if not self._keys.obs:
            lines.append(f"observations: {', '.join((*found.states, *found.cameras.values()))}")
        return lines

    def episodes(self) -> Iterator[dict[str, Any]]:
        """Yield the episodes."""
        if len(self.groups) > 1:
            for group in self.groups:
                found = self._found(group)
                yield self._episode(found, 0, self._tree[found.action].shape[0])
            return
        for begin, end in self._spans(self.first):
            yield self._episode(self.first, begin, end)

    def _groups(self) -> list[str]:
        """Return the paths before the action's name, in order."""
        for name in [self._keys.action] if self._keys.action else ACTED:
            paths = [path for path in self._tree if f"/{path}".endswith(f"/{name}")]
            if paths:
                return sorted((path.removesuffix(name).rstrip("/") for path in paths), key=in_order)
        names = sorted({path.rpartition("/")[2] for path in self._tree})
        wanted = f"no array {self._keys.action!r}" if self._keys.action else "no array 'actions' or 'action'"
        hint = did_you_mean(self._keys.action, names) if self._keys.action else f"; it has {', '.join(names[:12])}"
        raise WrongContent(f"{wanted}{hint}{'' if self._keys.action else ': give --action KEY'}")

    def _found(self, group: str) -> Found:
        """Return the arrays of one group."""
        inside = {path.removeprefix(f"{group}/") if group else path: path for path in self._tree}
        inside = {name: path for name, path in inside.items() if not group or path.startswith(f"{group}/")}
        action = self._named(inside, [self._keys.action] if self._keys.action else ACTED)
        assert action
        wanted = [word.strip() for word in self._keys.obs.split(",") if word.strip()]
        observed = [path for word in wanted for path in self._below(inside, word)] or self._usual(inside)
        pictures = [path for path in observed if self._is_picture(path)]
        states = tuple(path for path in observed if path not in pictures)
        following = {path: other for path in observed if (other := _following(path)) in self._tree}
        return Found(
            action,
            states,
            {path.rpartition("/")[2]: path for path in pictures},
            self._optional(inside, self._keys.reward, REWARDED),
            self._optional(inside, self._keys.terminal, TERMINATED),
            following if len(following) == len(observed) else {},
        )

    def _usual(self, inside: dict[str, str]) -> list[str]:
        for word in OBSERVED:
            if found := self._below(inside, word, missing_ok=True):
                return found
        raise WrongContent(f"no array 'observations' or 'obs'; it has {_some(inside)}: give --obs KEYS")

    def _below(self, inside: dict[str, str], word: str, missing_ok: bool = False) -> list[str]:
        """Return the array of that name, or all arrays of the group of that name."""
        if word in inside:
            return [inside[word]]
        group = sorted(path for name, path in inside.items() if name.startswith(f"{word}/"))
        ends = [path for name, path in inside.items() if name.endswith(f"/{word}") and "next" not in name]
        if group or len(ends) == 1:
            return group or ends
        if missing_ok:
            return []
        said = f"several arrays are called {word!r} ({', '.join(ends)})" if ends else f"no array {word!r}"
        raise WrongContent(f"{said}{'' if ends else did_you_mean(word, inside)}")

    def _named(self, inside: dict[str, str], names: Sequence[str]) -> str:
        return next((inside[name] for name in names if name in inside), "")

    def _optional(self, inside: dict[str, str], asked: str, usual: Sequence[str]) -> str:
        if asked:
            return self._below(inside, asked)[0]
        return self._named(inside, usual)

    def _is_picture(self, path: str) -> bool:
        shape = self._tree[path].shape
        if len(shape) == 3 and min(shape[1:]) >= SIDE:
            return np.asarray(self._tree[path][0:1]).dtype == np.uint8
        return len(shape) == 4

    def _spans(self, found: Found) -> list[tuple[int, int]]:
        """Return where the episodes of rows that lie one after another begin and end."""
        rows = self._tree[found.action].shape[0]
        ends = self._ends(rows)
        return [(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True) if end > begin]

    def _ends(self, rows: int) -> list[int]:
        asked = self._keys.ends
        if asked == "none":
            return [rows]
        paths = [asked] if asked else [*ENDS, *FLAGS]
        named = {word: path for word in paths for path in self._tree if f"/{path}".endswith(f"/{word}")}
        if asked and not named:
            raise WrongContent(f"no array {asked!r}{did_you_mean(asked, self._tree)}")
        flags = np.zeros(rows, bool)
        for word, path in named.items():
            array = np.asarray(self._tree[path][0 : self._tree[path].shape[0]]).reshape(-1)
            if word in FLAGS or (len(array) == rows and set(np.unique(array)) <= {0, 1} and word not in ENDS[2:]):
                flags |= array.astype(bool) if len(array) == rows else False
                continue
            return _ends_in(array, rows, path)
        if not flags.any():
            longer = [path for path in named.values() if self._tree[path].shape[:1] not in ((), (rows,))]
            if longer:
                shape = self._tree[longer[0]].shape
                raise WrongContent(
                    f"{longer[0]} has {shape[0]} rows and the actions have {rows}: a row of each is a step"
                )
            raise WrongContent("no array says where episodes end: give --ends KEY (flags, numbers, or ends of episodes;"
                               " none: all rows are one episode)")  # fmt: skip
        flags[-1] = True
        return (np.flatnonzero(flags) + 1).tolist()

    def _episode(self, found: Found, begin: int, end: int) -> dict[str, Any]:
        """Return one episode as `write_dataset` takes it."""
        steps, tree = end - begin, self._tree
        whole = end == tree[found.action].shape[0] and begin == 0

        def rows(path: str) -> np.ndarray:
            return rows_of(tree, path, begin, tree[path].shape[0] if whole else end)

        def after(path: str) -> np.ndarray:
            return rows_of(tree, found.after[path], end - 1, end)

        episode: dict[str, Any] = {"actions": rows(found.action).reshape(steps, -1)}
        if found.states:
            episode["observations"] = _beside([rows(path) for path in found.states], found.states)
            if found.after and len(episode["observations"]) == steps:
                episode["final_observation"] = _beside([after(path) for path in found.states], found.states)[0]
        for name, path in found.cameras.items():
            episode[f"{IMAGES}{name}"] = rows(path)
            if found.after and len(episode[f"{IMAGES}{name}"]) == steps:
                episode[f"{FINAL}{IMAGES}{name}"] = after(path)[0]
        for column, path in (("rewards", found.reward), ("terminals", found.terminal)):
            if path:
                episode[column] = rows(path).reshape(-1)[:steps]
        return episode


def _ends_in(array: np.ndarray, rows: int, path: str) -> list[int]:
    """Return the rows after which episodes end: of numbers of episodes [N], or of the ends themselves."""
    if len(array) == rows and len(array) > 1:
        changes = np.flatnonzero(array[1:] != array[:-1]) + 1
        return [*changes.tolist(), rows]
    ends = array.astype(np.int64).tolist()
    if not ends or ends[-1] != rows or any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        raise WrongContent(f"{path} says that episodes end at {ends[-3:]}, and there are {rows} rows of actions")
    return ends


def _beside(arrays: list[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return vectors [T, O] of several arrays, one after another."""
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise WrongContent(
            f"{', '.join(names)} have {', '.join(map(str, sorted(lengths)))} rows: of one episode all have as many"
        )
    return np.concatenate([np.asarray(array).reshape(len(array), -1) for array in arrays], axis=1)


def _following(path: str) -> str:
    parts = [FOLLOWING.get(part, part) for part in path.split("/")]
    return "/".join(parts) if "/".join(parts) != path else ""


def _some(names: dict[str, str]) -> str:
    return ", ".join(sorted(names)[:12])
