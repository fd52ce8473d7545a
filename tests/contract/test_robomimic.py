"""robomimic: its HDF5 read and written, its tasks in robosuite, and robomimic's own code on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.robomimic_interop import make_importable

from understudy.envs.experts.attempts import AttemptSpec, play
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.rollouts.pools import Command, discard_pool, pool_for
from understudy.envs.simulators.video import rendering_available
from understudy.envs.sources.robomimic.robosuite import OSC_POSE, RobosuiteEnv, published_settings
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Episode
from understudy.envs.store.transfer import import_file
from understudy.errors import DatasetError, UserError, to_install
from understudy.registry import sources

File: Any = h5py.File  # whose types say little about what is in a file
LIFT, SCRIPTED = "lift-mh-low_dim", "lift-scripted-low_dim"
DIMS = {"lift": (19, 7), "can": (23, 7), "square": (23, 7), "transport": (59, 14), "tool_hang": (53, 7)}
SOURCE = sources.get("robomimic")
KEYS = ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"]


def random_episode(length: int, seed: int = 0, dims: tuple[int, int] = (19, 7), **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(length, dims[0])).astype(np.float32),
        "actions": rng.uniform(-1, 1, (length, dims[1])).astype(np.float32),
        "rewards": np.where(np.arange(length) == length - 1, 0.0, -1.0).astype(np.float32),
        "terminals": np.arange(length) == length - 1,
        "final_observation": rng.normal(size=dims[0]).astype(np.float32),
        **more,
    }


def write(path: Path, lengths=(5, 8), env_name: str = LIFT, **more: Any) -> Path:
    SOURCE.write(path, [random_episode(n, i, **more) for i, n in enumerate(lengths)], env_name, {})
    return path


def assert_equal_episodes(first: list[Episode], second: list[Episode]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            np.testing.assert_array_equal(np.asarray(values, np.float64), np.asarray(other[name], np.float64), name)


@pytest.fixture(scope="module")
def played() -> list[Episode]:
    """Three scripted demonstrations of Lift, with noise on what was executed."""
    return [play(AttemptSpec(SCRIPTED, noise=0.1), number)[0] for number in range(3)]


@pytest.fixture(scope="module")
def demos(played, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("robomimic") / "lift.hdf5"
    masked = [{**e, "mask/train": np.uint8(i != 1), "mask/20_percent": np.uint8(0)} for i, e in enumerate(played)]
    SOURCE.write(path, masked, SCRIPTED, {"made_by": "understudy scripted expert"})
    return path


@pytest.fixture(scope="module")
def lift() -> Iterator[Any]:
    env = SOURCE.task(SCRIPTED).make_env()
    yield env
    env.close()


# names


def test_names_are_published_types_of_five_tasks_and_two_that_are_made_here() -> None:
    names = [name for name in SOURCE.known_names() if name.endswith("-low_dim")]
    assert len(names) == 10
    assert len(SOURCE.known_names()) == 20
    for name in ("can-policy-low_dim", "tool_hang-policy-low_dim", SCRIPTED):
        assert task_of(name).source is SOURCE
        assert SOURCE.task(name).remote is None
    for name in ("can-scripted-low_dim", "lift-xx-low_dim", "lift-mh-pictures", "lift-mh"):
        assert not SOURCE.matches(name)
    assert [name for name in names if SOURCE.task(name).expert()] == [
        "lift-mh-low_dim",
        "lift-ph-low_dim",
        SCRIPTED,
    ]


def test_published_files_have_an_address_of_a_fixed_revision() -> None:
    published = [name for name in SOURCE.known_names() if SOURCE.task(name).remote]
    assert len(published) == 18
    for name in published:
        remote = SOURCE.task(name).remote
        assert remote is not None
        task, kind, _ = name.split("-")
        assert remote.url.startswith("https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/")
        assert remote.url.endswith(f"/v1.5/{task}/{kind}/low_dim_v15.hdf5")
        assert remote.sha256 is None or len(remote.sha256) == 64


def test_horizons_are_those_of_the_reference() -> None:
    limits = [SOURCE.task(f"{task}-ph-low_dim").max_episode_steps for task in DIMS]
    assert limits == [300, 300, 400, 800, 1000]


# files


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
rewards = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)  # plus 1 is exact for these
filter_keys = st.text(st.characters(codec="utf-8", exclude_characters="/.\0"), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_what_is_written_is_read_back_unchanged(tmp_path, data, lengths) -> None:
    masks = data.draw(st.sets(filter_keys, max_size=3))
    finals = data.draw(st.booleans())
    episodes = []
    for number, length in enumerate(lengths):
        episode = random_episode(length, number, states=np.random.default_rng(number).normal(size=(length, 32)))
        episode["observations"][0, 0] = data.draw(numbers)
        episode["actions"][-1, -1] = data.draw(numbers)
        episode["rewards"][0] = data.draw(rewards)
        episode |= {f"mask/{name}": np.uint8(data.draw(st.booleans())) for name in masks}
        if not finals:
            del episode["final_observation"]
        episodes.append(episode)
    SOURCE.write(tmp_path / "x.hdf5", episodes, LIFT, {})
    assert_equal_episodes(list(SOURCE.task(LIFT).read(tmp_path / "x.hdf5")), episodes)
    assert [path.name for path in tmp_path.iterdir()] == ["x.hdf5"]


@pytest.mark.slow
def test_a_store_written_as_a_file_and_imported_again_is_the_same_store(demos, tmp_path) -> None:
    store = import_file(task_of(SCRIPTED), demos, tmp_path)
    assert store.episode_column("mask/train").tolist() == [1, 0, 1]
    assert store.episode_column("mask/20_percent").tolist() == [0, 0, 0]
    assert store.column("states").shape == (store.manifest.num_transitions, 32)
    assert store.manifest.provenance["environment"] == published_settings("Lift")
    assert store.manifest.provenance["made_by"] == "understudy scripted expert"
    ends = store.starts + store.lengths
    episodes = [
        {
            **{name: store.column(name)[start:end] for name in store.manifest.columns},
            "final_observation": store.episode_column("final_observations")[number],
            **{n: store.episode_column(n)[number] for n in store.manifest.episode_columns if n.startswith("mask/")},
        }
        for number, (start, end) in enumerate(zip(store.starts, ends, strict=True))
    ]
    SOURCE.write(tmp_path / "again.hdf5", episodes, SCRIPTED, store.manifest.provenance)
    again = import_file(task_of(SCRIPTED), tmp_path / "again.hdf5", tmp_path / "second")
    assert again.manifest.content_hash == store.manifest.content_hash
    assert again.manifest.provenance["environment"] == store.manifest.provenance["environment"]


def test_the_file_is_laid_out_as_the_published_ones(demos, played) -> None:
    with File(demos) as file:
        data = file["data"]
        assert json.loads(data.attrs["env_args"])["env_name"] == "Lift"
        assert data.attrs["total"] == sum(len(episode["actions"]) for episode in played)
        assert sorted(data) == ["demo_0", "demo_1", "demo_2"]
        demo, episode = data["demo_1"], played[1]
        assert demo.attrs["num_samples"] == len(episode["actions"])
        assert {name: demo[f"obs/{name}"].shape[1] for name in KEYS} == dict(zip(KEYS, (3, 4, 2, 10), strict=True))
        following = np.concatenate([demo[f"next_obs/{key}"][()] for key in KEYS], axis=1)
        np.testing.assert_array_equal(following[:-1], episode["observations"][1:])
        np.testing.assert_array_equal(following[-1], episode["final_observation"])
        assert demo["rewards"][()].tolist() == [0.0] * (len(episode["actions"]) - 1) + [1.0]
        assert demo["dones"][()].tolist() == demo["rewards"][()].tolist()
        assert file["mask/train"][()].tolist() == [b"demo_0", b"demo_2"]
        np.testing.assert_array_equal(demo["states"][()], episode["states"])


def test_an_arms_observation_comes_before_the_next_arms_and_the_objects_last(tmp_path) -> None:
    keys = [f"robot{arm}_{key}" for arm in (0, 1) for key in ("eef_pos", "eef_quat", "gripper_qpos")] + ["object"]
    path = write(tmp_path / "x.hdf5", (3,), "transport-ph-low_dim", dims=(59, 14))
    with File(path, "a") as file:
        for place, key in enumerate(keys):
            file[f"data/demo_0/obs/{key}"][...] = place
    (episode,) = SOURCE.task("transport-ph-low_dim").read(path)
    sizes = [3, 4, 2, 3, 4, 2, 41]
    assert episode["observations"][0].tolist() == np.repeat(range(7), sizes).tolist()


def test_states_are_left_out_where_demonstrations_differ_in_them(tmp_path) -> None:
    path = tmp_path / "x.hdf5"
    SOURCE.write(path, [random_episode(3, states=np.zeros((3, n))) for n in (5, 6)], LIFT, {})
    assert all("states" not in episode for episode in SOURCE.task(LIFT).read(path))
    with File(write(tmp_path / "y.hdf5"), "a") as file:
        file["data/demo_1/states"] = np.zeros((8, 5))
    assert all("states" not in episode for episode in SOURCE.task(LIFT).read(tmp_path / "y.hdf5"))


def test_a_filter_key_may_name_demonstrations_that_were_left_out(tmp_path) -> None:
    with File(write(tmp_path / "x.hdf5"), "a") as file:
        file["mask/valid"] = np.array([b"demo_1", b"demo_77"])
    assert [int(episode["mask/valid"]) for episode in SOURCE.task(LIFT).read(tmp_path / "x.hdf5")] == [0, 1]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_half_downloaded_file_is_one_line_and_leaves_no_store(tmp_path, share) -> None:
    path = write(tmp_path / "x.hdf5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "not a readable HDF5 file: it is empty" if not share else "truncated or damaged")


def change(name: str, value: Any) -> Any:
    def edit(file: Any) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return edit


def attribute(place: str, name: str, value: Any) -> Any:
    return lambda file: file[place].attrs.__setitem__(name, value)


DAMAGE = {
    "no data": (change("data", None), "no group 'data'; is it a robomimic file?"),
    "data is an array": (change("data", np.zeros(3)), "data is a dataset, not a group"),
    "no demos": (lambda f: [f["data"].__delitem__(n) for n in list(f["data"])], "no demonstrations"),
    "demo is an array": (change("data/demo_1", np.zeros(3)), "data/demo_1 is a dataset, not a group"),
    "no obs": (change("data/demo_1/obs", None), "no group 'data/demo_1/obs'"),
    "misspelt key": (
        lambda f: f["data/demo_0/obs"].move("object", "objects"),
        "no dataset 'data/demo_0/obs/object' (did you mean 'objects'?)",
    ),
    "no actions": (change("data/demo_0/actions", None), "no dataset 'data/demo_0/actions'"),
    "short rewards": (change("data/demo_1/rewards", np.zeros(3)), "data/demo_1 has 8 actions but 3 rewards"),
    "short obs": (change("data/demo_1/obs/object", np.zeros((4, 10))), "do not fit together"),
    "short next_obs": (
        lambda f: [change(f"data/demo_1/next_obs/{key}", f[f"data/demo_0/next_obs/{key}"][()])(f) for key in KEYS],
        "8 actions but 5 next_obs",
    ),
    "num_samples": (attribute("data/demo_1", "num_samples", 12), "its num_samples is 12; is it cut short?"),
    "empty": (change("data/demo_1/actions", np.zeros((0, 7))), "data/demo_1 has 0 actions"),
    "flat actions": (change("data/demo_0/actions", np.zeros(5)), "2 dims expected"),
    "text": (change("data/demo_0/actions", ["a", "b"]), "not rows of numbers"),
    "one number": (change("data/demo_0/rewards", 1.0), "not rows of numbers"),
    "NaN": (change("data/demo_0/actions", np.full((5, 7), np.nan)), "NaN"),
    "env_args not JSON": (attribute("data", "env_args", "{env_name: Lift"), "env_args is not JSON"),
    "env_args a number": (attribute("data", "env_args", 3.0), "env_args is not JSON"),
    "env_args a list": (attribute("data", "env_args", "[1, 2]"), "no object with names and values"),
    "env_args of another task": (
        attribute("data", "env_args", '{"env_name": "PickPlaceCan"}'),
        "env_args say 'PickPlaceCan', lift-mh-low_dim plays in 'Lift'",
    ),
    "object of another task": (
        lambda f: [change(f"data/demo_0/{g}/object", np.zeros((5, 14)))(f) for g in ("obs", "next_obs")],
        "has 14 dims, Lift has 10; is it the file of another task?",
    ),
    "mask of numbers": (change("mask/train", np.arange(2)), "mask/train holds int64, not names of demonstrations"),
    "mask is an array": (change("mask", np.arange(2)), "mask is a dataset, not a group"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_one_line_that_says_what_is_wrong(tmp_path, kind) -> None:
    edit, said = DAMAGE[kind]
    path = write(tmp_path / "x.hdf5")
    with File(path, "a") as file:
        edit(file)
    assert_refused(path, said, named=kind not in ("NaN", "flat actions"))


def assert_refused(path: Path, said: str, named: bool = True) -> None:
    stores = path.parent / "stores"
    with pytest.raises(DatasetError) as error:
        import_file(task_of(LIFT), path, stores)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value) or not named
    assert not stores.exists() or list(stores.iterdir()) == []


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([], "no episodes"),
        ([random_episode(0)], "has no steps"),
        ([random_episode(3, dims=(9, 7))], "9 numbers of the arms"),
        ([{**random_episode(3), "observations": np.zeros((3, 64, 64, 3), np.uint8)}], "final_observations"),
        ([{**random_episode(3), "mask/train": np.ones(3)}], "mask/train"),
        ([{**random_episode(3), "actions": np.full((3, 7), np.inf)}], "infinity"),
    ],
)
def test_episodes_that_do_not_fit_the_format_are_refused_and_leave_nothing(tmp_path, episodes, said) -> None:
    with pytest.raises(DatasetError, match=said):
        SOURCE.write(tmp_path / "x.hdf5", episodes, LIFT, {})
    assert list(tmp_path.iterdir()) == []


# environments


@pytest.mark.parametrize("task", DIMS)
def test_a_task_has_the_datasets_dims(task) -> None:
    env = SOURCE.task(f"{task}-ph-low_dim").make_env()
    observation, info = env.reset(seed=0)
    assert (observation.shape, env.action_space.shape) == ((DIMS[task][0],), (DIMS[task][1],))
    assert env.observation_space.contains(observation)
    assert info == {"success": False}
    np.testing.assert_array_equal(env.action_space.high, 1.0)  # pyright: ignore[reportAttributeAccessIssue]
    env.close()


def test_an_episode_repeats_by_seed_whatever_ran_before(lift) -> None:
    assert repeats(lift, 12)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["can", "square", "transport", "tool_hang"])
def test_other_tasks_repeat_by_seed_whatever_ran_before(task) -> None:
    assert repeats(SOURCE.task(f"{task}-ph-low_dim").make_env(), 20)


def repeats(env: Any, steps: int) -> bool:
    """Play an episode, another one, then the first again; compare observations, states and rewards bit for bit."""

    def run(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        seen = [env.reset(seed=seed)[0], env.unwrapped.state()]
        for _ in range(steps):
            observation, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape))
            seen += [observation, env.unwrapped.state(), np.array(reward)]
        return seen

    first, other = run(3), run(4)
    np.random.random(17)  # the global stream must not matter
    again = run(3)
    assert not np.array_equal(first[0], other[0])
    return all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


PLAY = f"""
import numpy as np
from understudy.envs.rollouts.factory import EnvFactory
env = EnvFactory({LIFT!r})()
env.reset(seed=9)
print(*env.reset(seed=5)[0].tolist(), *[env.step(np.full(7, 0.3))[0].tolist() for _ in range(3)][-1])
env.close()
"""


@pytest.mark.slow
def test_a_fresh_process_plays_the_same_says_nothing_and_leaves_no_file_in_the_home_folder(lift, tmp_path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PLAY], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, _ = lift.reset(seed=5)
    last = [lift.step(np.full(7, 0.3))[0] for _ in range(3)][-1]
    assert done.stdout.split() == [repr(value) for value in [*first.tolist(), *last.tolist()]]
    assert list(tmp_path.iterdir()) == []


def test_the_states_of_a_file_give_its_observations_bit_for_bit(lift, demos) -> None:
    with File(demos) as file:
        states = [file[f"data/demo_{number}/states"][()] for number in range(3)]
    for episode, rows in zip(SOURCE.task(SCRIPTED).read(demos), states, strict=True):
        seen = np.stack([lift.set_state(row) for row in rows])
        np.testing.assert_array_equal(seen, episode["observations"])


def test_an_episode_ends_when_the_task_is_solved_and_then_only_the_reward_is_zero(played) -> None:
    for episode in played:
        assert episode["rewards"].tolist() == [-1.0] * (len(episode["actions"]) - 1) + [0.0]
        assert episode["terminals"].tolist() == (episode["rewards"] == 0).tolist()


def test_an_episode_goes_on_after_success_when_told_to_and_is_truncated_at_its_limit(played) -> None:
    env = RobosuiteEnv("Lift", None, keys=KEYS, max_steps=3)
    env.terminate_at_success = False
    env.reset(seed=0)
    lifted = env.state()
    lifted[1 + 9 + 2] += 0.2  # the cube's height, after time, seven joints and two fingers
    env.set_state(lifted)
    outcomes = [env.step(np.zeros(7))[1:] for _ in range(3)]
    assert [outcome[0] for outcome in outcomes] == [0.0] * 3
    assert [outcome[1:3] for outcome in outcomes] == [(False, False), (False, False), (False, True)]
    assert outcomes[0][3] == {"success": True}
    env.close()


def old_settings(task: str) -> dict[str, Any]:
    """Return env_args as robosuite 1.4.1 wrote them."""
    made = published_settings(task)
    arm = {key: value for key, value in OSC_POSE.items() if key not in ("gripper", "input_ref_frame")}
    kwargs = {key: value for key, value in made["env_kwargs"].items() if key != "lite_physics"}
    return {**made, "env_version": "1.4.1", "env_kwargs": {**kwargs, "controller_configs": arm}}


def test_a_file_of_robosuite_1_4_plays_like_one_of_1_5(lift) -> None:
    assert_plays_alike(lift, SOURCE.task(LIFT).make_env(settings=old_settings("Lift")), 8)


@pytest.mark.slow
def test_a_two_armed_file_of_robosuite_1_4_plays_like_one_of_1_5() -> None:
    name = "transport-ph-low_dim"
    old = SOURCE.task(name).make_env(settings=old_settings("TwoArmTransport"))
    assert_plays_alike(SOURCE.task(name).make_env(), old, 8)


def assert_plays_alike(first: Any, second: Any, steps: int) -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(first.reset(seed=2)[0], second.reset(seed=2)[0])
    for _ in range(steps):
        action = rng.uniform(-1, 1, first.action_space.shape)
        np.testing.assert_array_equal(first.step(action)[0], second.step(action)[0])
    second.close()


def test_the_environment_is_made_from_the_files_own_settings(tmp_path) -> None:
    slow = published_settings("Lift")
    slow["env_kwargs"]["controller_configs"]["body_parts"]["right"]["output_max"] = [0.01] * 6
    slow["env_kwargs"]["controller_configs"]["body_parts"]["right"]["output_min"] = [-0.01] * 6
    SOURCE.write(tmp_path / "x.hdf5", [random_episode(3)], LIFT, {"environment": slow})
    store = import_file(task_of(LIFT), tmp_path / "x.hdf5", tmp_path / "stores")

    def moved(settings: Any) -> float:
        env = SOURCE.task(LIFT).make_env(settings=settings)
        before = env.reset(seed=0)[0]
        after = [env.step(np.array([1.0, 0, 0, 0, 0, 0, -1]))[0] for _ in range(5)][-1]
        env.close()
        return float(after[0] - before[0])

    assert 0 < 2 * moved(store.manifest.provenance["environment"]) < moved(None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"robots": ["Pandy"]}, "Pandy"),
        ({"controller_configs": "osc.json"}, "controller_configs='osc.json'"),
        ({"controller_configs": {"kp": 150}}, "neither robosuite 1.5's form"),
    ],
)
def test_settings_that_robosuite_does_not_take_are_one_line(change, said) -> None:
    wrong = published_settings("Lift")
    wrong["env_kwargs"] |= change
    with pytest.raises(UserError) as error:
        SOURCE.task(LIFT).make_env(settings=wrong)
    assert said in str(error.value)
    assert "Lift" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_robosuite_one_line_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "robosuite", None)  # as if it were not installed
    with pytest.raises(UserError) as error:
        SOURCE.task(LIFT).make_env()
    assert str(error.value) == f"{LIFT}: its simulator needs 'robosuite'; {to_install('robosuite')}"


@pytest.mark.slow
def test_pictures_show_the_table_below_and_the_wall_above(lift) -> None:
    reason = rendering_available()
    if reason is not None:
        assert "no videos" in reason
        return
    # In a process of its own, as videos are made: mujoco chooses its renderer when it is first imported.
    pool = pool_for(EnvFactory(LIFT, size=96), render=True, processes=1, slots=1)
    picture = pool.run([Command(0, seed=0, frame_skip=1)])[0].frames[0]
    discard_pool(pool)
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    assert picture[60:].mean() > picture[:20].mean() + 50
    assert lift.render() is None


# the scripted expert


def test_the_scripted_expert_lifts_the_cube_though_its_actions_are_disturbed(played) -> None:
    for episode in played:
        assert episode["terminals"][-1]
        assert len(episode["actions"]) < 100
        assert np.abs(episode["executed_actions"] - episode["actions"]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_scripted_expert_solves_lift_nearly_always(noise) -> None:
    solved = [play(AttemptSpec(SCRIPTED, seed=1, noise=noise), number)[1] for number in range(20)]
    assert np.mean(solved) >= 0.95


# robomimic's own code


@pytest.fixture
def theirs_importable(monkeypatch) -> None:
    """Let robomimic be imported."""
    make_importable(monkeypatch)


def test_robomimics_own_dataset_loads_the_same_windows(theirs_importable, demos, played) -> None:
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": KEYS}})
    wanted = {"obs_keys": KEYS, "dataset_keys": ["actions", "rewards", "dones"], "seq_length": 4}
    dataset = SequenceDataset(str(demos), **wanted)
    assert len(dataset) == sum(len(episode["actions"]) for episode in played)
    index = 0
    for episode in played:
        following = np.concatenate([episode["observations"][1:], episode["final_observation"][None]])
        for step in range(len(episode["actions"])):
            window: Any = dataset[index]
            rows = np.minimum(np.arange(step, step + 4), len(following) - 1)
            index += 1
            for group, values in (("obs", episode["observations"]), ("next_obs", following)):
                joined = np.concatenate([window[group][key] for key in KEYS], axis=1)
                np.testing.assert_array_equal(joined, values[rows])
            np.testing.assert_array_equal(window["actions"], episode["actions"][rows])
            np.testing.assert_array_equal(window["rewards"], episode["rewards"][rows] + 1)
            np.testing.assert_array_equal(window["dones"], episode["terminals"][rows])
    train = SequenceDataset(str(demos), **wanted, filter_by_attribute="train", hdf5_cache_mode="low_dim")
    assert len(train) == len(played[0]["actions"]) + len(played[2]["actions"])


def robomimics_environment(path: Path) -> Any:
    import robomimic.utils.env_utils as EnvUtils
    import robomimic.utils.obs_utils as ObsUtils

    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": KEYS}})
    with File(path) as file:
        env_args = json.loads(file["data"].attrs["env_args"])
    return EnvUtils.create_env_from_metadata(env_args)


def joined(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([observation[key] for key in KEYS], dtype=np.float32)


def test_robomimics_own_environment_is_made_from_the_file_and_is_the_same_task(
    theirs_importable, lift, demos, played
) -> None:
    theirs = robomimics_environment(demos)
    np.random.seed(11)
    np.testing.assert_array_equal(joined(theirs.reset()), lift.reset(seed=11)[0])
    for action in played[0]["executed_actions"][:8]:
        observation, reward, _, _ = theirs.step(action.astype(np.float64))
        ours, our_reward, _, _, info = lift.step(action)
        np.testing.assert_array_equal(theirs.get_state()["states"], lift.state())
        assert (reward - 1, theirs.is_success()["task"]) == (our_reward, info["success"])
        np.testing.assert_allclose(joined(observation), ours, atol=5e-3)  # theirs is 2 ms behind its state
    for state in played[0]["states"][::5]:
        np.testing.assert_array_equal(joined(theirs.reset_to({"states": state})), lift.set_state(state))


@pytest.mark.slow
def test_a_file_that_robomimics_own_scripts_made_is_read_the_same(theirs_importable, demos, played, tmp_path) -> None:
    from robomimic.scripts.dataset_states_to_obs import dataset_states_to_obs
    from robomimic.scripts.split_train_val import split_train_val_from_hdf5

    raw = tmp_path / "demo.hdf5"
    raw.write_bytes(demos.read_bytes())
    env = SOURCE.task(SCRIPTED).make_env()
    env.reset(seed=0)
    inner: Any = env.unwrapped
    with File(raw, "a") as file:
        for name, demo in file["data"].items():
            del demo["obs"], demo["next_obs"], demo["executed_actions"]
            demo.attrs["model_file"] = inner.robosuite.sim.model.get_xml()
            demo["actions"][...] = played[int(name[-1])]["executed_actions"]
    options = {"camera_names": [], "camera_height": 84, "camera_width": 84, "shaped": False, "n": None}
    flags = {"copy_rewards": False, "copy_dones": False, "compress": True, "exclude_next_obs": False, "done_mode": 2}
    dataset_states_to_obs(types.SimpleNamespace(dataset=str(raw), output_name="low_dim.hdf5", **options, **flags))
    split_train_val_from_hdf5(str(tmp_path / "low_dim.hdf5"), val_ratio=0.34)
    store = import_file(task_of(SCRIPTED), tmp_path / "low_dim.hdf5", tmp_path / "stores")
    for number, episode in enumerate(played):
        rows = slice(int(store.starts[number]), int(store.starts[number] + store.lengths[number]))
        # the model went through XML, which rounds the bodies' frames
        np.testing.assert_allclose(store.column("observations")[rows], episode["observations"], atol=1e-6)
        np.testing.assert_array_equal(store.column("actions")[rows], episode["executed_actions"])
        np.testing.assert_array_equal(store.column("states")[rows], episode["states"].astype(np.float32))
        np.testing.assert_array_equal(store.column("terminals")[rows], episode["terminals"])
    assert store.episode_column("mask/valid").sum() == 1
    np.testing.assert_array_equal(store.episode_column("mask/train") + store.episode_column("mask/valid"), 1)
