"""Show a picture in a terminal, two pixels a character: over SSH there is no window."""

from __future__ import annotations

import shutil
import sys

import numpy as np

COLUMNS, LINES = 96, 48
"""The largest that a picture is drawn."""


class TerminalView:
    """Draw frames over each other."""

    def __init__(self) -> None:
        self._begun = False

    def show(self, frame: np.ndarray, line: str) -> None:
        """Draw a picture [H, W, 3] uint8, and a line below it."""
        room = shutil.get_terminal_size()
        start = "\x1b[H" if self._begun else "\x1b[2J\x1b[H"
        self._begun = True
        sys.stdout.write(start + as_text(frame, min(room.columns, COLUMNS), min(room.lines - 2, LINES)))
        sys.stdout.write(f"\r\n{line}\x1b[K")
        sys.stdout.flush()


def as_text(frame: np.ndarray, columns: int, lines: int) -> str:
    """Return a picture [H, W, 3] uint8 as coloured half blocks, at most so many columns and lines."""
    height, width = frame.shape[:2]
    scale = max(width / columns, height / (2 * lines), 1e-9)
    shown = max(1, int(width / scale)), max(2, int(height / scale) // 2 * 2)
    rows = np.minimum((np.arange(shown[1]) + 0.5) * height / shown[1], height - 1).astype(int)
    across = np.minimum((np.arange(shown[0]) + 0.5) * width / shown[0], width - 1).astype(int)
    small = frame[rows][:, across]
    text = []
    for top, bottom in zip(small[::2], small[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀" for a, b in zip(top, bottom, strict=True)
        )
        text.append("".join(cells) + "\x1b[0m")
    return "\r\n".join(text)
