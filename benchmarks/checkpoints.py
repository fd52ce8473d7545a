"""The share of a run's time that training waits for rolling checkpoints: written in the background, and at once.

    python benchmarks/checkpoints.py [--steps N] [--repeats N] [--seconds S]

flow_bc with its default network (4 x 512), horizon 5, batch 256, three seeds as one pack, a checkpoint every S
seconds: weights, both moments of Adam and the averages of all three. Waiting is what the thread that trains spends in
handing a checkpoint over (finding out whether all is finite, copying the tensors) or, for the contender, in writing
it too. The contenders take turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measuring import NAME, machine, make_store, ratio, spread, take_turns
from understudy import checkpoints
from understudy.runs.directory import RunDir
from understudy.runs.launch import launch
from understudy.spec.keys import build_run
from understudy.trainables.loops.hooks import Checkpoint


def write_at_once(
    writer: checkpoints.RollingWriter, step: int, state: dict[str, Any], before: Callable[[], None], after: Any
) -> None:
    """Do what `RollingWriter.submit` has its thread do."""
    before()
    checkpoints.save_rolling(writer._folder, step, state)
    after()


class Waits:
    """The seconds that every call of `Checkpoint.write` took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def timed(self, checkpoint: Callable[[Checkpoint], None]) -> Callable[[Checkpoint], None]:
        """Return the method, timed."""

        def call(hook: Checkpoint) -> None:
            started = time.perf_counter()
            checkpoint(hook)
            self.seconds.append(time.perf_counter() - started)

        return call


def train(root: Path, steps: int, seconds: float, at_once: bool) -> tuple[float, list[float]]:
    """Train once; return the share of its time in percent that it waited, and the seconds of each wait."""
    spec = build_run(
        {
            "env_name": NAME,
            "data_dir": str(root),
            "save_dir": str(root / "runs"),
            "seeds": [0, 1, 2],
            "action_chunking": True,
            "training_steps": steps,
            "log_interval": steps,
            "save_interval": -1,
            "eval_episodes": 0,
            "checkpoint_seconds": seconds,
            "tracking_uri": "none",
        }
    )
    run, waits, started = RunDir.create(spec), Waits(), time.perf_counter()
    submit = write_at_once if at_once else checkpoints.RollingWriter.submit
    with (
        patch.object(checkpoints.RollingWriter, "submit", submit),
        patch.object(Checkpoint, "write", waits.timed(Checkpoint.write)),
    ):
        launch(spec, run)
    return 100 * sum(waits.seconds) / (time.perf_counter() - started), waits.seconds


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--steps", type=int, default=250, help="training steps of each run")
    words.add_argument("--repeats", type=int, default=5, help="runs of each contender")
    words.add_argument("--seconds", type=float, default=5.0, help="between checkpoints")
    given = words.parse_args()
    each: dict[str, list[float]] = {"background": [], "at once": []}
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), 20_000)

        def contender(name: str) -> Callable[[], float]:
            def share() -> float:
                percent, waits = train(Path(folder), given.steps, given.seconds, name == "at once")
                each[name] += [1000 * wait for wait in waits]
                return percent

            return share

        shares = take_turns({name: contender(name) for name in each}, given.repeats)
    print(machine())
    for name, found in shares.items():
        print(f"{name:10} waits {spread(found)} % of the run; {spread(each[name])} ms each, {len(each[name])} of them")
    print(f"at once/background {ratio(shares['at once'], shares['background'])}  ({given.repeats} pairs)")


if __name__ == "__main__":
    main()
