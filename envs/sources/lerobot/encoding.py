"""Encode the pictures of an episode as a video with PyAV.

Pictures are RGB, uint8 [H, W, 3]; T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.hdf5 import unfailing
from understudy.envs.sources.lerobot.video import exact_rate, writing
from understudy.errors import UserError, did_you_mean

PIXELS = "yuv420p"
PASSES = 20
"""Times that the threads of an encoder are looked through for real-time ones, until there are none."""


@dataclass(frozen=True)
class VideoEncoder:
    """How a codec is encoded: FFmpeg's name, its options, what sides of a picture must be, a name for messages."""

    name: str
    options: dict[str, str]
    multiple: int
    smallest: int
    title: str


ENCODERS = {
    "av1": VideoEncoder("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}, 1, 4, "AV1"),
    "h264": VideoEncoder("libx264", {"g": "2", "crf": "23", "bf": "0"}, 2, 2, "H.264"),  # bf: frames lie in their order
}
"""AV1 as LeRobot writes it (`lerobot/configs/video.py`); libx264 needs a lower crf for the same error."""


def find_encoder(codec: str, height: int, width: int) -> VideoEncoder:
    """Return the encoder for pictures of that size; UserError when PyAV has none, or it cannot encode that size."""
    import av

    if codec not in ENCODERS:
        raise UserError(f"video codec {codec!r} is not known{did_you_mean(codec, ENCODERS)}")
    encoder = ENCODERS[codec]
    if not _available(encoder):
        others = [name for name, other in ENCODERS.items() if _available(other)]
        more = ", ".join([*others, "image (pictures without loss, in the parquet files)"])
        raise UserError(f"PyAV {av.__version__} has no {encoder.title} encoder ({encoder.name}); there is: {more}")
    if min(height, width) < encoder.smallest or height % encoder.multiple or width % encoder.multiple:
        even = " even" if encoder.multiple == 2 else ""
        raise UserError(
            f"pictures of {width} x {height} pixels cannot be {encoder.title} video: it needs{even} sides of at least"
            f" {encoder.smallest}; choose another codec, or image (pictures without loss)"
        )
    return encoder


def encode_video(file: Path, frames: np.ndarray, fps: float, codec: str = "av1") -> None:
    """Write frames [T, H, W, 3] as an mp4 at a constant rate; a full disk raises OSError."""
    import av

    encoder = find_encoder(codec, *frames.shape[1:3])
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints about itself; it reads this when it starts
    with unfailing(file) as sink, writing(file), av.open(sink, "w", format="mp4") as output:
        stream: Any = output.add_stream(encoder.name, rate=exact_rate(fps), options=encoder.options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], PIXELS
        with priorities_kept():
            stream.codec_context.open()
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        output.mux(stream.encode())


@contextmanager
def priorities_kept() -> Generator[None]:
    """Have this process's threads, and those that are started within, scheduled as this one was before.

    SVT-AV1 makes the thread that opens it, and forty of its own, real-time of the highest priority where it may (root
    may, so in most containers): all else on the machine would wait for them, and for what that thread starts later.
    """
    if not os.path.isdir("/proc/self/task"):
        yield
        return
    policy, parameter, before = os.sched_getscheduler(0), os.sched_getparam(0), _policies()
    yield
    for _ in range(PASSES):  # one that is real-time may be starting another
        changed = [thread for thread, now in _policies().items() if now != before.get(thread, policy)]
        for thread in changed:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, policy, parameter)
        if not changed:
            break


def _policies() -> dict[int, int]:
    """Return the scheduling policy of each thread of this process, by its number."""
    found: dict[int, int] = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            found[thread] = os.sched_getscheduler(thread)
    return found


def _available(encoder: VideoEncoder) -> bool:
    from av.codec import Codec

    try:
        return Codec(encoder.name, "w").is_encoder
    except ValueError:  # PyAV's error for a name that was not compiled in
        return False
