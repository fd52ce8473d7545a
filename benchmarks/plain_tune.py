"""What benchmarks/sweep.py is measured against: the same sweep with Ray Tune alone, one seed a trial.

    python benchmarks/plain_tune.py FOLDER --data demonstrations.npz --task Pendulum-v1 ...
    python benchmarks/plain_tune.py FOLDER --data demonstrations.npz --task Pendulum-v1 --shared ...

Written as a careful user of Tune would: the data are read once a process and stay tensors, all episodes of an
evaluation are steps of one vectorised environment, actors are reused, a trial has one CPU and one thread, and
MLflowLoggerCallback tracks. flow_steps is searched as any other parameter is, a trial each; with --shared each policy
is trained once and evaluated at all of them. No understudy in it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from torch import nn

Settings = dict[str, Any]


class Velocity(nn.Module):
    """The field v(o, x_t, t) of flow matching: an MLP, whose size is that of understudy's."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: list[int]) -> None:
        super().__init__()
        sizes = [observation_dim + action_dim + 1, *hidden]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.GELU("tanh"))]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], action_dim))

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat((observations, actions, time), dim=-1))


Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
held: dict[str, Data] = {}
"""What this process has read, by file; functools.cache cannot be sent to Ray's processes."""


def load(file: str) -> Data:
    """Return (normalised observations [N, O], actions [N, A], mean [O], deviation [O]), read once a process."""
    if file not in held:
        with np.load(file) as arrays:
            observations, actions = torch.from_numpy(arrays["observations"]), torch.from_numpy(arrays["actions"])
        mean, deviation = observations.mean(0), observations.std(0).clamp_min(1e-6)
        held[file] = (observations - mean) / deviation, actions, mean, deviation
    return held[file]


@torch.no_grad()
def evaluate(network: Velocity, settings: Settings, flow_steps: int) -> float:
    """Return the mean return of `episodes` episodes, which are played side by side."""
    _, _, mean, deviation = load(settings["data"])
    episodes = settings["episodes"]
    environments = gymnasium.make_vec(settings["task"], num_envs=episodes, vectorization_mode="sync")
    observations, _ = environments.reset(seed=0)
    low = torch.from_numpy(environments.single_action_space.low)  # type: ignore[attr-defined]
    high = torch.from_numpy(environments.single_action_space.high)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    returns, playing = np.zeros(episodes), np.ones(episodes, bool)
    while playing.any():
        state = (torch.as_tensor(observations, dtype=torch.float32) - mean) / deviation
        actions = torch.randn(episodes, len(low), generator=generator)
        for step in range(flow_steps):
            time = torch.full((episodes, 1), step / flow_steps)
            actions = actions + network(state, actions, time) / flow_steps
        observations, rewards, ended, cut, _ = environments.step(actions.clamp(low, high).numpy())
        returns += rewards * playing
        playing &= ~(ended | cut)
    environments.close()
    return float(returns.mean())


def train(config: Settings, settings: Settings) -> None:
    """Train one seed of one configuration, reporting losses and evaluations."""
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    observations, actions, _, _ = load(settings["data"])
    network = Velocity(observations.shape[1], actions.shape[1], settings["hidden"])
    optimiser = torch.optim.Adam(network.parameters(), lr=config["lr"])
    for step in range(1, settings["steps"] + 1):
        chosen = torch.randint(len(observations), (settings["batch"],))
        target = actions[chosen]
        noise, time = torch.randn_like(target), torch.rand(len(target), 1)
        predicted = network(observations[chosen], torch.lerp(noise, target, time), time)
        loss = (predicted - (target - noise)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last = step == settings["steps"]
        if last and "flow_steps" in config:
            played = evaluate(network, settings, config["flow_steps"])
            tune.report({"step": step, "loss": loss.item(), "return": played})
        elif last:
            grid = {f"return_{value}": evaluate(network, settings, value) for value in settings["flow_steps"]}
            tune.report({"step": step, "loss": loss.item(), **grid, "return": max(grid.values())})
        elif step % settings["eval_interval"] == 0:
            played = evaluate(network, settings, config.get("flow_steps", settings["flow_steps"][0]))
            tune.report({"step": step, "loss": loss.item(), "return": played})
        elif step % settings["log_interval"] == 0:
            tune.report({"step": step, "loss": loss.item()})


def tuner(settings: Settings, folder: Path) -> tune.Tuner:
    """Return the sweep over all configurations and seeds."""
    searched = {"lr": settings["lr"], "seed": settings["seeds"]}
    if not settings["shared"]:
        searched["flow_steps"] = settings["flow_steps"]
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="sweep")
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(train, settings=settings), {"cpu": 1}),
        param_space={key: tune.grid_search(values) for key, values in searched.items()},
        tune_config=tune.TuneConfig(reuse_actors=True),  # no metric: rows of losses alone have none
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[callback]),
    )


def best(results: tune.ResultGrid) -> tuple[float, float]:
    """Return (learning rate, mean over seeds) of the configuration whose seeds are best together."""
    found: dict[tuple[float, int], list[float]] = {}
    for result in results:
        if result.config is not None and result.metrics is not None:
            key = result.config["lr"], result.config.get("flow_steps", 0)
            found.setdefault(key, []).append(result.metrics["return"])
    key = max(found, key=lambda key: statistics.mean(found[key]))
    return key[0], statistics.mean(found[key])


def main() -> None:
    """Run the sweep, or go on with the one in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--restore", action="store_true", help="restore the sweep in the folder and end it")
    parser.add_argument("--shared", action="store_true", help="train once for all flow_steps")
    for name, value in (("steps", 100), ("batch", 256), ("episodes", 5), ("eval_interval", 50), ("log_interval", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("hidden", "seeds", "flow_steps"):
        parser.add_argument(f"--{name}", type=int, nargs="+", required=True)
    parser.add_argument("--lr", type=float, nargs="+", required=True)
    settings = vars(parser.parse_args())
    folder = settings.pop("folder").absolute()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.pop("restore"):
        trainable = tune.with_resources(tune.with_parameters(train, settings=settings), {"cpu": 1})
        results = tune.Tuner.restore(str(folder / "tune"), trainable).fit()
    else:
        results = tuner(settings, folder).fit()
    print("best: lr {:g}, return {:.2f}".format(*best(results)))


if __name__ == "__main__":
    main()
