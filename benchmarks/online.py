"""Steps/s of soft actor-critic, each a step of the environment and an update, beside the code that others use.

    python benchmarks/online.py [--envs Pendulum-v1 HalfCheetah-v5] [--steps 200] [--repeats 15] [--seeds 4]

Batch 256, two hidden layers of 256, one update a step: this loop with one seed, Stable-Baselines3's SAC where it is
installed, and an eager script as CleanRL's (`eager_sac.py`), each on one core, in seconds of its CPU time. Then a pack
of seeds on two cores in seconds of the clock, and one seed of the others beside it so, counted in seeds' steps/s. At
last what a checkpoint adds for a buffer of 100,000 rows of HalfCheetah's dims: the time in which 1000 new rows become
durable.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eager_sac import EagerSAC
from measuring import machine, ratio, spread, take_turns
from understudy.envs.replay.replay import Replay
from understudy.runs.directory import RunDir
from understudy.spec.keys import build_run
from understudy.trainables.loops.online import FromEnvironments, OnlineLoop
from understudy.trainables.loops.steps import Training

RANDOM_STEPS, WARM_UP = 300, 50
OURS, PACK, SB3, EAGER = "understudy", "pack, two cores", "SB3", "CleanRL-like"


class Ours:
    """The online loop, without logs and checkpoints."""

    def __init__(self, env_name: str, folder: Path, seeds: int, cpus: int) -> None:
        self._cpus, self._seeds = cpus, seeds
        spec = build_run(
            {
                **{"algo": "sac", "env_name": env_name, "seeds": list(range(seeds)), "cpus": cpus},
                **{"training_steps": 10**7, "start_training": RANDOM_STEPS, "eval_episodes": 0},
                **{"save_dir": str(folder), "tracking_uri": "none", "launcher": "inline"},
            }
        )
        loop = OnlineLoop(spec)
        training = Training(spec, RunDir.create(spec), loop.experience, loop.algorithm, loop.device)
        self._updates = FromEnvironments(training, loop.surroundings, None).updates(training, None)
        self.steps(RANDOM_STEPS + WARM_UP)

    def steps(self, count: int) -> int:
        """Take steps with every seed; return how many they are together."""
        torch.set_num_threads(self._cpus)
        for _ in range(count):
            next(self._updates)
        torch.set_num_threads(1)
        return count * self._seeds


class Eager:
    """The eager script."""

    def __init__(self, env_name: str) -> None:
        self._agent = EagerSAC(env_name, 0, random_steps=RANDOM_STEPS)
        self.steps(RANDOM_STEPS + WARM_UP)

    def steps(self, count: int) -> int:
        """Take steps."""
        self._agent.steps(count)
        return count


class StableBaselines:
    """Stable-Baselines3's SAC."""

    def __init__(self, env_name: str) -> None:
        sac = importlib.import_module("stable_baselines3").SAC
        self._agent = sac("MlpPolicy", env_name, learning_starts=RANDOM_STEPS, seed=0, device="cpu")
        self.steps(RANDOM_STEPS + WARM_UP)

    def steps(self, count: int) -> int:
        """Take steps."""
        self._agent.learn(count, reset_num_timesteps=False)
        return count


def checkpoint_seconds(folder: Path, rows: int = 100_000, new: int = 1000, repeats: int = 7) -> list[float]:
    """Return how long `new` rows of a buffer of about `rows` take to be durable, and those before them at first."""
    random = np.random.default_rng(0)
    buffer = Replay(folder, (17,), 6, rows)
    seen, action = random.standard_normal((new, 17), np.float32), random.standard_normal(6, np.float32)

    def add(count: int) -> float:
        for index in range(count):
            row = seen[index % new]
            if index % new == 0:
                buffer.begin(row)
            buffer.add(action, 1.0, row, terminated=False, ended=index % new == new - 1)
        begin = time.perf_counter()
        buffer.sync()
        return time.perf_counter() - begin

    return [add(rows), *(add(new) for _ in range(repeats))]


def rate(steps: Callable[[int], int], count: int, clock: Callable[[], float]) -> float:
    """Return steps/s."""
    begin = clock()
    return steps(count) / (clock() - begin)


def measure(env_name: str, options: argparse.Namespace, folder: Path) -> None:
    """Print every contender's steps/s and the ratios."""
    contenders: dict[str, Any] = {OURS: Ours(env_name, folder, 1, 1), EAGER: Eager(env_name)}
    if importlib.util.find_spec("stable_baselines3"):
        contenders[SB3] = StableBaselines(env_name)
    else:
        print("stable-baselines3 is not installed: `pip install stable-baselines3==2.9.2` to compare with it")
    compared(contenders, options, OURS, time.process_time)
    if options.seeds:
        contenders[PACK] = Ours(env_name, folder, options.seeds, 2)
        compared({name: one for name, one in contenders.items() if name != OURS}, options, PACK, time.perf_counter)


def compared(contenders: dict[str, Any], options: argparse.Namespace, ours: str, clock: Callable[[], float]) -> None:
    """Let the contenders take turns and print what came of it."""
    turns = {name: partial(rate, one.steps, options.steps, clock) for name, one in contenders.items()}
    found = take_turns(turns, options.repeats)
    for name, values in found.items():
        print(f"{name:17} {spread(values)} steps/s")
    for other in (name for name in (SB3, EAGER) if name in found):
        print(f"{ours}/{other}: {ratio(found[ours], found[other])}  ({options.repeats} pairs)", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["Pendulum-v1", "HalfCheetah-v5"])
    parser.add_argument("--steps", type=int, default=200, help="steps of a measurement")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=4, help="of the pack; 0: none is measured")
    options = parser.parse_args()
    print(machine())
    torch.set_num_threads(1)
    for env_name in options.envs:
        with tempfile.TemporaryDirectory() as folder:
            print(
                f"{env_name}, each step with an update of 256 samples; load average {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            measure(env_name, options, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        first, *later = checkpoint_seconds(Path(folder))
    print(f"checkpoint of a buffer: 100,000 rows {first:.2g} s at first, then 1000 new ones {spread(later)} s")


if __name__ == "__main__":
    main()
