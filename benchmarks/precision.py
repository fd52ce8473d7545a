"""Success of flow_bc trained in float32 and in bf16 on the cube's scripted demonstrations, on the same start states.

    understudy data generate cube-single-scripted-singletask-task1-v0 --episodes 100
    python benchmarks/precision.py [--steps 1000] [--episodes 50] [KEY=VALUE ...]

Three seeds each, networks of 2 x 256, chunks of 5. Prints both rates and their paired difference, with 95 % intervals
over seeds and start states.
"""

from __future__ import annotations

import argparse

import numpy as np

import understudy
from understudy.comparisons import paired_difference
from understudy.runs.episodes import last_step, load_episodes
from understudy.statistics import interval

SEEDS = [0, 1, 2]
CUBE = "cube-single-scripted-singletask-task1-v0"


def main() -> None:
    """Train both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="of the runs, such as data_dir= and save_dir=")
    given = parser.parse_args()
    keys = {"hidden_dims": [256, 256], "lr": 1e-3, "action_chunking": True, "horizon_length": 5, "seeds": SEEDS}
    keys |= {"training_steps": given.steps, "eval_episodes": given.episodes, "launcher": "inline", "quiet": True}
    keys |= {"tracking_uri": "none", **dict(word.split("=", 1) for word in given.keys)}
    found: dict[str, np.ndarray] = {}
    for precision in ("float32", "bf16"):
        run = understudy.train(algo="flow_bc", env_name=CUBE, precision=precision, **keys)
        rows = last_step(load_episodes(run)).sort_by([("seed", "ascending"), ("episode", "ascending")])
        found[precision] = rows["success"].to_numpy().reshape(len(SEEDS), -1)
        print(f"{precision}: success {interval(found[precision])}", flush=True)
    difference = paired_difference(found["bf16"], found["float32"], rate=True)
    print(f"bf16 - float32: {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]")


if __name__ == "__main__":
    main()
