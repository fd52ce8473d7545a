"""Milliseconds of a decision: the policy as it is, exported by torch, compiled, and in onnxruntime; one thread.

    python benchmarks/acting.py [--repeats 15] [--policies flow ddpm ddim act] [--compile] [--jax PYTHON]

Chunked policies of the published sizes, untrained (what they decide costs the same), for 1 observation and for 50.
Contenders take turns; a ratio is the median of the ratios of such turns to `eager`, with its quartiles, and above 1 is
faster. onnxruntime is left out where it is not installed (the extra `deploy`); jitted JAX has the flow alone, and runs
where an interpreter is named that has it. Milliseconds are of the processes' CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import Jax, machine, ratio, spread, take_turns
from understudy.algorithm import Algorithm
from understudy.exporting.formats import FORMATS
from understudy.exporting.function import PolicyFunction
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import algorithms

OBSERVATION_DIM, ACTION_DIM = 17, 6
CHUNKS: dict[str, Any] = {"action_chunking": True, "horizon_length": 5}
POLICIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flow": ("flow_bc", "flow_bc, 4 x 512, 10 Euler steps, chunks of 5", CHUNKS),
    "ddpm": ("ddpm_bc", "ddpm_bc, 3 blocks of 256, 20 DDPM steps, chunks of 5", CHUNKS),
    "ddim": ("ddpm_bc", "the same, 10 DDIM steps", {**CHUNKS, "sampler": "ddim", "sampling_steps": 10}),
    "act": ("act", "act, its own sizes (512 wide, 4 + 1 layers), chunks of 20", {"horizon_length": 20}),
}
Contender = Callable[[list[torch.Tensor]], Any]


def policy_of(name: str, settings: dict[str, Any]) -> Policy:
    """Return an untrained policy whose observations are scaled."""
    kind: type[Algorithm] = algorithms.get(name)
    algorithm = kind((OBSERVATION_DIM,), ACTION_DIM, kind.Config(**settings))
    states = numpy_generator(0, "benchmark").normal(1, 2, (100, OBSERVATION_DIM)).astype(np.float32)
    weights = algorithm.network(torch_generator(0, "benchmark")).state_dict()
    return Policy(algorithm, [weights], Normaliser.fit(states, "zscore"))


def contenders(policy: Policy, compiled: bool) -> dict[str, Contender]:
    """Return what gives the policy's actions, by name."""
    function = PolicyFunction(policy, temperature=0.0).eval()
    made: dict[str, Contender] = {
        "eager": lambda inputs: function(*inputs),
        "Policy.act": lambda inputs: policy.act(inputs[0].numpy(), temperature=0.0),
    }
    names = [port.name for port in function.inputs]
    folder = Path(tempfile.mkdtemp())
    for label, kind in FORMATS.items():
        path = folder / kind.file
        try:
            kind.check()
            kind.write(function, path)
        except Exception as error:  # noqa: BLE001  (what cannot be made is left out, and said)
            print(f"  {label}: {str(error).splitlines()[0]}")
            continue
        if label == "onnx":
            label = "onnxruntime"
        made[label] = kind.read(path, names)
    if compiled:
        made["torch.compile"] = torch.compile(function, dynamic=False)
    return made


def timed(contender: Contender, inputs: list[torch.Tensor], seconds: float) -> Callable[[], float]:
    """Return what gives milliseconds of a decision, over calls that take about `seconds`."""

    def once() -> float:
        begins = time.process_time()
        contender(inputs)
        return time.process_time() - begins

    with torch.inference_mode():
        once()
        calls = max(3, int(seconds / max(min(once() for _ in range(3)), 1e-6)))

    def measure() -> float:
        with torch.inference_mode():
            begins = time.process_time()
            for _ in range(calls):
                contender(inputs)
            return 1e3 * (time.process_time() - begins) / calls

    return measure


def main() -> None:
    """Print a table for each policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes, and a C++ compiler")
    parser.add_argument("--jax", help="an interpreter that can import jax")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{machine()}; one thread, float32, temperature 0")
    for key in given.policies:
        name, label, settings = POLICIES[key]
        print(f"\n{label}")
        made = contenders(policy_of(name, settings), given.compile)
        for rows in given.rows:
            observations = numpy_generator(0, "rows", rows).standard_normal((rows, OBSERVATION_DIM), np.float32)
            inputs = [torch.from_numpy(observations)]
            measures: dict[str, Callable[[], float]] = {}
            for contender, call in made.items():
                try:
                    measures[contender] = timed(call, inputs, given.seconds)
                except Exception as error:  # noqa: BLE001
                    print(f"  {contender} does not run: {str(error).splitlines()[0]}")
            other = Jax(given.jax, "act", "--rows", str(rows)) if given.jax and key == "flow" else None
            if other:
                measures["JAX, jitted"] = lambda other=other: 1e3 / other.measure(given.seconds)
            found = take_turns(measures, given.repeats)
            if other:
                other.close()
            print(f"  {rows} observation{'s' if rows > 1 else ''}: ms [quartiles]; times as fast as eager")
            for contender, times in found.items():
                print(f"    {contender:<14} {spread(times):<26} {ratio(found['eager'], times)}")


if __name__ == "__main__":
    main()
