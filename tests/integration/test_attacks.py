"""Damage to every file of runs, sweeps, datasets and formats, and odd values of every key: one line, nothing lost.

A few inputs of each kind in the quick lane, many with `slow`; `attack.py` makes as many as are wanted.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.attack_disks import CAN_MOUNT, FullDisks
from tests.integration.attack_kills import Kills, LearnerKills, SweepKills
from tests.integration.attack_kinds import (
    SMALL,
    CommandLine,
    Kind,
    Pages,
    RunFiles,
    SourceFiles,
    StoreFiles,
    SweepFiles,
    in_this_process,
    make_data,
)
from tests.integration.attacking import Outcome, one_line, problems_of
from tests.integration.damaging import WORDS

from understudy.registry import algorithms
from understudy.spec.keys import run_fields

MANY, FEW = 20, 6
"""The command `python -m tests.integration.attack --inputs N` tries as many as are asked for."""
INPUTS = settings(
    phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
"""Nothing is shrunk: an input is one file and one change of it already."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[type[Kind]], Kind]]:
    """Give what makes a kind's room, once."""
    made: dict[type[Kind], Kind] = {}

    def of(kind: type[Kind]) -> Kind:
        if kind not in made:
            made[kind] = kind(tmp_path_factory.mktemp("attacked") / "room")
        return made[kind]

    yield of
    for kind in made.values():
        kind.close()


def check(found: list[Outcome]) -> None:
    assert not [f"{outcome.how}: {outcome}\n{outcome.err[-1500:]}" for outcome in found if outcome.problems]


@pytest.mark.parametrize(("kind", "count"), [(RunFiles, 1), (StoreFiles, 2)], ids=["files of runs", "files of stores"])
def test_a_few_inputs_are_taken_or_refused_in_one_line_and_lose_nothing(attacked, kind: type[Kind], count: int) -> None:
    @settings(INPUTS, max_examples=count)
    @given(st.randoms())
    def attack(random: Random) -> None:
        check(attacked(kind).attack(random))

    attack()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [RunFiles, SweepFiles, Pages, StoreFiles, SourceFiles, CommandLine, Kills], ids=lambda kind: kind.name
)
def test_many_inputs_are_taken_or_refused_in_one_line_and_lose_nothing(attacked, kind: type[Kind]) -> None:
    @settings(INPUTS, max_examples=MANY)
    @given(st.randoms())
    def attack(random: Random) -> None:
        check(attacked(kind).attack(random))

    attack()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    "kind",
    [
        SweepKills,
        LearnerKills,
        pytest.param(FullDisks, marks=pytest.mark.skipif(not CAN_MOUNT, reason="needs root and mount")),
    ],
    ids=lambda kind: kind.name,
)
def test_what_is_killed_or_finds_no_room_is_a_line_and_goes_on_to_the_same_end(attacked, kind: type[Kind]) -> None:
    @settings(INPUTS, max_examples=FEW)
    @given(st.randoms())
    def attack(random: Random) -> None:
        check(attacked(kind).attack(random))

    attack()


def values() -> st.SearchStrategy[str]:
    """Return values of keys: those that attacks use, any text, and lists and dicts of numbers and texts."""
    number = st.one_of(st.integers(), st.floats()).map(str)
    inside = st.recursive(
        st.one_of(number, st.text(max_size=8)),
        lambda parts: st.one_of(
            st.lists(parts, max_size=4).map(lambda items: f"[{','.join(items)}]"),
            st.lists(parts, max_size=3).map(lambda items: f"{{{','.join(f'k{i}:{x}' for i, x in enumerate(items))}}}"),
        ),
        max_leaves=8,
    )
    return st.one_of(st.sampled_from(WORDS), number, st.text(max_size=40), inside)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    make_data(folder / "data")
    return folder


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_any_value_of_any_key_is_shown_or_refused_in_one_line(dataset: Path, count: int) -> None:
    keys = [(algo, key) for algo in algorithms.names() for key in run_fields(algo)]

    @settings(INPUTS, max_examples=count)
    @given(st.sampled_from(keys), values())
    def show(key: tuple[str, str], value: str) -> None:
        words = [word for word in (f"algo={key[0]}", *SMALL[1:]) if not word.startswith(f"{key[1]}=")]
        err = io.StringIO()
        with contextlib.chdir(dataset), contextlib.redirect_stderr(err):
            code = in_this_process("train", *words, "tracking_uri=none", f"{key[1]}={value}", "--cfg")
        said = err.getvalue()
        assert code in (0, 1, 2), said
        assert code == 0 or one_line(said.splitlines()), said
        assert "\x1b" not in said
        assert sorted(path.name for path in dataset.iterdir()) == ["data"]

    show()


def test_what_is_not_as_promised_is_seen() -> None:
    """Check the checks: each thing that the tests above would fail for."""
    fine = Outcome(("train",), 2, "", "a warning\nunderstudy: no such key\n", 0)
    assert problems_of(fine) == []
    wrong = {
        "traceback": {"err": "Traceback (most recent call last):"},
        "exit 98": {"code": 98},
        "exit -11": {"code": -11},
        "not one line": {"err": "understudy: a\nunderstudy: b"},
        "escape": {"out": "\x1b[31m"},
        "secret": {"err": "understudy: http://me:hunter2@host"},
        "OUTSIDE open '/etc/x'": {"err": "OUTSIDE open '/etc/x'\nunderstudy: no"},
        "4882 MB": {"peak_kilobytes": 5_000_000},
    }
    for problem, changes in wrong.items():
        outcome = Outcome(**{"words": (), "code": 2, "out": "", "err": fine.err, "peak_kilobytes": 0, **changes})
        assert problems_of(outcome) == [problem]
