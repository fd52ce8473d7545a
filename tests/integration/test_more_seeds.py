"""Runs that begin with another one's settings, and what is printed of runs."""

from __future__ import annotations

import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.integration.test_bad_input import refused

from understudy.cli.time_left import TimeLeft, hours_left
from understudy.runs.directory import RunDir


def test_a_run_is_trained_again_on_more_seeds(hopper_data, done, say, tmp_path) -> None:
    done("train", *SMALL, "algo=bc", "lr=0.002", "training_steps=4", "seeds=2", "save_dir=runs", "run_group=first")
    first = only(tmp_path / "runs")
    assert RunDir(first).spec().all_seeds == (0, 1)
    done("train", "--from", str(first), "seeds=[3..5]", "save_dir=more")
    spec = RunDir(only(tmp_path / "more")).spec()
    assert spec.all_seeds == (3, 4, 5)
    assert (spec.config.lr, spec.training_steps) == (0.002, 4)
    listed = done("runs", "list", "--save_dir", "runs")
    row = next(line for line in listed.splitlines() if "finished" in line)
    assert "bc" in row.split()
    assert "0,1" in row.split()
    refused(say("train", "--from", str(first), "lrr=1"), "lrr")
    refused(say("train", "--from", str(tmp_path)), "no run directory")


def test_a_store_that_is_not_there_is_told_with_those_that_are(hopper_data, done, say, tmp_path) -> None:
    done("train", *SMALL, "algo=bc", "training_steps=2", "save_dir=mine")
    refused(say("runs", "list"), "here are runs in mine")
    refused(say("ui"), "here are runs in mine")


@pytest.mark.parametrize(
    ("steps", "speed", "said"), [(999_900, 10.0, "27 h 46 min"), (1000, 10.0, ""), (1000, 1e4, "")]
)
def test_a_run_of_more_than_an_hour_says_how_long(steps, speed, said) -> None:
    line = hours_left(steps, speed)
    assert (said in line) if said else line == ""


@pytest.mark.parametrize("first", [0, 42_000])
def test_the_time_left_is_that_of_a_warm_training_whatever_its_first_steps_and_evaluations_took(first) -> None:
    now, step, lines = 0.0, first, []
    left = TimeLeft(lambda: now)
    for call in range(400):
        now += 40.0 if call % 50 == 30 else 0.5  # an evaluation, or a checkpoint
        step += 1 if now < 10 else 15
        lines.append(left.at(step, first + 1_000_000))
    (line,) = filter(None, lines)
    assert "at 30 steps/s" in line
    assert "about 9 h" in line


def test_a_training_of_slow_steps_is_measured_over_more_of_them() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    lines: list[str] = []
    for step in range(1, 40):
        now += 20.0
        lines.append(left.at(step, 10_000))
    assert [place for place, line in enumerate(lines, 1) if line] == [12], "eleven steps to take ten speeds from"
    assert "at 0.05 steps/s" in lines[11]
