"""Returns of soft actor-critic here and in Stable-Baselines3, at equal steps, on the same environment and seeds.

    python benchmarks/online_returns.py --env Pendulum-v1 --frames 20000 --seeds 0 1 2 --results FILE

Both learn with the same settings and are evaluated without noise, every fifth of the frames, on the same start states.
What has been measured is kept in FILE: the same command goes on where it was ended, and prints the table.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from understudy.files import write_json
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.launch import launch
from understudy.spec.keys import build_run
from understudy.statistics import return_interval

Curve = dict[str, float]
"""The mean return of the evaluation at each step."""


def ours(options: argparse.Namespace, seed: int, folder: Path) -> Curve:
    """Train with understudy."""
    spec = build_run(
        {
            **{"algo": "sac", "env_name": options.env, "seed": seed, "lr": options.lr},
            **{"training_steps": options.frames, "start_training": options.random_steps},
            **{"eval_interval": options.frames // 5, "eval_episodes": options.episodes, "eval_seed": 0},
            "save_best": False,
            **{"save_dir": str(folder), "tracking_uri": "none", "launcher": "inline"},
        }
    )
    run = RunDir.create(spec)
    launch(spec, run)
    return {str(int(row["step"])): row["return"] for row in read_csv(run.path / "eval.csv")}


def stable_baselines(options: argparse.Namespace, seed: int, folder: Path) -> Curve:
    """Train with Stable-Baselines3."""
    torch.set_num_threads(1)
    agent = importlib.import_module("stable_baselines3").SAC(
        "MlpPolicy",
        options.env,
        learning_rate=options.lr,
        learning_starts=options.random_steps,
        seed=seed,
        device="cpu",
    )
    env, found = gymnasium.make(options.env), {}
    for _ in range(5):
        agent.learn(options.frames // 5, reset_num_timesteps=False)
        found[str(agent.num_timesteps)] = float(
            np.mean([played(agent, env, episode) for episode in range(options.episodes)])
        )
    return found


def played(agent: Any, env: gymnasium.Env, episode: int) -> float:
    """Return what an agent earns in an episode without noise."""
    seen, _ = env.reset(seed=episode)
    total, over = 0.0, False
    while not over:
        seen, reward, terminated, truncated, _ = env.step(agent.predict(seen, deterministic=True)[0])
        total, over = total + float(reward), terminated or truncated
    return total


METHODS = {"understudy": ours, "SB3": stable_baselines}


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--random-steps", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    if importlib.util.find_spec("stable_baselines3") is None:
        parser.error("stable-baselines3 is not installed: `pip install stable-baselines3==2.9.2`")
    known = json.loads(options.results.read_text()) if options.results.is_file() else {}
    setting = f"{options.env} frames={options.frames} lr={options.lr:g} random_steps={options.random_steps}"
    curves = known.setdefault(setting, {})
    for seed in options.seeds:
        for name, train in METHODS.items():
            if f"{name} {seed}" not in curves:
                curves[f"{name} {seed}"] = train(options, seed, options.results.with_suffix(".runs"))
                write_json(options.results, known)
    print(
        f"{setting}, {len(options.seeds)} seeds x {options.episodes} episodes: mean return and 95 % interval over seeds"
    )
    for step in curves[f"understudy {options.seeds[0]}"]:
        row = [f"{int(step):>8}"]
        for name in METHODS:
            reached = return_interval([[curves[f"{name} {seed}"][step]] for seed in options.seeds])
            row.append(f"{name} {reached.mean:.1f} [{reached.low:.1f}, {reached.high:.1f}]")
        print("  ".join(row))


if __name__ == "__main__":
    main()
