"""Datasets from Python: `understudy.load_dataset(name)` and `understudy.write_dataset(name, episodes)`.

Shape letters: T steps, O numbers of an observation, A of an action, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.sources.own_env import environment_name
from understudy.envs.store.episode import completed
from understudy.envs.store.finding import find_store, store_path
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import UserError
from understudy.files import home, user_path
from understudy.observations import each
from understudy.spec.data import DataSpec
from understudy.spec.learning import Sampling


class Dataset(EpisodeStore):
    """An EpisodeStore with batches at random, for scripts; a training run draws its own (`Windows`)."""

    _draws = 0

    def sample(self, batch_size: int, *, seed: int = 0) -> dict[str, Any]:
        """Return transitions: observations [B, *O], actions [B, A], rewards, discounts, next_observations and others.

        Each call draws others; the same calls of the same seed draw the same.
        """
        batch = self.sample_sequence(batch_size, 1, seed=seed)
        flat = {name: batch[name][:, 0] for name in ("actions", "rewards", "discounts", "valid")}
        return {**batch, **flat}

    def sample_sequence(
        self, batch_size: int, sequence_length: int, discount: float = 0.99, *, seed: int = 0
    ) -> dict[str, Any]:
        """Return chunks that begin at random steps: actions [B, H, A], and rewards, discounts and valid [B, H].

        `discounts` are `discount`, 0 where the episode terminated; steps past an episode's end have valid 0.
        """
        sampling = Sampling(horizon=sequence_length, transitions=True)
        windows = Windows(self, DataSpec(goal_relabelling="none", discount=discount), sampling)
        self._draws += 1
        batch = windows.sample([seed], self._draws, batch_size)
        return {name: each(lambda part: np.asarray(part)[0], value) for name, value in batch.items()}


def load_dataset(name: str, data_dir: str | Path = "") -> Dataset:
    """Return a dataset that is here: `column(name)` [N, *shape] of all steps, `starts` and `lengths` of episodes.

    `data_dir` is the folder of episode stores; default $UNDERSTUDY_HOME/datasets.
    """
    store = find_store(name, _folder(data_dir))
    return Dataset(store.path, store.manifest)


def write_dataset(
    name: str,
    episodes: Iterable[Mapping[str, Any]],
    *,
    env: str | None = None,
    data_dir: str | Path = "",
    overwrite: bool = False,
) -> EpisodeStore:
    """Write episodes as the dataset `name`, which `train(env_name=name)` takes, and return it.

    An episode is a dict of arrays: `actions` [T, A]; `observations` [T, O], or [T + 1, O] with what was seen after the
    last action; cameras `images/<name>` [T, H, W, C] or [T + 1, H, W, C]; optionally `rewards` [T] and `terminals` [T],
    else zeros, which the dataset's notes say; `language`, a text. `env` is the environment in which policies are
    evaluated: an id of gymnasium's registry, or `module:Class`; None: there is none, and policies are scored on
    held-out episodes. UserError for a name that is no plain one and for an unknown environment, DatasetError for
    episodes that are unlike each other or hold NaN.
    """
    if isinstance(episodes, Mapping):
        raise UserError("episodes is one dict: give a list of them, or a generator, each an episode")
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"dataset name {name!r}: must be a plain name, it becomes a folder of the data directory")
    provenance = {"made_by": "understudy.write_dataset"}
    if env is not None:
        provenance["env_name"] = environment_name(name, env)
    writer = StoreWriter(
        store_path(name, _folder(data_dir)),
        name=name,
        source="arrays",
        env_id=env or "",
        provenance=provenance,
        overwrite=overwrite,
    )
    filled: set[str] = set()
    with writer:
        for number, episode in enumerate(episodes):
            whole, lacking = completed(episode, number)
            filled.update(lacking)
            writer.add_episode(whole)
        if filled:
            writer.provenance["notes"] = [f"{column}: not given, zeros" for column in sorted(filled)]
    return EpisodeStore.open(writer.path)


def _folder(data_dir: str | Path) -> Path:
    return user_path(data_dir) if data_dir else home() / "datasets"
