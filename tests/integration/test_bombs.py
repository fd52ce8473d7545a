"""Files of a few kilobytes that claim, or unpack to, far more: one line, before memory or disk is taken for it."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import h5py
import numpy as np
import psutil
import pytest

from understudy import checkpoints, write_dataset
from understudy.envs.files.pictures import decode
from understudy.envs.files.reading import WrongContent, open_hdf5, read_dataset
from understudy.envs.sources.arrays.trees import open_tree
from understudy.envs.sources.expert_buffer.unpickling import load_tensors
from understudy.envs.sources.lerobot.video import read_frames
from understudy.envs.sources.ogbench.npz_rows import open_rows
from understudy.errors import CheckpointError, DatasetError, StorageError
from understudy.trainables.packs.transfer import read_weights

MOST_KILOBYTES = 80_000
"""How much the process may grow by one of them."""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def zarr_of(folder: Path, shape: list[int], chunks: list[int], compressor: str | None, chunk: bytes | None) -> Path:
    place = folder / "demos.zarr" / "state"
    place.mkdir(parents=True)
    (place.parent / ".zgroup").write_text('{"zarr_format": 2}')
    codec = None if compressor is None else {"id": compressor}
    about = {"shape": shape, "chunks": chunks, "dtype": "<f4", "order": "C", "compressor": codec, "fill_value": 0}
    (place / ".zarray").write_text(json.dumps(about))
    if chunk is not None:
        (place / "0.0").write_bytes(chunk)
    return place.parent


def lying_npz(folder: Path, bytes_claimed: int) -> Path:
    """Write an npz whose directory and array header claim so many bytes, of which it has none."""
    file = folder / "demos.npz"
    header = str({"descr": "<f4", "fortran_order": False, "shape": (bytes_claimed // 8, 2)}).ljust(117) + "\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode())
    data = file.read_bytes()
    place = data.index(b"PK\x01\x02") + 24
    file.write_bytes(data[:place] + struct.pack("<I", bytes_claimed + 128) + data[place + 4 :])
    return file


ZEROS = bytes(2**27)
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda data: zlib.compress(data, 1),
    "gzip": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "lzma": lambda data: lzma.compress(data, preset=0),
    "blosc": lambda data: struct.pack("<BBBBIII", 2, 1, 0x2, 4, 2**31, 2**31, 16) + data[:100],
    "lz4": lambda data: struct.pack("<I", 2**31) + data[:100],
}


@pytest.mark.parametrize("codec", PACKED)
def test_a_chunk_that_unpacks_to_more_than_its_description_says_is_refused(codec: str, tmp_path: Path) -> None:
    folder = zarr_of(tmp_path, [4, 2], [4, 2], codec, PACKED[codec](ZEROS))
    before = peak()
    with pytest.raises(
        DatasetError, match=r"demos\.zarr: (a chunk .* its description says 32|.* damaged \(Corrupt Lz4)"
    ):
        read_all(folder)
    assert peak() - before < MOST_KILOBYTES


def read_all(folder: Path) -> Any:
    with open_tree(folder, "zarr") as tree:
        return [rows[: rows.shape[0]] for rows in tree.values()]


@pytest.mark.parametrize(("shape", "chunks"), [([10**11, 2], [1000, 2]), ([4, 2], [10**11, 2])])
def test_a_zarr_that_claims_more_than_it_can_hold_is_refused(shape, chunks, tmp_path: Path) -> None:
    folder = zarr_of(tmp_path, shape, chunks, None, None)
    with pytest.raises(DatasetError, match=r"demos\.zarr: its arrays claim 800\.0 GB"):
        read_all(folder)


@pytest.mark.parametrize(("shape", "chunks"), [([-5, 2], [4, 2]), ([4, 2], [0, 2]), ([4, 2], [4]), ([4, 2], [4, -1])])
def test_a_zarr_of_impossible_sizes_is_one_line(shape, chunks, tmp_path: Path) -> None:
    folder = zarr_of(tmp_path, shape, chunks, None, bytes(32))
    with pytest.raises(DatasetError, match=r"demos\.zarr: array 'state' of shape"):
        read_all(folder)


def test_an_npz_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    file = lying_npz(tmp_path, 2**32 - 2**20)
    with pytest.raises(DatasetError, match=r"demos\.npz: its arrays claim 4\.3 GB"), open_tree(file, "npz") as tree:
        list(tree)
    with pytest.raises(DatasetError, match=r"demos\.npz: its arrays claim 4\.3 GB"), open_rows(file, "state"):
        pass


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_a_picture_of_more_pixels_than_any_camera_has_is_refused_before_it_is_decoded(side: int) -> None:
    whole = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    whole[16:24] = struct.pack(">II", side, side)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    before = peak()
    with pytest.raises(WrongContent, match="pixels"):
        decode(bytes(whole), cv2.IMREAD_COLOR_RGB)
    assert peak() - before < MOST_KILOBYTES


FILM = """
import sys
import av
import numpy as np

width, height = int(sys.argv[2]), int(sys.argv[3])
with av.open(sys.argv[1], "w") as output:
    stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 128
    output.mux(stream.encode(frame))
    output.mux(stream.encode())
"""


def film(file: Path, width: int, height: int) -> Path:
    """Write one grey frame, in a process of its own: the encoder needs the memory that a reader must not take."""
    subprocess.run([sys.executable, "-c", FILM, str(file), str(width), str(height)], check=True, capture_output=True)
    return file


def test_a_video_of_more_pixels_than_any_camera_has_is_refused_before_a_frame_is_decoded(tmp_path: Path) -> None:
    file = film(tmp_path / "film.mp4", 9_000, 9_000)
    assert file.stat().st_size < 300_000
    read_frames(film(tmp_path / "small.mp4", 64, 64), [0.0])  # what every reader takes
    before = peak()
    with pytest.raises(DatasetError, match=r"film\.mp4: frames of 9000 x 9000 pixels; at most 67 million are read"):
        read_frames(file, [0.0])
    assert peak() - before < MOST_KILOBYTES


@pytest.mark.parametrize("box", ["avc1", "stts", "stsz", "mdhd"])
def test_a_video_whose_boxes_claim_sizes_or_frames_that_it_has_not_takes_no_memory_for_them(
    box: str, tmp_path: Path
) -> None:
    """The claims are a size of 65535 x 65535, 2^31 times, 2^31 frames and a day of 4 billion seconds."""
    data = film(tmp_path / "film.mp4", 64, 64).read_bytes()
    place, claim = {
        "avc1": (data.index(b"avc1\0\0\0\0\0\0") + 28, struct.pack(">HH", 65535, 65535)),
        "stts": (data.index(b"stts") + 12, struct.pack(">I", 2**31 - 1)),
        "stsz": (data.index(b"stsz") + 8, struct.pack(">II", 1, 2**31 - 1)),
        "mdhd": (data.index(b"mdhd") + 16, struct.pack(">II", 1, 2**32 - 1)),
    }[box]
    file = tmp_path / "claims.mp4"
    file.write_bytes(data[:place] + claim + data[place + len(claim) :])
    before = peak()
    with contextlib.suppress(DatasetError):
        assert read_frames(file, [0.0]).shape == (1, 64, 64, 3)
    assert peak() - before < MOST_KILOBYTES


def test_weights_that_unpack_to_more_than_their_file_holds_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("weights/data.pkl", b"\x80\x02}.")
        archive.writestr("weights/data/0", ZEROS)
    said = r"weights\.pt is no file of torch's: \d+ bytes that unpack to 134\.2 MB"
    before = peak()
    for read, error in (
        (checkpoints.load, CheckpointError),
        (read_weights, CheckpointError),
        (load_tensors, DatasetError),
    ):
        with pytest.raises(error, match=said):
            read(file)
    assert peak() - before < MOST_KILOBYTES


def test_a_dataset_that_would_fill_the_disk_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = os.statvfs(tmp_path)
    left = (*held[:4], 10_000 // held.f_frsize + 25, held[5], held[6], 10_000, *held[8:])  # 100 kB and some
    episode = {"observations": np.zeros((100, 100), np.float32), "actions": np.zeros((100, 2), np.float32)}
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(left))
    with pytest.raises(StorageError, match=r"no space left for mine from episode 2 on in .*: free some"):
        write_dataset("mine", [episode] * 5, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_an_array_of_more_bytes_than_the_memory_that_is_free_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "demos.hdf5"
    with h5py.File(file, "w") as written:
        written.create_dataset("state", shape=(10_000, 2), dtype="f4")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=79_999))
    with open_hdf5(file) as opened, pytest.raises(DatasetError, match=r"demos\.hdf5: /state has 0\.1 MB, and 0\.1 MB"):
        read_dataset(file, opened, "state")


def test_rows_that_are_damaged_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "demos.hdf5"
    with h5py.File(file, "w") as written:
        rows = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
        written.create_dataset("state", data=rows, chunks=(4, 500), compression="gzip")
        place = written["state"].id.get_chunk_info(0).byte_offset
    data = bytearray(file.read_bytes())
    data[place : place + 400] = bytes(400)
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"demos\.hdf5: .* damaged"), open_tree(file, "hdf5") as tree:
        tree["state"][:4]
