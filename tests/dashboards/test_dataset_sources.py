"""The page of a dataset, for data of every source: numbers, pictures however they are kept, words, verification."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.contract.lerobot_examples import made, written
from tests.contract.source_examples import EXAMPLES, made_up, place
from tests.dashboards.folders import data_in

from understudy.dashboards.places import Root, address
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import site_of
from understudy.dashboards.site import Site
from understudy.envs.sources.lerobot.writer import LeRobotWriter
from understudy.envs.sources.source import task_of
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.errors import DatasetError
from understudy.registry import sources


def pages_of(data_dir: Path) -> TestClient:
    (data_dir / "runs").mkdir(exist_ok=True)
    return TestClient(make_app(Site(Root(data_dir / "runs"), data_dir=data_dir)), base_url="http://127.0.0.1")


def picture(pages: TestClient, name: str, camera: str, row: int) -> np.ndarray:
    """Return a picture [H, W, C] as the page loads it."""
    answer = pages.get(f"/picture/{name}", params={"camera": camera, "row": str(row)})
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_a_dataset_of_every_published_source_is_listed_shown_and_verified(kind: str, tmp_path: Path) -> None:
    source, example = sources.get(kind), EXAMPLES[kind]
    episodes = made_up(example, [5, 3])
    path = place(source, tmp_path)
    source.write(path, iter(episodes), example.env_name, {})
    import_file(task_of(example.env_name), path, tmp_path / "data")
    pages = pages_of(tmp_path / "data")
    assert f">{example.env_name}</a>" in pages.get("/datasets").text
    data = data_in(pages.get(f"/dataset/{example.env_name}", params={"episode": "1"}).text)
    assert data["overview"]["lengths"] == [5.0, 3.0]
    assert data["overview"]["returns"] == [float(episode["rewards"].sum()) for episode in episodes]
    for name, dims in (("actions", example.action_dim), ("observations", example.observation_dim)):
        shown = np.array(data["episode"][name], np.float32)
        np.testing.assert_allclose(shown, episodes[1][name].T[: len(shown)], rtol=1e-5, err_msg=name)
        assert len(shown) == min(24, dims)
    assert "whole" in pages.get(f"/list/verify/{example.env_name}").text


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_lerobot_datasets_videos_are_pictures_of_each_step(encoding: str, tmp_path: Path) -> None:
    written(tmp_path / "arm", 2, pictures="h264")
    options = ImportOptions(pictures=PictureEncoding(encoding))
    import_file(task_of("lerobot:lab/arm"), tmp_path / "arm", tmp_path / "data", options)
    pages = pages_of(tmp_path / "data")
    page = pages.get("/dataset/lerobot:lab/arm", params={"episode": "1"}).text
    assert "lève le cube 🧊" in page
    for camera in ("front", "hand"):
        assert f'data-camera="{camera}"' in page
        shown = picture(pages, "lerobot:lab/arm", camera, 4 + 2).astype(int)  # the first episode has four steps
        assert np.abs(shown - made(1)[f"images/{camera}"][2]).mean() < 12, "pictures that were encoded twice"


def test_a_recordings_page_names_its_environment_and_shows_success_and_corrections(tmp_path: Path) -> None:
    root = tmp_path / "cubes"
    with LeRobotWriter(root, fps=10, note={"env_name": "gym_hil/PandaPickCube-v0"}) as writer:
        writer.add_episode({**made(0), "success": np.eye(4, dtype=np.uint8)[3], "interventions": np.ones(4, np.uint8)})
    name = f"lerobot:{root}"
    with pytest.raises(DatasetError, match="get it with `understudy data import lerobot ") as error:
        site_of(name, tmp_path / "runs", tmp_path / "data")
    assert f"--name {name}" in str(error.value)
    import_file(task_of(name), root, tmp_path / "data")
    pages = pages_of(tmp_path / "data")
    assert site_of(name, tmp_path / "data" / "runs", tmp_path / "data").start == address("dataset", name)
    page = pages.get(address("dataset", name)).text
    assert "<dt>environment</dt><dd>gym_hil/PandaPickCube-v0</dd>" in page
    shown = data_in(page)["episode"]
    assert (shown["success"], shown["interventions"]) == ([[0, 0, 0, 1]], [[1, 1, 1, 1]])
    assert "<td>gym_hil/PandaPickCube-v0</td>" in pages.get("/datasets").text


def test_a_file_of_ones_own_has_a_page_with_its_cameras(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (7, 16, 24, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for number, rows in enumerate((slice(0, 4), slice(4, 7))):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/joints"] = random.normal(size=(frames[rows].shape[0], 2))
            demo["obs/front"] = frames[rows]
            demo["command"] = random.normal(size=(frames[rows].shape[0], 3))
    task, keys = sources.get("hdf5").own("my-reach.v1"), {"obs": "joints,front", "action": "command"}
    import_file(task, tmp_path / "demos.hdf5", tmp_path / "data", ImportOptions("my-reach.v1", reading=keys))
    pages = pages_of(tmp_path / "data")
    assert 'href="/dataset/my-reach.v1"' in pages.get("/datasets").text
    page = pages.get("/dataset/my-reach.v1", params={"episode": "1"}).text
    assert len(data_in(page)["episode"]["actions"]) == 3
    np.testing.assert_array_equal(picture(pages, "my-reach.v1", "front", 5), frames[5])
