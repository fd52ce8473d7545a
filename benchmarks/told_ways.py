"""Two ways round an obstacle, and a text that says which: how often each method goes the way that it is told.

    python benchmarks/told_ways.py FOLDER [--methods bc_mse flow_bc ...] [--seeds 3] [--updates 1500] [--episodes 20]

The task and the demonstrations are those of two_ways.py; each demonstration now has the text of its way. A method is
trained without texts, with one text for each way, and with four, all seeds as one pack. The same policies play the same
starts with texts of their training and with texts that no demonstration has; intervals are for other seeds and other
pairs of a start and a text. Needs the extra `language`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import understudy
from two_ways import METHODS, TwoWays, demonstration, play, rate, way
from understudy.policy import Policy

TOLD = ("bc_mse", "flow_bc", "ddpm_bc", "bc_rnn", "flow_transformer", "diffusion_policy")
"""Methods that are compared; the others of two_ways.py take texts too."""
WORDS = {-1: "left", 1: "right"}
ONE = ("pass on the {}",)
FOUR = ("pass on the {}", "take the {} way round", "go past the box on its {}", "move to the {} and then up")
UNSEEN = ("go round the {} side", "keep {}", "drive around the obstacle, {} of it")
TRAINED: dict[str, tuple[str, ...]] = {"none": (), "one": ONE, "four": FOUR}
"""Texts of each way in the demonstrations; several are lines, which the rows of an episode take in turn."""


def row(policy: Policy, texts: tuple[str, ...], temperature: float, starts: int) -> str:
    """Return the table's cells: success with its interval, the share of the told way, of the other and of none."""
    success: list[np.ndarray] = []
    ways: list[np.ndarray] = []
    for side, word in WORDS.items():
        success_KE, ways_KE = play(policy, temperature, starts, [text.format(word) for text in texts])
        success.append(success_KE)
        ways.append(ways_KE * side)
    success_KE, ways_KE = np.concatenate(success, axis=1), np.concatenate(ways, axis=1)
    rates = [rate(ways_KE == 1), f"{(ways_KE == -1).mean():.2f}", f"{(ways_KE == 0).mean():.2f}"]
    return f"{rate(success_KE)} | {' | '.join(rates)} | {len(success_KE)} x {success_KE.shape[1]}"


def main() -> None:
    """Make the demonstrations, train the methods with and without texts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(TOLD), choices=list(METHODS))
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=list(TRAINED), help="texts in training")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--episodes", type=int, default=20, help="of each text")
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
    print("| method | texts of a way | told | temperature | success | told way | other | neither | seeds x episodes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    here = {"launcher": "inline", "tracking_uri": "none", "eval_episodes": 0, "quiet": True, "data_dir": data}
    here |= {"seeds": list(range(given.seeds)), "save_dir": str(given.folder / "runs")}
    for method in given.methods:
        for name, texts in trained.items():
            keys = {**METHODS[method], **here, "run_group": f"{method}-{name}"}
            keys |= {"language_encoder": given.encoder} if texts else {}
            run = understudy.train(env_name=f"told-{name}", training_steps=given.updates, **keys)
            policy = run.policy()
            for kind, asked in (("seen", texts), ("unseen", UNSEEN)) if texts else (("nothing", ONE),):
                for temperature in (0.0, 1.0) if policy.algorithm.config.acts_at_random else (0.0,):
                    cells = row(policy, asked, temperature, given.episodes)
                    print(f"| {method} | {name} | {kind} | {temperature:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
