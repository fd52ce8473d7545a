"""The C library's memory, which a process that trains on the CPU keeps.

By default glibc gives what a step frees back to the system, or not, by how its heap happens to lie, and each page that
is fetched anew is cleared first: up to a tenth of a small network's step. Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""As glibc's malloc.h names them."""
MIB = 2**20
KEPT = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 1024 * MIB, M_TOP_PAD: 64 * MIB}
"""32 MiB is the most below which glibc lets blocks lie in its heap."""


@functools.cache
def keep_memory() -> bool:
    """Have freed memory kept for the next step, once a process; return whether it is.

    Not where the user has settings of malloc (MALLOC_*, GLIBC_TUNABLES), or another C library has none.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in KEPT.items())
