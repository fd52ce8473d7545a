"""OGBench: all three variants of a name, files that its own loader reads, goals that are functions of the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ogbench.utils
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.source_examples import assert_same_episodes

from understudy.envs.files.downloads import Remote
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import episodes_of, import_file
from understudy.errors import DatasetError
from understudy.registry import sources

SOURCE = sources.get("ogbench")
SINGLE, GOAL, ORACLE = (f"cube-single-play{variant}-v0" for variant in ("-singletask-task1", "", "-oraclerep"))
SIZES = {"cube-single": (28, 21, 20, 0), "scene": (40, 25, 24, 2), "puzzle-3x3": (55, 23, 23, 9),
         "antmaze-medium": (29, 15, 14, 0), "antsoccer-arena": (42, 22, 20, 0)}  # fmt: skip
"""Observation, qpos, qvel and button_states dims."""


def make_episodes(lengths=(5, 8), family="cube-single", seed=0, states=True) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    look, places, speeds, buttons = SIZES[family]
    episodes = []
    for length in lengths:
        looks = rng.normal(size=(length + 1, look)).astype(np.float32)
        episode = {
            "observations": looks[:-1],
            "actions": rng.uniform(-1, 1, (length, 8 if "ant" in family else 5)).astype(np.float32),
            "rewards": np.full(length, -1.0, np.float32),
            "terminals": np.zeros(length, bool),
            "final_observation": looks[-1],
        }
        if states:
            episode["qpos"] = rng.normal(size=(length, places)).astype(np.float32)
            episode["qvel"] = rng.normal(size=(length, speeds)).astype(np.float32)
            if buttons:
                episode["button_states"] = rng.integers(0, 2, (length, buttons))
        episodes.append(episode)
    return episodes


def write(path: Path, episodes, env_name: str = SINGLE, **provenance) -> Path:
    SOURCE.write(path, episodes, env_name, provenance)
    return path


def load_with_ogbench(name: str, file: Path, compact: bool = False) -> dict[str, np.ndarray]:
    """Return the training data of OGBench's own function, which wants a validation file beside it."""
    env: Any = SOURCE.task(name).make_env()
    load = ogbench.utils.make_env_and_datasets
    made: Any = load(name, dataset_path=str(file), compact_dataset=compact, dataset_only=True, cur_env=env)
    return made[0]


def test_the_three_variants_share_an_environment_family_and_a_file() -> None:
    assert [SOURCE.task(name).env_id for name in (SINGLE, GOAL, ORACLE)] == [
        "cube-single-singletask-task1-v0",
        "cube-single-v0",
        "cube-single-v0",
    ]
    assert [SOURCE.task(name).goal_conditioned for name in (SINGLE, GOAL, ORACLE)] == [False, True, True]
    assert {SOURCE.task(name).remote for name in (SINGLE, GOAL, ORACLE)} == {
        Remote(f"{ogbench.utils.DATASET_URL}/cube-single-play-v0.npz")
    }


@pytest.mark.parametrize(
    "name",
    ["cube-single-scripted-v0", "scene-policy-singletask-v0", "cube-octuple-play-v0", "antmaze-giant-explore-v0"],
)
def test_what_is_made_here_or_not_published_has_no_address(name) -> None:
    assert task_of(name).source is SOURCE
    assert SOURCE.task(name).remote is None


@pytest.mark.parametrize("name", ["cube-sixfold-play-v0", "cube-single-v0", "cube-single-play-oraclerep-task1-v0"])
def test_other_names_are_no_ogbench_names(name) -> None:
    assert not SOURCE.matches(name)


@pytest.mark.parametrize("family", ["cube-single", pytest.param("scene", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compact", [False, True])
def test_ogbenchs_own_loader_gives_the_same_transitions(tmp_path, family, compact) -> None:
    name = f"{family}-play-singletask-task1-v0"
    file = write(tmp_path / "x.npz", make_episodes(family=family), name)
    write(tmp_path / "x-val.npz", make_episodes(family=family), name)
    theirs = load_with_ogbench(name, file, compact)
    ours = list(SOURCE.task(name).read(file))
    valid = theirs["valids"] > 0 if compact else np.ones(len(theirs["actions"]), bool)
    for key, other in (("observations", "observations"), ("actions", "actions"), ("rewards", "rewards")):
        np.testing.assert_array_equal(np.concatenate([e[key] for e in ours]), theirs[other][valid])
    np.testing.assert_array_equal(np.concatenate([e["terminals"] for e in ours]), 1 - theirs["masks"][valid])
    ends = np.concatenate([np.arange(len(e["actions"])) == len(e["actions"]) - 1 for e in ours])
    np.testing.assert_array_equal(ends, theirs["terminals"][valid])
    finals = np.stack([e["final_observation"] for e in ours])
    following = theirs["observations"][np.flatnonzero(~valid)] if compact else theirs["next_observations"][ends]
    np.testing.assert_array_equal(finals, following)


@pytest.mark.parametrize(
    "family",
    [
        "cube-single",
        "antmaze-medium",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("scene", "puzzle-3x3", "antsoccer-arena")),
    ],
)
def test_oracle_goals_are_ogbenchs_own_and_of_the_environments_shape(tmp_path, family) -> None:
    kind = "navigate" if family.startswith("ant") else "play"
    name = f"{family}-{kind}-oraclerep-v0"
    file = write(tmp_path / "x.npz", make_episodes(family=family), name)
    write(tmp_path / "x-val.npz", make_episodes(family=family), name)
    theirs = load_with_ogbench(name, file)
    read = list(SOURCE.task(name).read(file))
    goals = np.concatenate([episode["achieved_goals"] for episode in read])
    np.testing.assert_array_equal(goals, theirs["oracle_reps"])
    _, info = SOURCE.task(name).make_env().reset(seed=0)
    assert info["goal"].shape == goals.shape[1:]
    assert "achieved_goals" not in next(iter(SOURCE.task(name.replace("-oraclerep", "")).read(file)))


def test_goal_conditioned_data_have_rewards_of_minus_one_and_no_terminals(tmp_path) -> None:
    episodes = [{**e, "rewards": e["rewards"] + 2, "terminals": ~e["terminals"]} for e in make_episodes()]
    store = import_file(task_of(GOAL), write(tmp_path / "x.npz", episodes, GOAL), tmp_path / "stores")
    assert set(store.column("rewards").tolist()) == {-1.0}
    assert set(store.column("terminals").tolist()) == {0}
    assert "-1 everywhere" in store.manifest.provenance["rewards"]
    assert "achieved_goals" not in store.manifest.columns


def test_oracle_goals_need_the_simulators_states(tmp_path) -> None:
    file = write(tmp_path / "x.npz", make_episodes(states=False), ORACLE)
    with pytest.raises(DatasetError, match="has no 'qpos'"):
        list(SOURCE.task(ORACLE).read(file))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-30, 1e30]),
    states=st.booleans(),
)
def test_round_trips_are_exact(tmp_path_factory, lengths, scale, states) -> None:
    file = tmp_path_factory.mktemp("round") / "données é.npz"
    for name in (SINGLE, GOAL):
        episodes = make_episodes(lengths, states=states)
        for number, episode in enumerate(episodes):
            episode["observations"] = (episode["observations"] * np.float32(scale)).astype(np.float32)
            if name == SINGLE and not states:
                episode["rewards"] = np.full(len(episode["rewards"]), number - scale, np.float32)
                episode["terminals"] = np.arange(len(episode["rewards"])) % 2 == 0
        assert_same_episodes(episodes, SOURCE.task(name).read(write(file, episodes, name, made_by="ünï")))
        assert SOURCE.task(name).provenance(file)["made_by"] == "ünï"


def test_a_store_of_float64_states_comes_back_the_same(tmp_path) -> None:
    """Rewards near a threshold must not depend on whether the states were rounded to float32 before."""
    rng = np.random.default_rng(0)
    qpos = rng.normal(size=(400, 21))
    direction = rng.normal(size=(400, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    qpos[:, 14:17] = (0.425, -0.1, 0.02) + direction * (0.04 + rng.normal(size=(400, 1)) * 1e-9)
    rows: dict[str, Any] = {
        "observations": rng.normal(size=(400, 28)),
        "actions": rng.uniform(-1, 1, (400, 5)),
        "qpos": qpos,
    }
    np.savez(tmp_path / "x.npz", **rows, terminals=np.arange(400) == 399)
    store = import_file(task_of(SINGLE), tmp_path / "x.npz", tmp_path / "stores")
    assert len(set(store.column("rewards").tolist())) == 2
    again = import_file(task_of(SINGLE), write(tmp_path / "y.npz", episodes_of(store)), tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash


def test_states_and_executed_actions_keep_their_kinds(tmp_path) -> None:
    episodes = make_episodes(family="scene")
    for episode in episodes:
        episode["executed_actions"] = episode["actions"] / 2
        episode["button_states"] = episode["button_states"].astype(np.float32)  # as a store keeps them
    with np.load(write(tmp_path / "x.npz", episodes, "scene-play-v0")) as file:
        assert {name: file[name].dtype.name for name in ("qpos", "button_states", "terminals", "executed_actions")} == {
            "qpos": "float32",
            "button_states": "int64",
            "terminals": "bool",
            "executed_actions": "float32",
        }
        assert len(file["observations"]) == 15


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda episodes: [], "no episodes"),
        (lambda episodes: [{k: v for k, v in e.items() if k != "final_observation"} for e in episodes], "final"),
        (lambda episodes: [episodes[0], {k: v for k, v in episodes[1].items() if k != "qpos"}], "'qpos'"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_no_file(tmp_path, change, said) -> None:
    with pytest.raises(DatasetError, match=said):
        write(tmp_path / "x.npz", change(make_episodes()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [GOAL, ORACLE])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_a_half_downloaded_file_is_one_line(tmp_path, name, share) -> None:
    file = write(tmp_path / "x.npz", make_episodes((300,)))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(DatasetError) as error:
        import_file(task_of(name), file, tmp_path / "stores")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qpos": np.zeros((15, 3))}, "do not fit"),
        ({"qpos": np.zeros((9, 21))}, "observations have 15 rows"),
        ({"rewards": np.zeros((15, 2))}, "1 dims are needed"),
        ({"observations": np.zeros((15, 40))}, "is it the file of another task?"),
        ({"observations": np.float32(1)}, "shape ()"),
    ],
)
def test_wrong_shapes_are_one_line(tmp_path, changes, said) -> None:
    with np.load(write(tmp_path / "x.npz", make_episodes())) as file:
        arrays = {**file, **changes}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(ORACLE), tmp_path / "x.npz", tmp_path / "stores")
    assert said in str(error.value)
