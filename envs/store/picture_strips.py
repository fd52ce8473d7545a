"""Show what a store's cameras saw as one picture: a row an episode and camera, its frames from the first to the last.

`understudy data info NAME --pictures FILE.png` saves it. Saliency maps, where a store has them, follow their camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from understudy.envs.store.picture_checks import picture_columns
from understudy.envs.store.store import SALIENCY, EpisodeStore
from understudy.errors import DatasetError, did_you_mean
from understudy.files import write_atomic

EPISODES = 3
SMALLEST, LARGEST = 96, 256
"""Pixels that a frame is high and wide, at least and at most."""
GAP, HEADING = 4, 16
"""Pixels between frames, and of the line of text above a row."""


def strip(
    store: EpisodeStore, cameras: Sequence[str] | None = None, frames: int = 8, episodes: int = EPISODES
) -> np.ndarray:
    """Return a picture [H, W, 3] uint8 of some episodes (first, last, and between), as each camera saw them."""
    columns = picture_columns(store)
    if not columns:
        raise DatasetError(f"{store.name!r} has no pictures")
    for camera in cameras or ():
        if camera not in columns:
            raise DatasetError(f"{store.name!r} has no camera {camera!r}{did_you_mean(camera, columns)}")
    shown = np.unique(np.linspace(0, store.manifest.num_episodes - 1, episodes).round().astype(np.int64))
    rows: list[np.ndarray] = []
    for episode in shown:
        length = int(store.lengths[episode])
        steps = np.unique(np.linspace(0, length - 1, frames).round().astype(np.int64))
        places = steps + store.starts[episode]
        for camera in cameras or columns:
            heading = f"{camera}, episode {episode}: steps {', '.join(map(str, steps))}"
            rows.append(_row(store.frames(columns[camera]).gather(places), heading))
            if SALIENCY + camera in store.manifest.columns:
                maps = np.rint(store.column(SALIENCY + camera)[places] * 255).astype(np.uint8)
                rows.append(_row(maps, f"saliency of {camera}"))
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def save_strip(
    store: EpisodeStore, file: Path, cameras: Sequence[str] | None = None, frames: int = 8, episodes: int = EPISODES
) -> Path:
    """Write the strip as a PNG."""
    from PIL import Image

    if file.suffix.lower() != ".png":
        raise DatasetError(f"{file}: the picture is a PNG; give a name that ends in .png")
    picture = Image.fromarray(strip(store, cameras, frames, episodes))
    write_atomic(file, lambda target: picture.save(target, format="PNG"))
    return file


def _row(frames: np.ndarray, heading: str) -> np.ndarray:
    """Return frames [n, H, W, C] side by side below a heading, on white, [h, w, 3]."""
    from PIL import Image, ImageDraw

    height, width = frames.shape[1:3]
    scale = min(max(1, -(-SMALLEST // max(height, width))), 16)
    scale = min(scale, LARGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS  # enlarged pixels stay pixels
    text_width = int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(heading)) + 2 * GAP
    canvas = Image.new("RGB", (max(len(frames) * (size[0] + GAP) - GAP, text_width), HEADING + size[1]), "white")
    ImageDraw.Draw(canvas).text((GAP, 2), heading, fill="black")
    for place, frame in enumerate(frames):
        colour = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
        picture = Image.fromarray(np.ascontiguousarray(colour)).resize(size, way)
        canvas.paste(picture, (place * (size[0] + GAP), HEADING))
    return np.asarray(canvas)
