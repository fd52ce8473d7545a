"""Let a trained run's policy show what it can: the seed that does best plays episodes, which become an expert buffer.

    <save_dir>/<environment>/expert_buffer.pt  metadata.pt  README.txt

Which seed plays is decided on other episodes than what is reported of it, and demonstrations are of a third kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from understudy.devices import resolve_device
from understudy.errors import UserError
from understudy.files import typed
from understudy.policy import Policy
from understudy.randomness import stream_key
from understudy.registry import algorithms, loops, sources
from understudy.runs.directory import RunDir
from understudy.runs.loop import Episode
from understudy.runs.registering import FINAL_EPISODES, best_seed, final_evaluation
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec, plain_name

BUFFER, METADATA = "expert_buffer.pt", "metadata.pt"
BLOCK = 10
"""Episodes that are played at a time until there are enough transitions."""
Poll = Callable[[], None]


@dataclass(frozen=True)
class Wanted:
    """How much is to be shown, and how."""

    episodes: int = 50
    transitions: int = 0
    """At least so many instead, in whole episodes; 0: by `episodes`."""
    sampled: bool = False
    """Whether the policy draws its actions; else it takes the most likely ones."""

    def check(self) -> None:
        """Raise UserError for numbers that show nothing."""
        if self.episodes < 1:
            raise UserError(f"episodes={self.episodes}: must be at least 1")
        if self.transitions < 0:
            raise UserError(f"transitions={self.transitions}: must be at least 1, or 0 for so many episodes")

    @property
    def enough(self) -> str:
        """What is asked for, in words."""
        return f"at least {self.transitions} transitions" if self.transitions else f"{self.episodes} episodes"


@dataclass(frozen=True)
class Expert:
    """One seed of a finished run."""

    run: RunDir
    spec: RunSpec
    policy: Policy
    seed: int

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.spec.algo} seed {self.seed}"


def policies_of(run: RunDir) -> tuple[RunSpec, Policy]:
    """Return a finished run's spec and all of its seeds' policies; UserError for one that has not finished."""
    spec, state = run.spec(), run.state()
    if state.get("status") != "finished":
        how = state.get("status", "not begun")
        raise UserError(
            f"{run.path} has not finished (it is {how}): `understudy resume {typed(run.path)}` goes on with it"
        )
    files = [run.member(seed, spec.all_seeds) / "final_model.pt" for seed in spec.all_seeds]
    policy = Policy.from_checkpoint(*files, device=resolve_device(spec.placement.device))
    return spec, policy.with_config(**state.get("best_parameters", {}))


def choose_expert(run: RunDir, episodes: int = FINAL_EPISODES, *, poll: Poll | None = None) -> Expert:
    """Return the seed of a finished run that does best on fresh episodes, which nothing else is reported of."""
    spec, policy = policies_of(run)
    place = 0
    if len(spec.all_seeds) > 1:
        judged = final_evaluation(with_changes(spec, eval_episodes=episodes), episodes)
        outcome = loops.get(policy.algorithm.loop).evaluate(policy, judged, poll=poll)
        place = best_seed(outcome.rows, spec.all_seeds)
    return Expert(run, spec, policy.member(place), spec.all_seeds[place])


def collect(expert: Expert, wanted: Wanted, *, poll: Poll | None = None) -> list[Episode]:
    """Return the episodes that an expert plays: their seeds come from its own seed, in a stream of their own."""
    first = stream_key(expert.seed, "demonstrations") % 2**31
    loop = loops.get(expert.policy.algorithm.loop)
    found: list[Episode] = []

    def play(count: int) -> None:
        changes = {
            "eval_episodes": count,
            "eval_seed": first + len(found),
            "eval_max_steps": 0,
            "eval_temperature": 1.0 if wanted.sampled and expert.spec.config.acts_at_random else 0.0,
        }
        found.extend(loop.collect(expert.policy, with_changes(expert.spec, **changes), poll=poll))

    if not wanted.transitions:
        play(wanted.episodes)
        return found
    while steps_in(found) < wanted.transitions:
        play(BLOCK)
    while steps_in(found[:-1]) >= wanted.transitions:
        found.pop()
    return found


def steps_in(episodes: list[Episode]) -> int:
    """Return the transitions of episodes."""
    return sum(len(episode["actions"]) for episode in episodes)


def demonstrate(expert: Expert, wanted: Wanted, folder: Path, *, poll: Poll | None = None) -> Mapping[str, Any]:
    """Collect demonstrations and write them into a folder, whole or not at all; return what metadata.pt says."""
    episodes = collect(expert, wanted, poll=poll)
    lengths = [len(episode["actions"]) for episode in episodes]
    facts = {
        "algo": expert.spec.algo,
        "total_frames": expert.spec.training_steps,
        "seed": expert.seed,
        "seeds_trained": list(expert.spec.all_seeds),
        "deterministic": not wanted.sampled,
        "run": str(expert.run.path),
        "run_id": expert.run.state().get("run_id"),
        "asked": asked_of(expert.spec, wanted),
    }
    returns = [float(episode["rewards"].sum(dtype="float64")) for episode in episodes]
    how = "sampled actions" if wanted.sampled else "deterministic actions"
    sources.get("expert_buffer").write(
        folder, episodes, expert.spec.env_name, {"metadata": facts, "made_by": f"understudy {expert.name}, {how}"}
    )
    return {
        **facts,
        "num_transitions": sum(lengths),
        "num_expert_episodes": len(episodes),
        "expert_avg_reward": sum(returns) / len(returns),
        "expert_avg_length": sum(lengths) / len(lengths),
    }


def folder_of(save_dir: Path, env_name: str) -> Path:
    """Return where an environment's demonstrations lie."""
    return save_dir / plain_name(env_name)


def trained_before(spec: RunSpec) -> RunDir | None:
    """Return the newest run of the same settings, finished or not, below the folder that such runs are made in."""
    found = sorted(spec.folder.glob("*/flags.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    runs = (RunDir(file.parent) for file in found)
    return next((run for run in runs if run.spec().fingerprint() == spec.fingerprint()), None)


def check_environment(spec: RunSpec) -> None:
    """Raise UserError for a method that gives no actions, which can show nothing."""
    if not algorithms.get(spec.algo).acts:
        raise UserError(f"{spec.algo} gives no actions: it cannot make demonstrations")


def held_here(folder: Path, spec: RunSpec, wanted: Wanted, *, overwrite: bool = False) -> bool:
    """Return whether a folder has what this expert was asked for; UserError for what is another's."""
    facts = facts_of(folder)
    if facts is None or overwrite:
        return False
    if facts.get("asked") == asked_of(spec, wanted):
        return True
    raise UserError(
        f"{folder} holds the demonstrations of another expert (or other numbers of them): --overwrite replaces them,"
        " --save-dir puts these elsewhere"
    )


def facts_of(folder: Path) -> dict[str, Any] | None:
    """Return what metadata.pt says, None where there are no demonstrations."""
    if not (folder / BUFFER).is_file():
        return None
    try:
        found: Any = torch.load(folder / METADATA, weights_only=True)
    except Exception:  # noqa: BLE001  (whatever another's file, a damaged or a missing one raises)
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def asked_of(spec: RunSpec, wanted: Wanted) -> dict[str, Any]:
    """Return what demonstrations depend on, as metadata.pt has it."""
    return {"trained": spec.fingerprint(), **asdict(wanted)}
