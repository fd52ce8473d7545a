"""Files that grow while they are read, what a key explains, and where pages may look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.dashboards.folders import make_run

from understudy.dashboards.places import Missing, Root
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.importance import explained, importance
from understudy.dashboards.reading.runs import read_run, seed_curves, thinned


def test_a_csv_is_read_on_from_where_it_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, files = tmp_path / "train.csv", Files()
    file.write_text("step,loss\n1,0.5\n2,0.25\n3,0.1")
    assert files.csv(file).rows.tolist() == [[1, 0.5], [2, 0.25]]
    with open(file, "a") as log:
        log.write("25\n4,\n5,nan\n")
    offset = files.csv(file).offset
    assert np.nan_to_num(files.csv(file).rows, nan=-1).tolist() == [[1, 0.5], [2, 0.25], [3, 0.125], [4, -1], [5, -1]]
    assert offset == file.stat().st_size
    file.write_text("step,loss\n1,9\n")  # begun again
    assert files.csv(file).rows.tolist() == [[1, 9]]


def test_many_rows_are_parsed_as_few_are(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    rows = [(step, "" if step % 7 == 0 else repr(1 / (step + 1))) for step in range(500)]
    file.write_text("step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows))
    wanted = np.array([[step, float(loss) if loss else np.nan] for step, loss in rows])
    np.testing.assert_array_equal(Files().csv(file).rows, wanted)


def test_a_line_that_is_torn_or_has_words_in_it_is_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("step,loss\n1,0.5\ntorn\n2,word\n" + "3,0.25\n" * 100)
    assert Files().csv(file).rows.shape == (102, 2)


def test_a_long_curve_keeps_its_peaks(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("step,loss\n" + "".join(f"{step},{100.0 if step == 7777 else 0.0}\n" for step in range(10_000)))
    steps, values = thinned(Files().csv(file), "loss")
    assert len(steps) <= 500
    assert values[steps.index(7777.0)] == 100.0


def test_the_curves_of_each_seed_are_told_by_kind(tmp_path: Path) -> None:
    files = Files()
    curves = seed_curves(files, read_run(files, make_run(tmp_path / "run_1")))
    assert set(curves) == {"eval/return", "eval/success", "train/actor_loss"}
    assert curves["train/actor_loss"][2] == ([100, 200, 300, 400], [0.01, 0.005, 0.00333333, 0.0025])


def test_what_a_key_explains_is_the_adjusted_correlation_ratio() -> None:
    groups, scores = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    # SSW = 1, SST = 5: 1 - (1 / 2) / (5 / 3)
    assert explained(groups, scores) == pytest.approx(0.7)


def test_a_key_that_decides_is_told_from_one_that_changes_nothing() -> None:
    random = np.random.default_rng(0)
    lr, depth = 10 ** random.uniform(-5, -2, 200), random.integers(1, 4, 200)
    scores = -np.abs(np.log10(lr) + 3) + 0.1 * random.normal(size=200)
    first, second = importance({"depth": depth.tolist(), "lr": lr.tolist()}, scores.tolist())
    assert (first.key, second.key) == ("lr", "depth")
    assert first.low > 0.7
    assert second.share < 0.05
    assert importance({"lr": [1, 2, 3]}, [0.1, 0.2, 0.3]) == [], "too few to say anything"


def test_a_place_that_leads_out_of_the_root_is_missing(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    root = Root(tmp_path / "root")
    for path in ("../other", "/etc", "nothing", "a\x00b"):
        with pytest.raises(Missing):
            root.inside(path)
