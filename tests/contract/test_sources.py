"""What every data source must do: names, files in, stores out, one clear line for damaged files."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.video import rendering_available
from understudy.envs.sources.d4rl.files import find_ends
from understudy.envs.sources.d4rl.source import REFERENCE_SCORES
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, OnEpisode, export_store, import_file
from understudy.envs.store.verification import verify_store
from understudy.errors import DatasetError, UnknownName, UserError
from understudy.registry import sources

CUBE = "cube-single-scripted-singletask-task1-v0"
NAMES = {"ogbench": CUBE, "d4rl": "halfcheetah-medium-v2", "robomimic": "lift-mh-low_dim"}
SUFFIX = {"ogbench": ".npz", "d4rl": ".hdf5", "robomimic": ".hdf5"}


def write_ogbench(path: Path, lengths=(5, 8), **changes) -> Path:
    rng = np.random.default_rng(0)
    rows = sum(lengths) + len(lengths)
    ends = np.cumsum(np.asarray(lengths) + 1) - 1
    arrays = {
        "observations": rng.normal(size=(rows, 28)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 5)).astype(np.float32),
        "terminals": np.isin(np.arange(rows), ends),
        "qpos": rng.normal(size=(rows, 21)),
        "qvel": rng.normal(size=(rows, 20)),
    }
    arrays.update(changes)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def write_d4rl(path: Path, lengths=(5, 8), timeouts=True, following=True, dims=17, **changes) -> Path:
    rng = np.random.default_rng(0)
    rows = sum(lengths)
    ends = np.isin(np.arange(rows), np.cumsum(lengths) - 1)
    following_rows = rng.normal(size=(rows, dims)).astype(np.float32)
    arrays = {
        "observations": np.where(
            np.roll(ends, 1)[:, None], rng.normal(size=(rows, dims)), np.roll(following_rows, 1, 0)
        ),
        "actions": rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.zeros(rows, bool) if timeouts or following else ends,
    }
    if timeouts:
        arrays["timeouts"] = ends
    if following:
        arrays["next_observations"] = following_rows
    arrays["observations"] = arrays["observations"].astype(np.float32)
    arrays.update(changes)
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = value
        file["metadata/algorithm"] = "SAC"
    return path


def write_robomimic(path: Path, lengths=(5, 8), drop: str = "", **changes) -> Path:
    rng = np.random.default_rng(0)
    sizes = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_version": "1.4.1"})
        for number, length in reversed(list(enumerate(lengths))):  # HDF5 lists demo_10 before demo_2
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.full((length, 7), number, float)
            demo["rewards"] = np.arange(length) == length - 1
            demo["dones"] = (np.arange(length) == length - 1).astype(int)
            for group in ("obs", "next_obs"):
                for place, (key, size) in enumerate(sizes.items()):
                    if key != drop:
                        demo[f"{group}/{key}"] = rng.normal(size=(length, size)) * 0 + place
            for name, value in changes.items():
                del demo[name]
                demo[name] = value
    return path


WRITERS = {"ogbench": write_ogbench, "d4rl": write_d4rl, "robomimic": write_robomimic}


@pytest.fixture(params=sorted(NAMES))
def kind(request) -> str:
    return request.param


@pytest.fixture
def file(kind, tmp_path) -> Path:
    return WRITERS[kind](tmp_path / f"data{SUFFIX[kind]}")


def load(kind: str, file: Path, progress: OnEpisode | None = None, **options):
    return import_file(task_of(NAMES[kind]), file, file.parent / "stores", ImportOptions(**options), progress)


def test_every_source_is_registered_and_recognises_its_names_and_no_others(kind) -> None:
    source = sources.get(kind)
    assert source.name == kind
    assert source.known_names()
    for name in source.known_names():
        assert source.matches(name), name
        assert task_of(name).source is source
        assert source.task(name).max_episode_steps > 0
        assert source.task(name).env_id
    for other in set(NAMES) - {kind}:
        assert not source.matches(NAMES[other])


def test_an_unknown_environment_names_the_nearest_known_one() -> None:
    with pytest.raises(UnknownName) as error:
        task_of("halfcheeta-medium-v2")
    assert "did you mean 'halfcheetah-medium-v2'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_becomes_a_store_with_its_episodes_and_provenance(kind, file) -> None:
    seen = []
    store = load(kind, file, progress=lambda episodes, transitions: seen.append((episodes, transitions)))
    assert store.lengths.tolist() == [5, 8]
    assert seen == [(1, 5), (2, 13)]
    assert store.manifest.source == kind
    assert store.manifest.provenance["files"][0]["name"] == file.name
    assert len(store.manifest.provenance["files"][0]["sha256"]) == 64
    assert store.episode_column("final_observations").shape == (2, *store.column("observations").shape[1:])
    assert not [finding for finding in verify_store(store) if "changed" in finding or "hash" in finding]


def test_importing_twice_gives_the_same_hash(kind, file) -> None:
    first = load(kind, file).manifest
    again = load(kind, file, name="another").manifest
    assert (first.content_hash, again.name) == (again.content_hash, "another")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_with_one_line_and_leaves_nothing(kind, file, share) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError) as error:
        load(kind, file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    stores = file.parent / "stores"
    assert not stores.exists() or list(stores.iterdir()) == []


def test_a_file_of_another_kind_and_a_missing_file_are_refused(kind, tmp_path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no data here")
    for file in (text, tmp_path / "none"):
        with pytest.raises(DatasetError) as error:
            load(kind, file)
        assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_a_name_that_is_no_plain_folder_name_is_refused(file, kind, name) -> None:
    with pytest.raises(DatasetError, match="plain name"):
        load(kind, file, name=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": np.zeros((15, 4))}, "is it the file of another task?"),
        ({"observations": np.zeros((15, 40))}, "is it the file of another task?"),
        ({"actions": np.zeros((9, 5))}, "observations have 15 rows"),
        ({"terminals": np.zeros(15)}, "cut short"),
        ({"terminals": np.ones(15)}, "no step"),
        ({"terminals": None}, "no array 'terminals'"),
        ({"observations": np.full((15, 28), np.nan)}, "NaN"),
        ({"actions": np.array([{}] * 15)}, "allow_pickle"),
    ],
)
def test_bad_arrays_in_an_npz_are_refused(tmp_path, changes, said) -> None:
    with pytest.raises(DatasetError) as error:
        load("ogbench", write_ogbench(tmp_path / "x.npz", **changes))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": np.zeros(4)}, "rewards has 4 rows"),
        ({"rewards": None}, "no dataset 'rewards'"),
        ({"observations": np.zeros(13)}, "2 dims"),
        ({"next_observations": np.zeros((13, 3))}, "next_observations"),
        ({"rewards": np.full(13, np.nan)}, "NaN"),
        ({"actions": np.zeros((0, 6))}, "no transitions"),
    ],
)
def test_bad_arrays_in_a_d4rl_file_are_refused(tmp_path, changes, said) -> None:
    with pytest.raises(DatasetError) as error:
        load("d4rl", write_d4rl(tmp_path / "x.hdf5", **changes))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": "object"}, "no dataset 'data/demo_0/obs/object'"),
        ({"rewards": np.zeros(3)}, "rewards"),
        ({"obs/object": np.zeros((4, 10))}, "do not fit together"),
        ({"lengths": ()}, "no demonstrations"),
    ],
)
def test_bad_arrays_in_a_robomimic_file_are_refused(tmp_path, options, said) -> None:
    with pytest.raises(DatasetError) as error:
        load("robomimic", write_robomimic(tmp_path / "x.hdf5", **options))
    assert said in str(error.value)


@pytest.mark.parametrize(("timeouts", "following"), [(True, True), (True, False), (False, True), (False, False)])
def test_d4rl_episodes_are_found_with_and_without_timeouts_and_next_observations(tmp_path, timeouts, following) -> None:
    file = write_d4rl(tmp_path / "x.hdf5", (4, 9, 3), timeouts, following)
    store = load("d4rl", file)
    assert store.lengths.tolist() == [4, 9, 3]
    assert ("final_observations" in store.manifest.episode_columns) == following


def test_without_either_d4rl_episodes_are_cut_at_the_time_limit() -> None:
    rows = {"actions": np.zeros((25, 1)), "terminals": np.isin(np.arange(25), [3, 14])}
    assert find_ends(rows, False, 10)[0].tolist() == [3, 13, 14, 24]


def test_antmaze_terminals_end_nothing_and_rewards_are_minus_one(tmp_path) -> None:
    changes = {"terminals": np.ones(10), "rewards": np.ones(10), "actions": np.zeros((10, 8))}
    file = write_d4rl(tmp_path / "x.hdf5", (4, 6), True, False, 29, **changes)
    store = import_file(task_of("antmaze-umaze-v2"), file, tmp_path / "stores")
    assert store.lengths.tolist() == [4, 6]
    assert store.column("rewards").tolist() == [0.0] * 10


def test_d4rl_scores_are_0_for_the_random_policy_and_100_for_the_expert() -> None:
    source = sources.get("d4rl")
    for task, name in {"hopper": "hopper-expert-v2", "pen": "pen-human-v1", "antmaze": "antmaze-large-play-v2"}.items():
        np.testing.assert_allclose(source.task(name).normalized_score(np.array(REFERENCE_SCORES[task])), [0, 100])
    # Fu et al. 2020: SAC's 12,135 on HalfCheetah is 100
    assert source.task("halfcheetah-random-v0").normalized_score(np.array([12135.0]))[0] == pytest.approx(100)


def test_robomimic_demonstrations_are_in_numeric_order_and_rewards_minus_one(tmp_path) -> None:
    store = load("robomimic", write_robomimic(tmp_path / "x.hdf5", tuple(range(3, 15))))
    assert store.lengths.tolist() == list(range(3, 15))
    assert store.column("actions")[store.starts, 0].tolist() == list(range(12))
    assert store.column("rewards")[:3].tolist() == [-1.0, -1.0, 0.0]
    expected = [0] * 3 + [1] * 4 + [2] * 2 + [3] * 10
    assert store.column("observations")[0].tolist() == expected
    assert store.manifest.provenance["environment"]["env_version"] == "1.4.1"


def test_an_ogbench_store_exports_to_the_same_file_content(tmp_path) -> None:
    store = load("ogbench", write_ogbench(tmp_path / "x.npz"))
    out = export_store(store, tmp_path / "out" / "again.npz", "ogbench")
    again = import_file(task_of(CUBE), out, tmp_path / "second")
    assert again.manifest.content_hash == store.manifest.content_hash


def test_ogbench_rewards_are_ogbenchs_own(tmp_path) -> None:
    from ogbench.utils import make_env_and_datasets

    rng = np.random.default_rng(1)
    qpos = rng.normal(size=(15, 21))
    qpos[3, 14:17] = (0.425, -0.1, 0.02)  # the goal of task 1
    file = write_ogbench(tmp_path / "x.npz", qpos=qpos)
    write_ogbench(tmp_path / "x-val.npz", qpos=qpos)
    store = load("ogbench", file)
    made: Any = make_env_and_datasets("cube-single-play-singletask-task1-v0", dataset_path=str(file))
    reference = made[1]
    np.testing.assert_array_equal(store.column("rewards"), reference["rewards"])
    np.testing.assert_array_equal(store.column("terminals"), 1 - reference["masks"])
    np.testing.assert_array_equal(store.column("observations"), reference["observations"])
    assert store.column("rewards").tolist().count(0.0) == 1


def test_a_folder_of_npz_files_is_imported_in_order_without_the_validation_ones(tmp_path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_ogbench(folder / "b.npz", (4,))
    write_ogbench(folder / "a.npz", (2, 3))
    write_ogbench(folder / "a-val.npz", (9,))
    assert import_file(task_of(CUBE), folder, tmp_path / "stores").lengths.tolist() == [2, 3, 4]


def test_an_npz_without_simulator_states_gets_minus_one_everywhere_and_says_so(tmp_path) -> None:
    store = load("ogbench", write_ogbench(tmp_path / "x.npz", qpos=None, qvel=None))
    assert set(store.column("rewards").tolist()) == {-1.0}
    assert "-1 everywhere" in store.manifest.provenance["rewards"]


@pytest.mark.parametrize("name", ["halfcheetah-medium-v2", "hopper-medium-v2", "walker2d-medium-v2", "ant-medium-v2"])
def test_mujoco_environments_have_d4rls_dims_and_repeat_by_seed(name) -> None:
    dims = {"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6), "ant": (111, 8)}[name.split("-")[0]]
    factory = pickle.loads(pickle.dumps(EnvFactory(name)))  # noqa: S301  (as worker processes get it)
    env = factory()
    assert (env.observation_space.shape, env.action_space.shape) == ((dims[0],), (dims[1],))
    assert repeats(env, 30)


@pytest.mark.parametrize(
    ("name", "package", "dims"), [("pen-human-v1", "gymnasium_robotics", 45), ("lift-mh-low_dim", "robosuite", 19)]
)
def test_a_simulator_that_is_not_here_is_one_line(name, package, dims) -> None:
    if importlib.util.find_spec(package) is not None:
        assert EnvFactory(name)().observation_space.shape == (dims,)
        return
    with pytest.raises(UserError) as error:
        EnvFactory(name)()
    assert "\n" not in str(error.value)


def test_an_arm_environment_repeats_by_seed_whatever_ran_before() -> None:
    assert repeats(EnvFactory(CUBE)(), 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "scene-play-singletask-task2-v0",
        "puzzle-3x3-play-singletask-task4-v0",
        "cube-double-play-singletask-v0",
        "antmaze-medium-navigate-singletask-task1-v0",
        "antmaze-teleport-navigate-singletask-task1-v0",
        "pointmaze-medium-navigate-singletask-task1-v0",
        "antsoccer-arena-navigate-singletask-task1-v0",
    ],
)
def test_other_ogbench_environments_repeat_by_seed_whatever_ran_before(name) -> None:
    assert repeats(EnvFactory(name)(), 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["visual-cube-single-play-singletask-task1-v0", "visual-antmaze-medium-navigate-singletask-v0"]
)
def test_pixel_environments_see_pictures_that_repeat_by_seed(name) -> None:
    reason = rendering_available()
    if reason is not None:
        assert "no videos" in reason
        return
    env = EnvFactory(name)()
    look, _ = env.reset(seed=0)
    assert look.shape == env.observation_space.shape == (64, 64, 3)
    assert look.dtype == np.uint8
    assert look.std() > 10
    assert repeats(env, 3)
    env.close()


def repeats(env, steps: int) -> bool:
    """Play an episode, another one, then the first again, there and in a second instance; compare bit for bit."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)

    def play(seed: int) -> list[np.ndarray]:
        looks = [np.asarray(env.reset(seed=seed)[0])]
        for action in actions:
            look, reward, ended, late, _ = env.step(action)
            looks.append(np.append(look, [reward, ended, late]))
            if ended or late:
                break
        return looks

    first = play(3)
    other = play(4)
    np.random.random(17)  # the global stream must not matter
    again = play(3)
    assert len(first) == len(again)
    assert not np.array_equal(first[0], other[0])
    return all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
