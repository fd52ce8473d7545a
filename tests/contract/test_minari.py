"""Minari: the same arrays whoever writes and whoever reads, and environments made without trusting the file."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.source_examples import assert_same_episodes

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.registered import registered_spec
from understudy.envs.sources.minari.observed import flatten_rows, unflatten_rows
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.errors import DatasetError, UnderstudyError, UserError
from understudy.registry import sources

SOURCE = sources.get("minari")
PENDULUM, MAZE = "minari:pendulum/random-v0", "minari:pointmaze/random-v0"


def collect(env: gymnasium.Env, name: str, folder: Path, kind: str = "hdf5", **facts):
    """Collect two random episodes of 30 steps or less with Minari's own collector, into `folder/<id>`."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        collector = minari.DataCollector(env, data_format=kind)
        for seed in range(2):
            collector.reset(seed=seed)
            collector.action_space.seed(seed)
            over = False
            while not over:
                _, _, terminated, truncated, _ = collector.step(collector.action_space.sample())
                over = terminated or truncated
        return collector.create_dataset(name.removeprefix("minari:"), **facts)


def maze(**arguments: Any) -> gymnasium.Env:
    registered_spec(MAZE, "PointMaze_UMaze-v3")
    return gymnasium.make("PointMaze_UMaze-v3", max_episode_steps=30, continuing_task=False, **arguments)


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """Return a folder of datasets that Minari made: a pendulum in each format, and a maze."""
    folder = tmp_path_factory.mktemp("minari")
    for kind in ("hdf5", "arrow", "parquet"):
        env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
        name = PENDULUM if kind == "hdf5" else f"minari:pendulum/{kind}-v0"
        facts = {"ref_min_score": -1200.0, "ref_max_score": -200.0} if kind == "hdf5" else {}
        collect(env, name, folder, kind, algorithm_name="random", **facts)
    collect(maze(), MAZE, folder, eval_env=maze().spec)
    return folder


def folder_of(name: str, root: Path) -> Path:
    return root / name.removeprefix("minari:")


@pytest.mark.parametrize("kind", ["random", "arrow", "parquet"])
def test_episodes_are_minaris_own_in_every_format(collected, kind) -> None:
    name = f"minari:pendulum/{kind}-v0"
    dataset = minari.MinariDataset(folder_of(name, collected) / "data")
    read = list(SOURCE.task(name).read(folder_of(name, collected)))
    assert len(read) == dataset.total_episodes == 2
    for ours, theirs in zip(read, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(ours["observations"], theirs.observations[:-1])
        np.testing.assert_array_equal(ours["final_observation"], theirs.observations[-1])
        np.testing.assert_array_equal(ours["actions"], theirs.actions)
        np.testing.assert_array_equal(ours["rewards"], theirs.rewards)
        np.testing.assert_array_equal(ours["terminals"], theirs.terminations)
    store = import_file(task_of(name), folder_of(name, collected), collected / "stores")
    assert store.path.name == f"minari:pendulum__{kind}-v0"
    assert store.manifest.provenance["algorithm_name"] == "random"


def test_a_goal_dict_is_one_vector_with_the_goal_in_it_and_the_environment_gives_the_same(collected) -> None:
    folder = folder_of(MAZE, collected)
    dataset = minari.MinariDataset(folder / "data")
    store = import_file(task_of(MAZE), folder, collected / "stores", ImportOptions(overwrite=True))
    looks = [
        np.asarray(spaces.flatten(dataset.observation_space, {key: value[t] for key, value in looks.items()}))
        for looks, steps in ((item.observations, len(item.rewards)) for item in dataset.iterate_episodes())
        for t in range(steps)
    ]
    np.testing.assert_array_equal(store.column("observations"), np.stack(looks).astype(np.float32))
    note = store.manifest.provenance
    assert note["observation"] == ["achieved_goal [2]", "desired_goal [2]", "observation [4]"]
    env = EnvFactory(MAZE, settings=json.dumps(note["environment"]))()
    assert env.observation_space.shape == (8,)
    for number, start in enumerate(store.starts):  # the collector's seeds were 0 and 1
        observation, _ = env.reset(seed=number)
        np.testing.assert_array_equal(observation.astype(np.float32), store.column("observations")[start])
        observation, _, _, _, info = env.step(store.column("actions")[start])
        np.testing.assert_array_equal(observation.astype(np.float32), store.column("observations")[start + 1])
        assert info["success"] in (False, True)


@pytest.mark.parametrize("name", [PENDULUM, MAZE])
def test_minari_reads_what_is_written_here_with_spaces_and_environment(collected, tmp_path, monkeypatch, name) -> None:
    source = folder_of(name, collected)
    SOURCE.write(folder_of(name, tmp_path), SOURCE.task(name).read(source), name, SOURCE.task(name).provenance(source))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    ours, theirs = minari.load_dataset(name.removeprefix("minari:")), minari.MinariDataset(source / "data")
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert (ours.env_spec, ours.total_steps) == (theirs.env_spec, theirs.total_steps)
    recovered = ours.recover_environment().spec
    assert recovered is not None
    assert recovered.id == json.loads(ours.storage.metadata["env_spec"])["id"]
    for one, other in zip(ours.iterate_episodes(), theirs.iterate_episodes(), strict=True):
        for key in ("actions", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
        np.testing.assert_array_equal(one.rewards, other.rewards.astype(np.float32))
        np.testing.assert_array_equal(flatten_rows(ours.observation_space, one.observations),
                                      flatten_rows(theirs.observation_space, other.observations))  # fmt: skip
    assert sorted(minari.list_local_datasets()) == [name.removeprefix("minari:")]


@pytest.mark.parametrize("name", ["minari:pendulum/scripted-v0", "lift-mh-low_dim", "minari:my/own-v3"])
def test_arrays_of_any_task_become_a_dataset(tmp_path, name) -> None:
    episodes = [make_episode(4, 3, 1, seed) for seed in range(2)]
    SOURCE.write(tmp_path / "out", episodes, name, {"made_by": "a test"})
    dataset = minari.MinariDataset(tmp_path / "out" / "data")
    assert dataset.observation_space.shape == (3,)
    assert (dataset.env_spec is not None) == ("pendulum" in name)
    assert_same_episodes(episodes, SOURCE.task("minari:x/y-v0").read(tmp_path / "out"))


def make_episode(steps: int, dims: int, actions: int, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    looks = (rng.normal(size=(steps + 1, dims)) * scale).astype(np.float32)
    return {
        "observations": looks[:-1],
        "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": rng.random(steps) < 0.3,
        "final_observation": looks[-1],
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dims=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_round_trips_are_exact(tmp_path_factory, lengths, dims, scale) -> None:
    folder = tmp_path_factory.mktemp("round") / "données é"
    episodes = [make_episode(length, dims, 2, number, scale) for number, length in enumerate(lengths)]
    SOURCE.write(folder, episodes, "minari:x/y-v0", {})
    assert_same_episodes(episodes, SOURCE.task("minari:x/y-v0").read(folder))


def test_rows_are_flattened_as_gymnasium_does_and_back() -> None:
    space = spaces.Dict(
        goal=spaces.Box(-1, 1, (2, 2), np.float32),
        kind=spaces.Discrete(3, start=1),
        pair=spaces.Tuple((spaces.Box(0, 1, (), np.float64), spaces.MultiBinary(4), spaces.MultiDiscrete([2, 3]))),
    )
    space.seed(0)
    looks = [space.sample() for _ in range(6)]
    rows = {
        "goal": np.stack([look["goal"] for look in looks]),
        "kind": np.stack([look["kind"] for look in looks]),
        "pair": tuple(np.stack([look["pair"][i] for look in looks]) for i in range(3)),
    }
    flat = flatten_rows(space, rows)
    np.testing.assert_array_equal(flat, np.stack([np.asarray(spaces.flatten(space, look)) for look in looks]))
    np.testing.assert_array_equal(flatten_rows(space, unflatten_rows(space, flat)), flat)


def test_scores_are_between_the_files_reference_scores(collected) -> None:
    environment = SOURCE.task(PENDULUM).provenance(folder_of(PENDULUM, collected))["environment"]
    np.testing.assert_allclose(SOURCE.task(PENDULUM).normalized_score([-1200, -700, -200], environment), [0, 50, 100])
    assert SOURCE.task(PENDULUM).normalized_score(np.zeros(2)) is None


HOSTILE = [
    ({"entry_point": "os:system"}, None),
    ({"id": "nowhere.hostile:Evil-v0"}, "wants a module imported"),
    ({"id": "Evil-v0", "entry_point": "os:system"}, "registered here"),
    ({"kwargs": {"g": "/etc/passwd"}}, "not followed"),
    ({"kwargs": {"nonsense": 1}}, "cannot be made"),
    ({"kwargs": [1]}, "cannot be understood"),
    ({"additional_wrappers": [{"name": "system", "entry_point": "os:system", "kwargs": {}}]}, "wants the wrapper"),
    ({"additional_wrappers": [{"name": "FlattenObservation", "entry_point": "os:x", "kwargs": {}}]}, "the wrapper"),
    ({"additional_wrappers": [{"name": "RecordVideo", "entry_point": "gymnasium.wrappers.rendering:RecordVideo",
                               "kwargs": {"video_folder": "x"}}]}, "wants the wrapper"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), HOSTILE)
def test_a_hostile_env_spec_runs_nothing_but_what_is_registered_here(collected, monkeypatch, changes, said) -> None:
    monkeypatch.setattr("os.system", lambda *_, **__: pytest.fail("ran"))
    environment = dict(SOURCE.task(PENDULUM).provenance(folder_of(PENDULUM, collected))["environment"])
    environment["env_spec"] = json.dumps({**json.loads(environment["env_spec"]), **changes})
    if said is None:
        env = SOURCE.task(PENDULUM).make_env(settings=environment)
        assert type(env.unwrapped).__module__.startswith("gymnasium.")
        return
    with pytest.raises(UserError) as error:
        SOURCE.task(PENDULUM).make_env(settings=environment)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_spaces_is_read_by_the_registered_environments_and_not_by_its_import_path(
    collected, tmp_path
) -> None:
    folder = copied(collected, tmp_path, observation_space=None, action_space=None)
    assert len(list(SOURCE.task(PENDULUM).read(folder))) == 2
    spec = json.dumps({"id": "Evil-v0", "entry_point": "os:system", "kwargs": {}})
    folder = copied(collected, tmp_path / "evil", observation_space=None, env_spec=spec)
    with pytest.raises(UserError, match="registered here"):
        list(SOURCE.task(PENDULUM).read(folder))


def test_environments_of_another_shape_or_of_no_spec_are_one_line(collected) -> None:
    environment = dict(SOURCE.task(MAZE).provenance(folder_of(MAZE, collected))["environment"])
    pendulum = SOURCE.task(PENDULUM).provenance(folder_of(PENDULUM, collected))["environment"]
    cases = [
        ({**environment, "eval_env_spec": pendulum["env_spec"]}, "the data are of"),
        ({"observation_space": environment["observation_space"]}, "names no environment"),
        (None, "import the dataset first"),
    ]
    for settings_, said in cases:
        with pytest.raises(UserError, match=said) as error:
            SOURCE.task(MAZE).make_env(settings=settings_)
        assert "\n" not in str(error.value)


def copied(collected: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of the pendulum dataset with other metadata; None removes a key."""
    shutil.copytree(folder_of(PENDULUM, collected), target / "x")
    file = target / "x" / "data" / "metadata.json"
    metadata = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))
    return target / "x"


def box(**changes: Any) -> str:
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [1], "low": [-1.0], "high": [1.0], **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"total_steps": 61}, "cut short"),
        ({"total_episodes": 3}, "episode_2"),
        ({"total_episodes": None}, "no 'total_episodes' in it"),
        ({"total_episodes": "many"}, "says something else than Minari does"),
        ({"total_episodes": 0}, "no episodes"),
        ({"minari_version": "9.0"}, "made by Minari '9.0'"),
        ({"data_format": "zarr"}, "data_format 'zarr'"),
        ({"observation_space": '{"type": "Cube"}'}, "observation_space is no space that Minari knows"),
        ({"observation_space": "{"}, "observation_space is no space that Minari knows"),
        ({"observation_space": box(shape=[7])}, "observation_space is no space that Minari knows"),
        ({"action_space": '{"type": "Discrete", "n": 3, "start": 0}'}, "continuous"),
        ({"action_space": box(dtype="uint8", low=[0], high=[1])}, "continuous"),
    ],
)
def test_wrong_metadata_is_one_line(collected, tmp_path, changes, said) -> None:
    folder = copied(collected, tmp_path, **changes)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(PENDULUM), folder, tmp_path / "stores")
    assert said in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminations"])
def test_a_missing_or_short_array_is_one_line(collected, tmp_path, key) -> None:
    for number, change in enumerate(("drop", "cut", "text", "number")):
        folder = copied(collected, tmp_path / str(number))
        with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
            values = np.asarray(file[f"episode_1/{key}"])
            del file[f"episode_1/{key}"]
            others = {"cut": values[:9], "text": np.array([b"x"] * len(values)), "number": np.float64(3.0)}
            if change != "drop":
                file[f"episode_1/{key}"] = others[change]
        with pytest.raises(DatasetError) as error:
            import_file(task_of(PENDULUM), folder, tmp_path / "stores")
        assert "episode" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["random", "arrow", "parquet"])
def test_a_truncated_file_is_one_line(collected, tmp_path, kind, share) -> None:
    shutil.copytree(collected / "pendulum" / f"{kind}-v0", tmp_path / "x")
    name = {"random": "main_data.hdf5", "arrow": "1/part-0.arrow", "parquet": "1/part-0.parquet"}[kind]
    for file in (tmp_path / "x" / "data" / name, tmp_path / "x" / "data" / "metadata.json"):
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        with pytest.raises(DatasetError) as error:
            import_file(task_of(PENDULUM), tmp_path / "x", tmp_path / "stores")
        assert str(tmp_path / "x") in str(error.value)
        assert "\n" not in str(error.value)


def test_folders_of_something_else_and_of_many_datasets_are_one_line(collected, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no data here")
    for path, said in ((tmp_path / "empty", "no metadata.json"), (tmp_path / "text", "no metadata.json"),
                       (collected / "pendulum", "holds 3 datasets")):  # fmt: skip
        with pytest.raises(DatasetError, match=said):
            import_file(task_of(PENDULUM), path, tmp_path / "stores")


def test_a_failed_write_leaves_nothing_and_a_second_one_replaces_the_first(tmp_path) -> None:
    def breaking():
        yield make_episode(3, 2, 1)
        raise DatasetError("the source broke")

    with pytest.raises(DatasetError, match="the source broke"):
        SOURCE.write(tmp_path / "x", breaking(), "minari:x/y-v0", {})
    assert list(tmp_path.iterdir()) == []
    for seed in (1, 2):
        SOURCE.write(tmp_path / "x", [make_episode(3, 2, 1, seed)], "minari:x/y-v0", {})
    assert_same_episodes([make_episode(3, 2, 1, 2)], SOURCE.task("minari:x/y-v0").read(tmp_path / "x"))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_dataset_that_cannot_be_fetched_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnderstudyError) as error:
        SOURCE.task("minari:nowhere/none-v0").download(tmp_path)
    assert "minari:nowhere/none-v0" in str(error.value)
    assert "\n" not in str(error.value)
