"""The table of episodes: appended as they end, read where it is torn, one row each however often a run is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import understudy
from understudy.cli.api import Run
from understudy.errors import UserError
from understudy.runs.episodes import (
    CONFIRMATION,
    FILE,
    SCHEMA,
    EpisodeLog,
    Played,
    Setting,
    by_text,
    interval_of,
    last_step,
    metrics_of,
    put_evaluation,
    read_episodes,
    rows_where,
    scores,
    setting_text,
    values_of,
)
from understudy.statistics import interval

TEN = Setting(setting_text({"num_samples": 4, "flow_steps": 10, "n_action_steps": None}), 0.5)


def played(seed: int, episode: int, success: float = 1.0) -> Played:
    return Played(seed, episode, 1_000_000 + episode, returns=-0.1 * episode, length=7, success=success)


def evaluate(log: EpisodeLog, step: int, order: list[tuple[int, int]], whole: bool = True) -> None:
    recorder = log.at(step)
    for seed, episode in order:
        recorder.add(TEN, played(seed, episode, float(seed == episode)))
    if whole:
        recorder.finish()


ALL = [(seed, episode) for seed in range(2) for episode in range(3)]


def test_rows_are_there_as_soon_as_episodes_end_and_in_order_when_all_have(tmp_path: Path) -> None:
    recorder = EpisodeLog(tmp_path / FILE, trial=6).at(200)
    for count, (seed, episode) in enumerate(reversed(ALL), 1):
        recorder.add(TEN, played(seed, episode))
        assert read_episodes(tmp_path / FILE).num_rows == count
    recorder.finish()
    table = read_episodes(tmp_path / FILE)
    assert list(zip(table["seed"].to_pylist(), table["episode"].to_pylist(), strict=True)) == ALL
    assert table.schema.names == SCHEMA.names
    assert table.slice(0, 1).to_pylist() == [
        {
            "trial": 6,
            "stage": "training",
            "seed": 0,
            "step": 200,
            "setting": "flow_steps=10, num_samples=4",
            "temperature": 0.5,
            "episode": 0,
            "reset_seed": 1_000_000,
            "success": 1.0,
            "return": -0.0,
            "normalized_return": None,
            "length": 7,
            "last_frame": None,
            "text": None,
        }
    ]


@pytest.mark.parametrize("torn", [0, 1, 100])
def test_an_interrupted_evaluation_is_replaced_when_it_is_made_again(tmp_path: Path, torn: int) -> None:
    whole = EpisodeLog(tmp_path / "whole.arrow")
    for step in (100, 200, 300):
        evaluate(whole, step, ALL)
    broken = EpisodeLog(tmp_path / "broken.arrow")
    evaluate(broken, 100, list(reversed(ALL)))
    evaluate(broken, 200, ALL[:4], whole=False)
    if torn:  # the process died in the middle of a row
        path = tmp_path / "broken.arrow"
        path.write_bytes(path.read_bytes()[:-torn])
    assert read_episodes(tmp_path / "broken.arrow").num_rows == (10 if not torn else 9)
    again = EpisodeLog(tmp_path / "broken.arrow")
    for step in (200, 300):
        evaluate(again, step, ALL)
    assert (tmp_path / "broken.arrow").read_bytes() == (tmp_path / "whole.arrow").read_bytes()


def test_a_run_that_goes_on_from_an_earlier_checkpoint_has_one_row_an_episode(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / FILE)
    for step in (100, 200, 300, 200, 300, 300):
        evaluate(log, step, ALL)
    table = read_episodes(tmp_path / FILE)
    assert table["step"].to_pylist() == [100] * 6 + [200] * 6 + [300] * 6


def test_an_episode_that_is_played_again_has_one_row(tmp_path: Path) -> None:
    evaluate(EpisodeLog(tmp_path / FILE), 100, [*ALL[:3], *ALL])
    assert read_episodes(tmp_path / FILE).num_rows == 6


def test_the_interval_is_that_of_the_table(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / FILE)
    evaluate(log, 100, ALL)
    evaluate(log, 200, ALL)
    table = last_step(read_episodes(tmp_path / FILE))
    matrix = np.array([[1, 0, 0], [0, 1, 0]])
    assert scores(table, "success").tolist() == matrix.tolist()
    assert interval_of(table) == interval(matrix)
    metrics = metrics_of(table)
    assert metrics["success"] == pytest.approx(1 / 3)
    assert (metrics["success_low"], metrics["success_high"]) == (interval(matrix).low, interval(matrix).high)
    assert metrics["return"] == pytest.approx(-0.1)
    assert values_of(table, "setting") == [TEN.text]


def test_seeds_that_played_other_states_are_not_taken_for_crossed(tmp_path: Path) -> None:
    evaluate(EpisodeLog(tmp_path / FILE), 100, ALL[:-1])
    with pytest.raises(UserError, match="5 episodes are not those of 2 seeds on the same 3 start states"):
        scores(read_episodes(tmp_path / FILE), "success")
    with pytest.raises(UserError, match="no normalized_return is known"):
        scores(read_episodes(tmp_path / FILE), "normalized_return")


def test_where_an_episode_is_in_the_video_is_noted(tmp_path: Path) -> None:
    recorder = EpisodeLog(tmp_path / FILE).at(100)
    for seed, episode in ALL:
        recorder.add(TEN, played(seed, episode))
    recorder.finish()
    recorder.film(TEN, {(0, 0): 11, (0, 1): 30})
    assert read_episodes(tmp_path / FILE)["last_frame"].to_pylist() == [11, 30, None, None, None, None]


def test_a_sweeps_own_evaluations_take_the_place_of_those_before_them(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for success in (0.0, 1.0):
        for trial in (3, None):
            rows = [played(seed, episode, success) for seed, episode in ALL]
            put_evaluation(path, CONFIRMATION, trial, TEN, 100, rows)
    table = read_episodes(path)
    assert table.num_rows == 12
    assert set(table["success"].to_pylist()) == {1.0}
    assert rows_where(table, trial=3).num_rows == 6


def test_a_run_of_an_earlier_version_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text("{}")
    assert understudy.load_episodes(tmp_path).num_rows == 0
    assert understudy.load_episodes(Run(tmp_path)).num_rows == 0  # what understudy.train returns


def test_a_table_that_an_earlier_version_began_goes_on_and_is_read_without_texts(tmp_path: Path) -> None:
    earlier = pa.schema([column for column in SCHEMA if column.name != "text"])
    (tmp_path / FILE).write_bytes(earlier.serialize().to_pybytes())
    recorder = EpisodeLog(tmp_path / FILE).at(100)
    recorder.add(Setting(), replace(played(0, 0), text="lift it"))
    recorder.finish()
    assert read_episodes(tmp_path / FILE).select(["seed", "text"]).to_pylist() == [{"seed": 0, "text": None}]
    told = [replace(played(0, episode, success), text="lift it") for episode, success in enumerate((1.0, 0.0))]
    assert by_text([*told, played(1, 0)]) == [("lift it", 2, 0.5)]
