"""`understudy dashboard --tracking_uri`: runs whose files are elsewhere, read from MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.dashboards.folders import data_in, make_clip, make_run, make_sweep
from tests.unit.command_line import understudy

from understudy import tracking
from understudy.dashboards.places import Root
from understudy.dashboards.remote import Remote
from understudy.dashboards.server import make_app
from understudy.dashboards.site import Site
from understudy.files import read_object
from understudy.tracking.addresses import sqlite_address


def ship(store: str, folder: Path, *, parent: str | None = None, ended: bool = True, **tags: str) -> str | None:
    """Track a folder as its trainer does."""
    flags = folder / "flags.json"
    keys = read_object(flags) if flags.is_file() else read_object(folder / "sweep.json")["run"]
    all_tags = {"run_dir": folder, "env_name": keys["env_name"], "algo": keys["algo"], **tags}
    sources = [(folder / "eval.csv", "eval/")]
    sources += [(folder / f"sd00{seed}" / "train.csv", f"sd00{seed}/train/") for seed in (0, 1)]
    tracked = tracking.track(
        store, folder, experiment="a project", name=folder.name, sources=sources, parent_run_id=parent, params=keys,
        tags=all_tags,
    )  # fmt: skip
    tracked.flush(timeout=60)
    if ended:
        tracked.log_folder(folder)
        assert tracked.close("FINISHED")
    return tracked.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store with a sweep of two trials, a run and one under way, whose folders are gone."""
    root = tmp_path_factory.mktemp("elsewhere")
    address = sqlite_address(tmp_path_factory.mktemp("store") / "mlflow.db")
    tracking.prepare(address)
    sweep = make_sweep(root / "sweep_1", trials=2)
    trials = [shutil.move(trial, root / trial.name) for trial in sorted((sweep / "trials").iterdir())]
    (sweep / "trials").rmdir()
    make_clip(Path(trials[1]), 1, 4, 0.0)
    parent = ship(address, sweep, kind="sweep")
    for trial in trials:
        (sweep / "trials").mkdir(exist_ok=True)
        ship(address, Path(shutil.move(trial, sweep / "trials" / Path(trial).name)), parent=parent)
    ship(address, make_run(root / "bc sd000", 0.9))
    ship(address, make_run(root / "under way", 0.5), ended=False)
    shutil.rmtree(root)
    return address


@pytest.fixture
def shown(store: str, tmp_path: Path) -> Iterator[TestClient]:
    """Return pages of the store."""
    site = Site(Root(tmp_path), remote=Remote(store, tmp_path))
    yield TestClient(make_app(site), base_url="http://127.0.0.1")


@pytest.mark.slow
def test_sweeps_runs_episodes_and_videos_are_shown_from_the_store_alone(shown: TestClient) -> None:
    first = shown.get("/").text
    assert first.count('class="name"') == 3
    sweep = shown.get("/sweep/a project/lift-mh-low_dim/sweep_1").text
    assert "Trial 1 was chosen" in sweep
    assert [trial["s"] for trial in data_in(sweep)["trials"]] == ["complete", "complete"]
    assert {axis["key"] for axis in data_in(sweep)["axes"]} == {"lr", "horizon_length"}
    trial = shown.get("/run/a project/lift-mh-low_dim/sweep_1/trials/0001").text
    assert set(data_in(trial)["seeds"]["eval/success"]) == {"0", "1", "2"}
    episodes = shown.get("/episodes/a project/lift-mh-low_dim/sweep_1/trials/0001").text
    assert episodes.count("data-cell=") == 30
    video = episodes.partition("<video")[2].partition('src="')[2].partition('"')[0]
    assert shown.get(video).headers["content-type"] == "video/mp4"


@pytest.mark.slow
def test_a_run_under_way_has_the_curves_that_the_store_has(shown: TestClient) -> None:
    page = shown.get("/run/a project/lift-mh-low_dim/under way").text
    assert '<span class="chip running">' in page
    assert data_in(page)["mean"]["step"] == [100, 200, 300, 400]
    assert set(data_in(page)["seeds"]["train/actor_loss"]) == {"0", "1"}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["../x", "a project/../../x", "nothing"])
def test_what_the_store_has_not_is_missing(shown: TestClient, path: str) -> None:
    assert shown.get(f"/run/{path}").status_code == 404


def test_a_server_that_is_away_is_one_line_in_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = understudy(monkeypatch, capsys, "dashboard", "--tracking_uri", "http://127.0.0.1:9", "--no-browser")
    assert said.code != 0
    assert said.err.count("\n") == 1
    assert "no MLflow server answers at http://127.0.0.1:9" in said.err


def test_a_server_that_goes_away_meanwhile_is_a_page_of_one_line(tmp_path: Path) -> None:
    site = Site(Root(tmp_path), remote=Remote("http://127.0.0.1:9", tmp_path))
    answer = TestClient(make_app(site), base_url="http://127.0.0.1").get("/")
    assert answer.status_code == 503
    assert "no MLflow server answers" in answer.text


def test_a_store_that_is_not_there_is_not_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    address = sqlite_address(tmp_path / "none.db")
    said = understudy(monkeypatch, capsys, "dashboard", "--tracking_uri", address, "--no-browser")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert not (tmp_path / "none.db").exists()
    said = understudy(monkeypatch, capsys, "dashboard", str(tmp_path), "--tracking_uri", address)
    assert "give one of them" in said.err
