"""The episode store: round trips, atomic writing, and one clear line for every kind of damage."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.envs.store.finding import find_store, list_stores
from understudy.envs.store.inspection import describe_store, text_histogram
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.verification import verify_store
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.views import StoreView
from understudy.errors import DatasetError
from understudy.spec.data import DataSpec


def episode(steps: int = 5, seed: int = 0, dims: int = 3, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {
        "observations": rng.normal(size=(steps, dims)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.arange(steps) == steps - 1,
        "final_observation": rng.normal(size=dims).astype(np.float32),
    }
    return {**made, **changes}


def write(path: Path, episodes, **options) -> EpisodeStore:
    with StoreWriter(path, name=path.name, source="test", env_id="none", **options) as writer:
        for item in episodes:
            writer.add_episode(item)
    return EpisodeStore.open(path)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_what_is_written_is_read_back(tmp_path_factory, lengths, dims, pixels) -> None:
    episodes = [episode(n, seed=i, dims=dims) for i, n in enumerate(lengths)]
    if pixels:
        rng = np.random.default_rng(0)
        for item in episodes:
            item["observations"] = rng.integers(0, 256, (len(item["actions"]), 4, 4, 3), dtype=np.uint8)
            item["final_observation"] = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    store = write(tmp_path_factory.mktemp("data") / "x", episodes)
    assert store.lengths.tolist() == lengths
    assert store.starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    for name in ("observations", "actions", "rewards", "terminals"):
        expected = np.concatenate([item[name] for item in episodes])
        np.testing.assert_array_equal(store.column(name), expected)
    finals = np.stack([item["final_observation"] for item in episodes])
    np.testing.assert_array_equal(store.episode_column("final_observations"), finals)
    for name in ("observations", "actions"):
        numbers, values = store.manifest.statistics[name], store.column(name).reshape(sum(lengths), -1)
        values = values.astype(np.float64)
        np.testing.assert_allclose(numbers["mean"], values.mean(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(numbers["std"], values.std(axis=0), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(numbers["max"], values.max(axis=0))


def test_columns_are_read_only_views_of_the_mapped_file(tmp_path) -> None:
    observations = write(tmp_path / "x", [episode(50)]).column("observations")
    assert not observations.flags.writeable
    assert not observations.flags.owndata
    base = observations
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert "pyarrow" in type(base).__module__


def test_equal_data_have_equal_hashes_and_other_data_other_ones(tmp_path) -> None:
    first = write(tmp_path / "a", [episode(5, 0), episode(6, 1)]).manifest
    same = write(tmp_path / "b", [episode(5, 0), episode(6, 1)], provenance={"file": "another"}).manifest
    swapped = write(tmp_path / "c", [episode(6, 1), episode(5, 0)]).manifest
    assert first.content_hash == same.content_hash != swapped.content_hash


def test_the_same_rows_cut_into_other_episodes_have_another_hash(tmp_path) -> None:
    whole = episode(6)
    del whole["final_observation"]
    halves = [{name: rows[part] for name, rows in whole.items()} for part in (slice(0, 3), slice(3, 6))]
    assert write(tmp_path / "a", [whole]).manifest.content_hash != write(tmp_path / "b", halves).manifest.content_hash


def test_an_exception_while_writing_leaves_nothing(tmp_path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        StoreWriter(tmp_path / "x", name="x", source="t", env_id="e") as out,
    ):
        out.add_episode(episode())
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_there_is_kept_unless_overwriting_is_asked_for(tmp_path) -> None:
    before = write(tmp_path / "x", [episode(seed=1)]).manifest.content_hash
    with pytest.raises(DatasetError, match="exists already"):
        write(tmp_path / "x", [episode(seed=2)])
    assert EpisodeStore.open(tmp_path / "x").manifest.content_hash == before
    assert write(tmp_path / "x", [episode(seed=2)], overwrite=True).manifest.content_hash != before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import *
with StoreWriter({str(tmp_path / "x")!r}, name="x", source="t", env_id="e") as out:
    out.add_episode(episode())
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=600)
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "x", [episode()])
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["observations", "actions", "rewards", "final_observation"])
def test_nan_and_infinity_are_refused_with_episode_and_column(tmp_path, column, value) -> None:
    bad = episode(seed=1)
    bad[column] = bad[column].copy()
    bad[column].reshape(-1)[-1] = value
    with pytest.raises(DatasetError) as error:
        write(tmp_path / "x", [episode(), bad])
    text = one_line(error)
    assert "episode 1" in text
    assert column in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions": np.zeros((4, 2))}, "'observations' has 5 rows"),
        ({"actions": np.zeros(5)}, "2 dims expected"),
        ({"observations": np.zeros((5, 4)), "final_observation": np.zeros(4)}, "earlier ones"),
        ({"final_observation": np.zeros(9)}, "not shaped like"),
        ({"rewards": np.array(["a"] * 5)}, "not numbers"),
        ({"rewards": 1.0}, "one number"),
        ({"extra": np.zeros(5)}, "not in every episode"),
    ],
)
def test_wrong_shapes_are_refused_with_the_episode_named(tmp_path, change, said) -> None:
    with pytest.raises(DatasetError) as error:
        write(tmp_path / "x", [episode(), episode(**change)])
    assert "episode 1" in one_line(error)
    assert said in one_line(error)


def test_an_empty_episode_and_an_empty_store_are_refused(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no steps"):
        write(tmp_path / "x", [episode(0)])
    with pytest.raises(DatasetError, match="no episodes"):
        write(tmp_path / "x", [])


def test_a_missing_required_column_is_named(tmp_path) -> None:
    bad = episode()
    del bad["rewards"]
    with pytest.raises(DatasetError, match="no column 'rewards'"):
        write(tmp_path / "x", [bad])


@pytest.mark.parametrize("name", ["transitions.arrow", "episodes.arrow"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_store_is_refused_with_one_line(tmp_path, name, share) -> None:
    write(tmp_path / "x", [episode(200)])
    file = tmp_path / "x" / name
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(DatasetError) as error:
        EpisodeStore.open(tmp_path / "x")
    assert "truncated" in one_line(error)
    assert name in one_line(error)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}'])
def test_a_damaged_manifest_is_refused_with_one_line(tmp_path, text) -> None:
    write(tmp_path / "x", [episode()])
    (tmp_path / "x" / "manifest.json").write_text(text)
    with pytest.raises(DatasetError) as error:
        EpisodeStore.open(tmp_path / "x")
    assert "manifest.json" in one_line(error)
    assert list_stores(tmp_path) == []


def test_arrow_bytes_that_are_no_arrow_are_refused_with_one_line(tmp_path) -> None:
    write(tmp_path / "x", [episode()])
    file = tmp_path / "x" / "transitions.arrow"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(DatasetError) as error:
        EpisodeStore.open(tmp_path / "x")
    assert "transitions.arrow" in one_line(error)


def test_a_manifest_that_disagrees_with_the_files_is_refused(tmp_path) -> None:
    write(tmp_path / "x", [episode()])
    manifest = tmp_path / "x" / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**data, "num_transitions": 7}))
    with pytest.raises(DatasetError, match="the manifest says"):
        EpisodeStore.open(tmp_path / "x")


@pytest.mark.parametrize("start", [2**48, -1, 19])
def test_an_episode_that_begins_elsewhere_than_where_the_one_before_ends_is_refused(tmp_path, start: int) -> None:
    write(tmp_path / "x", [episode(20, 1), episode(20, 2)])
    file = tmp_path / "x" / "episodes.arrow"
    changed = file.read_bytes().replace(struct.pack("<qq", 0, 20), struct.pack("<qq", 0, start))
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(DatasetError, match="its episodes overlap or leave rows out") as error:
        EpisodeStore.open(tmp_path / "x")
    one_line(error)


def test_verify_finds_nothing_in_a_good_store_and_one_changed_byte_in_a_bad_one(tmp_path) -> None:
    store = write(tmp_path / "x", [episode(20, 1), episode(20, 2)])
    assert verify_store(store) == []
    file = tmp_path / "x" / "transitions.arrow"
    data = bytearray(file.read_bytes())
    where = bytes(data).index(store.column("actions").tobytes()[:16])
    del store
    data[where] ^= 1
    file.write_bytes(bytes(data))
    assert any("checksum" in finding for finding in verify_store(EpisodeStore.open(tmp_path / "x")))


def test_verify_names_constant_dimensions_and_duplicate_episodes(tmp_path) -> None:
    first, second = episode(seed=1), episode(seed=2)
    for item in (first, second):
        item["observations"][:, 1] = 0.5
    findings = verify_store(write(tmp_path / "x", [first, second, first]))
    assert "observations: never changes in dimension 1" in findings
    assert "episode 2: the same as episode 0" in findings


def test_a_missing_store_names_the_folder_and_the_nearest_one(tmp_path) -> None:
    write(tmp_path / "hopper-medium-v2", [episode()])
    with pytest.raises(DatasetError) as error:
        find_store("hopper-medum-v2", tmp_path)
    text = one_line(error)
    for part in ("hopper-medum-v2", str(tmp_path), "did you mean 'hopper-medium-v2'"):
        assert part in text


def test_an_unknown_column_names_the_nearest_one(tmp_path) -> None:
    with pytest.raises(DatasetError, match="did you mean 'actions'"):
        write(tmp_path / "x", [episode()]).column("action")


def test_listing_leaves_out_what_is_no_store(tmp_path) -> None:
    write(tmp_path / "b", [episode()])
    write(tmp_path / "a", [episode()])
    (tmp_path / "raw").mkdir()
    assert [item.name for item in list_stores(tmp_path)] == ["a", "b"]
    assert list_stores(tmp_path / "none") == []


def test_a_full_disk_is_one_clean_error_and_leaves_nothing(tmp_path) -> None:
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import *
from understudy.errors import UnderstudyError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    write(Path({str(tmp_path / "x")!r}), [episode(400, i) for i in range(20)])
except UnderstudyError as error:
    print(type(error).__name__, str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.startswith("StorageError no space left"), done.stderr
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_description_has_counts_returns_and_a_bar_for_each_bin(tmp_path) -> None:
    store = write(tmp_path / "x", [episode(4, 1), episode(8, 2)])
    info = describe_store(store, bins=10)
    assert (info.length_min, info.length_median, info.length_max) == (4, 6.0, 8)
    assert info.terminated_episodes == 2
    assert info.return_max == pytest.approx(max(episode(4, 1)["rewards"].sum(), episode(8, 2)["rewards"].sum()))
    assert len(info.dimensions) == 3 + 2 + 1
    assert all(len(dim.histogram) == 10 for dim in info.dimensions)
    assert "2 episodes, 12 transitions" in info.text()
    assert "success" not in info.text()


def test_the_description_of_a_recording_counts_successes_and_corrections(tmp_path) -> None:
    flags = [([0, 0, 0, 0, 1], [0, 0, 1, 1, 1]), ([0] * 5, [0] * 5), ([0] * 5, [0, 1, 0, 0, 0])]
    rows = [
        episode(5, seed, success=np.array(won, np.uint8), interventions=np.array(mine, np.uint8))
        for seed, (won, mine) in enumerate(flags)
    ]
    text = describe_store(write(tmp_path / "x", rows)).text()
    assert "  success   1 of 3 episodes\n" in text
    assert "  corrected 0.27 of the steps, in 2 episodes\n" in text
    assert "corrected" not in describe_store(write(tmp_path / "y", rows[1:2])).text()


def test_a_histogram_shows_every_bin_that_holds_something() -> None:
    bars = text_histogram(np.r_[np.zeros(1000), 1.0], bins=4)
    assert bars[0] == "█"
    assert bars[1:3] == "  "
    assert bars[3] == "▁"


def test_numbers_beyond_float32_are_said_to_be_that(tmp_path) -> None:
    with (
        pytest.raises(
            DatasetError, match=r"column 'observations' holds 1e\+300 at step .*, more than a float32 can hold"
        ),
        StoreWriter(tmp_path / "x", name="x", source="d4rl", env_id="x") as writer,
    ):
        rows = {"actions": np.zeros((2, 1)), "rewards": np.zeros(2), "terminals": np.zeros(2)}
        writer.add_episode({"observations": np.full((2, 3), 1e300), **rows})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("min", [0.0]), ("std", True), ("max", ["x", 0, 0]), ("mean", [None, 0, 0]), ("min", None), ("notes", [[]]),
    ],
)  # fmt: skip
def test_a_manifest_of_statistics_or_notes_that_are_none_is_refused_with_one_line(tmp_path, part, value) -> None:
    write(tmp_path / "x", [episode()])
    file = tmp_path / "x" / "manifest.json"
    manifest = json.loads(file.read_text())
    place = manifest["provenance"] if part == "notes" else manifest["statistics"]["observations"]
    place[part] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(DatasetError) as error:
        EpisodeStore.open(tmp_path / "x")
    assert "damaged manifest" in one_line(error)


def test_a_store_that_names_nothing_to_see_is_refused_with_one_line(tmp_path) -> None:
    write(tmp_path / "x", [episode()])
    file = tmp_path / "x" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["columns"]["observations"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(DatasetError) as error:
        StoreView(EpisodeStore.open(tmp_path / "x"), DataSpec(), with_goal=False)
    assert "neither observations nor pictures" in one_line(error)
