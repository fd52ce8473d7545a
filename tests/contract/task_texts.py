"""A text encoder that needs no file, a task whose episodes tell their texts, and demonstrations of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import understudy
from understudy.language import TextEncoder, scaled
from understudy.registry import text_encoders

LEFT, RIGHT = "go to the left", "go to the right"


@text_encoders.register("letters")
class Letters(TextEncoder):
    """How often each letter occurs in a text."""

    width, digest = 26, "letters"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scaled counts [N, 26]."""
        counts = [[text.lower().count(chr(97 + place)) for place in range(26)] for text in texts]
        return scaled(np.array(counts, np.float32).reshape(-1, 26))


class Sides(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line, which an episode's text says to move to the left end or to the right one."""

    max_episode_steps, has_success = 12, True
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in the middle; even seeds tell the left end."""
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.2, 0.2, 1).astype(np.float32)
        self.wanted = -1.0 if (seed or 0) % 2 == 0 else 1.0
        return self.place, {"language": LEFT if self.wanted < 0 else RIGHT}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move; an episode ends at either end."""
        self.place = (self.place + 0.2 * np.clip(action, -1, 1)).astype(np.float32)
        return self.place, 0.0, bool(abs(self.place[0]) > 1), False, {"success": self.wanted * self.place[0] > 1}


class Silent(Sides):
    """The same, which tells no text."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in the middle."""
        return super().reset(seed=seed)[0], {}


def demonstrations(count: int = 20, texts: Sequence[str] = (LEFT, RIGHT)) -> list[dict[str, Any]]:
    """Return episodes that go to the left and to the right in turn, with their texts."""
    random, episodes = np.random.default_rng(0), []
    for number in range(count):
        side = -1.0 if number % 2 == 0 else 1.0
        places = random.uniform(-0.2, 0.2) + 0.2 * side * np.arange(7)
        told = {"language": texts[number % 2]} if texts else {}
        episodes.append({"observations": places[:, None], "actions": np.full((6, 1), side), **told})
        episodes[-1]["rewards"] = np.full(6, -1.0)
    return episodes


def write(folder: Path, name: str = "sides", texts: Sequence[str] = (LEFT, RIGHT), env: str | None = None) -> Path:
    """Write the demonstrations as a dataset and return the folder of datasets."""
    understudy.write_dataset(name, demonstrations(texts=texts), data_dir=folder, env=env, overwrite=True)
    return folder
