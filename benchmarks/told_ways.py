"""Two ways round an obstacle, and a text that says which: how often each method goes the way that it is told.

    python benchmarks/told_ways.py FOLDER [--methods bc_mse flow_bc ...] [--updates 1500] [--episodes 25]

The task and the demonstrations are those of two_ways.py; each demonstration now has the text of its way. A method is
trained without texts, with one text for each way, and with four. The same policy plays the same starts with texts of
its training and with texts that no demonstration has. Needs the extra `language`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import understudy
from two_ways import LIMIT, METHODS, TwoWays, demonstration, way
from understudy.statistics import wilson

WORDS = {-1: "left", 1: "right"}
ONE = ("pass on the {}",)
FOUR = ("pass on the {}", "take the {} way round", "go past the box on its {}", "move to the {} and then up")
UNSEEN = ("go round the {} side", "keep {}", "drive around the obstacle, {} of it")
TRAINED: dict[str, tuple[str, ...]] = {"none": (), "one": ONE, "four": FOUR}
"""Texts of each way in the demonstrations; several are lines, which the rows of an episode take in turn."""


def played(runner: Any, env: TwoWays, seed: int, text: str) -> tuple[bool, int]:
    """Play an episode that is told a text; return whether it came to the goal, and its way."""
    observation, _ = env.reset(seed=seed)
    runner.reset(observation, {"language": text})
    places, reached = [observation[:2]], False
    while not reached and len(places) <= LIMIT:
        observation, _, reached, _, _ = env.step(runner.act(observation))
        places.append(observation[:2])
    return reached, way(np.stack(places))


def row(policy: Any, env: TwoWays, texts: tuple[str, ...], temperature: float, episodes: int) -> str:
    """Return the table's cells: success with Wilson's interval, the share of the told way, of the other and of none."""
    found: list[tuple[bool, int, int]] = []
    for text in texts:
        for side, word in WORDS.items():
            runner = policy.runner(temperature=temperature)
            starts = range(1_000_000, 1_000_000 + episodes)
            found += [(*played(runner, env, seed, text.format(word)), side) for seed in starts]
    reached = sum(success for success, _, _ in found)
    low, high = wilson(reached, len(found))
    shares = [np.mean([went == times * side for _, went, side in found]) for times in (1, -1, 0)]
    success = f"{reached / len(found):.2f} [{low:.2f}, {high:.2f}]"
    return f"{success} | {' | '.join(f'{share:.2f}' for share in shares)} | {len(found)}"


def main() -> None:
    """Make the demonstrations, train the methods with and without texts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=["bc_mse", "flow_bc", "ddpm_bc"], choices=list(METHODS))
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=list(TRAINED), help="texts in training")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--episodes", type=int, default=25, help="of each text")
    parser.add_argument("--demonstrations", type=int, default=150)
    parser.add_argument("--encoder", default="wordllama", help="language_encoder")
    given = parser.parse_args()
    env, data = TwoWays(), str(given.folder / "data")
    episodes: list[dict[str, Any]] = [demonstration(env, number) for number in range(given.demonstrations)]
    ways = [WORDS.get(way(episode["observations"][:, :2]), "middle") for episode in episodes]
    trained = {name: TRAINED[name] for name in given.trained}
    for name, texts in trained.items():
        told = [{"language": "\n".join(text.format(word) for text in texts)} if texts else {} for word in ways]
        both = [{**episode, **text} for episode, text in zip(episodes, told, strict=True)]
        understudy.write_dataset(f"told-{name}", both, data_dir=data, overwrite=True)
    print(f"{len(episodes)} demonstrations, {ways.count('left')} left, {ways.count('right')} right")
    print("| method | texts of a way | told | temperature | success | told way | other | neither | episodes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    here = {"launcher": "inline", "tracking_uri": "none", "eval_episodes": 0, "quiet": True, "data_dir": data}
    for method in given.methods:
        for name, texts in trained.items():
            keys = {**METHODS[method], **here, "save_dir": str(given.folder / "runs"), "run_group": f"{method}-{name}"}
            keys |= {"language_encoder": given.encoder} if texts else {}
            run = understudy.train(env_name=f"told-{name}", training_steps=given.updates, **keys)
            policy = run.policy()
            for kind, asked in (("seen", texts), ("unseen", UNSEEN)) if texts else (("nothing", ONE),):
                for temperature in (0.0, 1.0) if policy.algorithm.config.acts_at_random else (0.0,):
                    cells = row(policy, env, asked, temperature, given.episodes)
                    print(f"| {method} | {name} | {kind} | {temperature:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
