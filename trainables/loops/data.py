"""Open a run's dataset (a store, an expert buffer, files of `ogbench_dataset_dir` in turn) and name its environment."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.algorithm import Algorithm
from understudy.envs.rollouts.acting import View
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.opening import open_buffer, open_if_here, open_imported, open_named
from understudy.envs.sources.source import is_goal_conditioned, is_known
from understudy.envs.store.finding import store_name, store_path
from understudy.envs.store.inspection import actions_beyond, has_unit_actions
from understudy.envs.store.store import IMAGES, MANIFEST, EpisodeStore, Manifest
from understudy.envs.windows.windows import Split, Windows
from understudy.errors import DatasetError
from understudy.language import open_encoder
from understudy.normaliser import Mode, Normaliser
from understudy.observations import GOAL, ObservationShape, describe, is_picture, parts_of, without_text
from understudy.registry import algorithms
from understudy.spec.parts import Chunks
from understudy.spec.run import RunSpec

logger = logging.getLogger("understudy")


class Data:
    """The stores of one run as windows. With several files, step s reads file (s - 1) // interval, cyclically."""

    def __init__(self, spec: RunSpec, stores: list[EpisodeStore]) -> None:
        self._interval = spec.data.dataset_replace_interval
        self._windows = [_windows(spec, store, "train") for store in stores]
        self.validation = _windows(spec, stores[0], "validation") if spec.data.holds_out else None
        """Windows of the held-out episodes (of the first file), if there are any."""
        hashes = "/".join(store.manifest.content_hash for store in stores)
        self.content_hash = hashlib.blake2b(hashes.encode(), digest_size=16).hexdigest()

    def windows(self, step: int) -> Windows:
        """Return the windows that update number `step` (from 1) samples."""
        if self._interval <= 0:
            return self._windows[0]
        return self._windows[(step - 1) // self._interval % len(self._windows)]

    def check_shapes(self, env_name: str, observation_shape: ObservationShape, action_dim: int) -> None:
        """Raise DatasetError where the data are not of an environment with these observations and actions."""
        windows = self._windows[0]
        if (windows.observation_shape, windows.action_dim) != (observation_shape, action_dim):
            raise DatasetError(
                f"{env_name}: the data have observations {describe(windows.observation_shape)} and"
                f" {windows.action_dim} action dims, the environment {describe(observation_shape)} and {action_dim}:"
                " they are not of one task"
            )

    def normaliser(self, mode: Mode, action_mode: Mode = "none") -> Normaliser:
        """Fit the normaliser to the selected training episodes of the first file."""
        return self._windows[0].normaliser(mode, action_mode)


def data_here(spec: RunSpec) -> Data | None:
    """Return the run's data where nothing has to be imported for that, None elsewhere; UserError for a wrong name."""
    if spec.data.expert_data is not None:
        return open_data(spec)  # its rows are imported in a moment
    store = open_if_here(spec)
    if spec.data.ogbench_dataset_dir is not None:
        _files_of(Path(spec.data.ogbench_dataset_dir))
        return None
    return Data(spec, [store]) if store is not None else None


def facts_of(spec: RunSpec, data: Data) -> dict[str, bool]:
    """Return what the data tell of a run, for understudy.spec.effects."""
    windows = data.windows(1)
    shown = [name for name in parts_of(without_text(windows.observation_shape)) if not name.startswith(GOAL)]
    cameras = [name for name in shown if is_picture(name)]
    return {
        "pictures_here": bool(cameras) or any(name.startswith(IMAGES) for name in windows.store.manifest.columns),
        "states": len(cameras) < len(shown),
        "several_cameras": len(cameras) > 1,
        "goals": _goals(spec, str(windows.store.manifest.provenance.get("env_name", spec.env_name))) != "none",
    }


def open_data(spec: RunSpec) -> Data:
    """Open what `spec` trains on; every problem is a DatasetError before any work starts."""
    if spec.data.expert_data is not None:
        return Data(spec, [open_buffer(spec)])
    if spec.data.ogbench_dataset_dir is None:
        return Data(spec, [open_named(spec)])
    folder = Path(spec.data.ogbench_dataset_dir)
    files = _files_of(folder)
    # One place for each source folder: files of the same name in two folders are two datasets.
    origin = hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()
    target = spec.placement.datasets / f"{store_name(spec.env_name)}.files" / origin
    return Data(spec, [open_imported(file, spec.env_name, target) for file in files])


def _files_of(folder: Path) -> list[Path]:
    """Return the files of an ogbench_dataset_dir."""
    files = sorted(path for path in folder.glob("*.npz") if not path.stem.endswith("-val"))
    if not files:
        raise DatasetError(f"ogbench_dataset_dir={folder}: no .npz files there (files named *-val.npz are not counted)")
    return files


def environment_of(spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> EnvFactory:
    """Return the environment of a run's dataset: as its store says, else as `recorded`, else by the dataset's name.

    `recorded` is what `describe_environment` returned when the policy was trained.
    """
    folder = store_path(spec.env_name, spec.placement.datasets)
    known = Manifest.read(folder).provenance if (folder / MANIFEST).is_file() else dict(recorded or {})
    name, settings = str(known.get("env_name", spec.env_name)), known.get("environment")
    view = View(
        obs_horizon=spec.data.obs_horizon,
        with_goal=_goals(spec, name) != "none",
        cameras=spec.data.cameras,
        use_proprio=spec.data.use_proprio,
    )
    forms = known.get("forms")
    return EnvFactory(
        name,
        settings=json.dumps(settings, sort_keys=True) if settings else "",
        view=view,
        forms=json.dumps(forms, sort_keys=True) if forms else "",
        max_steps=spec.evaluation.eval_max_steps,
    )


def is_playable(spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> bool:
    """Return whether policies of a run's dataset can be evaluated in an environment; also for data that are not here.

    Of a name that is neither known nor here nothing is said: opening it does.
    """
    here = bool(recorded) or (store_path(spec.env_name, spec.placement.datasets) / MANIFEST).is_file()
    factory = environment_of(spec, recorded)
    return factory.playable or not (here or is_known(factory.env_name))


def algorithm_for(spec: RunSpec, windows: Windows) -> Algorithm:
    """Return the run's algorithm for these observations and actions; wider actions than [-1, 1] are not clipped.

    Of a run that is told task texts, it knows the table of its text encoder.
    """
    config = spec.config
    place = config.language.language_encoder
    if place is not None:
        digest = open_encoder(place, config.language.language_table).digest
        config = config.model_copy(update={"language_table": digest})
    bounded = spec.data.normalize_actions == "bounds" or has_unit_actions(environment_of(spec).env_name, windows.store)
    if isinstance(config, Chunks) and (not bounded or spec.data.normalize_actions == "zscore"):
        config = config.model_copy(update={"action_clip": False})
    beyond = actions_beyond(windows.store)
    if config.chunks.action_clip and spec.data.normalize_actions == "none" and beyond:
        logger.warning("%s: %s", windows.store.name, beyond)
    return algorithms.get(spec.algo)(windows.observation_shape, windows.action_dim, config)


def describe_environment(environment: EnvFactory) -> dict[str, Any]:
    """Return what a policy must keep to be evaluated where its dataset is not."""
    settings = json.loads(environment.settings) if environment.settings else None
    forms = {"forms": json.loads(environment.forms)} if environment.forms else {}
    return {"env_name": environment.env_name, "environment": settings, **forms}


def all_windows(spec: RunSpec) -> Windows:
    """Return every episode of the run's dataset."""
    return _windows(spec, open_named(spec), "all")


def _windows(spec: RunSpec, store: EpisodeStore, split: Split) -> Windows:
    goals = _goals(spec, str(store.manifest.provenance.get("env_name", spec.env_name)))
    data = spec.data.model_copy(update={"goal_relabelling": goals})
    language = spec.config.language
    place = language.language_encoder
    texts = None if place is None else open_encoder(place, language.language_table)
    return Windows(store, data, spec.config.sampling, split=split, texts=texts)


def _goals(spec: RunSpec, env_name: str) -> str:
    if spec.data.goal_relabelling == "auto":
        return "uniform" if is_goal_conditioned(env_name) or algorithms.get(spec.algo).goal_conditioned else "none"
    return spec.data.goal_relabelling
