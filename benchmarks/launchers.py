"""Steps/s of flow_bc inline and through Ray Train, side by side in one run: median, spread and ratio.

    python benchmarks/launchers.py [steps] [repeats]

Both train the same configuration (the default network 4 x 512, horizon 5, batch 256, one CPU) on the same made-up
data of HalfCheetah's dims; they take turns, so that a machine that gets slower meanwhile slows both.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from understudy.envs.store.writer import StoreWriter
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.launch import launch
from understudy.runs.ray_start import start_ray
from understudy.spec.keys import build_run


def make_data(folder: Path) -> None:
    """Write a store of 20 episodes of 1000 steps: 17 observation dims, 6 action dims."""
    rng = np.random.default_rng(0)
    name = "halfcheetah-medium-v2"
    with StoreWriter(folder / name, name=name, source="d4rl", env_id="HalfCheetah-v4") as writer:
        for _ in range(20):
            writer.add_episode(
                {
                    "observations": rng.standard_normal((1000, 17), np.float32),
                    "actions": rng.uniform(-1, 1, (1000, 6)).astype(np.float32),
                    "rewards": np.zeros(1000, np.float32),
                    "terminals": np.zeros(1000, np.uint8),
                }
            )


def steps_per_second(root: Path, launcher: str, steps: int) -> float:
    """Train once and return the median steps/s of its log rows, the first (start-up) left out."""
    spec = build_run(
        {
            "env_name": "halfcheetah-medium-v2",
            "data_dir": str(root),
            "save_dir": str(root / "runs"),
            "action_chunking": True,
            "training_steps": steps,
            "log_interval": max(1, steps // 10),
            "eval_episodes": 0,
            "tracking_uri": "none",
            "launcher": launcher,
        }
    )
    run = RunDir.create(spec)
    launch(spec, run)
    return statistics.median(row["steps_per_sec"] for row in read_csv(run.path / "timing.csv")[1:])


def main() -> None:
    """Measure and print."""
    steps, repeats = (int(word) for word in (*sys.argv[1:], *("300", "3")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root)
        start_ray()
        rates: dict[str, list[float]] = {"inline": [], "ray": []}
        for _ in range(repeats):
            for launcher, found in rates.items():
                found.append(steps_per_second(root, launcher, steps))
        for launcher, found in rates.items():
            print(f"{launcher:7} {statistics.median(found):7.1f} steps/s  [{min(found):.1f}, {max(found):.1f}]")
        ratios = [ray / inline for ray, inline in zip(rates["ray"], rates["inline"], strict=True)]
        spread = f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"ray/inline {statistics.median(ratios):.3f}  {spread}  ({repeats} pairs of {steps} steps)")


if __name__ == "__main__":
    main()
