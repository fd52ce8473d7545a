"""Saliency maps of several frames as one: where people looked lately counts, the further back the less."""

from __future__ import annotations

import numpy as np

from understudy.errors import SpecError


def aggregate_saliency(maps: np.ndarray, alpha: float) -> np.ndarray:
    """Return float32 [b, H, W, 1] in [0, 1] for the maps of n frames [b, n, H, W, 1], oldest first.

    The sum over d of alpha^d s(t - d), brought to [0, 1] by each map's own minimum and maximum (zeros where these are
    equal). With alpha 0, or a single frame, the newest map is returned as it is.
    """
    if not 0.0 <= alpha <= 1.0:
        raise SpecError(f"saliency alpha {alpha}: must be at least 0 and at most 1")
    count = maps.shape[1]
    if alpha == 0.0 or count == 1:
        return np.ascontiguousarray(maps[:, -1], np.float32)
    weights = np.float32(alpha) ** np.arange(count - 1, -1, -1, dtype=np.float32)
    total = np.einsum("bnhwc,n->bhwc", maps.astype(np.float32, copy=False), weights)
    low = total.min(axis=(1, 2, 3), keepdims=True)
    spread = total.max(axis=(1, 2, 3), keepdims=True) - low
    return np.divide(total - low, spread, out=np.zeros_like(total), where=spread > 0)
