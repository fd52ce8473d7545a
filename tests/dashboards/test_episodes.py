"""Pages about episodes, and two to six runs beside each other."""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.dashboards.conftest import Open
from tests.dashboards.folders import SEEDS, confirmed, data_in, make_clip, make_run, make_sweep

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


def test_a_filmed_episode_is_played_with_what_was_done_in_it(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "run_1", 0.2)
    row = rows_where(last(run), seed=1, episode=4).to_pylist()[0]
    clip = make_clip(run, 1, 4, row["success"], returns=row["return"], length=30)
    make_clip(run, 2, 5, 1.0, returns=7.0)
    pages = opened(tmp_path)
    page = pages.get("/episodes/run_1", params={"clip": "1-1000004"}).text
    assert "Seed 1, episode 4" in page
    assert "the recorded episode" in page
    assert f'src="/file/run_1/videos/{clip.file.name}"' in page
    assert page.count(">watch<") == 2
    assert data_in(page)["filmed"] == [[1, 1_000_004], [2, 1_000_005]]
    assert "not the recorded one" in pages.get("/episodes/run_1", params={"clip": "2-1000005"}).text
    beside = pages.get(f"/data/clip/run_1/videos/{clip.file.name}").json()
    assert (beside["fps"], beside["skip"], beside["length"]) == (10, 3, 30)
    assert list(beside["curves"]) == ["actions", "rewards", "observations"]
    assert np.shape(beside["curves"]["actions"]) == (3, 31)
    assert pages.get("/data/clip/run_1/videos/other.mp4").status_code == 404
    assert f"/file/run_1/videos/{clip.file.name}" in pages.get("/run/run_1").text


def test_the_command_films_just_these_episodes_and_can_be_typed(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "a run", 0.2, eval_seed=1_000_000)
    for seed in SEEDS:
        (run / f"sd{seed:03d}" / "final_model.pt").touch()
    page = opened(tmp_path).get("/episodes/a%20run", params={"show": "failures", "seed": "1"}).text
    failed = [row["episode"] for row in rows_where(last(run), seed=1, success=0.0).to_pylist()]
    names = ",".join(f"1:{episode}" for episode in failed[:3])
    command = html.unescape(page.partition('id="command">')[2].partition("<")[0])
    assert shlex.split(command) == ["understudy", "evaluate", "--video", "--episodes", names, str(run)]
    assert page.count("data-command=") == len(failed)


def test_an_earlier_evaluation_is_filmed_from_the_checkpoint_of_its_step_if_it_was_kept(
    tmp_path: Path, opened: Open
) -> None:
    run = make_run(tmp_path / "run_1", 0.2)
    (run / "sd001" / "checkpoint_200.pt").touch()
    asked = {"of": f"~{TRAINING}~200~", "seed": "1", "state": "1000002"}
    page = opened(tmp_path).get("/episodes/run_1", params=asked).text
    assert f"--episodes 2 {run}/sd001/checkpoint_200.pt<" in page
    assert "was not kept" in opened(tmp_path).get("/episodes/run_1", params={**asked, "seed": "2"}).text


def test_a_sweeps_confirmation_is_filmed_from_the_trials_that_hold_its_seeds(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=3)
    fresh = make_run(sweep / "trials" / "0002_sd007", seeds=[7], eval_seed=1_000_000)
    (fresh / "final_model.pt").touch()
    played = [Played(7, state, 5_000_000 + state, 0.0, 9, 0.0) for state in range(3)]
    put_evaluation(sweep / "episodes.arrow", CONFIRMATION, 2, Setting("flow_steps=5"), 400, played)
    make_clip(fresh, 7, 1, reset_seed=5_000_001, setting="flow_steps=5")
    page = opened(tmp_path).get("/episodes/sweep_1").text
    assert f"--episodes 7:0,7:2 {fresh} flow_steps=5 eval_seed=5000000<" in page
    assert page.count(">watch<") == 1


def test_episodes_are_filtered_by_state_and_length(shown: TestClient) -> None:
    def states(**asked: str) -> list[str]:
        page = shown.get("/list/episodes/group/two", params=asked).text
        return [row.partition('"')[0] for row in page.split('data-cell="')[1:]]

    assert sorted(states(state="1000003")) == ["0-1000003", "1-1000003", "2-1000003"]
    assert states(shortest="31") == []
    assert len(states(shortest="30", longest="30")) == 30
    assert len(states(shortest="x", longest="-1")) == 30


def test_rollouts_are_beside_each_other_from_the_same_start_state(tmp_path: Path, opened: Open) -> None:
    for name, level in (("one", 0.9), ("two", 0.2)):
        run = make_run(tmp_path / name, level)
        make_clip(run, 0, 3, float(name == "one"))
    make_clip(tmp_path / "one", 1, 5)
    page = opened(tmp_path).get("/compare", params={"of": ["one", "two"]}).text
    assert "from start state 1000003, at one clock" in page
    assert page.count("<video") == 2
    other = opened(tmp_path).get("/compare", params={"of": ["one", "two"], "state": "1000005"}).text
    assert other.count("<video") == 1
    assert "1000003 (2 of 2)" in other


def test_a_page_of_episodes_begins_with_the_newest_evaluation_that_was_filmed(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "run_1")
    pages = opened(tmp_path)
    assert "step 400;" in pages.get("/episodes/run_1").text
    make_clip(run, 0, 3, step=200)
    page = pages.get("/episodes/run_1").text
    assert "step 200;" in page
    assert "Seed 0, episode 3" in page
