"""How the steps a second grow with the actors, in an environment that takes 20 ms a step whatever the machine does.

    PYTHONPATH=benchmarks UNDERSTUDY_PLUGINS=actors python benchmarks/actors.py [--actors 1,2,4] [--steps 800]

Each line is a run of hilserl with so many actors on Ray and one small update a step, so that acting is what takes the
time, until the learner is what does. Steps (and updates) a second are those between a quarter of the run and its end:
Ray's start is not counted. Policy Hz is what one actor does while it acts (50 at most), the age how many versions of
the weights a fragment is behind when the learner takes it; both are means over the same part of the run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np

from understudy.runs.directory import read_csv

NAME = "Waiting-v0"
MILLISECONDS = 20


class Waiting(gymnasium.Env):
    """A pendulum's spaces, and nothing but time."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        """Wait."""
        import time

        time.sleep(MILLISECONDS / 1000)
        return np.full(3, float(action[0]), np.float32), 0.0, False, False, {}


def register() -> None:
    """Let gymnasium make the environment by its id."""
    if NAME not in gymnasium.registry:
        gymnasium.register(NAME, entry_point=f"{__name__}:Waiting", max_episode_steps=100)


def rates(folder: Path, actors: int, steps: int) -> dict[str, float]:
    """Return the steps a second of a run with so many actors, its policy Hz and its parameter age."""
    words = [
        *("algo=hilserl", f"env_name={NAME}", "offline_ratio=0", "hidden_dims=[32,32]", "batch_size=32"),
        *("utd_ratio=1", "start_training=50", f"training_steps={steps}", "log_interval=20", "eval_episodes=0"),
        *("tracking_uri=none", f"save_dir={folder / str(actors)}", f"num_actors={actors}", "keep_buffer=false"),
    ]
    subprocess.run([sys.executable, "-m", "understudy", "train", *words], check=True, stdout=subprocess.DEVNULL)
    run = next((folder / str(actors)).rglob("flags.json")).parent
    first, *_, last = [row for row in read_csv(run / "timing.csv") if row["step"] >= steps / 4]
    seconds = last["time"] - first["time"]
    logged = [row for row in read_csv(run / "online_agent.csv") if row["step"] >= steps / 4]
    means = {name: float(np.mean([row[name] for row in logged])) for name in ("policy_hz", "parameter_age")}
    return {"steps": (last["step"] - first["step"]) / seconds, **means}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--actors", default="1,2,4", help="numbers of actors, by commas")
    options.add_argument("--steps", type=int, default=800, help="steps of a run, of all actors together")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for actors in map(int, given.actors.split(",")):
            found = rates(Path(folder), actors, given.steps)
            print(
                f"{actors} actors: {found['steps']:.0f} steps and updates/s, policy {found['policy_hz']:.0f} Hz each,"
                f" weights {found['parameter_age']:.1f} versions behind",
                flush=True,
            )


register()
if __name__ == "__main__":
    main()
