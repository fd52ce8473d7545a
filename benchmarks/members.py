"""Updates of all members of one pack a second, beside eager PyTorch that trains them one after the other; on a GPU.

    python benchmarks/members.py [--members 1,4,16,64] [--device cuda] [--size "2 x 256"] [--repeats 5] [--seconds 2]

flow_bc with HalfCheetah's dims, chunks of 5, batches of 256 that lie on the device. Ours is one `Pack` of K seeds: on
CUDA stacked, its losses and gradients replayed as a graph (`cuda_graphs=true`); on the CPU members are looped. The
eager loop is a module with fused Adam; K runs of it in turn make as many updates a second in all as one does.
Contenders take turns. With CUDA seconds are the clock's, each slice ending when the device has; on the CPU they are of
this process's CPU time. **It has not been run on a GPU by us.**
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from measuring import machine, ratio, spread, take_turns
from updates import SIZES, Once, eager, ours


def numbers(text: str) -> list[int]:
    """Return `1,4,16` as whole numbers from 1 on."""
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of members from 1 on, such as 1,4,16")
    return found


def a_second(once: Once, seconds: float, device: torch.device) -> float:
    """Return how often something is done in a second."""
    clock: Callable[[], float] = time.perf_counter if device.type == "cuda" else time.process_time
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    settle()
    begun, count = clock(), 0
    while clock() - begun < seconds:
        for _ in range(5):
            once()
        settle()
        count += 5
    return count / (clock() - begun)


def main(words: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=SIZES, default="2 x 256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("members.py: torch sees no CUDA device here; --device cpu measures looped members", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    device, hidden = torch.device(given.device), SIZES[given.size]
    contenders = {"eager": eager(hidden, device=device, fused=True)}
    contenders |= {f"{k}": ours(hidden, members=k, device=device) for k in given.members}
    for once in contenders.values():
        for _ in range(5):
            once()
    found = take_turns(
        {name: lambda once=once: a_second(once, given.seconds, device) for name, once in contenders.items()},
        given.repeats,
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(f"{name}; {machine()}; {given.size}")
    print(f"  {'eager, runs in turn':<22} {spread(found['eager'])} updates/s in all")
    for k in given.members:
        in_all = [k * value for value in found[f"{k}"]]
        print(f"  pack of {k:<14} {spread(in_all)} updates/s in all; times eager {ratio(in_all, found['eager'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
