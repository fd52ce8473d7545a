"""The Python interface, as a script uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import understudy
from understudy.cli.api import words_of

SMALL = {"training_steps": 6, "log_interval": 2, "eval_interval": 0, "eval_episodes": 2, "batch_size": 8}
KEYS = {**SMALL, "hidden_dims": [8], "tracking_uri": "none", "quiet": True}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, str]:
    """Write a dataset for the pendulum; return the folders as keys."""
    folder = tmp_path_factory.mktemp("api")
    rng = np.random.default_rng(0)
    episodes = [
        {"observations": rng.normal(size=(11, 3)).astype(np.float32), "actions": rng.uniform(-1, 1, (10, 1))}
        for _ in range(4)
    ]
    understudy.write_dataset("swings", episodes, env="Pendulum-v1", data_dir=folder / "data")
    return {"data_dir": str(folder / "data"), "save_dir": str(folder / "runs")}


@pytest.fixture(scope="module")
def run(here) -> understudy.cli.api.Run:
    return understudy.train(algo="bc", env_name="swings", seeds=[0, 1], **KEYS, **here)


def test_a_run_gives_its_rows_its_keys_and_its_policy(run) -> None:
    assert run.status == "finished"
    assert run.keys["hidden_dims"] == [8]
    assert list(run.updates["step"]) == [2, 4, 6, 2, 4, 6]
    assert list(run.updates["seed"]) == [0, 0, 0, 1, 1, 1]
    assert len(run.episodes) == 4
    np.testing.assert_allclose(
        run.evaluations.groupby("seed")["return"].mean(), run.episodes.groupby("seed")["return"].mean()
    )
    assert run.policy().act(np.zeros(3, np.float32)).shape == (1, 1, 1)


def test_a_run_is_evaluated_as_its_command_does(run, here, capsys) -> None:
    found = understudy.evaluate(run, eval_episodes=2, data_dir=here["data_dir"])
    assert found.metrics["return"] == pytest.approx(run.episodes["return"].mean())
    assert f"return {found.metrics['return']:.2f}" in capsys.readouterr().out


def test_a_dataset_is_what_was_written(here) -> None:
    store = understudy.load_dataset("swings", here["data_dir"])
    assert store.column("observations").shape == (40, 3)
    assert store.episode_column("final_observations").shape == (4, 3)
    assert store.manifest.provenance["notes"] == ["rewards: not given, zeros", "terminals: not given, zeros"]


def test_quiet_prints_nothing(here, capsys) -> None:
    understudy.train(algo="bc", env_name="swings", **{**KEYS, "eval_episodes": 0, "training_steps": 2}, **here)
    printed = capsys.readouterr()
    assert printed.out == ""


def test_methods_are_compared(here) -> None:
    keys = {**KEYS, "training_steps": 2, "seeds": [0, 1]}
    found = understudy.compare(algo="bc,flow_bc", env_name="swings", **keys, **here)
    assert list(found.table["method"]) == ["bc", "flow_bc"]
    (pair,) = found.differences["pairs"]
    mean = found.table.set_index("method")["value"]
    assert pair["difference"] == pytest.approx(mean["bc"] - mean["flow_bc"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"algo": "bcc", "env_name": "swings"}, "did you mean 'bc'"),
        ({"algo": "bc", "env_name": "swings", "lr": object()}, "lr: a object is no value"),
        ({"algo": "bc", "env_name": "swings", "lrr": 1}, "lrr"),
    ],
)
def test_what_is_wrong_is_an_error_of_one_line(here, keys, said) -> None:
    with pytest.raises(understudy.UserError, match=said) as error:
        understudy.train(**keys, **here)
    assert "\n" not in str(error.value)


def test_data_without_an_environment_say_how_they_are_trained(here) -> None:
    episodes = [{"observations": np.zeros((6, 2)), "actions": np.zeros((5, 1)), "rewards": np.zeros(5)}]
    understudy.write_dataset("nowhere", episodes, data_dir=here["data_dir"])
    with pytest.raises(understudy.UserError, match="eval_episodes=0"):
        understudy.train(algo="bc", env_name="nowhere", **KEYS, **here)
    run = understudy.train(algo="bc", env_name="nowhere", **{**KEYS, "eval_episodes": 0, "batch_size": 2}, **here)
    assert run.status == "finished"


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (np.float32(0.5), "lr=0.5"),
        ((1, 2), "lr=[1,2]"),
        (None, "lr=null"),
        (True, "lr=true"),
        (["a b", "it's"], "lr=['a b','it\\'s']"),
        (Path("x/y"), "lr=x/y"),
        ("interval(1,2)", "lr=interval(1,2)"),
    ],
)
def test_values_are_typed_as_on_the_command_line(value, typed) -> None:
    assert words_of({"lr": value}) == [typed]


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_names_that_are_no_folder_are_refused(name, tmp_path) -> None:
    with pytest.raises(understudy.UserError, match="plain name"):
        understudy.write_dataset(name, [], data_dir=tmp_path)


def test_every_public_name_is_there() -> None:
    for name in understudy.__all__:
        assert getattr(understudy, name) is not None


def test_a_runner_acts_as_the_evaluation_does(run, here) -> None:
    import gymnasium

    found = run.episodes
    for member, seed in enumerate((0, 1)):
        runner, env = run.policy().runner(member=member), gymnasium.make("Pendulum-v1")
        for episode in range(2):
            observation, info = env.reset(seed=1_000_000 + episode)
            runner.reset(observation.astype(np.float64), info)
            total, ended = 0.0, False
            while not ended:
                observation, reward, terminated, truncated, info = env.step(runner.act(observation.astype(np.float64)))
                total, ended = total + float(reward), terminated or truncated
            (row,) = found[(found["seed"] == seed) & (found["episode"] == episode)].to_dict("records")
            assert total == pytest.approx(row["return"], rel=1e-5)


def test_a_runner_refuses_observations_of_another_task(run) -> None:
    with pytest.raises(understudy.UserError, match="this environment has"):
        run.policy().runner().reset(np.zeros(5))
    with pytest.raises(understudy.UserError, match="member 7"):
        run.policy().runner(member=7)


def test_the_published_agents_calls_load_act_and_are_evaluated(here) -> None:
    import gymnasium

    keys = {**SMALL, "hidden_dims": [8], "quiet": True, "tracking_uri": "none", "training_steps": 2}
    trained = understudy.train(
        algo="flow_bc", env_name="swings", horizon_length=3, action_chunking=True, **keys, **here
    )
    config = understudy.BCAgentConfig(hidden_dims=(8,), horizon_length=3, action_chunking=True, batch_size=8)
    agent = understudy.BCAgent.create(observation_shape=(3,), action_dim=1, config=config)
    agent.load(trained.path / "final_model.pt")
    observation = np.ones(3, np.float32)
    np.testing.assert_allclose(
        agent.sample_actions(observation), trained.policy().sample_actions(observation), rtol=1e-5
    )
    env = gymnasium.make("Pendulum-v1", render_mode=None)
    stats, episodes, videos = understudy.evaluate(agent, env, 1, num_eval_episodes=2)
    assert stats["return"] == pytest.approx(trained.episodes["return"].mean(), rel=1e-5)
    assert (len(episodes), videos) == (2, [])
    other = understudy.BCAgent.create((3,), 1, understudy.BCAgentConfig(hidden_dims=(4,)))
    with pytest.raises(understudy.UnderstudyError, match="another network"):
        other.load(trained.path / "final_model.pt")


def test_datasets_give_batches_at_random(here) -> None:
    data = understudy.load_dataset("swings", here["data_dir"])
    batch = data.sample(16)
    assert batch["observations"].shape == (16, 3)
    assert batch["actions"].shape == (16, 1)
    assert batch["next_observations"].shape == (16, 3)
    chunks = data.sample_sequence(batch_size=4, sequence_length=5, discount=0.9)
    assert chunks["actions"].shape == (4, 5, 1)
    assert set(np.unique(chunks["discounts"])) == {np.float32(0.9)}
    again = understudy.load_dataset("swings", here["data_dir"]).sample(16)
    np.testing.assert_array_equal(again["actions"], batch["actions"])


def test_the_notebook_runs_from_its_first_cell_to_its_last() -> None:
    notebook = json.loads((Path(__file__).parents[2] / "docs/tour.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["run"].status == "finished"
    assert -2000 < names["total"] <= 0


def test_a_runner_refuses_an_observation_unlike_the_first(run) -> None:
    runner = run.policy().runner()
    runner.reset(np.zeros(3), {})
    runner.act(np.zeros(3))
    with pytest.raises(understudy.UserError, match=r"act\(\) was given observations \(4,\), reset\(\) \(3,\)"):
        runner.act(np.zeros(4))


def test_an_evaluation_in_an_environment_takes_the_commands_keys_and_refuses_others(run) -> None:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=3)
    _, episodes, _ = understudy.evaluate(run, env, eval_episodes=2)
    assert len(episodes) == 2
    with pytest.raises(understudy.UserError, match="did you mean 'num_eval_episodes'"):
        understudy.evaluate(run, env, num_eval_episode=2)
    with pytest.raises(understudy.UserError, match="an environment is needed, like gymnasium"):
        understudy.evaluate(run, "Pendulum-v1")


def test_one_episode_alone_is_no_list_of_episodes(tmp_path) -> None:
    episode: Any = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1))}
    with pytest.raises(understudy.UserError, match="give a list of them"):
        understudy.write_dataset("one", episode, data_dir=tmp_path)
