"""Decode pictures of files that others made."""

from __future__ import annotations

import io

import numpy as np

from understudy.envs.files.reading import WrongContent

MOST_PIXELS = 2**26
"""A picture that claims more is refused before its pixels get memory: 67 million, 192 MiB of RGB."""


def decode(data: bytes, colour: int) -> np.ndarray | None:
    """Return the pixels [H, W, 3] of a JPEG or PNG, read with OpenCV's flags; None for bytes that are no picture.

    Raises WrongContent for a picture of more than MOST_PIXELS.
    """
    import cv2
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:  # Pillow's own bound, which it checks before it says the size
        raise WrongContent("a picture of more pixels than are read") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None
    check_pixels(width, height, "a picture")
    return cv2.imdecode(np.frombuffer(data, np.uint8), colour)


def check_pixels(width: int, height: int, what: str) -> None:
    """Raise WrongContent where a file says that a picture, or each frame of a video, has more than MOST_PIXELS."""
    if width * height > MOST_PIXELS:
        raise WrongContent(f"{what} of {width} x {height} pixels; at most {MOST_PIXELS / 1e6:.0f} million are read")
