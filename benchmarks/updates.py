"""Updates of flow_bc a second of one core: ours, eager PyTorch as users write it, and jitted JAX; one thread.

    python benchmarks/updates.py [--jax PYTHON] [--repeats 9] [--seconds 2] [--profile]

HalfCheetah's dims, chunks of 5, batches of 256 that lie in memory. Ours is `Pack.update`: random numbers, clipping of
actions, metrics and the check for NaN are in it; the eager loop is a module, torch.optim.Adam and nothing else. JAX
runs where an interpreter is named that has it: `pip install jax` in an environment of its own. Seconds are of the
processes' CPU time, which other work on the machine lengthens less than the clock's. Contenders take turns, and a ratio
is the median of the ratios of such turns, with its quartiles. `--profile` says what an update of ours consists of.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from measuring import ACTION_DIM, OBSERVATION_DIM, Jax, machine, ratio, spread, take_turns
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.pack import Pack

HORIZON, BATCH = 5, 256
SIZES = {"4 x 512": (512,) * 4, "2 x 256": (256,) * 2}
Once = Callable[[], Any]


def batch() -> dict[str, torch.Tensor]:
    """Return a batch of one member."""
    random = torch.Generator().manual_seed(0)
    return {
        "observations": torch.randn(1, BATCH, OBSERVATION_DIM, generator=random),
        "actions": torch.rand(1, BATCH, HORIZON, ACTION_DIM, generator=random) * 2 - 1,
        "valid": torch.ones(1, BATCH, HORIZON),
    }


def ours(hidden: Sequence[int], **settings: Any) -> Once:
    """Return one update of a pack of one."""
    config = FlowBCConfig(hidden_dims=tuple(hidden), action_chunking=True, horizon_length=HORIZON, **settings)
    pack, data, step = Pack(FlowBC((OBSERVATION_DIM,), ACTION_DIM, config), [0]), batch(), 0

    def once() -> None:
        nonlocal step
        step += 1
        pack.update(data, step)

    return once


def eager(hidden: Sequence[int], **options: Any) -> Once:
    """Return one update as it is usually written."""
    size = HORIZON * ACTION_DIM
    widths, layers = [OBSERVATION_DIM + size + 1, *hidden], []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU(approximate="tanh")]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], size))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-4, **options)
    data = {name: value[0] for name, value in batch().items()}

    def once() -> None:
        target = data["actions"].flatten(1)
        noise, t = torch.randn_like(target), torch.rand(BATCH, 1)
        predicted = network(torch.cat((data["observations"], (1 - t) * noise + t * target, t), dim=-1))
        error = functional.mse_loss(predicted, target - noise, reduction="none")
        loss = (error.unflatten(1, (HORIZON, ACTION_DIM)) * data["valid"][..., None]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return once


def a_second(once: Once, seconds: float) -> float:
    """Return how often something is done in a second of this process's CPU time."""
    begun, count = time.process_time(), 0
    while (spent := time.process_time() - begun) < seconds:
        for _ in range(5):
            once()
        count += 5
    return count / spent


def measure(label: str, hidden: Sequence[int], given: argparse.Namespace) -> None:
    """Print a table of one size."""
    ways: dict[str, Once] = {
        "ours": ours(hidden),
        "ours, bf16": ours(hidden, precision="bf16"),
        "eager": eager(hidden),
        "eager, fused Adam": eager(hidden, fused=True),
    }
    if given.compile:
        ways["ours, compiled"] = ours(hidden, compile=True)
        ways["ours, compiled, bf16"] = ours(hidden, compile=True, precision="bf16")
    for once in ways.values():
        for _ in range(5):
            once()
    contenders: dict[str, Callable[[], float]] = {
        name: lambda once=once: a_second(once, given.seconds) for name, once in ways.items()
    }
    other = None
    if given.jax:
        other = Jax(given.jax, "update", "--hidden", *map(str, hidden))
        contenders["JAX, jitted"] = lambda: other.measure(given.seconds)
    found = take_turns(contenders, given.repeats)
    against = [name for name in ("eager", "JAX, jitted") if name in found]
    print(f"\n{label}: updates/s [quartiles]" + "".join(f"; times {name}" for name in against))
    for name, values in found.items():
        ratios = "".join(f"  {ratio(values, found[one]):<22}" for one in against)
        print(f"  {name:<22} {spread(values):<24}{ratios}")
    if other:
        other.close()


def profile(label: str, hidden: Sequence[int]) -> None:
    """Print what operations take of an update's time."""
    once = ours(hidden)
    for _ in range(20):
        once()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as seen:
        for _ in range(50):
            once()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"\n{label}: {total / 50 / 1000:.2f} ms an update under the profiler")
    for row in rows[:14]:
        share, each = row.self_cpu_time_total / total, row.self_cpu_time_total / 50
        print(f"  {row.key:<44} {100 * share:5.1f} %  {each:7.0f} us  {row.count / 50:5.1f} calls")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", help="an interpreter that can import jax")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes, and a C++ compiler")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; one thread, batch {BATCH}, horizon {HORIZON}")
    for label in given.sizes:
        if given.profile:
            profile(label, SIZES[label])
        else:
            measure(label, SIZES[label], given)


if __name__ == "__main__":
    main()
