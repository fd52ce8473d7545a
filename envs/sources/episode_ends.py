"""Find where episodes end in files that hold the rows of all episodes one after another.

Flags come first: a file says itself where its episodes end. Where it has none, an episode ends where the next row's
observation is not the one that is kept as the row's next observation. Numbers that were only rounded differently
still follow; how far they may lie apart depends on the coarser of their types. Shapes: N rows, *O observation dims.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK_ROWS = 8192
ROUNDED = 4
"""Units in the last place of the coarser type that two copies of a number may lie apart."""
LEAST = 1e-6
"""The same for types that are finer: a share of the number, and of the largest number of its row."""
DENSE = 0.2
"""Where terminals are the only flags, more breaks than this share of the rows are noise: no episode is so short."""


def does_not_follow(observations: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return for each row but the last, bool [N - 1], whether the next row's observation is another than `following`.

    `following` [N, *O] are the observations after each row's action. NaN follows nothing.
    """
    count = len(observations)
    ahead, kept = (np.asarray(part).reshape(count, -1) for part in (observations, following))
    ahead, kept = ahead[1:].astype(np.float64), kept[:-1].astype(np.float64)
    share, least = tolerance(np.asarray(observations).dtype, np.asarray(following).dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(np.abs(ahead), np.abs(kept))
        near = np.abs(ahead - kept) <= share * size + LEAST * size.max(axis=1, keepdims=True, initial=0.0) + least
    return ~near.all(axis=1)


def tolerance(*dtypes: np.dtype) -> tuple[float, float]:
    """Return how far apart two copies of a number may lie when each was rounded to its type.

    As a share of the number, and for numbers next to 0.
    """
    types = [np.finfo(dtype) for dtype in dtypes if dtype.kind == "f"]
    share = max(LEAST, *(ROUNDED * float(kind.eps) for kind in types), 0.0)
    return share, max(0.0, *(float(kind.smallest_subnormal) for kind in types), 0.0)


def breaks_in(rows: int, read: Callable[[int, int], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return `does_not_follow` of a long file, bool [rows]; `read(begin, stop)` gives both arrays of these rows.

    The last row is False: nothing is known of what follows it.
    """
    breaks = np.zeros(rows, bool)
    for begin in range(0, rows - 1, BLOCK_ROWS):
        stop = min(begin + BLOCK_ROWS + 1, rows)  # one row more, for the block's last row is judged by it
        breaks[begin : stop - 1] = does_not_follow(*read(begin, stop))
    return breaks


def episode_ends(flags: np.ndarray, breaks: np.ndarray | None, *, complete: bool) -> tuple[np.ndarray, str]:
    """Return the last row of each episode, an unfinished one at the end included, and what is worth saying, or "".

    `flags` [N] mark ends; `complete` says that ends of every kind are marked, those at a time limit too. `breaks` [N]
    mark rows whose next row is not what followed them, None where that is not known. Breaks without a flag are ends
    where no flag is set at all; beside flags only as long as they are few (a file joined from several, or one that
    marks no time limits): many are rounding or noise.
    """
    over = flags.astype(bool)
    last = np.zeros(len(over), bool)
    last[-1:] = True
    said = ""
    if breaks is not None:
        loose = breaks & ~over & ~last
        count, others = int(loose.sum()), int((~over).sum())
        most = max(1, int(over.sum()) // 10) if complete else DENSE * others
        if not over.any() or count <= most:
            over = over | loose
            said = f"{_episodes(count)} without a flag, where next_observations do not lead on" if complete else ""
            said = said if count and flags.any() else ""
        else:
            said = (
                f"next_observations are not what comes next in {count} of {others} rows that no flag ends (rounding or"
                " noise); episodes end where the flags say"
            )
    return np.flatnonzero(over | last), said


def _episodes(count: int) -> str:
    return "1 episode ends" if count == 1 else f"{count} episodes end"
