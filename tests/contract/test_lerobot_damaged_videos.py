"""Videos that are damaged in every way: the right frames or one line that names the file, never an error of PyAV's."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.contract.lerobot_examples import FPS, H, W, decoded, scene, video
from tests.contract.source_examples import forbid, one_line

from understudy.envs.sources.lerobot.encoding import encode_video
from understudy.envs.sources.lerobot.video import FrameReader, join_videos, video_info
from understudy.errors import DatasetError

av = pytest.importorskip("av")

COUNT = 40
TIMES = [0.0, 30 / FPS, 5 / FPS, 39 / FPS, 0.0, 20 / FPS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("videos") / "whole.mp4"
    video(file, scene(COUNT, 0))
    return file


@pytest.fixture(scope="module")
def index_first(whole, tmp_path_factory) -> Path:
    """The same video with its index at the file's start, as web servers like it: cutting it leaves it open-able."""
    file = tmp_path_factory.mktemp("videos") / "first.mp4"
    with av.open(str(whole)) as old, av.open(str(file), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return file


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def zeros(first: float, last: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        begin, end = int(len(data) * first), int(len(data) * last)
        return data[:begin] + bytes(end - begin) + data[end:]

    return change


def flipped(seed: int, count: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        rng, damaged = random.Random(seed), bytearray(data)
        for _ in range(count):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        return bytes(damaged)

    return change


DAMAGES = {
    "empty": lambda data: b"",
    **{f"cut to {share}": cut(share) for share in (0.01, 0.3, 0.5, 0.9, 0.999)},
    **{
        f"zeros from {part[0]} to {part[1]}": zeros(*part) for part in ((0.0, 0.01), (0.2, 0.6), (0.5, 1.0), (0.9, 1.0))
    },
    **{
        f"flipped {seed}": flipped(seed, count) for seed, count in enumerate([1, 3, 10, 30, 100, 300, 10, 30, 100, 300])
    },
    "another codec's name": lambda data: data.replace(b"avc1", b"xxxx"),
    "another box's name": lambda data: data.replace(b"stss", b"free").replace(b"stts", b"free"),
    "no track": lambda data: data.replace(b"trak", b"free"),
    "twice": lambda data: data + data,
    "text": lambda data: b"not found\n",
    "a picture": lambda data: b"\x89PNG\r\n\x1a\n" + data,
    "the end first": lambda data: data[len(data) // 2 :] + data[: len(data) // 2],
}


def right_or_refused(file: Path, function: Callable[[], object]) -> str:
    """Return the line that a call is refused with, '' where it is not."""
    try:
        function()
    except DatasetError as error:
        return one_line(error, str(file))
    return ""


def frames_of(file: Path, shape: tuple[int, int] | None = (H, W)) -> np.ndarray:
    with FrameReader(file, shape) as reader:
        return reader.read(TIMES)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["whole", "index_first"])
def test_a_damaged_video_gives_frames_or_one_line(damage, kind, tmp_path, request) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(DAMAGES[damage](request.getfixturevalue(kind).read_bytes()))
    for ahead in (False, True):

        def read(ahead: bool = ahead) -> None:
            with FrameReader(file, ahead=ahead) as reader:
                for time in TIMES:  # one that failed leaves the reader usable
                    right_or_refused(file, lambda time=time: reader.read([time]))

        right_or_refused(file, read)
    right_or_refused(file, lambda: frames_of(file))
    right_or_refused(file, lambda: video_info(file))
    right_or_refused(file, lambda: join_videos(tmp_path / "joined.mp4", [(file, COUNT)], FPS))


def test_what_is_left_of_a_cut_video_is_read_right(index_first, tmp_path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(index_first.read_bytes()[: int(index_first.stat().st_size * 0.9)])
    with FrameReader(file) as reader:
        assert "damaged" in right_or_refused(file, lambda: reader.read([39 / FPS]))
        np.testing.assert_array_equal(reader.read([0.0, 1 / FPS]), decoded(index_first)[:2])


def test_sound_alone_a_folder_and_a_forbidden_file_are_said_so(tmp_path, monkeypatch) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    for function in (frames_of, video_info, lambda file: join_videos(tmp_path / "j.mp4", [(file, 1)], FPS)):
        assert right_or_refused(sound, lambda function=function: function(sound)).endswith("no video in it")
    assert "is a directory" in right_or_refused(tmp_path, lambda: frames_of(tmp_path))
    assert "no such file" in right_or_refused(tmp_path / "x.mp4", lambda: frames_of(tmp_path / "x.mp4"))
    forbid(monkeypatch, sound)
    said = right_or_refused(sound, lambda: frames_of(sound))
    assert "cannot be read (permission denied)" in said
    assert "damaged" not in said


def test_frames_of_another_size_are_refused(whole) -> None:
    assert f"frames are {W} x {H}" in right_or_refused(whole, lambda: frames_of(whole, (H, W + 2)))


def test_a_seek_that_fails_is_one_line_and_the_reader_goes_on(whole) -> None:
    class Seekless:
        """A container whose seek fails once, as PyAV's does in a damaged file."""

        def __init__(self, container: object) -> None:
            self.container, self.failed = container, False

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

        def seek(self, *arguments: object, **more: object) -> None:
            if not self.failed:
                self.failed = True
                raise av.error.PermissionError(errno.EPERM, "Operation not permitted")
            self.container.seek(*arguments, **more)

    with FrameReader(whole) as reader:
        reader._container = Seekless(reader._container)
        said = right_or_refused(whole, lambda: reader.read([39 / FPS]))
        assert "damaged" in said
        assert "permission" not in said.lower().replace("not permitted", "")
        np.testing.assert_array_equal(reader.read([39 / FPS]), decoded(whole)[39:])


def test_what_an_encoder_refuses_is_one_line(tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise av.error.ExternalError(1, "Generic error in an external library")

    monkeypatch.setattr(av, "VideoFrame", type("Frame", (), {"from_ndarray": staticmethod(refuse)}))
    file = tmp_path / "video.mp4"
    said = right_or_refused(file, lambda: encode_video(file, scene(3, 0), FPS, "h264"))
    assert "cannot be written as video" in said
