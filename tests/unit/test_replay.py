"""Replay buffers: a next observation never crosses an episode, the newest row, or what was dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.envs.replay.replay import Counters, Replay
from understudy.envs.replay.segments import SegmentedColumn, segment_rows
from understudy.errors import CheckpointError

DISCOUNT = 0.5


class Reference:
    """The definition: a list of episodes, each a list of steps."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, seen: float, reward: float, after: float, terminated: bool, ended: bool, episode: int) -> None:
        row = {"seen": seen, "reward": reward, "after": after, "terminated": terminated, "ended": ended}
        self.rows.append({**row, "episode": episode})

    def window(self, row: int, horizon: int) -> dict[str, Any]:
        inside = [row]
        while len(inside) < horizon and not self.rows[inside[-1]]["ended"] and inside[-1] + 1 < len(self.rows):
            inside.append(inside[-1] + 1)
        steps = [self.rows[place] for place in inside]
        steps += [steps[-1]] * (horizon - len(inside))
        valid = [float(place < len(inside)) for place in range(horizon)]
        return {
            "observations": [steps[0]["seen"]],
            "rewards": [step["reward"] * is_valid for step, is_valid in zip(steps, valid, strict=True)],
            "discounts": [0.0 if step["terminated"] else DISCOUNT for step in steps],
            "valid": valid,
            "next_observations": [steps[-1]["after"]],
            "actions": [[-step["seen"]] for step in steps],
        }


def play(buffer: Replay, reference: Reference, lengths: list[tuple[int, bool]], start: float = 0.0) -> float:
    """Play episodes of (length, terminated); the last is left open. Every observation is another number."""
    seen, last = start, len(lengths) - 1
    for number, (length, terminated) in enumerate(lengths):
        seen += 100.0  # a reset shows something that no step led to
        buffer.begin(np.array([seen]))
        for step in range(length):
            ended = step == length - 1 and number != last
            end = ended and terminated
            after = seen + 1.0
            buffer.add(np.array([-seen]), seen / 10, np.array([after]), terminated=end, ended=ended)
            reference.add(seen, seen / 10, after, end, ended, number)
            seen = after
    return seen


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=8),
    horizon=st.integers(1, 5),
    segment=st.integers(1, 7),
    capacity=st.integers(1, 60),
)
def test_a_window_is_what_its_definition_says(tmp_path_factory, lengths, horizon, segment, capacity) -> None:
    buffer, reference = Replay(tmp_path_factory.mktemp("r"), (1,), 1, capacity, segment=segment), Reference()
    play(buffer, reference, lengths)
    buffer.drop(buffer.counters)
    rows = np.arange(buffer.first, buffer.counters.rows)
    assert len(rows) == min(capacity, len(reference.rows))
    found = buffer.gather(rows, horizon, DISCOUNT)
    for place, row in enumerate(rows):
        expected = reference.window(int(row), horizon)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][place], np.asarray(values, np.float32), err_msg=f"{name} of {row}")


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4),
    lost=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4),
    segment=st.integers(1, 5),
)
def test_going_on_from_counters_equals_never_having_played_what_came_later(
    tmp_path_factory, before, lost, segment
) -> None:
    folder = tmp_path_factory.mktemp("r")
    buffer, kept, gone = Replay(folder, (1,), 1, 100, segment=segment), Reference(), Reference()
    seen = play(buffer, kept, before)
    counters = buffer.counters
    buffer.sync()
    buffer.add(np.array([-seen]), 0.0, np.array([7.0]), terminated=True, ended=True)
    play(buffer, gone, lost, start=5000.0)  # until the process is killed

    again = Replay(folder, (1,), 1, 100, segment=segment)
    again.restore(counters)
    observed, actions = again.episode()
    assert np.asarray(observed)[:, 0].tolist() == [row["seen"] for row in kept.rows[-counters.open_rows :]]
    assert actions[:, 0].tolist() == [-row["seen"] for row in kept.rows[-counters.open_rows :]]
    again.reopen(np.array([seen]))
    again.add(np.array([-seen]), seen / 10, np.array([seen + 1]), terminated=False, ended=True)
    kept.add(seen, seen / 10, seen + 1, False, True, 0)
    found = again.gather(np.arange(len(kept.rows)), 2, DISCOUNT)
    for row in range(len(kept.rows)):
        for name, values in kept.window(row, 2).items():
            np.testing.assert_allclose(found[name][row], np.asarray(values, np.float32), err_msg=f"{name} of {row}")


def test_an_episode_that_is_left_for_another_counts_as_cut_off(tmp_path: Path) -> None:
    buffer = Replay(tmp_path, (1,), 1, 10)
    buffer.begin(np.array([1.0]))
    buffer.add(np.array([0.0]), 0.0, np.array([2.0]), terminated=False, ended=False)
    buffer.begin(np.array([50.0]))
    found = buffer.gather(np.array([0]), 1, DISCOUNT)
    assert found["next_observations"].tolist() == [[2.0]]
    assert found["discounts"].tolist() == [[DISCOUNT]]


def test_pictures_stay_bytes_and_parts_keep_their_names(tmp_path: Path) -> None:
    shape = {"state": (2,), "front": (4, 4, 3)}
    buffer = Replay(tmp_path, shape, 1, 10)
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (3, 200)]
    buffer.begin({"state": np.zeros(2), "front": frames[0]})
    buffer.add(np.zeros(1), 0.0, {"state": np.ones(2), "front": frames[1]}, terminated=True, ended=True)
    found = buffer.gather(np.array([0, 0]), 1, DISCOUNT)
    assert found["observations"]["front"].dtype == np.uint8
    assert found["observations"]["front"].shape == (2, 4, 4, 3)
    assert np.array_equal(found["next_observations"]["front"][0], frames[1])
    assert found["next_observations"]["state"].tolist() == [[1.0, 1.0]] * 2


def test_segments_are_deleted_only_when_no_kept_checkpoint_needs_them(tmp_path: Path) -> None:
    buffer, reference = Replay(tmp_path, (1,), 1, 8, segment=4), Reference()
    play(buffer, reference, [(6, True), (6, True), (6, True), (1, True)])
    older = Counters(rows=11, episodes=1, open_rows=5)
    buffer.drop(older)
    assert buffer.gather(np.array([4]), 1, DISCOUNT)["observations"].tolist() == [[reference.rows[4]["seen"]]]
    assert len(list(tmp_path.glob("rewards.*.bin"))) == 5  # rows 0 to 18: the checkpoint draws from row 3 on
    buffer.drop(buffer.counters)
    assert len(list(tmp_path.glob("rewards.*.bin"))) == 3
    with pytest.raises(CheckpointError, match="rows 0 to 7 are not all there"):
        Replay(tmp_path, (1,), 1, 8, segment=4).restore(Counters(8, 1, 2))


def test_a_checkpoint_writes_only_what_was_added(tmp_path: Path, monkeypatch) -> None:
    column = SegmentedColumn(tmp_path, "rewards", (), np.dtype(np.float32), 4)
    for row in range(10):
        column.put(row, row)
    column.sync()
    flushed: list[int] = []
    monkeypatch.setattr(np.memmap, "flush", lambda self: flushed.append(len(self)))
    column.put(10, 1.0)
    column.sync()
    column.sync()
    assert flushed == [4]


def test_segments_hold_a_power_of_two_of_rows() -> None:
    assert segment_rows(110) == 2**19
    assert segment_rows(98_304) == 1024
    assert segment_rows(10**9) == 1024
