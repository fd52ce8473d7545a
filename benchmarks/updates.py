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
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from measuring import ACTION_DIM, OBSERVATION_DIM, Beside, Jax, answer, machine, ratio, spread, take_turns
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.pack import Pack

HORIZON, BATCH = 5, 256
SIZES = {"4 x 512": (512,) * 4, "2 x 256": (256,) * 2}
WAYS = ("ours", "ours, bf16", "ours, compiled", "ours, compiled, bf16", "eager", "eager, fused Adam")
PROFILED = 300
"""Updates under the profiler."""
KINDS = {
    "matrix products": ("mm", "addmm"),
    "GELU, forward and backward": ("addcmul", "mul", "mul_", "sigmoid_", "sigmoid_backward", "add_"),
    "biases' gradients": ("sum",),
    "gradients into the pack's block": ("_foreach_copy_", "copy_"),
    "Adam": ("_fused_adamw_", "_foreach_add_"),
    "noise and times": ("randn", "rand", "normal_", "uniform_"),
}
REST = "the rest: inputs, loss, metrics, views"
CPU = torch.device("cpu")
Once = Callable[[], Any]


def batch(members: int = 1, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Return a batch, the same for every member."""
    random = torch.Generator().manual_seed(0)
    one = {
        "observations": torch.randn(1, BATCH, OBSERVATION_DIM, generator=random),
        "actions": torch.rand(1, BATCH, HORIZON, ACTION_DIM, generator=random) * 2 - 1,
        "valid": torch.ones(1, BATCH, HORIZON),
    }
    return {name: value.repeat(members, *[1] * (value.ndim - 1)).to(device) for name, value in one.items()}


def ours(hidden: Sequence[int], members: int = 1, device: torch.device = CPU, **settings: Any) -> Once:
    """Return one update of a pack; on CUDA it is replayed as a graph."""
    config = FlowBCConfig(hidden_dims=tuple(hidden), action_chunking=True, horizon_length=HORIZON, **settings)
    algorithm, graphs = FlowBC((OBSERVATION_DIM,), ACTION_DIM, config), device.type == "cuda"
    pack, data, step = Pack(algorithm, range(members), device=device, captures=graphs), batch(members, device), 0

    def once() -> None:
        nonlocal step
        step += 1
        pack.update(data, step)

    return once


def eager(hidden: Sequence[int], device: torch.device = CPU, **options: Any) -> Once:
    """Return one update as it is usually written."""
    size = HORIZON * ACTION_DIM
    widths, layers = [OBSERVATION_DIM + size + 1, *hidden], []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU(approximate="tanh")]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], size)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-4, **options)
    data = {name: value[0] for name, value in batch(device=device).items()}

    def once() -> None:
        target = data["actions"].flatten(1)
        noise, t = torch.randn_like(target), torch.rand(BATCH, 1, device=device)
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


def ways(hidden: Sequence[int], names: Sequence[str] = WAYS) -> dict[str, Once]:
    """Return what the contenders of this interpreter repeat."""
    made: dict[str, Callable[[], Once]] = {
        "ours": lambda: ours(hidden),
        "ours, bf16": lambda: ours(hidden, precision="bf16"),
        "ours, compiled": lambda: ours(hidden, compile=True),
        "ours, compiled, bf16": lambda: ours(hidden, compile=True, precision="bf16"),
        "eager": lambda: eager(hidden),
        "eager, fused Adam": lambda: eager(hidden, fused=True),
    }
    return {name: made[name]() for name in names}


def contend(label: str, name: str) -> None:
    """Be one contender, in a process of its own: memory that another one keeps would speed this one up too."""
    (once,) = ways(SIZES[label], [name]).values()
    for _ in range(10):
        once()
    answer(lambda seconds: a_second(once, seconds))


def measure(label: str, given: argparse.Namespace) -> None:
    """Print a table of one size."""
    names = [name for name in WAYS if given.compile or "compiled" not in name]
    others = {name: Beside(sys.executable, __file__, "--sizes", label, "--contend", name) for name in names}
    if given.jax:
        others["JAX, jitted"] = Jax(given.jax, "update", "--hidden", *map(str, SIZES[label]))
    contenders: dict[str, Callable[[], float]] = {
        name: lambda other=other: other.measure(given.seconds) for name, other in others.items()
    }
    found = take_turns(contenders, given.repeats)
    against = [name for name in ("eager", "JAX, jitted") if name in found]
    print(f"\n{label}: updates/s [quartiles]" + "".join(f"; times {name}" for name in against))
    for name, values in found.items():
        ratios = "".join(f"  {ratio(values, found[one]):<22}" for one in against)
        print(f"  {name:<22} {spread(values):<24}{ratios}")
    for other in others.values():
        other.close()


def profile(label: str) -> None:
    """Print where an update's time goes: what is done, and all that is beside torch's operations."""
    once = ours(SIZES[label])
    for _ in range(20):
        once()
    whole = 1e6 / a_second(once, 2.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        begun = time.perf_counter()
        for _ in range(PROFILED):
            once()
        wall = 1e6 * (time.perf_counter() - begun)  # as the profiler's times are: work beside this lengthens both alike
    spent: dict[str, tuple[float, float]] = {}
    for row in seen.key_averages():
        what = next((what for what, names in KINDS.items() if row.key.removeprefix("aten::") in names), REST)
        share, calls = spent.get(what, (0.0, 0.0))
        spent[what] = share + row.self_cpu_time_total / wall, calls + row.count / PROFILED
    spent["Python"] = 1 - sum(share for share, _ in spent.values()), 0.0
    print(
        f"\n{label}: {whole:.0f} us of CPU time an update; shares under the profiler, and calls of torch's operations"
    )
    for what, (share, calls) in sorted(spent.items(), key=lambda item: -item[1][0]):
        print(f"  {what:<40} {100 * share:5.1f} %  {calls:5.1f}")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", help="an interpreter that can import jax")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes, and a C++ compiler")
    parser.add_argument("--profile", action="store_true", help="where the time of an update of ours goes")
    parser.add_argument("--contend", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.contend:
        contend(given.sizes[0], given.contend)
        return
    print(f"{machine()}; one thread, batch {BATCH}, horizon {HORIZON}")
    for label in given.sizes:
        if given.profile:
            profile(label)
        else:
            measure(label, given)


if __name__ == "__main__":
    main()
