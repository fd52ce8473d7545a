"""Pictures of a store: raw uint8 rows that are mapped, or JPEGs that are decoded when they are read.

Only the frames that are asked for are read, each of them once. Decoding belongs into loader workers; OpenCV lets go
of the interpreter's lock while it decodes. Shapes: n frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa

from understudy.errors import DatasetError

JPEG_CHANNELS = (1, 3)


class Frames(Protocol):
    """The frames of one camera, by row number."""

    shape: tuple[int, ...]
    """Shape of one frame: (H, W, C)."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return new uint8 frames [n, H, W, C] for row numbers [n] in any order, repeats allowed."""
        ...


class RawFrames:
    """Frames that lie in the file as they are."""

    def __init__(self, values: np.ndarray) -> None:
        self.shape = tuple(values.shape[1:])
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return new uint8 frames [n, H, W, C]."""
        return self._values[rows]


class JpegFrames:
    """Frames that are kept as JPEGs, one binary value each."""

    def __init__(self, values: pa.Array, shape: tuple[int, ...], where: str) -> None:
        self.shape, self._where = shape, where
        _, offsets, data = values.buffers()
        self._offsets = np.frombuffer(memoryview(offsets), np.int64, count=len(values) + 1, offset=8 * values.offset)
        self._data = np.frombuffer(memoryview(data), np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def encoded(self, row: int) -> np.ndarray:
        """Return the bytes of one JPEG, uint8, without a copy."""
        return self._data[self._offsets[row] : self._offsets[row + 1]]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return decoded frames [n, H, W, C]; DatasetError names a frame that cannot be decoded."""
        wanted, places = np.unique(rows, return_inverse=True)
        if len(wanted) == len(rows):
            wanted, places = rows, None
        frames = np.empty((len(wanted), *self.shape), np.uint8)
        for place, row in enumerate(wanted):
            self._decode(int(row), frames[place])
        return frames if places is None else frames[places]

    def _decode(self, row: int, into: np.ndarray) -> None:
        import cv2

        data = self.encoded(row)
        colour = cv2.IMREAD_COLOR_RGB if self.shape[-1] == 3 else cv2.IMREAD_GRAYSCALE
        frame = cv2.imdecode(data, colour) if len(data) else None
        if frame is None or frame.shape[:2] != self.shape[:2]:
            found = "cannot be decoded" if frame is None else f"is {frame.shape[:2]}"
            raise DatasetError(f"{self._where}: frame {row} {found}, a JPEG of {self.shape[:2]} is expected")
        into[...] = frame if frame.ndim == 3 else frame[..., None]


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Return a frame [H, W, C] as a JPEG with full colour resolution (4:4:4)."""
    import cv2

    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.shape[-1] == 3 else frame
    done, data = cv2.imencode(".jpg", picture, settings)
    if not done:
        raise DatasetError(f"a picture of shape {frame.shape} cannot be written as JPEG")
    return data.tobytes()
