"""Q-chunking: one run on the data and then in the environment; killed anywhere it ends as if never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.integration.breaking import only, weights
from tests.integration.commands import kill_when, start
from tests.integration.test_online import step_of

from understudy.loading import load_policy
from understudy.runs.directory import RunDir, read_csv

DATA = ("env_name=hopper-medium-v2", "tracking_uri=none", "launcher=inline", "eval_episodes=2", "eval_envs=2")
SMALL = (
    *("algo=flow_bc", "hidden_dims=[16,16]", "batch_size=16", "action_chunking=true", "horizon_length=3"),
    *("log_interval=20", "eval_interval=0", *DATA),
)
TUNED = (
    *(*SMALL, "use_critic=true", "flow_steps=2", "offline_steps=60", "online_steps=140"),
    *("start_training=41", "utd_ratio=2"),
)
FILES = {"offline_agent.csv", "online_agent.csv", "eval.csv", "env.csv"}


def same(one: Path, other: Path) -> None:
    """Assert that two run directories hold the same rows and weights."""
    names = sorted(path.relative_to(other) for path in other.rglob("*.csv") if path.name != "timing.csv")
    assert {name.name for name in names} == FILES
    for name in names:
        assert (one / name).read_text() == (other / name).read_text(), name
    for name in [path.relative_to(other) for path in other.rglob("*_model.pt")]:
        mine, theirs = weights(one / name), weights(other / name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name


@pytest.mark.slow
@pytest.mark.parametrize("actor", ["one_step", "best_of_n"])
def test_a_run_killed_in_either_phase_or_between_them_ends_as_one_that_was_not(
    hopper_data, done, tmp_path, actor
) -> None:
    words = (*TUNED, "online_steps=440", f"actor={actor}", *(["num_samples=3"] if actor == "best_of_n" else []))
    done("train", *words, "save_dir=whole")
    process = start("train", *words, "checkpoint_seconds=0.02", "save_dir=broken", cwd=tmp_path)
    for moment in (10, 59, 75, 120):  # on the data, at their end, before the first online update, after it
        kill_when(process, lambda moment=moment: step_of(tmp_path / "broken") > moment)
        if moment != 120:
            process = start("resume", str(only(tmp_path / "broken")), cwd=tmp_path)
    broken, whole = only(tmp_path / "broken"), only(tmp_path / "whole")
    assert step_of(broken) > 120
    done("resume", str(broken))
    same(broken, whole)
    assert [row["step"] for row in read_csv(whole / "offline_agent.csv")] == [20, 40, 60]
    assert [row["step"] for row in read_csv(whole / "online_agent.csv")] == list(range(120, 520, 20))
    assert [row["step"] for row in read_csv(whole / "eval.csv")] == [60, 500]
    assert read_csv(whole / "env.csv")[0]["step"] > 60
    assert (broken / "resume" / "replay").is_dir()  # with it, a finished run can be given more online steps
    done("train", *words, "online_steps=470", "save_dir=longer")
    done("resume", str(broken), "--add-steps", "30")
    mine, theirs = weights(broken / "final_model.pt"), weights(only(tmp_path / "longer") / "final_model.pt")
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_member_of_a_pack_equals_its_seed_alone(hopper_data, done, tmp_path) -> None:
    done("train", *TUNED, "seeds=[0,1]", "save_dir=pack")
    done("train", *TUNED, "seeds=[1]", "save_dir=alone")
    pack, alone = only(tmp_path / "pack"), only(tmp_path / "alone")
    for name in FILES:
        assert (pack / "sd001" / name).read_text() == (alone / name).read_text()
    mine, theirs = weights(pack / "sd001" / "final_model.pt"), weights(alone / "final_model.pt")
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_cloned_policy_goes_on_by_rewards_with_its_flow_and_is_evaluated(hopper_data, done, tmp_path) -> None:
    done("train", *SMALL, "offline_steps=40", "seeds=[0,1]", "save_dir=cloned")
    parent = only(tmp_path / "cloned")
    tuned = ("use_critic=true", "online_steps=30", "start_training=30", "num_samples=3", "lr=1e-9", "save_dir=tuned")
    done("train", "--fork", str(parent), *tuned)
    run = only(tmp_path / "tuned")
    flags = json.loads(RunDir(run).flags.read_text())
    assert (flags["actor"], flags["training_steps"], flags["online_steps"]) == ("best_of_n", 40, 30)
    for seed in range(2):
        before, after = load_policy(parent).weights(seed), load_policy(run).weights(seed)
        assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
        assert any(name.startswith("chunk_critic.") for name in after.keys() - before.keys())
    assert [row["step"] for row in read_csv(run / "eval.csv")] == [70]
    assert "return" in done("evaluate", str(run), "eval_episodes=2", "num_samples=5")
    assert "learns from a replay buffer, which is not in a model" in done(
        "train", "--fork", str(run), "online_steps=50", code=2
    )
    done("resume", str(run), "--add-steps", "10")
    assert json.loads(RunDir(run).flags.read_text())["online_steps"] == 40
    assert read_csv(run / "sd000" / "online_agent.csv")[-1]["step"] == 80


def test_a_critic_learns_from_the_data_alone_without_online_steps(hopper_data, done, tmp_path) -> None:
    done("train", *SMALL, "use_critic=true", "offline_steps=40", "action_chunking=false", "validation_fraction=0.2")
    run = only(tmp_path)
    [first, last] = read_csv(run / "offline_agent.csv")
    assert {"critic_loss", "q_mean", "actor_loss", "bc_flow_loss", "distill_loss"} <= first.keys()
    assert (first["step"], last["step"]) == (20, 40)
    assert not (run / "online_agent.csv").exists()
    done("resume", str(run), "--add-steps", "20")
    assert read_csv(run / "offline_agent.csv")[-1]["step"] == 60


@pytest.mark.slow
def test_a_sweep_tries_settings_of_the_critic(hopper_data, done, tmp_path) -> None:
    done(
        *("sweep", *TUNED, "actor=one_step", "tau=0.01,0.1", "sampler=grid", "scheduler=none", "num_trials=2"),
        *("online_steps=60", "register_as=none", "final_episodes=2", "save_dir=runs"),
    )
    trials = sorted(path.parent for path in tmp_path.rglob("trials/*/flags.json"))
    assert {json.loads((trial / "flags.json").read_text())["tau"] for trial in trials} >= {0.01, 0.1}
    assert all(read_csv(trial / "eval.csv")[-1]["step"] == 120 for trial in trials)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("actor=flow",), "use_critic=true is for actor=one_step (distill-ddpg) or best_of_n"),
        (("start_training=141",), "online_steps=140 leaves no update from start_training=141 on"),
        (("horizon_length=2000",), "horizon 2000 is longer than every episode of 'hopper-medium-v2'"),
        (("obs_horizon=2",), "obs_horizon=2"),
        (("env_name=hopperr-medium-v2",), "hopperr-medium-v2"),
        (("use_critic=false", "online_steps=5"), "changes nothing without use_critic=true"),
        (("q_agg=max",), "no such choice"),
    ],
)
def test_what_a_run_of_both_phases_cannot_do_is_one_line_and_nothing_is_written(
    hopper_data, done, tmp_path, words, said
) -> None:
    printed = done("train", *TUNED, *words, code=2)
    assert said in printed
    assert len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("flags.json"))
