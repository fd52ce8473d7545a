"""Online runs: killed at any moment and resumed, they end as if never stopped; a member equals its seed alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tests.integration.breaking import only, weights
from tests.integration.commands import kill_when, run, start

from understudy.runs.directory import read_csv

SMALL = (
    *("algo=sac", "env_name=Pendulum-v1", "hidden_dims=[16,16]", "batch_size=16", "start_training=60"),
    *("training_steps=300", "log_interval=20", "eval_interval=120", "eval_episodes=2", "save_interval=120"),
    "launcher=inline",
)


def same(one: Path, other: Path) -> None:
    """Assert that two run directories hold the same rows and weights."""
    names = sorted(path.relative_to(other) for path in other.rglob("*.csv") if path.name != "timing.csv")
    assert {"online_agent.csv", "eval.csv", "env.csv"} <= {name.name for name in names}
    for name in names:
        assert (one / name).read_text() == (other / name).read_text(), name
    for name in [path.relative_to(other) for path in other.rglob("*.pt") if path.parent.name != "resume"]:
        mine, theirs = weights(one / name), weights(other / name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name


def step_of(root: Path) -> int:
    found = list(root.rglob("run.json"))
    return json.loads(found[0].read_text()).get("step", 0) if found else 0


@pytest.mark.parametrize(("seeds", "moments"), [("[3]", (40, 150)), ("[0,1]", (90,))])
def test_a_run_killed_while_it_acts_resumes_to_the_same_rows_and_weights(done, tmp_path, seeds, moments) -> None:
    done("train", *SMALL, f"seeds={seeds}", "save_dir=whole")
    often = "checkpoint_seconds=0.02"
    process = start("train", *SMALL, often, f"seeds={seeds}", "save_dir=broken", cwd=tmp_path)
    for moment in moments:
        kill_when(process, lambda moment=moment: step_of(tmp_path / "broken") > moment)
        if moment != moments[-1]:
            process = start("resume", str(only(tmp_path / "broken")), cwd=tmp_path)
    broken = only(tmp_path / "broken")
    assert 0 < step_of(broken) < 300
    done("resume", str(broken))
    same(broken, only(tmp_path / "whole"))


def test_a_member_of_an_online_pack_equals_its_seed_alone(done, tmp_path) -> None:
    done("train", *SMALL, "seeds=[0,1]", "save_dir=pack")
    done("train", *SMALL, "seeds=[1]", "save_dir=alone")
    pack, alone = only(tmp_path / "pack"), only(tmp_path / "alone")
    for name in ("online_agent.csv", "env.csv", "eval.csv"):
        assert (pack / "sd001" / name).read_text() == (alone / name).read_text()
    mine, theirs = weights(pack / "sd001" / "final_model.pt"), weights(alone / "final_model.pt")
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_finished_run_that_gets_more_steps_equals_one_that_had_them_from_the_start(done, tmp_path) -> None:
    whole = [word for word in SMALL if not word.startswith("training_steps")]
    done("train", *whole, "training_steps=260", "seeds=[0,1]", "save_dir=whole")
    done("train", *whole, "training_steps=160", "seeds=[0,1]", "save_dir=longer")
    longer = only(tmp_path / "longer")
    done("resume", str(longer), "--add-steps", "100")
    for name in ("online_agent.csv", "env.csv"):  # eval.csv has one more row, of the first end
        mine, theirs = (read_csv(run / "sd001" / name) for run in (longer, only(tmp_path / "whole")))
        assert mine == theirs
    for seed in ("sd000", "sd001"):
        mine, theirs = (weights(run / seed / "final_model.pt") for run in (longer, only(tmp_path / "whole")))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_trained_policy_is_evaluated_where_it_was_trained_and_does_not_go_on_without_its_buffer(
    done, tmp_path
) -> None:
    done("train", *SMALL, "seed=0", "keep_buffer=false")
    run = only(tmp_path)
    assert not (run / "resume").exists()
    assert "return" in done("evaluate", str(run), "eval_episodes=2")
    for words in (("resume", str(run), "--add-steps", "100"), ("train", "--fork", str(run), "training_steps=500")):
        said = done(*words, code=2)
        assert "learns from a replay buffer, which is not in a model" in said
        assert len(said.strip().splitlines()) == 1
    assert only(tmp_path) == run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("env_name=CartPole-v1",), "its actions are Discrete(2)"),
        (("training_steps=60",), "training_steps=60 leaves no update after the start_training=60 random steps"),
        (("obs_horizon=2",), "obs_horizon=2"),
        (("dataset_proportion=0.5",), "dataset_proportion=0.5 changes nothing without a dataset to learn from"),
        (("validation_fraction=0.1",), "validation_fraction=0.1 changes nothing without"),
        (("env_name=Pendulumm-v1",), "Pendulumm-v1"),
    ],
)
def test_what_an_online_run_cannot_do_is_one_line_and_nothing_is_written(done, tmp_path, words, said) -> None:
    printed = done("train", *SMALL, *words, code=2)
    assert said in printed
    assert len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("flags.json"))


@pytest.mark.parametrize(
    ("words", "column"),
    [
        (("algo=sac", "offline_ratio=0.5", "utd_ratio=2", "num_critics=3", "critic_layer_norm=true"), "q_mean"),
        (("algo=ipmd", "reward_hidden_dims=[16]", "expert_batch_size=8"), "reward_gap"),
    ],
)
def test_demonstrations_are_drawn_beside_what_was_done(hopper_data, done, tmp_path, words, column) -> None:
    small = [word for word in SMALL if not word.startswith(("algo", "env_name", "training_steps"))]
    done("train", *small, "env_name=hopper-medium-v2", "training_steps=130", *words)
    rows = read_csv(only(tmp_path) / "online_agent.csv")
    assert [row["step"] for row in rows] == [80, 100, 120, 130]
    assert all(column in row for row in rows)


def test_ipmd_on_the_environments_reward_plays_the_episodes_that_sac_plays(hopper_data, done, tmp_path) -> None:
    small = [word for word in SMALL if not word.startswith(("algo", "env_name", "training_steps"))]
    words = (*small, "env_name=hopper-medium-v2", "training_steps=130", "seed=0")
    done("train", *words, "algo=sac", "save_dir=sac")
    done("train", *words, "algo=ipmd", "reward_hidden_dims=[16]", "policy_reward=environment", "save_dir=ipmd")
    sac, ipmd = only(tmp_path / "sac"), only(tmp_path / "ipmd")
    for name in ("env.csv", "eval.csv"):
        assert (sac / name).read_text() == (ipmd / name).read_text()
    mine, theirs = (read_csv(run / "online_agent.csv") for run in (ipmd, sac))
    assert all(row.items() >= other.items() for row, other in zip(mine, theirs, strict=True))


@pytest.mark.slow
def test_an_online_method_is_swept_over_seeds(done, tmp_path) -> None:
    small = [word for word in SMALL if not word.startswith(("eval_interval", "launcher"))]
    rest = ("eval_interval=60", "scheduler=asha", "grace_steps=60", "reduction_factor=2", "max_concurrent=1")
    words = ("sampler=grid", "lr=1e-3,1e-4,1e-5,3e-6", "seeds=[0,1]", "with_default=false", "confirm_rivals=0")
    said = done("sweep", *small, *words, *rest, "register_as=none")
    assert "4 configurations" in said
    logs = [path for path in tmp_path.rglob("online_agent.csv") if "mlartifacts" not in path.parts]
    assert len(logs) == 8
    assert max(read_csv(log)[-1]["step"] for log in logs) == 300


KEEP_STILL = """
import gymnasium, numpy as np

class KeepStill(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -float(abs(action[0])), False, False, {}

gymnasium.register("KeepStill-v0", entry_point="keep_still:KeepStill", max_episode_steps=20)
"""
"""An environment whose reward is minus the size of the action."""


@pytest.mark.slow
def test_asha_stops_an_online_trial_that_does_worse_than_the_others(tmp_path) -> None:
    (tmp_path / "keep_still.py").write_text(KEEP_STILL)
    plugin = {"UNDERSTUDY_PLUGINS": "keep_still", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    small = ("algo=sac", "env_name=KeepStill-v0", "hidden_dims=[16,16]", "batch_size=16", "start_training=20")
    length = ("training_steps=200", "eval_interval=40", "eval_episodes=2", "save_interval=-1", "scheduler=asha")
    rates = ("sampler=grid", "lr=1e-8,2e-8,3e-8,4e-8,0.5", "with_default=false", "confirm_rivals=0", "register_as=none")
    run("sweep", *small, *length, *rates, "grace_steps=40", "reduction_factor=2", "max_concurrent=1", "seeds=[0]",
        cwd=tmp_path, **plugin)  # fmt: skip
    steps = {
        json.loads((log.parent / "flags.json").read_text())["lr"]: read_csv(log)[-1]["step"]
        for log in tmp_path.rglob("eval.csv")
        if "mlartifacts" not in log.parts
    }
    assert steps.pop(0.5) < 200
    assert list(steps.values()) == [200] * 4
