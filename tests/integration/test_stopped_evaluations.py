"""A run that is told to stop in an evaluation's grid or in its video goes on to the same files."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from understudy.envs.rollouts.pools import close_pools
from understudy.envs.store.finding import store_path
from understudy.envs.store.writer import StoreWriter
from understudy.errors import Stopped
from understudy.runs.directory import RunDir
from understudy.runs.episodes import read_episodes
from understudy.runs.loop import make_loop
from understudy.runs.stop import STOP
from understudy.spec.keys import build_run

NAME, GRID = "expert:StopsInside-v0", {"flow_steps": (5, 10, 20)}


PLUGIN = """
import os, time
from pathlib import Path
import gymnasium, numpy as np
from gymnasium import spaces

class StopsInside(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=3).astype(np.float32)
        return self.state, {}

    def step(self, action):
        with open(os.environ["STEPS"], "ab") as file:
            file.write(b".")
            if file.tell() == int(os.environ["STOP_AT"]):
                Path(os.environ["NOTICE"]).write_text("SIGTERM")
                time.sleep(0.3)  # a run looks for it five times a second
        self.state = (0.9 * self.state + 0.1 * float(action[0])).astype(np.float32)
        return self.state, float(self.state.sum()), False, False, {}

    def render(self):
        return np.full((32, 32, 3), int(abs(self.state[0]) * 20) % 256, np.uint8)

if "StopsInside-v0" not in gymnasium.registry:
    gymnasium.register("StopsInside-v0", entry_point=StopsInside, max_episode_steps=10)
"""
"""An environment that counts its steps in a file, in whichever process they are made; one of them stops the run."""


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., int]:
    """Train in a folder, told to stop at that step of the environments; return how many steps they made."""
    (tmp_path / "stops_inside.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", "stops_inside")
    monkeypatch.setenv("STEPS", str(tmp_path / "steps"))
    importlib.import_module("stops_inside")

    def command(folder: Path, spec: dict, grid: dict, stop_at: int = 0) -> int:
        loop = make_loop(build_run(spec))
        monkeypatch.setenv("STOP_AT", str(stop_at))
        monkeypatch.setenv("NOTICE", str(folder / STOP))
        (tmp_path / "steps").write_bytes(b"")
        try:
            loop.run(RunDir.at(folder, build_run(spec)).path, grid=grid)
        finally:
            close_pools()  # processes keep the environment that they were started with
        return (tmp_path / "steps").stat().st_size

    monkeypatch.setenv("STOP_AT", "0")
    return command


@pytest.mark.slow
@pytest.mark.parametrize("within", ["grid", "video"])
def test_what_is_stopped_within_the_last_evaluation_comes_out_as_if_it_had_not_been(tmp_path, train, within) -> None:
    rng = np.random.default_rng(0)
    rows = {"observations": (20, 3), "actions": (20, 1)}
    known = {"env_name": NAME}
    place = store_path(NAME, tmp_path / "data")
    with StoreWriter(place, name=NAME, source="expert_buffer", env_id="StopsInside-v0", provenance=known) as writer:
        for _ in range(3):
            episode = {column: rng.normal(size=shape).clip(-1, 1) for column, shape in rows.items()}
            writer.add_episode({**episode, "rewards": np.zeros(20), "terminals": np.zeros(20)})
    sizes = {"training_steps": 4, "batch_size": 4, "hidden_dims": [8], "eval_interval": 0, "log_interval": 2}
    spec = {"env_name": NAME, "data_dir": str(tmp_path / "data"), "tracking_uri": "none", **sizes, "eval_episodes": 3}
    before = train(tmp_path / "plain", spec, {})
    grid, spec = (GRID, spec) if within == "grid" else ({}, {**spec, "video_episodes": 2})
    whole = train(tmp_path / "whole", spec, grid)
    assert whole > before, "nothing is played after the first evaluation"

    with pytest.raises(Stopped, match="stopped by SIGTERM at step 4"):
        train(tmp_path / "stopped", spec, grid, stop_at=(before + whole) // 2)
    assert not (tmp_path / "stopped" / "eval.csv").exists()
    assert not (tmp_path / "stopped" / "final_model.pt").exists()
    assert not list((tmp_path / "stopped").glob("*.mp4"))
    (tmp_path / "stopped" / STOP).unlink()
    train(tmp_path / "stopped", spec, grid)
    files = ["train.csv", "eval.csv", *(["eval_grid.csv"] if within == "grid" else ["video.mp4"])]
    for name in files:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    one, two = (read_episodes(tmp_path / name) for name in ("whole", "stopped"))
    assert one.equals(two)
