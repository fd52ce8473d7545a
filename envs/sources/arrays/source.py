"""Data of one's own: named arrays in HDF5, npz or zarr files, flat or a group an episode, under any name.

`arrays` takes whichever of them a file is, and folders of .npy files. What the arrays are called is asked for
(`--obs`, `--action`) where the usual names do not tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.envs.files.reading import understood
from understudy.envs.sources.arrays.layout import Keys, Layout
from understudy.envs.sources.arrays.trees import data_files, open_tree
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode
from understudy.envs.sources.unplayed import UnplayedTask
from understudy.envs.store.episode import completed
from understudy.registry import sources


@dataclass(frozen=True)
class OwnData(UnplayedTask):
    """A dataset of the user's; its environment is another name, or there is none."""

    WHY = "its data name no environment: import them with --env, or eval_episodes=0"

    @property
    def env_id(self) -> str:
        """Empty: the data name no environment."""
        return ""

    def provenance(
        self, path: Path, *, obs: str = "", action: str = "", reward: str = "", terminal: str = "", ends: str = ""
    ) -> dict[str, Any]:
        """Return notes on which arrays were taken for what."""
        with self._layout(path, Keys(obs, action, reward, terminal, ends)) as layout:
            return {"notes": layout.notes}

    def read(
        self, path: Path, *, obs: str = "", action: str = "", reward: str = "", terminal: str = "", ends: str = ""
    ) -> Iterator[Episode]:
        """Yield the episodes; `obs` and the others are the arrays' names, as in Keys."""
        with self._layout(path, Keys(obs, action, reward, terminal, ends)) as layout:
            for number, episode in enumerate(layout.episodes()):
                yield completed(episode, number)[0]

    @contextmanager
    def _layout(self, path: Path, keys: Keys) -> Iterator[Layout]:
        with understood(path, self.source.name), open_tree(path, self.source.name) as tree:
            yield Layout(tree, keys)


class OwnArrays(Source):
    """Files of named arrays, under names of one's own."""

    example = "my-data"
    unit_actions = False
    simulated = False

    def parse(self, env_name: str) -> OwnData | None:
        """Return None: the names are the user's (`own`)."""
        return None

    def own(self, name: str) -> OwnData:
        """Return the task of a name of one's own."""
        return OwnData(self, name)

    def known_names(self) -> list[str]:
        """Return none."""
        return []

    def files(self, path: Path) -> list[Path]:
        """Return the files that are read."""
        return data_files(path, self.name)


for kind in ("arrays", "hdf5", "npz", "zarr"):
    sources.register(kind)(OwnArrays())
