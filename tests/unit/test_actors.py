"""What actors send, and what their learner does with it: whole, twice, with gaps, of another shape."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from understudy.envs.replay.replay import Replay
from understudy.errors import DatasetError, UserError
from understudy.runs.directory import CsvLog, read_csv
from understudy.trainables.loops.actors_remote import host_and_port
from understudy.trainables.loops.correcting import MARKS
from understudy.trainables.loops.fragments import Fragment, FragmentBuffer, Header, from_bytes, to_bytes
from understudy.trainables.loops.inbox import Inbox

SHAPE = (1,)


def _fragments(lengths: list[int], life: str = "a", episode: int = 0, ends: bool = True) -> list[Fragment]:
    """Return the fragments of one episode, whose observations count from 100 * episode."""
    buffer = FragmentBuffer(SHAPE)
    buffer.begin(np.array([100.0 * episode], np.float32))
    found, step = [], 0
    for index, length in enumerate(lengths):
        last = ends and index == len(lengths) - 1
        for place in range(length):
            step += 1
            over = last and place == length - 1
            seen = np.array([100.0 * episode + step], np.float32)
            buffer.add(np.zeros(2), 1.0, seen, terminated=over, ended=over, marks={"interventions": float(place == 0)})
        first, arrays = buffer.take()
        found.append(Fragment(Header(0, life, episode, first, last, 3, 0.5), arrays))
    return found


def _inbox(tmp_path: Path) -> Inbox:
    return Inbox(Replay(tmp_path / "buffer", SHAPE, 2, 1000, marks=MARKS), SHAPE)


def test_fragments_become_rows_whose_next_observations_are_right_across_fragments(tmp_path: Path) -> None:
    inbox = _inbox(tmp_path)
    for fragment in _fragments([2, 3]) + _fragments([2], episode=1, ends=False):
        inbox.add(fragment)
    batch = inbox.buffer.gather(np.arange(7), 1, 0.9)
    assert batch["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 100, 101]
    assert batch["next_observations"][:, 0].tolist() == [1, 2, 3, 4, 5, 101, 102]
    assert batch["discounts"][:, 0].tolist() == pytest.approx([0.9, 0.9, 0.9, 0.9, 0, 0.9, 0.9])
    assert batch["interventions"].tolist() == [1, 0, 1, 0, 0, 1, 0]


def test_a_fragment_that_comes_twice_is_one_and_one_after_a_gap_is_left_out(tmp_path: Path) -> None:
    inbox = _inbox(tmp_path)
    first, second, third = _fragments([2, 2, 2])
    assert [inbox.add(f) for f in (first, first, third, second, third, third)] == [2, 0, 0, 2, 2, 0]
    assert (inbox.repeated, inbox.lost) == (2, 1)
    (_, late) = _fragments([1, 2], life="b", episode=5)
    assert inbox.add(late) == 0  # of an episode whose beginning was never seen
    assert inbox.buffer.counters.episodes == 1


def test_an_actor_that_dies_loses_its_open_fragment_alone(tmp_path: Path) -> None:
    inbox = _inbox(tmp_path)
    sent, _ = _fragments([3, 3])
    inbox.add(sent)
    (again,) = _fragments([2], life="b", episode=0)
    assert inbox.add(again) == 2
    batch = inbox.buffer.gather(np.arange(5), 1, 0.9)
    assert batch["next_observations"][:, 0].tolist() == [1, 2, 3, 1, 2]
    assert batch["discounts"][2, 0] == pytest.approx(0.9)  # cut off, not terminated
    assert inbox.buffer.counters.episodes == 2


def test_a_learner_that_goes_on_cuts_off_the_open_episode_where_its_checkpoint_was(tmp_path: Path) -> None:
    inbox = _inbox(tmp_path)
    one, two = _fragments([2, 2])
    inbox.add(one)
    state = inbox.state()
    inbox.add(two)
    inbox.buffer.sync()
    restored = _inbox(tmp_path)
    restored.restore(state)
    (later,) = _fragments([2], life="b", episode=4)
    restored.add(later)
    batch = restored.buffer.gather(np.arange(4), 1, 0.9)
    assert batch["observations"][:, 0].tolist() == [0, 1, 400, 401]
    assert batch["next_observations"][:, 0].tolist() == [1, 2, 401, 402]


def test_a_fragment_of_another_shape_is_named(tmp_path: Path) -> None:
    (fragment,) = _fragments([2])
    fragment.check(SHAPE, 2)
    with pytest.raises(DatasetError, match=r"actor 0 sees \(1,\), the policy \(7,\)"):
        fragment.check((7,), 2)
    with pytest.raises(DatasetError, match="sends arrays of"):
        fragment.check(SHAPE, 3)
    pictures = Fragment(fragment.header, {**fragment.arrays, "seen/front": np.zeros((2, 8, 8, 3), np.uint8)})
    with pytest.raises(DatasetError, match=r"sees state \(1,\), front \(8, 8, 3\), the policy"):
        pictures.check({"state": (1,), "front": (16, 16, 3)}, 2)
    fragment.arrays["rewards"][0] = np.nan
    with pytest.raises(DatasetError, match="NaN"):
        fragment.check(SHAPE, 2)


def test_messages_keep_every_number_and_garbage_is_none() -> None:
    (fragment,) = _fragments([2])
    kind, facts, arrays = from_bytes(to_bytes("fragment", asdict(fragment.header), fragment.arrays))
    assert (kind, Header(**facts)) == ("fragment", fragment.header)
    assert all(np.array_equal(arrays[name], value) for name, value in fragment.arrays.items())
    assert json.dumps(facts)
    for garbage in (b"", b"GET / HTTP/1.1", b"\x00" * 64):
        with pytest.raises(DatasetError, match="no message"):
            from_bytes(garbage)


def test_rows_after_a_checkpoint_are_cut(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "env.csv")
    for step in (3, 7, 12):
        log.append(step, {"return": float(step)})
    CsvLog(log.path).cut(7)
    again = CsvLog(log.path)
    again.append(9, {"return": 0.5})
    assert [(row["step"], row["return"]) for row in read_csv(log.path)] == [(3, 3.0), (7, 7.0), (9, 0.5)]
    again.cut(0)
    assert read_csv(log.path) == []
    assert CsvLog(log.path).append(1, {"return": 1.0})


@pytest.mark.parametrize("address", ["50051", "host:", "host:99999", ":1"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(UserError, match="must be HOST:PORT"):
        host_and_port(address)
