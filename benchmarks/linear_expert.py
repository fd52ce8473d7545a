"""Find a linear expert for a continuous-control task by augmented random search, and save it as an understudy policy.

    python benchmarks/linear_expert.py halfcheetah-policy-v2 experts/halfcheetah --iterations 300
    understudy data generate halfcheetah-policy-v2 --policy experts/halfcheetah --episodes 50

It is what the D4RL rows of docs/results.md learn from: the published files cannot be had everywhere, and a linear
policy is a good runner on these tasks. The method is ARS V2-t (Mania et al. 2018, arXiv 1803.07055, algorithm 2):
observations are whitened with running statistics, `directions` random directions of standard deviation `noise` are
tried both ways, and the best `top` of them are followed, scaled by the deviation of their returns.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.files.processes import available_cpus
from understudy.envs.rollouts.factory import EnvFactory
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator
from understudy.trainables.algorithms.bc import BC, BCConfig

_envs: dict[str, Any] = {}


def rollout(task: tuple[str, np.ndarray, np.ndarray, np.ndarray, int, float]) -> tuple[float, np.ndarray]:
    """Return an episode's sum of (reward - bonus) and its observations [T, O] for a = clip(M (s - mean) / std)."""
    env_name, matrix, mean, std, seed, bonus = task
    if env_name not in _envs:
        _envs[env_name] = EnvFactory(env_name)()
    env = _envs[env_name]
    observation, _ = env.reset(seed=seed)
    seen, total, done = [], 0.0, False
    while not done:
        seen.append(observation)
        observation, reward, terminated, truncated, _ = env.step(np.clip(matrix @ ((observation - mean) / std), -1, 1))
        total += float(reward) - bonus
        done = terminated or truncated
    return total, np.asarray(seen)


class Whitening:
    """Running mean and deviation of observations, in float64 (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(size), np.zeros(size)

    def add(self, values: np.ndarray) -> None:
        """Take in values [N, O]."""
        count, mean = len(values), values.mean(0)
        total, delta = self.count + count, mean - self.mean
        self.squares += ((values - mean) ** 2).sum(0) + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * count / total
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Deviations; dimensions that never change get infinity, so that they weigh nothing."""
        if self.count < 2:
            return np.ones_like(self.mean)
        std = np.sqrt(self.squares / (self.count - 1))
        return np.where(std < 1e-7, np.inf, std)


def search(options: argparse.Namespace) -> float:
    """Search, saving the best policy (matrix [A, O], mean and std [O]) so far; return its mean over 20 episodes."""
    env = EnvFactory(options.env_name)()
    shape = (*env.action_space.shape, *env.observation_space.shape)  # type: ignore[misc]
    env.close()
    matrix, whitening = np.zeros(shape), Whitening(shape[1])
    best = -np.inf
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for iteration in range(1, options.iterations + 1):
            rng = numpy_generator(options.seed, "directions", iteration)
            directions = rng.standard_normal((options.directions, *shape))
            mean, std = whitening.mean.copy(), whitening.std.copy()
            tasks = [
                (options.env_name, matrix + sign * options.noise * direction, mean, std, seed, options.bonus)
                for seed, direction in zip(rng.integers(0, 2**31, len(directions)).tolist(), directions, strict=True)
                for sign in (1, -1)
            ]
            results = pool.map(rollout, tasks, chunksize=1)
            for _, seen in results:
                whitening.add(seen)
            returns = np.asarray([total for total, _ in results]).reshape(-1, 2)
            kept = np.argsort(-returns.max(1))[: options.top]
            gap, spread = returns[kept, 0] - returns[kept, 1], returns[kept].std() + 1e-9
            matrix = matrix + options.step / (options.top * spread) * np.tensordot(gap, directions[kept], 1)
            if iteration % options.check == 0 or iteration == options.iterations:
                now = (matrix.copy(), whitening.mean.copy(), whitening.std.copy())
                tasks = [(options.env_name, *now, 10**6 + i, 0.0) for i in range(20)]
                mean_return = float(np.mean([total for total, _ in pool.imap(rollout, tasks)]))
                if mean_return > best:
                    best = mean_return
                    save(options, *now)
                print(f"iteration {iteration}: return {mean_return:.0f}, best {best:.0f}", flush=True)
    return best


def save(options: argparse.Namespace, matrix: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Path:
    """Write the expert as a policy folder: bc's linear policy behind a normaliser."""
    algorithm = BC((matrix.shape[1],), matrix.shape[0], BCConfig(policy="mse", hidden_dims=()))
    weights = {"mean.weight": torch.tensor(matrix).float(), "mean.bias": torch.zeros(len(matrix))}
    normaliser = Normaliser("zscore", mean.astype(np.float32), (1 / std).astype(np.float32))
    return Policy(algorithm, [weights], normaliser, env_name=options.env_name).save(options.folder)


def main() -> None:
    """Search, save, and print what the expert's return is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_name", help="dataset name, such as hopper-policy-v2")
    parser.add_argument("folder", type=Path, help="where the policy folder goes")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--directions", type=int, default=16)
    parser.add_argument("--top", type=int, default=8, help="directions that are followed")
    parser.add_argument("--step", type=float, default=0.02, help="step size")
    parser.add_argument("--noise", type=float, default=0.03, help="deviation of a direction")
    parser.add_argument("--bonus", type=float, default=0.0, help="survival reward to leave out of the search")
    parser.add_argument("--check", type=int, default=10, help="iterations between evaluations of the mean policy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=available_cpus())
    options = parser.parse_args()
    print(f"{options.folder}: mean return {search(options):.1f} over 20 episodes")


if __name__ == "__main__":
    main()
