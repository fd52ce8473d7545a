"""Where episodes end in files of rows: flags first, then next observations, compared as their types allow."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from understudy.envs.sources import episode_ends as module
from understudy.envs.sources.episode_ends import breaks_in, does_not_follow, episode_ends
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.envs.store.verification import findings

EPISODES, STEPS = 10, 50
ENDS = [STEPS * (number + 1) - 1 for number in range(EPISODES)]
HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64


def walks(scale: float = 1.0, dims: int = 11, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return observations and next observations [500, dims] of ten random walks."""
    walk = np.random.default_rng(seed).normal(size=(EPISODES, STEPS + 1, dims)).cumsum(1) * scale
    return walk[:, :-1].reshape(-1, dims), walk[:, 1:].reshape(-1, dims)


def found(observations: np.ndarray, following: np.ndarray) -> list[int]:
    return [*np.flatnonzero(does_not_follow(observations, following)), len(observations) - 1]


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(
    ("kept", "after"), [(DOUBLE, DOUBLE), (SINGLE, SINGLE), (SINGLE, DOUBLE), (DOUBLE, SINGLE), (SINGLE, SINGLE)]
)
def test_jumps_are_found_whatever_the_unit_and_rounding_to_a_type_is_none(scale, kept, after) -> None:
    observations, following = walks(scale)
    assert found(observations.astype(kept), following.astype(after)) == ENDS


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize(("kept", "after"), [(HALF, SINGLE), (SINGLE, HALF), (HALF, DOUBLE), (HALF, HALF)])
def test_half_precision_beside_full_precision_still_follows(scale, kept, after) -> None:
    observations, following = walks(scale)
    assert found(observations.astype(kept), following.astype(after)) == ENDS


def test_whole_numbers_and_pictures_are_compared_exactly() -> None:
    looks = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3)).astype(np.uint8)
    following = np.roll(looks, -1, axis=0)
    following[2, 0, 0, 0] ^= 1
    assert found(looks, following) == [2, 5]


def test_numbers_that_are_no_numbers_follow_nothing() -> None:
    observations = np.zeros((3, 2))
    observations[1] = np.nan
    assert found(observations, np.zeros((3, 2))) == [0, 2]


@pytest.mark.parametrize("block", [1, 7, 50, 499, 500, 501])
def test_breaks_are_the_same_whatever_the_block_that_is_read_at_once(monkeypatch, block) -> None:
    observations, following = walks()
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    breaks = breaks_in(500, lambda begin, stop: (observations[begin:stop], following[begin:stop]))
    assert np.flatnonzero(breaks).tolist() == ENDS[:-1]
    assert breaks_in(1, lambda begin, stop: (observations[:1], following[:1])).tolist() == [False]


def at(*rows: int) -> np.ndarray:
    return np.isin(np.arange(500), rows)


@pytest.mark.parametrize("complete", [True, False])
def test_flags_come_first_where_next_observations_are_noisy_and_it_is_said(complete) -> None:
    ends, said = episode_ends(at(*ENDS), ~at(499), complete=complete)
    assert ends.tolist() == ENDS
    assert "490 rows" in said
    assert "flags" in said


def test_without_any_flag_breaks_are_the_ends() -> None:
    assert episode_ends(at(), at(*ENDS), complete=False) == (pytest.approx(ENDS), "")
    assert len(episode_ends(at(), ~at(499), complete=True)[0]) == 500


def test_time_limits_that_no_flag_marks_are_found_beside_terminals() -> None:
    ends, said = episode_ends(at(49, 149), at(*ENDS), complete=False)
    assert (ends.tolist(), said) == (ENDS, "")


def test_a_seam_of_two_files_is_found_beside_complete_flags_and_said() -> None:
    ends, said = episode_ends(at(*ENDS), at(*ENDS, 237), complete=True)
    assert ends.tolist() == sorted([*ENDS, 237])
    assert said == "1 episode ends without a flag, where next_observations do not lead on"


def test_an_episode_of_one_row_and_an_unfinished_last_one_count() -> None:
    assert episode_ends(np.zeros(1, bool), np.zeros(1, bool), complete=True)[0].tolist() == [0]
    assert episode_ends(np.array([True, True, False]), None, complete=True)[0].tolist() == [0, 1, 2]


def d4rl_file(path, observations, following, **columns):
    rows = {
        "observations": observations,
        "next_observations": following,
        "actions": np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype(SINGLE),
        "rewards": np.ones(500, SINGLE),
        "terminals": np.zeros(500, bool),
        **columns,
    }
    with h5py.File(path, "w") as file:
        for name, array in rows.items():
            if array is not None:
                file[name] = array
    return import_file(task_of("hopper-medium-v2"), path, path.parent / "stores", ImportOptions(name="x"))


@pytest.mark.parametrize("flag", ["timeouts", "terminals"])
@pytest.mark.parametrize("noise", ["rounded", "noisy", "glitches", "none"])
def test_a_d4rl_file_has_the_episodes_of_its_flags(tmp_path, flag, noise) -> None:
    observations, following = walks()
    rng = np.random.default_rng(2)
    if noise == "rounded":
        following = observations.astype(HALF).astype(SINGLE)[np.r_[1:500, 0]] if flag == "timeouts" else following
        observations = observations.round(2)
    elif noise == "noisy":
        following = following + rng.normal(size=following.shape) * 0.1
    elif noise == "glitches" and flag == "timeouts":
        following[rng.choice(500, 30, replace=False)] += 1
    store = d4rl_file(tmp_path / "x.hdf5", observations, following, **{flag: at(*ENDS)})
    assert store.lengths.tolist() == [STEPS] * EPISODES
    notes = store.manifest.provenance.get("notes", [])
    assert bool(notes) == (noise != "none" and not (noise == "glitches" and flag == "terminals"))


def test_a_d4rl_file_whose_flags_are_all_false_is_cut_by_its_next_observations(tmp_path) -> None:
    store = d4rl_file(tmp_path / "x.hdf5", *walks(), timeouts=np.zeros(500, bool))
    assert store.lengths.tolist() == [STEPS] * EPISODES


def test_a_buffer_has_the_episodes_of_its_flags(tmp_path) -> None:
    observations, following = walks()
    done = torch.from_numpy(at(*ENDS))[:, None]
    rows = {
        "observation": torch.from_numpy(observations).half(),
        "action": torch.zeros(500, 1),
        "next": {"observation": torch.from_numpy(following), "reward": torch.zeros(500, 1), "done": done},
    }
    torch.save(rows, tmp_path / "x.pt")
    store = import_file(task_of("expert:Pendulum-v1"), tmp_path / "x.pt", tmp_path / "stores", ImportOptions(name="x"))
    assert store.lengths.tolist() == [STEPS] * EPISODES
    assert "notes" not in store.manifest.provenance
    rows["next"]["observation"] += torch.randn(500, 11)
    torch.save(rows, tmp_path / "x.pt")
    store = import_file(task_of("expert:Pendulum-v1"), tmp_path / "x.pt", tmp_path / "stores", ImportOptions(name="y"))
    assert store.lengths.tolist() == [STEPS] * EPISODES
    assert "flags" in store.manifest.provenance["notes"][0]


def test_a_store_of_single_steps_says_so(tmp_path) -> None:
    observations, following = walks()
    following += np.random.default_rng(2).normal(size=following.shape)
    store = d4rl_file(tmp_path / "x.hdf5", observations, following)
    assert len(store.lengths) == 500
    assert any("one step" in line for line in findings(store)[1])
