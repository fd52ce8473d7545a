"""Scores of registered versions, kept as their tags with the evaluation that they come from, and their comparison.

Two scores are comparable when the environment, the episodes (seeds and count) and the objective are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.runs.results import RATES, objective_name, rank_key

SETTING_TAG = "understudy.environment"
"""Tag with the hash of all that is known of the environment; its name alone is not all of it."""


@dataclass(frozen=True)
class Score:
    """The outcome of one evaluation of one policy."""

    objective: str
    metrics: Mapping[str, float]
    """The objective, its interval (`_low`, `_high`), and the return where there is one."""
    environment: str
    setting: str
    """Hash over the environment's description."""
    episodes: int
    eval_seed: int

    @classmethod
    def of(
        cls, metrics: Mapping[str, float], environment: Mapping[str, Any], episodes: int, eval_seed: int
    ) -> Score | None:
        """Return the score that an evaluation's metrics make; None when they hold no finite objective."""
        objective = objective_name(metrics)
        if objective is None or not math.isfinite(metrics[objective]):
            return None
        wanted = (objective, f"{objective}_low", f"{objective}_high", "return")
        kept = {key: float(metrics[key]) for key in wanted if key in metrics}
        text = json.dumps(environment, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(objective, kept, str(environment.get("env_name", "")), digest, episodes, eval_seed)

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Score | None:
        """Return the score in a version's tags; None for a version that has none."""
        try:
            objective = tags["objective"]
            names = (objective, f"{objective}_low", f"{objective}_high", "return")
            metrics = {key: float(tags[key]) for key in names if key in tags}
            if objective not in metrics:
                return None
            numbers = int(tags["episodes"]), int(tags["eval_seed"])
            return cls(objective, metrics, tags["environment"], tags[SETTING_TAG], *numbers)
        except (KeyError, ValueError):
            return None

    def tags(self) -> dict[str, str]:
        """Return the score as tags of a version."""
        facts = {"episodes": self.episodes, "eval_seed": self.eval_seed, SETTING_TAG: self.setting}
        texts = {key: repr(value) for key, value in self.metrics.items()}
        return {"objective": self.objective, "environment": self.environment, **texts, **_texts(facts)}

    @property
    def value(self) -> float:
        """The objective."""
        return self.metrics[self.objective]

    @property
    def where(self) -> str:
        """The episodes that it was measured on, for messages."""
        return f"{self.episodes} episodes" if self.episodes else "held-out episodes"

    @property
    def never_succeeds(self) -> bool:
        """Whether it is a rate of 0: such a policy is not recommended."""
        return self.objective in RATES and self.value <= 0

    def difference(self, other: Score) -> str:
        """Return how the other's evaluation differs from this one; "" when the two are comparable."""
        if self.objective != other.objective:
            return f"by {other.objective}, not by {self.objective}"
        if (self.environment, self.setting) != (other.environment, other.setting):
            if self.environment == other.environment:
                return f"in another setting of {other.environment}"
            return f"in {other.environment}, not in {self.environment}"
        if (self.episodes, self.eval_seed) != (other.episodes, other.eval_seed):
            mine = f"{self.episodes} from {self.eval_seed}"
            return f"on {other.episodes} episodes from seed {other.eval_seed}, not on {mine}"
        return ""

    def better_than(self, other: Score) -> bool:
        """Return whether the objective is better or, where it is equal, the return."""
        return rank_key(self.metrics) > rank_key(other.metrics)


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in facts.items()}


def judge(new: Score | None, tags: Mapping[str, str], version: int | None) -> tuple[bool, str]:
    """Return (whether a new version is the best, why), compared with the tags of the best one so far, if any."""
    if new is None:
        return False, "it was not evaluated"
    shown = f"{new.objective} {new.value:.3f}"
    if new.never_succeeds:
        return False, f"{shown} is nothing to recommend"
    if version is None:
        return True, f"{shown} on {new.where}, the first"
    held = Score.from_tags(tags)
    if held is None:
        return False, f"how version {version} was evaluated is not known"
    difference = new.difference(held)
    if difference:
        return False, f"version {version} was evaluated {difference}, so they do not compare"
    theirs = f"{held.value:.3f} of version {version} on the same {new.where}"
    if new.better_than(held):
        return True, f"{shown} against {theirs}"
    return False, f"{shown} is no better than {theirs}"
