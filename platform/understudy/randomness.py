"""Counter-based random numbers: every draw is a pure function of what it is for, so resume is exact.

Nothing here keeps state. A stream is named by (seed, purpose, counters); the same name gives the same
numbers in any process, in any order, with any number of workers. torch is imported where it is asked for only:
processes of environments and of imports need none, and it costs each two seconds and 0.2 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.random.bit_generator import ISeedSequence

if TYPE_CHECKING:
    import torch


def stream_key(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit key for a stream, by BLAKE2b over its name."""
    name = f"{seed}/{purpose}/{'/'.join(str(int(c)) for c in counters)}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a fresh Philox generator for the named stream."""
    return np.random.Generator(np.random.Philox(cast(Any, _Key(stream_key(seed, purpose, *counters)))))


class _Key(ISeedSequence):
    """The state of Philox(key=...), which asks the operating system for entropy before it takes its key."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the key in words of 64 bits."""
        return np.array([self._key] + [0] * (n_words - 1), dtype)


@contextmanager
def global_generator(seed: int, purpose: str, *counters: int) -> Generator[None]:
    """Seed torch's global generator for the named stream, for code that draws from it; afterwards it is as before."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(  # pyright: ignore[reportUnknownMemberType]
            stream_key(seed, purpose, *counters)
        )
        yield


def torch_generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device` seeded for the named stream."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(stream_key(seed, purpose, *counters))
    return generator
