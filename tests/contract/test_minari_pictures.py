"""Minari datasets whose observations are dicts with pictures in them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.source import task_of
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import export_store, import_file

NAME = "minari:pictured/random-v0"
SHAPES = {
    "hwc": ((32, 24, 3), np.uint8, 255),
    "chw": ((3, 32, 24), np.uint8, 255),
    "floats": ((32, 24, 3), np.float32, 1),
}


class Pictured(gymnasium.Env):
    """A point that is seen by two cameras, one of them inside a dict, and told its goal."""

    def __init__(self, kind: str = "hwc") -> None:
        shape, dtype, high = SHAPES[kind]
        picture = spaces.Box(0, high, shape, dtype)
        self.observation_space = spaces.Dict(
            agent=spaces.Box(-1, 1, (2,), np.float32),
            eyes=spaces.Dict(wrist=picture, lamp=spaces.Discrete(3)),
            goal=spaces.Box(-1, 1, (2, 2), np.float32),
            top=picture,
        )
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _look(self) -> dict:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        return self._look(), 1.0, False, self.steps == 5, {}


@pytest.fixture(params=list(SHAPES))
def folder(request, tmp_path, monkeypatch) -> Path:
    """Return a dataset that Minari's own collector made."""
    return collected(request.param, tmp_path / "minari", monkeypatch)


def collected(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have Minari's own collector make a dataset below a folder; return its place."""
    spec = gymnasium.envs.registration.EnvSpec(
        "Pictured-v0",
        f"{__name__}:Pictured",
        max_episode_steps=5,
        kwargs={"kind": kind},
        disable_env_checker=True,
    )
    monkeypatch.setitem(gymnasium.registry, "Pictured-v0", spec)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = minari.DataCollector(gymnasium.make("Pictured-v0"))
        for seed in range(2):
            collector.reset(seed=seed)
            while not collector.step(collector.action_space.sample())[3]:
                pass
        collector.create_dataset(NAME.removeprefix("minari:"))
    return place / NAME.removeprefix("minari:")


def rows_of(folder: Path) -> list[dict]:
    return [episode.observations for episode in minari.load_dataset(NAME.removeprefix("minari:"))]


def test_pictures_become_cameras_and_the_rest_one_state(folder, tmp_path) -> None:
    store = import_file(task_of(NAME), folder, tmp_path / "data")
    assert {name for name in store.manifest.columns if name.startswith("images/")} == {
        "images/eyes_wrist",
        "images/top",
    }
    assert store.column("observations").shape == (10, 2 + 3 + 4)
    looks = rows_of(folder)
    top = np.concatenate([look["top"][:-1] for look in looks])
    levels = top if top.dtype == np.uint8 else np.rint(top * np.float32(255)).astype(np.uint8)
    levels = np.moveaxis(levels, 1, -1) if levels.shape[1] == 3 else levels
    np.testing.assert_array_equal(store.frames("images/top").gather(np.arange(10)), levels)
    agent = np.concatenate([look["agent"][:-1] for look in looks])
    np.testing.assert_array_equal(store.column("observations")[:, :2], agent)


def test_the_environment_shows_what_the_data_show(folder, tmp_path) -> None:
    store = import_file(task_of(NAME), folder, tmp_path / "data")
    found = store.manifest.provenance
    settings, forms = json.dumps(found["environment"]), json.dumps(found.get("forms", {}))
    env = EnvFactory(NAME, settings=settings, forms=forms)()
    observation, _ = env.reset(seed=0)
    first = {"state": store.column("observations")[0]}
    first |= {name: store.frames(f"images/{name}").gather(np.array([0]))[0] for name in ("eyes_wrist", "top")}
    assert set(observation) == set(first)
    for name, part in first.items():
        np.testing.assert_array_equal(observation[name], part, err_msg=name)


def test_an_export_is_the_dataset_again(folder, tmp_path, monkeypatch) -> None:
    before = rows_of(folder)
    store = import_file(task_of(NAME), folder, tmp_path / "data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "again"))
    export_store(store, tmp_path / "again" / "pictured" / "random-v0", "minari")
    for one, other in zip(before, rows_of(folder), strict=True):
        for name in ("agent", "goal", "top"):
            np.testing.assert_allclose(other[name], one[name], atol=0.5 / 255 if name == "top" else 0, err_msg=name)
        np.testing.assert_array_equal(other["eyes"]["lamp"], one["eyes"]["lamp"])
        assert other["top"].dtype == one["top"].dtype


def test_cameras_of_other_datasets_are_written_too(folder, tmp_path, monkeypatch) -> None:
    store: EpisodeStore = import_file(task_of(NAME), folder, tmp_path / "data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "again"))
    export_store(
        store, tmp_path / "again" / "pictured" / "random-v0", "minari", settings={"environment": {}, "forms": {}}
    )
    looks = rows_of(folder)
    assert set(looks[0]) == {"state", "eyes_wrist", "top"}
    assert looks[0]["top"].shape == (6, 32, 24, 3)
