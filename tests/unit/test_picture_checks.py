"""What `data verify` says of pictures, and the strip of frames that `data info --pictures` saves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.frames import encode_jpeg
from understudy.envs.store.picture_checks import scan_pictures
from understudy.envs.store.picture_strips import save_strip, strip
from understudy.envs.store.store import TRANSITIONS, EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.errors import DatasetError

SIZE, LENGTHS = 16, [5, 3, 7]


def moving(length: int, seed: int) -> np.ndarray:
    """Return pictures of a bright square that moves over noise, [length, H, W, 3]."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(40, 90, (length, SIZE, SIZE, 3)).astype(np.uint8)
    for step in range(length):
        frames[step, 4:8, step : step + 4] = 255
    return frames


def write(
    path: Path, cameras: dict[str, list[np.ndarray]], encoding: str = "raw", saliency: np.ndarray | None = None
) -> EpisodeStore:
    """Write a store of three episodes with these pictures, an array [T, H, W, C] an episode."""
    with StoreWriter(path, name="made", source="d4rl", env_id="X-v0", pictures=PictureEncoding(encoding)) as writer:
        for number, length in enumerate(LENGTHS):
            pictures = {f"images/{name}": frames[number] for name, frames in cameras.items()}
            rest = {} if saliency is None else {"saliency/depth": saliency[:length]}
            writer.add_episode(
                {
                    "observations": np.arange(length, dtype=np.float32)[:, None] + number,
                    "actions": np.zeros((length, 2)),
                    "rewards": np.zeros(length),
                    "terminals": np.zeros(length),
                    **pictures,
                    **rest,
                }
            )
    return EpisodeStore.open(path)


def good() -> list[np.ndarray]:
    return [moving(length, seed) for seed, length in enumerate(LENGTHS)]


def findings(store: EpisodeStore) -> tuple[list[str], list[str]]:
    reports = scan_pictures(store)
    return (
        [line for report in reports for line in report.damage(store)],
        [line for report in reports for line in report.oddities(store)],
    )


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_nothing_is_said_of_good_pictures(tmp_path: Path, encoding: str) -> None:
    assert findings(write(tmp_path / "store", {"front": good(), "wrist": good()}, encoding)) == ([], [])


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("block_bytes", [1, 2**26])
def test_black_single_coloured_and_stuck_pictures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, block_bytes: int
) -> None:
    monkeypatch.setattr("understudy.envs.store.picture_checks.BLOCK_BYTES", block_bytes)
    black = [np.full((length, SIZE, SIZE, 3), 2, np.uint8) for length in LENGTHS]
    spotted, stuck = good(), good()
    spotted[1][2] = (200, 10, 30)
    spotted[2][4] = 128
    stuck[1][:] = stuck[1][0]
    store = write(tmp_path / "store", {"black": black, "spotted": spotted, "stuck": stuck}, encoding)
    damage, oddities = findings(store)
    assert damage == []
    assert oddities == [
        "images/black: every frame is black",
        "images/spotted: 2 of 15 frames are of one colour, the first in episode 1, step 2",
        "images/stuck: the picture never changes in 1 of 3 episodes, the first is episode 1",
    ]


def replace_frames(store: EpisodeStore, column: str, changes: dict[int, bytes]) -> EpisodeStore:
    """Return the store with other bytes in place of some JPEGs, as a bad disk or a bad program leaves them."""
    with pa.OSFile(str(store.path / TRANSITIONS), "rb") as source:
        table = pa.ipc.open_file(source).read_all()
    values = table.column(column).to_pylist()
    for row, data in changes.items():
        values[row] = data
    place = table.schema.get_field_index(column)
    batch = table.set_column(place, table.schema.field(place), pa.array(values, pa.large_binary())).to_batches()[0]
    with pa.OSFile(str(store.path / TRANSITIONS), "wb") as target, pa.ipc.new_file(target, batch.schema) as writer:
        writer.write_batch(batch)
    return EpisodeStore(store.path, store.manifest)


def test_jpegs_that_are_empty_cut_short_no_jpeg_or_of_another_size_are_unreadable(tmp_path: Path) -> None:
    store = write(tmp_path / "store", {"front": good(), "wrist": good()}, "jpeg")
    whole = encode_jpeg(moving(1, 9)[0], 95)
    small = encode_jpeg(moving(1, 9)[0, :8], 95)
    broken = replace_frames(
        store, "images/wrist", {6: whole[: len(whole) // 2], 8: b"", 9: b"no picture\xff\xd9", 14: small}
    )
    damage, oddities = findings(broken)
    assert damage == ["images/wrist: 4 of 15 frames cannot be decoded, the first in episode 1, step 1"]
    assert oddities == []


def test_a_lone_picture_column_is_looked_at_too(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", name="made", source="ogbench", env_id="X-v0") as writer:
        black = np.zeros((4, SIZE, SIZE, 3), np.uint8)
        rest = {"actions": np.zeros((4, 2)), "rewards": np.zeros(4), "terminals": np.zeros(4)}
        writer.add_episode({"observations": black, "final_observation": black[0], **rest})
    store = EpisodeStore.open(tmp_path / "store")
    assert findings(store)[1] == ["observations: every frame is black", "final_observations: every frame is black"]
    assert strip(store).max() == 255


def test_a_strip_shows_first_and_last_frames_of_episodes_as_they_are(tmp_path: Path) -> None:
    cameras = {"front": good(), "wrist": good()}
    store = write(tmp_path / "store", cameras)
    picture = strip(store, frames=3)
    assert picture.dtype == np.uint8
    assert picture.shape == (6 * (16 + 96 + 4), 3 * 96 + 2 * 4, 3)
    for row, frames in enumerate(episode for episode in cameras["front"] for _ in cameras):
        top = row * 116 + 16
        for column, step in ((0, 0), (2, len(frames) - 1)):
            left = column * 100
            assert np.array_equal(picture[top : top + 96, left : left + 96], frames[step].repeat(6, 0).repeat(6, 1))


def test_one_camera_large_frames_grey_frames_and_saliency_are_shown(tmp_path: Path) -> None:
    large = [np.full((length, 600, 300, 1), 90, np.uint8) for length in LENGTHS]
    saliency = np.full((7, 600, 300, 1), 0.5, np.float32)
    store = write(tmp_path / "store", {"depth": large, "wrist": good()}, saliency=saliency)
    picture = strip(store, ["depth"], frames=2, episodes=1)
    assert picture.shape[0] == 2 * (16 + 256 + 4)
    assert (picture[16 + 128, 64] == 90).all()
    assert (picture[16 + 256 + 4 + 16 + 128, 64] == 128).all()


def test_the_strip_is_saved_as_a_png_and_wrong_names_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "store", {"front": good()})
    file = save_strip(store, tmp_path / "new" / "strip.png")
    assert np.array_equal(np.asarray(Image.open(file)), strip(store))
    with pytest.raises(DatasetError, match=r"ends in \.png"):
        save_strip(store, tmp_path / "strip.jpg")
    with pytest.raises(DatasetError, match="did you mean 'front'"):
        strip(store, ["frnt"])
    with pytest.raises(DatasetError, match="has no pictures"):
        strip(write(tmp_path / "states", {}))
