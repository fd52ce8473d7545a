"""The episode store under odd columns and every kind of damage: bits are kept, and faults are one line or a finding."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.verification import verify_store
from understudy.envs.store.writer import StoreWriter
from understudy.errors import DatasetError

DTYPES = ("<f4", ">f4", "<f8", "<f2", "<i8", "u1", "?")
RESERVED = ("observations", "actions", "rewards", "terminals", "final_observation", "final_observations")
names = st.text(min_size=1, max_size=12).filter(lambda name: name not in RESERVED and not name.startswith("mask/"))


def episode(steps: int = 20, seed: int = 0, /, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {
        "observations": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.arange(steps) == steps - 1,
        "final_observation": rng.normal(size=3).astype(np.float32),
    }
    return {**made, **changes}


def write(path: Path, episodes) -> EpisodeStore:
    with StoreWriter(path, name=path.name, source="test", env_id="none") as writer:
        for item in episodes:
            writer.add_episode(item)
    return EpisodeStore.open(path)


def finite_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return any finite numbers of a dtype, drawn by their bits: denormals, zeros of both signs, the largest."""
    if np.dtype(dtype).kind != "f":
        return rng.integers(0, 2 if dtype == "?" else 200, shape).astype(dtype)
    size = int(np.prod(shape))
    bits = rng.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)
    bits = np.where(np.isfinite(bits), bits, np.float32(-0.0))
    if np.dtype(dtype).itemsize < 4:
        bits = np.clip(bits, -60000, 60000)
    return bits.reshape(shape).astype(dtype)


@st.composite
def odd_columns(draw: st.DrawFn) -> tuple[list[int], dict[str, tuple[str, tuple[int, ...]]]]:
    kinds = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=3).map(tuple))
    return draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)), draw(st.dictionaries(names, kinds, max_size=4))


def check_columns(folder: Path, lengths: list[int], columns: dict[str, tuple[str, tuple[int, ...]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = []
    for number, steps in enumerate(lengths):
        extra = {name: finite_bits(rng, (steps, *shape), dtype) for name, (dtype, shape) in columns.items()}
        look = finite_bits(rng, (steps + 1, 3), "<f4")
        made.append(episode(steps, number, observations=look[:-1], final_observation=look[-1], **extra))
    store = write(folder / "été ☃", made)
    assert set(store.manifest.columns) == {"observations", "actions", "rewards", "terminals", *columns}
    for name in store.manifest.columns:
        expected = np.concatenate([np.asarray(item[name]) for item in made])
        expected = expected.astype(np.uint8 if expected.dtype == np.uint8 or name == "terminals" else np.float32)
        assert store.column(name).tobytes() == expected.tobytes(), name
    finals = np.stack([item["final_observation"] for item in made])
    assert store.episode_column("final_observations").tobytes() == finals.tobytes()
    assert store.starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    odd = ("never changes", "have one step", "policies do not see them")
    assert not [finding for finding in verify_store(store) if not any(word in finding for word in odd)]
    for numbers in store.manifest.statistics.values():
        assert np.isfinite([value for values in numbers.values() for value in values]).all()


@settings(max_examples=25, deadline=None)
@given(odd_columns(), st.integers(0, 2**32 - 1))
def test_columns_of_any_name_dtype_and_shape_keep_their_bits(tmp_path_factory, drawn, seed) -> None:
    lengths, columns = drawn
    check_columns(tmp_path_factory.mktemp("data"), lengths, columns, seed)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(odd_columns(), st.integers(0, 2**32 - 1))
def test_a_great_many_odd_columns_keep_their_bits(tmp_path_factory, drawn, seed) -> None:
    lengths, columns = drawn
    check_columns(tmp_path_factory.mktemp("data"), lengths, columns, seed)


@pytest.mark.parametrize(
    "change",
    [
        {"observations": np.zeros(20), "final_observation": np.zeros(())},
        {"actions": np.zeros((20, 0))},
        {"extra": np.zeros((20, 2, 0))},
    ],
    ids=["observations of one dim", "no actions", "rows of nothing"],
)
def test_rows_that_hold_nothing_to_learn_from_are_refused(tmp_path, change) -> None:
    with pytest.raises(DatasetError, match=f"episode 0: column '{next(iter(change))}'") as error:
        write(tmp_path / "x", [episode(**change)])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def change_bytes(store: EpisodeStore, before: bytes, after: bytes) -> list[str]:
    """Put other bytes in the place of some in a store's files; return what `verify` finds then."""
    for name in ("transitions.arrow", "episodes.arrow"):
        file = store.path / name
        data = file.read_bytes()
        if before in data:
            file.write_bytes(data.replace(before, after, 1))
    return verify_store(EpisodeStore.open(store.path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["observations", "actions", "rewards"])
def test_verify_names_the_episode_and_step_of_a_nan_that_came_in_later(tmp_path, column, value) -> None:
    store = write(tmp_path / "x", [episode(5, 1), episode(7, 2)])
    rows = store.column(column)[5 + 3]
    spoilt = np.where(np.arange(rows.size) == 0, np.float32(value), rows).astype(np.float32)
    findings = change_bytes(store, rows.tobytes(), spoilt.tobytes())
    assert f"{column}: NaN or infinity in episode 1, step 3" in findings
    assert any("checksum" in finding for finding in findings)


def test_verify_names_the_episode_of_a_nan_in_a_final_observation(tmp_path) -> None:
    store = write(tmp_path / "x", [episode(5, 1), episode(7, 2)])
    last = store.episode_column("final_observations")[1]
    findings = change_bytes(store, last.tobytes(), np.full(3, np.nan, np.float32).tobytes())
    assert "final_observations: NaN or infinity in episode 1" in findings


@pytest.mark.parametrize(
    ("starts", "lengths", "fits"),
    [
        ([0, 12, 12], [12, 0, 8], False),
        ([0, 5, 12], [5, 7, 8], True),
        ([0, 4, 12], [5, 7, 8], False),
        ([1, 5, 12], [5, 7, 8], False),
        ([0, 25, 12], [25, -13, 8], False),
    ],
)
def test_a_wrong_episode_index_is_refused_when_the_store_is_opened(tmp_path, starts, lengths, fits) -> None:
    store = write(tmp_path / "x", [episode(5, 1), episode(7, 2), episode(8, 3)])
    file = tmp_path / "x" / "episodes.arrow"
    data = file.read_bytes().replace(store.lengths.tobytes(), np.asarray(lengths, np.int64).tobytes())
    file.write_bytes(data.replace(store.starts.tobytes(), np.asarray(starts, np.int64).tobytes()))
    with nullcontext() if fits else pytest.raises(DatasetError, match="episodes overlap or leave rows out"):
        EpisodeStore.open(tmp_path / "x")


def test_verify_finds_every_fault_of_a_store_that_has_them_all(tmp_path) -> None:
    first, second = episode(6, 1), episode(9, 2)
    for item in (first, second):
        item["observations"][:, 2] = 0.5
        item["actions"][:, 0] = -1.0
    store = write(tmp_path / "x", [first, second, first, first])
    rewards = store.column("rewards")[7:9]
    findings = change_bytes(store, rewards.tobytes(), np.full(2, -np.inf, np.float32).tobytes())
    for finding in (
        "observations: never changes in dimension 2",
        "actions: never changes in dimension 0",
        "episode 2: the same as episode 0",
        "episode 3: the same as episode 0",
        "rewards: NaN or infinity in episode 1, step 1",
        "content hash differs from the manifest's",
    ):
        assert finding in findings
    assert any(finding.startswith("transitions.arrow: its bytes changed") for finding in findings)


JUNK = [None, -1, 1e99, "x", [], {}, [1, "a"], {"a": 1}, True]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_a_manifest_with_nonsense_in_it_opens_or_is_refused_with_one_line(tmp_path, junk) -> None:
    store = write(tmp_path / "x", [episode()])
    file = store.path / "manifest.json"
    whole = json.loads(file.read_text())
    places = [(key,) for key in whole]
    places += [("columns", "actions"), ("columns", "actions", "shape"), ("columns", "rewards", "dtype")]
    places += [("episode_columns", "final_observations"), ("files", "transitions.arrow"), ("columns", "new")]
    for place in places:
        data = json.loads(json.dumps(whole))
        *outer, last = place
        inner = data
        for key in outer:
            inner = inner[key]
        inner[last] = junk
        file.write_text(json.dumps(data))
        try:
            opened = EpisodeStore.open(store.path)
            assert opened.column("actions").shape == (20, 2)
        except DatasetError as error:
            assert "\n" not in str(error), place
            assert str(store.path) in str(error), place


def flip_bytes(folder: str, cases: int) -> None:
    """Open copies of a store with random bytes of its Arrow files changed; it runs in a process of its own."""
    rng = random.Random(0)
    path = write(Path(folder) / "x", [episode(20, seed) for seed in range(3)]).path
    for name in ("transitions.arrow", "episodes.arrow"):
        file = path / name
        whole = file.read_bytes()
        for _ in range(cases):
            data = bytearray(whole)
            for _ in range(rng.choice([1, 2, 8])):
                near = rng.randrange(min(900, len(data)))  # where Arrow describes itself: at the start and at the end
                data[near if rng.random() < 0.5 else -1 - near] = rng.randrange(256)
            file.write_bytes(bytes(data))
            try:
                verify_store(EpisodeStore.open(path))
            except DatasetError as error:
                assert "\n" not in str(error)
        file.write_bytes(whole)
    print("all refused or read")


def test_changed_bytes_of_a_store_crash_nothing(tmp_path) -> None:
    program = f"from tests.unit.test_store_properties import *\nflip_bytes({str(tmp_path)!r}, 300)"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (0, "all refused or read\n"), done.stderr[-2000:]
