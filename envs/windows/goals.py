"""Which later state of an episode a step is shown as its goal. Pure functions of random numbers that the caller draws.

Shapes: b samples. An episode of T steps has the states 0 to T; the state T comes after its last action. A goal offset
says how many states ahead of step i the goal lies, in [1, T - i].

OGBench's strategies (GCDataset, arXiv 2410.20092) take the next state as one among the others. BridgeData's (Walke et
al. 2023, arXiv 2308.12952) take later ones, and the next state only for a share `reached_proportion` of the steps and
for the last one: those have reached their goal and get reward 0, all others -1.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from understudy.errors import SpecError, did_you_mean

Strategy = Literal["uniform", "geometric", "final", "last_state_upweighted", "delta_goals"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


def goal_offsets(
    strategy: str,
    index: np.ndarray,
    length: np.ndarray,
    places: np.ndarray,
    *,
    discount: float = 0.99,
    delta: tuple[int, int] = (1, 25),
    reached_proportion: float | None = None,
    reached_places: np.ndarray | None = None,
) -> np.ndarray:
    """Return goal offsets int64 [b] for steps `index` [b] of episodes of `length` [b] steps.

    `places` [b] in [0, 1) choose the goals; `reached_places` [b] in [0, 1) choose which goals are reached, and are
    needed where `reached_proportion` is above 0. Without a `reached_proportion` uniform and geometric are OGBench's.

    - uniform: every later state alike. geometric: k states ahead with a probability in proportion to discount^k (the
      end takes what lies beyond it in OGBench's; BridgeData's is cut off there). final: the last.
    - last_state_upweighted: k in [1, T - 1] alike, and the last state for all k beyond it.
    - delta_goals: alike in [lo, hi) states ahead, as far as there are such; the last state where there are none.
    """
    if strategy not in STRATEGIES:
        raise SpecError(f"unknown goal strategy {strategy!r}{did_you_mean(strategy, STRATEGIES)}")
    if not 0.0 <= (reached_proportion or 0.0) <= 1.0:
        raise SpecError(f"reached_proportion {reached_proportion}: must be at least 0 and at most 1")
    ahead = np.asarray(length) - np.asarray(index)
    if strategy == "final":
        offsets = ahead
    elif strategy == "delta_goals":
        offsets = _delta(ahead, places, *delta)
    elif strategy == "last_state_upweighted":
        offsets = 1 + np.minimum(1 + _scaled(places, np.asarray(length) - 1), ahead - 1)
    elif strategy == "uniform":
        offsets = 1 + _scaled(places, ahead) if reached_proportion is None else 2 + _scaled(places, ahead - 1)
    elif reached_proportion is None:
        offsets = np.minimum(_geometric(places, discount), ahead)
    else:
        offsets = 1 + _truncated_geometric(places, discount, ahead - 1)
    offsets = np.minimum(offsets, ahead).astype(np.int64)
    if reached_proportion:
        if reached_places is None:
            raise SpecError(f"reached_proportion {reached_proportion}: needs a number in [0, 1) for each sample")
        offsets = np.where(reached_places < reached_proportion, np.int64(1), offsets)
    return offsets


def goal_rewards(offsets: np.ndarray) -> np.ndarray:
    """Return float32 rewards: 0 where the next state is the goal, -1 elsewhere."""
    return np.where(offsets == 1, np.float32(0.0), np.float32(-1.0))


def check_delta(low: int, high: int) -> None:
    """Raise SpecError unless [low, high) is a range of states ahead."""
    if not 1 <= low < high:
        raise SpecError(f"goal delta [{low}, {high}): the first must be at least 1 and below the second")


def _scaled(places: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return floor(places * count): alike in [0, count)."""
    return (places * count).astype(np.int64)


def _geometric(places: np.ndarray, discount: float) -> np.ndarray:
    """Return k >= 1 with probability (1 - discount) discount^(k - 1), float64 for k may be very large."""
    return 1 + np.floor(np.log1p(-places) / np.log(min(discount, 1.0 - 1e-12)))


def _truncated_geometric(places: np.ndarray, discount: float, count: np.ndarray) -> np.ndarray:
    """Return k in [1, count] with a probability in proportion to discount^k; 1 where count is 0."""
    rate = np.log(min(discount, 1.0 - 1e-12))
    share = -np.expm1(rate * np.maximum(count, 1))  # of an unbounded geometric distribution, up to count
    return np.clip(1 + np.floor(np.log1p(-places * share) / rate), 1, np.maximum(count, 1))


def _delta(ahead: np.ndarray, places: np.ndarray, low: int, high: int) -> np.ndarray:
    check_delta(low, high)
    return low + _scaled(places, np.maximum(np.minimum(high, ahead + 1) - low, 0))
