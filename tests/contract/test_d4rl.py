"""D4RL's names, scores and files. The golden file holds the numbers and addresses of d4rl 1.1's `infos.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from understudy.envs.sources.d4rl import files as d4rl_files
from understudy.envs.sources.d4rl.source import D4RL, MADE_HERE
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import import_file
from understudy.errors import DatasetError

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "d4rl_published.json").read_text())
DIMS = {"halfcheetah": (17, 6), "hopper": (11, 3), "antmaze": (29, 8), "pen": (45, 24), "kitchen": (60, 9)}
SOURCE = D4RL()


def rows_of(task: str, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return arrays in D4RL's layout whose episodes end by time-outs and whose next observations follow."""
    rng = np.random.default_rng(0)
    count, (observed, acted) = sum(lengths), DIMS[task]
    ends = np.isin(np.arange(count), np.cumsum(lengths) - 1)
    observations = rng.normal(size=(count, observed)).astype(np.float32)
    following = np.roll(observations, -1, axis=0)
    following[ends] = rng.normal(size=(len(lengths), observed))
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (count, acted)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": np.zeros(count, bool),
        "timeouts": ends,
        "next_observations": following,
    }


def save(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def episodes_of(path: Path, name: str) -> list[dict[str, np.ndarray]]:
    return [dict(episode) for episode in SOURCE.task(name).read(path)]


def same(first: list, second: list) -> bool:
    """Compare episodes bit for bit, as the store keeps them."""
    assert [set(a) for a in first] == [set(b) for b in second]
    pairs = [(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a]
    return all(np.array_equal(np.float32(a), np.float32(b)) for a, b in pairs)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_names_have_d4rls_scores_address_and_time_limit(name) -> None:
    facts = PUBLISHED[name]
    assert task_of(name).source.name == "d4rl"
    remote = SOURCE.task(name).remote
    assert remote is not None
    assert (remote.url, remote.sha256) == (facts["url"], None)
    np.testing.assert_allclose(
        SOURCE.task(name).normalized_score(np.array([facts["random"], facts["expert"]])), [0, 100], atol=1e-9
    )
    assert SOURCE.task(name).max_episode_steps == facts["steps"]


def test_every_known_name_is_published() -> None:
    assert set(SOURCE.known_names()) <= set(PUBLISHED)


@pytest.mark.parametrize("kind", MADE_HERE)
def test_names_of_data_made_here_match_and_are_published_nowhere(kind) -> None:
    for form in ("hopper-{}-v2", "pen-{}-v1", "antmaze-large-{}-v2", "kitchen-{}-v0", "kitchen-mixed-{}-v0"):
        assert SOURCE.matches(form.format(kind))
        assert SOURCE.task(form.format(kind)).remote is None
        assert SOURCE.task(form.format(kind)).max_episode_steps > 0


@pytest.mark.parametrize(
    "name", ["hopper-medium-v3", "antmaze-medium-v2", "antmaze-umaze-play-v2", "kitchen-complete-v1", "pen-medium-v1"]
)
def test_names_that_d4rl_does_not_have_are_refused_with_the_nearest(name) -> None:
    assert not SOURCE.matches(name)
    with pytest.raises(DatasetError) as error:
        print(SOURCE.task(name).max_episode_steps)
    assert "did you mean" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mujoco_file_as_published_is_read_whole(tmp_path) -> None:
    rows = rows_of("halfcheetah", (4, 6, 3))
    rows["terminals"][9], rows["timeouts"][9] = True, False
    rng = np.random.default_rng(1)
    infos = {"infos/qpos": rng.normal(size=(13, 9)), "infos/qvel": rng.normal(size=(13, 9))}
    more = {"infos/action_log_probs": rng.normal(size=13), "metadata/policy/fc0/weight": rng.normal(size=(17, 5))}
    file = save(tmp_path / "x.hdf5", {**rows, **infos, **more})
    with h5py.File(file, "a") as handle:
        handle["metadata/algorithm"] = np.bytes_(b"SAC")
    store = import_file(task_of("halfcheetah-medium-v2"), file, tmp_path / "stores")
    assert store.lengths.tolist() == [4, 6, 3]
    for name in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(store.column(name), rows[name])
    np.testing.assert_array_equal(store.episode_column("final_observations"), rows["next_observations"][[3, 9, 12]])
    np.testing.assert_array_equal(store.column("qpos"), infos["infos/qpos"].astype(np.float32))
    assert set(store.manifest.columns) == {"observations", "actions", "rewards", "terminals", "qpos", "qvel"}


def test_an_antmaze_file_as_published_keeps_its_goals_and_its_terminals_end_nothing(tmp_path) -> None:
    rows = rows_of("antmaze", (5, 4))
    del rows["next_observations"]
    rows["terminals"][[1, 2, 7]] = True
    rows["rewards"] = rows["terminals"].astype(np.float32)
    goals = np.repeat([[0.5, 8.25], [0.75, 8.5]], [5, 4], axis=0).astype(np.float32)
    file = save(tmp_path / "x.hdf5", {**rows, "infos/goal": goals}, compression="gzip")
    store = import_file(task_of("antmaze-umaze-diverse-v2"), file, tmp_path / "stores")
    assert store.lengths.tolist() == [5, 4]
    np.testing.assert_array_equal(store.column("rewards"), rows["rewards"] - 1)
    np.testing.assert_array_equal(store.column("goals"), goals)
    assert store.manifest.provenance["rewards"] == "minus 1"


def test_a_kitchen_file_as_published_ends_at_terminals_and_the_time_limit(tmp_path) -> None:
    rows = rows_of("kitchen", (300, 20))
    ends = rows.pop("timeouts")
    del rows["next_observations"]
    rows["terminals"] = ends.astype(np.float32)
    rows["rewards"] = rows["rewards"].reshape(-1, 1)
    store = import_file(task_of("kitchen-mixed-v0"), save(tmp_path / "x.hdf5", rows), tmp_path / "stores")
    assert store.lengths.tolist() == [280, 20, 20]
    assert store.column("rewards").shape == (320,)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v2"])
@pytest.mark.parametrize("missing", [(), ("timeouts",), ("next_observations",), ("timeouts", "next_observations")])
def test_episodes_are_the_same_whatever_the_block_that_is_read_at_once(tmp_path, monkeypatch, name, missing) -> None:
    rows = rows_of(name.split("-")[0], (4, 9, 1, 1, 30, 2))
    rows["terminals"][[3, 20, 21]] = True
    file = save(tmp_path / "x.hdf5", {key: array for key, array in rows.items() if key not in missing})
    whole = episodes_of(file, name)
    for rows_at_once in (1, 2, 3, 7, 46, 47):
        monkeypatch.setattr(d4rl_files, "BLOCK_ROWS", rows_at_once)
        assert same(whole, episodes_of(file, name)), rows_at_once


def test_reading_and_writing_hold_a_small_part_of_a_large_file(tmp_path) -> None:
    def many() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(500):
            yield {**rows, "final_observation": rows["observations"][0]}

    rows = {key: rows_of("halfcheetah", (1000,))[key] for key in ("observations", "actions", "rewards", "terminals")}
    tracemalloc.start()
    SOURCE.write(tmp_path / "x.hdf5", many(), "halfcheetah-policy-v2", {})
    assert sum(1 for _ in SOURCE.task("halfcheetah-policy-v2").read(tmp_path / "x.hdf5")) == 500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "x.hdf5").stat().st_size / 2


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def some_episodes(draw) -> list[dict[str, np.ndarray]]:
    final, extra = draw(st.booleans()), draw(st.sampled_from(["", "qpos", "goals", "goal", "größe"]))
    made = []
    for length in draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)):
        observed, acted = DIMS["antmaze"]
        episode = {
            "observations": draw(arrays(np.float32, (length, observed), elements=NUMBERS, fill=NUMBERS)),
            "actions": draw(arrays(np.float32, (length, acted), elements=NUMBERS, fill=NUMBERS)),
            "rewards": draw(arrays(np.float32, length, elements=st.sampled_from([-1.0, 0.0]))),
            "terminals": draw(arrays(np.bool_, length)),
        }
        if final:
            episode["final_observation"] = draw(arrays(np.float32, observed, elements=NUMBERS, fill=NUMBERS))
        if extra:
            episode[extra] = draw(arrays(np.float32, (length, 2), elements=NUMBERS, fill=NUMBERS))
        made.append(episode)
    return made


@settings(max_examples=40, deadline=None)
@given(some_episodes())
def test_a_written_file_gives_the_same_episodes_back(tmp_path_factory, episodes) -> None:
    path = tmp_path_factory.mktemp("d4rl") / "x.hdf5"
    SOURCE.write(path, episodes, "antmaze-umaze-policy-v2", {"made_by": "a test"})
    assert same(episodes, episodes_of(path, "antmaze-umaze-policy-v2"))
    assert SOURCE.task("antmaze-umaze-policy-v2").provenance(path)["made_by"] == "a test"
    d4rl_files.write_episodes(path, episodes, reward_shift=0.0, loose=False, made_by="")
    assert same(episodes, list(d4rl_files.read_episodes(path)))  # terminals inside an episode, in any other task


def test_a_written_file_has_d4rls_layout_and_nothing_that_its_readers_take_for_a_column(tmp_path) -> None:
    rows = rows_of("hopper", (4, 3))
    rows["terminals"][3], rows["timeouts"][3] = True, False
    original = save(tmp_path / "a.hdf5", {**rows, "infos/qpos": np.ones((7, 6)), "infos/qvel": np.ones((7, 6))})
    SOURCE.write(tmp_path / "b.hdf5", episodes_of(original, "hopper-medium-v2"), "hopper-policy-v2", {})
    with h5py.File(original) as first, h5py.File(tmp_path / "b.hdf5") as second:
        names: list[str] = []
        second.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert sorted(names) == sorted([*rows, "infos/qpos", "infos/qvel"])
        for name in names:
            np.testing.assert_array_equal(first[name][()], second[name][()], err_msg=name)  # pyright: ignore
        assert [str(second[name].dtype) for name in ("rewards", "terminals")] == ["float32", "bool"]  # pyright: ignore
        assert "made_by" in second["metadata"].attrs


def test_without_a_final_observation_the_file_has_no_next_observations_and_keeps_its_ends(tmp_path) -> None:
    episodes = episodes_of(save(tmp_path / "a.hdf5", rows_of("hopper", (4, 3))), "hopper-medium-v2")
    del episodes[1]["final_observation"]
    SOURCE.write(tmp_path / "b.hdf5", episodes, "hopper-policy-v2", {})
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert "next_observations" not in file
    assert [len(episode["actions"]) for episode in episodes_of(tmp_path / "b.hdf5", "hopper-policy-v2")] == [4, 3]


def test_an_antmaze_file_holds_d4rls_rewards_and_a_time_out_at_every_end(tmp_path) -> None:
    rows = rows_of("antmaze", (3, 2))
    episodes = episodes_of(save(tmp_path / "a.hdf5", {**rows, "rewards": np.zeros(5)}), "antmaze-umaze-v2")
    episodes[0]["rewards"], episodes[0]["terminals"] = np.array([-1.0, 0, 0]), np.array([False, True, True])
    SOURCE.write(tmp_path / "b.hdf5", episodes, "antmaze-umaze-policy-v2", {})
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert file["rewards"][()].tolist() == [0, 1, 1, 0, 0]  # pyright: ignore
        assert file["timeouts"][()].tolist() == [False, False, True, False, True]  # pyright: ignore
    episodes[1]["rewards"] = np.array([0.1, 1e-9])
    with pytest.raises(DatasetError, match="episode 1: rewards plus 1 are not exact"):
        SOURCE.write(tmp_path / "c.hdf5", episodes, "antmaze-umaze-policy-v2", {})
    assert not list(tmp_path.glob("*c.hdf5*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": None}, "no dataset 'actions'"),
        ({"observations": np.zeros((13, 11))}, "observations have 11 dims and actions 6, halfcheetah-medium-v2 has 17"),
        ({"actions": np.zeros((13, 7))}, "is it the file of another task?"),
        ({"observations": np.zeros((13, 17, 1))}, "2 dims"),
        ({"terminals": np.zeros(9, bool)}, "terminals has 9 rows, actions have 13; the file is cut short"),
        ({"timeouts": np.zeros(14, bool)}, "timeouts has 14 rows"),
        ({"infos/qpos": np.zeros((2, 9))}, "qpos has 2 rows"),
        ({"rewards": np.zeros((13, 2))}, "one number a row"),
        ({"rewards": np.array([b"x"] * 13, dtype=h5py.string_dtype())}, "rewards holds object"),
        ({"rewards": np.zeros(13, dtype=[("a", "f4")])}, "not rows of numbers"),
        ({"actions": np.float32(3)}, "not rows of numbers"),
        ({"actions": None, "actions/left": np.zeros(13)}, "actions is a group"),
        ({"next_observations": np.zeros((13, 3))}, "not shaped like observations"),
        ({"observations": np.full((13, 17), np.inf)}, "NaN or infinity"),
    ],
)
def test_wrong_arrays_are_one_line_that_names_the_file_or_episode(tmp_path, changes, said) -> None:
    arrays = {**rows_of("halfcheetah", (6, 7)), **changes}
    file = save(tmp_path / "x.hdf5", {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DatasetError) as error:
        import_file(task_of("halfcheetah-medium-v2"), file, tmp_path / "stores")
    assert said in str(error.value)
    assert str(file) in str(error.value) or "episode 0" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_damaged_inside_is_one_line(tmp_path) -> None:
    file = save(tmp_path / "x.hdf5", rows_of("halfcheetah", (1000,)), compression="gzip")
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = bytes(2000)
    file.write_bytes(data)
    with pytest.raises(DatasetError) as error:
        import_file(task_of("halfcheetah-medium-v2"), file, tmp_path / "stores")
    assert str(file) in str(error.value)
    assert "damaged" in str(error.value)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from understudy.envs.sources.d4rl.source import D4RL
from understudy.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
length = 3000
episode = {"observations": np.zeros((length, 17)), "actions": np.zeros((length, 6)), "rewards": np.zeros(length),
           "terminals": np.zeros(length)}
try:
    D4RL().write(Path(sys.argv[1]), (dict(episode) for _ in range(40)), "halfcheetah-policy-v2", {})
except StorageError as error:
    print("refused:", error)
"""


def test_a_full_disk_is_one_line_and_leaves_the_file_that_was_there(tmp_path) -> None:
    place = tmp_path / "x.hdf5"
    place.write_text("older")
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(place)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"refused: no space left while writing {place}")
    assert [item.name for item in tmp_path.iterdir()] == ["x.hdf5"]
    assert place.read_text() == "older"
