"""Join and read the mp4 files of LeRobot datasets with PyAV.

A file holds the frames of many episodes at a constant rate: frame i of a file is at i / fps. Episodes are encoded one
by one and joined by copying packets, so that nothing is ever encoded twice. Keyframes are two frames apart (g=2), which
makes random reads cheap. Pictures are RGB, uint8 [H, W, 3]; T frames, H height, W width.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from understudy.envs.files.hdf5 import unfailing
from understudy.envs.files.pictures import MOST_PIXELS, check_pixels
from understudy.envs.files.reading import WrongContent, check_readable, damage
from understudy.errors import DatasetError, UserError, to_install

BOUNDED = {"max_pixels": str(MOST_PIXELS)}
"""FFmpeg's own bound, which it keeps where frames become larger in the middle of a file, too."""
TOLERANCE = 1e-4
"""Seconds that a frame may be from the time it is asked for: LeRobot's own."""
SEEK_AHEAD = 16
"""Frames: to one further away than that it is quicker to seek than to decode all between."""


def require_vision(what: str) -> None:
    """Raise UserError where the packages that pictures need are not installed."""
    for package in ("av", "cv2"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what}: its pictures need {package!r}; {to_install('vision')}")


def join_videos(file: Path, parts: Sequence[tuple[Path, int]], fps: float) -> None:
    """Write the first n frames of each part (path, n), one after another, by copying packets; parts are left as is.

    All must be of one codec, size and rate. A part with fewer frames raises DatasetError.
    """
    import av

    written = 0
    with unfailing(file) as sink, writing(file), av.open(sink, "w", format="mp4") as output:
        stream: Any = None
        for path, count in parts:
            with _reading(path), _open(path) as part:
                source = _video_in(part)
                stream = stream or output.add_stream_from_template(source, opaque=True)
                tick = 1 / (exact_rate(fps) * Fraction(source.time_base or 1))
                copied = 0
                for packet in part.demux(source):
                    if packet.pts is None or packet.dts is None or copied == count:
                        continue
                    packet.pts += round(written * tick)
                    packet.dts += round(written * tick)
                    packet.stream = stream
                    output.mux(packet)
                    copied += 1
            if copied < count:
                raise DatasetError(f"{path}: holds {copied} frames, {count} are expected; it is cut short")
            written += count


def video_info(file: Path) -> dict[str, Any]:
    """Return what `info.json` says of a video feature, as LeRobot names it."""
    with _reading(file), _open(file) as container:
        stream = _video_in(container)
        rate = stream.average_rate or Fraction(0)
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": {"libdav1d": "av1"}.get(stream.codec.name, stream.codec.canonical_name),
            "video.pix_fmt": str(stream.pix_fmt),
            "video.is_depth_map": False,
            "video.fps": int(rate) if rate.denominator == 1 else float(rate),
            "video.channels": 3,
            "has_audio": False,
        }


class FrameReader:
    """Read frames of an mp4 by their times, in any order; consecutive ones are decoded without seeking.

    `shape` is what its frames must be, (H, W). `ahead` lets the decoder work on several frames at once: for reading a
    file from its start to its end.
    """

    def __init__(self, file: Path, shape: tuple[int, int] | None = None, *, ahead: bool = False) -> None:
        self.file = file
        with _reading(file), ExitStack() as failing:
            self._container = failing.enter_context(_open(file))
            self._stream = _video_in(self._container)
            self._stream.thread_type = "AUTO" if ahead else "SLICE"
            found = (self._stream.height, self._stream.width)
            if shape is not None and found != shape:
                raise WrongContent(f"frames are {found[1]} x {found[0]}, info.json says {shape[1]} x {shape[0]}")
            self._gap = SEEK_AHEAD / float(self._stream.average_rate or 30)
            self._frames: Iterator[Any] = self._container.decode(self._stream)
            failing.pop_all()
        self._current: Any = None
        self._lost = False

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, times: Sequence[float] | np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
        """Return the frames at `times` (seconds, [n]) as uint8 [n, H, W, 3].

        DatasetError where no frame is within `tolerance` of a time.
        """
        wanted, places = np.unique(np.asarray(times, np.float64), return_inverse=True)
        with _reading(self.file):
            frames = np.empty((len(wanted), self._stream.height, self._stream.width, 3), np.uint8)
        for number, time in enumerate(wanted):
            picture = self._at(float(time), tolerance)
            if picture.shape != frames.shape[1:]:
                raise DatasetError(f"{self.file}: the frame at {time:.4f} s is {picture.shape}, not {frames.shape[1:]}")
            frames[number] = picture
        return frames if np.array_equal(places, np.arange(len(wanted))) else frames[places]

    def _at(self, time: float, tolerance: float) -> np.ndarray:
        with _reading(self.file):
            here = 0.0 if self._current is None else float(self._current.time)
            if self._lost or not here - tolerance <= time <= here + self._gap:
                self._seek(time)
            before = None
            while self._current is None or float(self._current.time) < time - tolerance:
                before, self._current = self._current, next(self._frames, None)
                if self._current is None:
                    break
            if self._current is not None and abs(float(self._current.time) - time) <= tolerance:
                return self._current.to_ndarray(format="rgb24")
            self._lost = True
            near = [float(frame.time) for frame in (before, self._current) if frame is not None]
            raise WrongContent(self._not_there(time, tolerance, near))

    def _not_there(self, time: float, tolerance: float, near: Sequence[float]) -> str:
        """Return what to say of a time that has no frame; `near` are the times of frames around it."""
        if not near:
            return f"no frame within {tolerance:g} s of {time:.4f} s; the video ends before that"
        said = f"no frame within {tolerance:g} s of {time:.4f} s; the nearest are at "
        said += f"{' and '.join(f'{at:.4f}' for at in near)} s"
        return said + tolerance_advice(min(abs(at - time) for at in near), float(self._stream.average_rate or 0))

    def _seek(self, time: float) -> None:
        """Go to the last keyframe that is not after `time`."""
        base = self._stream.time_base or Fraction(1, 1)
        half_a_frame = Fraction(1, 2) / Fraction(self._stream.average_rate or 30)
        self._container.seek(int((Fraction(time) + half_a_frame) / base), stream=self._stream)
        self._frames, self._current, self._lost = self._container.decode(self._stream), None, False


def read_frames(file: Path, times: Sequence[float] | np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Open an mp4, seek to `times` (seconds), decode, return uint8 [n, H, W, 3]: what LeRobot does for each window."""
    with FrameReader(file) as reader:
        return reader.read(times, tolerance)


def tolerance_advice(off: float, fps: float) -> str:
    """Return the words that say how times that are `off` seconds from a frame's can be allowed; '' where they cannot.

    More than half of the time between two frames would take one frame for another.
    """
    most = 0.45 / fps if fps > 0 else 0.0
    if not off < most:  # nan too
        return ""
    enough = min(10.0 ** np.ceil(np.log10(off * 1.01)), most)
    return (
        f"; `understudy data import lerobot FOLDER --tolerance_s {enough:.2g}` takes the nearest frame"
        f" (in Python tolerance_s={enough:.2g})"
    )


def exact_rate(fps: float) -> Fraction:
    """Return a frame rate as a fraction, so that times stay exact over a long file."""
    return Fraction(fps).limit_denominator(1001)


def _open(file: Path) -> Any:
    """Open an mp4, after a check that the system lets it be read: PyAV's own errors would not tell."""
    import av

    return av.open(str(check_readable(file, "mp4")), format="mp4", options=BOUNDED)


def _video_in(container: Any) -> Any:
    """Return the first video stream of an open file; WrongContent for one of frames that are too large to be read."""
    if not container.streams.video:
        raise WrongContent("no video in it")
    stream = container.streams.video[0]
    check_pixels(stream.width, stream.height, "frames")
    stream.codec_context.options = BOUNDED
    return stream


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn PyAV's errors into one DatasetError. Some are Python's own too: damaged files "do not permit" a seek."""
    from av.error import FFmpegError

    with damage(file, "mp4"):
        try:
            yield
        except (FFmpegError, StopIteration, AttributeError, IndexError, AssertionError) as error:
            raise ValueError(re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__) from error


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn PyAV's errors while a video is written into one DatasetError; that of closing what failed hides no other.

    A full disk is not among them: `unfailing` keeps that error and raises it.
    """
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        if isinstance(error.__context__, DatasetError):
            raise error.__context__ from None
        raise DatasetError(f"{file}: cannot be written as video ({error})") from error
