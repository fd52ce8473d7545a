"""Pages about datasets: of numbers and of pictures, whole and damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.dashboards.folders import data_in, make_clip, make_run, make_store, make_sweep

from understudy.dashboards.places import Root
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import site_of
from understudy.dashboards.site import Site


@pytest.fixture
def shown(tmp_path: Path) -> TestClient:
    """Return pages of a folder with two datasets."""
    make_store(tmp_path / "data", "lab:one")
    (tmp_path / "runs").mkdir()
    site = Site(Root(tmp_path / "runs"), data_dir=tmp_path / "data")
    return TestClient(make_app(site), base_url="http://127.0.0.1")


def test_datasets_are_listed_and_opened_by_name(shown: TestClient) -> None:
    assert 'href="/dataset/lab%3Aone"' in shown.get("/datasets").text
    page = shown.get("/dataset/lab:one", params={"episode": "2"}).text
    data = data_in(page)
    assert data["overview"]["returns"] == [0.0, 4.0, 8.0]
    assert data["episode"]["actions"] == [[2.0] * 4] * 3
    assert data["episode"]["observations"][0] == [8.0, 9.0, 10.0, 11.0]
    assert "put &lt;i&gt;2&lt;/i&gt; away" in page


def test_a_picture_is_a_png_of_the_row_that_is_asked_for(shown: TestClient) -> None:
    answer = shown.get("/picture/lab:one", params={"camera": "front <b>", "row": "7"})
    assert answer.headers["content-type"] == "image/png"
    image = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert image.shape == (6, 8, 3)
    assert image[0, 0].tolist() == [70, 0, 0]


@pytest.mark.parametrize("query", [{"camera": "other"}, {"camera": "front <b>", "row": "12"}, {}])
def test_a_picture_that_is_not_there_is_missing(shown: TestClient, query: dict[str, str]) -> None:
    assert shown.get("/picture/lab:one", params=query).status_code == 404


def test_an_episode_beyond_the_last_is_the_last(shown: TestClient) -> None:
    assert data_in(shown.get("/dataset/lab:one", params={"episode": "99"}).text)["number"] == 2


def test_verifying_says_whole_or_what_is_damaged(shown: TestClient, tmp_path: Path) -> None:
    assert "whole" in shown.get("/list/verify/lab:one").text
    file = next((tmp_path / "data").glob("*/transitions.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert 'class="problem"' in shown.get("/list/verify/lab:one").text


def test_a_damaged_dataset_is_said_to_be_so(shown: TestClient, tmp_path: Path) -> None:
    file = next((tmp_path / "data").glob("*/transitions.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    answer = shown.get("/dataset/lab:one")
    assert answer.status_code == 400
    assert "truncated" in answer.text


@pytest.mark.parametrize("name", ["%2e%2e", "%2e", "nothing", "%2e%2e/runs", "%00"])
def test_what_is_no_dataset_is_missing(shown: TestClient, name: str) -> None:
    assert shown.get(f"/dataset/{name}").status_code == 404


def test_a_datasets_name_opens_its_page(tmp_path: Path) -> None:
    make_store(tmp_path / "data", "lab:one")
    assert site_of("lab:one", tmp_path, tmp_path / "data").start == "/dataset/lab%3Aone"


def test_a_demonstration_stands_beside_a_rollout_of_a_policy_that_learned_from_it(
    shown: TestClient, tmp_path: Path
) -> None:
    assert "once some are filmed" in shown.get("/dataset/lab:one").text
    for name, data in (("other", "lab:two"), ("mine", "lab:one")):
        run = make_run(tmp_path / "runs" / name, env_name=data)
        make_clip(run, 0, 3, 1.0)
        make_clip(run, 1, 4, 0.0)
    trial = make_sweep(tmp_path / "runs" / "sweep_1", trials=1) / "trials" / "0000"
    record = json.loads((trial.parents[1] / "sweep.json").read_text())
    record["run"]["env_name"] = "lab:one"
    (trial.parents[1] / "sweep.json").write_text(json.dumps(record))
    make_clip(trial, 2, 5, 0.0)
    fresh = TestClient(make_app(Site(Root(tmp_path / "runs"), data_dir=tmp_path / "data")), base_url="http://127.0.0.1")
    page = fresh.get("/dataset/lab:one", params={"episode": "1"}).text
    assert page.count("<option") == 3
    assert "mine, seed 1, episode 4: failure" in page
    assert "sweep_1/trials/0000, seed 2, episode 5: failure" in page
    assert "runs/other" not in page
    asked = "mine/videos/" + next(path.name for path in (tmp_path / "runs" / "mine" / "videos").glob("seed000*.mp4"))
    page = fresh.get("/dataset/lab:one", params={"beside": asked}).text
    assert f'src="/file/{asked}"' in page
    assert data_in(page)["beside"] == asked
    for wrong in ("../x.mp4", "mine/videos/none.mp4", "mine"):
        assert fresh.get("/dataset/lab:one", params={"beside": wrong}).status_code == 404
