"""Pages about episodes, and two to six runs beside each other."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.dashboards.conftest import Open
from tests.dashboards.folders import SEEDS, confirmed, data_in, make_run, make_sweep

from understudy.comparisons import paired_difference
from understudy.dashboards.pages.compare import short_names
from understudy.files import write_json
from understudy.runs.episodes import (
    CONFIRMATION,
    TRAINING,
    Played,
    Setting,
    put_evaluation,
    read_episodes,
    rows_where,
    scores,
)


@pytest.fixture
def shown(tmp_path: Path, opened: Open) -> TestClient:
    """Return pages of two runs and a sweep."""
    make_run(tmp_path / "group" / "one", 0.9, lr=1e-3)
    make_run(tmp_path / "group" / "two", 0.2, lr=1e-4)
    make_sweep(tmp_path / "group" / "sweep_1", trials=3)
    return opened(tmp_path)


def test_failures_come_first_and_may_be_all(shown: TestClient) -> None:
    page = shown.get("/episodes/group/two").text
    assert page.index("failure") < page.index(">success<")
    only = shown.get("/list/episodes/group/two", params={"show": "failures", "seed": "1"}).text
    assert ">success<" not in only
    assert "<html" not in only
    listed = [row.partition("</td>")[0] for row in only.split('data-cell="')[1:]]
    assert listed
    assert all(row.startswith("1-") for row in listed)


def test_the_grid_has_a_row_for_each_seed_and_a_column_for_each_state(shown: TestClient) -> None:
    grid = data_in(shown.get("/episodes/group/one").text)["grid"]
    assert grid["rows"] == ["seed 0", "seed 1", "seed 2"]
    assert grid["columns"] == list(range(1_000_000, 1_000_010))
    assert np.shape(grid["values"]) == (3, 10)


def test_another_evaluation_is_chosen_by_its_key(shown: TestClient) -> None:
    page = shown.get("/episodes/group/one", params={"of": f"~{TRAINING}~200~"}).text
    assert "training, step 200;" in page


def test_a_filmed_episode_is_a_part_of_the_video(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "run_1", video_frame_skip=3)
    played = [Played(0, place, 1_000_000 + place, 1.0, 30, 1.0, None, 10 * place + 9) for place in range(2)]
    put_evaluation(run / "episodes.arrow", TRAINING, None, Setting(), 500, played)
    (run / "video.mp4").write_bytes(b"film")
    page = opened(tmp_path).get("/episodes/run_1").text
    assert "/file/run_1/video.mp4#t=0.00,1.00" in page
    assert "/file/run_1/video.mp4#t=1.00,2.00" in page


def test_a_run_without_episodes_says_so(tmp_path: Path, opened: Open) -> None:
    write_json(tmp_path / "run_1" / "flags.json", {})
    assert "No episode is recorded here" in opened(tmp_path).get("/episodes/run_1").text


def test_differences_are_those_of_the_paired_formula(shown: TestClient, tmp_path: Path) -> None:
    page = shown.get("/compare", params={"of": ["group/one", "group/two"]}).text
    one, two = (scores(last(tmp_path / "group" / name), "success") for name in ("one", "two"))
    wanted = paired_difference(one, two, rate=True)
    assert f"<b>{wanted.mean:.2f}</b>" in page
    assert f"[{wanted.low:.2f}, {wanted.high:.2f}]" in page
    assert "on the 10 start states that all of them played" in page
    assert data_in(page)["grid"]["rows"][3] == "two, seed 0"
    assert ">lr<" in page


def last(run: Path):
    """Return a run's last evaluation."""
    return rows_where(read_episodes(run / "episodes.arrow"), step=400)


def test_a_sweep_is_compared_by_what_was_confirmed(tmp_path: Path, opened: Open) -> None:
    for name in ("sweep_1", "sweep_2"):
        sweep = make_sweep(tmp_path / name, trials=3)
        write_json(sweep / "best.json", confirmed(2))
        played = [Played(seed, state, 2_000_000 + state, 1.0, 9, 1.0) for seed in SEEDS for state in range(5)]
        put_evaluation(sweep / "episodes.arrow", CONFIRMATION, 2, Setting(), 400, played)
    page = opened(tmp_path).get("/compare", params={"of": ["sweep_1", "sweep_2"]}).text
    assert "on the 5 start states" in page
    assert "not distinguishable" in page


def test_what_has_no_state_in_common_is_not_paired(tmp_path: Path, opened: Open) -> None:
    make_run(tmp_path / "one")
    other = make_run(tmp_path / "two")
    (other / "episodes.arrow").unlink()
    played = [Played(0, state, 7 + state, 1.0, 9, 1.0) for state in range(5)]
    put_evaluation(other / "episodes.arrow", TRAINING, None, Setting(), 400, played)
    page = opened(tmp_path).get("/compare", params={"of": ["one", "two"]}).text
    assert "no start state in common" in page


@pytest.mark.parametrize("of", [[], ["group/one"], ["group/one"] * 2, [f"group/{n}" for n in range(7)]])
def test_fewer_than_two_and_more_than_six_are_refused_in_words(shown: TestClient, of: list[str]) -> None:
    answer = shown.get("/compare", params={"of": of})
    assert answer.status_code == 400
    assert "two to six runs, trials or sweeps are compared" in answer.text


def test_what_is_elsewhere_is_not_compared(shown: TestClient) -> None:
    assert shown.get("/compare", params={"of": ["group/one", "../other"]}).status_code == 404


def test_runs_are_called_by_what_tells_them_apart() -> None:
    assert short_names(["a/b/one", "a/b/two"]) == ["one", "two"]
    assert short_names(["a/s/trials/0003", "a/s/trials/0012"]) == ["trial 3", "trial 12"]
    assert short_names([unquote("a%20b"), "c/d"]) == ["a b", "c/d"]
