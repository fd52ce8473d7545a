"""Make docs/results.md's tables: data made here, methods trained on them for a few minutes, rollouts.

    python benchmarks/results.py                    every row; what is in --folder already is not done again
    python benchmarks/results.py --only lift act    some rows

A row is a dataset (with the commands that make it) and what is trained on it, always three seeds as one pack, by the
same commands that a user types. Policies are evaluated in the dataset's environment, on 50 episodes a seed from states
and 20 from pictures; what has no environment by what it says of held-out episodes. What a generative policy scores is
given for both noises that it can act with: from zeros (eval_temperature=0) and from N(0, I) (eval_temperature=1).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import understudy
from understudy.envs.store.finding import store_path
from understudy.envs.store.store import MANIFEST, Manifest
from understudy.runs.directory import read_csv
from understudy.statistics import return_interval

COMMON = "seeds=[0,1,2] eval_interval=0 save_interval=-1 tracking_uri=none"
CHUNKS = "hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5"
PIXELS = "encoder=impala_small lr=5e-4 batch_size=32"
EXPERT = "python benchmarks/linear_expert.py"
CUBE = "cube-single-scripted-singletask-task1-v0"
PICK = "gym_hil/PandaPickCube-scripted-v0"
GENERATIVE = ("flow_bc", "ddpm_bc", "gc_ddpm_bc")
NOISY = "eval_temperature_1.json"
"""File in a run with what its policy scores when it acts from N(0, I)."""
HELD_OUT = ("accuracy", "precision", "recall", "mse", "loss")
"""Measures of held-out episodes, and the order in which they are looked for."""


@dataclass(frozen=True)
class Row:
    """One dataset and what is trained on it."""

    name: str
    env_name: str
    """FOLDER in it is --folder."""
    made: str
    """How the demonstrations were made, in words."""
    data: tuple[str, ...]
    """Commands that make them."""
    train: str
    """Overrides of every training."""
    algorithms: tuple[str, ...] = ("bc", "flow_bc")
    """Each with overrides of its own, like `bc policy=gmm`."""
    episodes: int = 50
    """To evaluate each seed on."""


def generate(env_name: str, episodes: int, options: str = "") -> str:
    """Return the command that makes scripted demonstrations."""
    return " ".join(f"understudy data generate {env_name} --episodes {episodes} {options}".split())


ROWS = (
    Row(
        "halfcheetah",
        "halfcheetah-policy-v2",
        "linear ARS expert, D4RL HDF5",
        (
            f"{EXPERT} halfcheetah-policy-v2 experts/halfcheetah --iterations 160",
            "understudy data generate halfcheetah-policy-v2 --policy experts/halfcheetah --episodes 20 --noise 0.1",
        ),
        "training_steps=4000 hidden_dims=[256,256] batch_size=256",
    ),
    Row(
        "cube",
        CUBE,
        "OGBench's scripted oracle, npz",
        (generate(CUBE, 100),),
        f"training_steps=2000 {CHUNKS}",
    ),
    Row(
        "cube-goals",
        "cube-single-scripted-v0",
        "the same, goals are whole states",
        (generate("cube-single-scripted-v0", 200),),
        f"training_steps=4000 {CHUNKS}",
    ),
    Row(
        "cube-places",
        "cube-single-scripted-oraclerep-v0",
        "the same, goals are the cube's place",
        (generate("cube-single-scripted-oraclerep-v0", 200),),
        f"training_steps=6000 {CHUNKS}",
    ),
    Row(
        "lift",
        "lift-scripted-low_dim",
        "scripted controller, robomimic HDF5",
        (generate("lift-scripted-low_dim", 100),),
        f"training_steps=3000 {CHUNKS}",
    ),
    Row(
        "pointmaze",
        "minari:pointmaze/umaze-scripted-v0",
        "scripted controller, Minari",
        (generate("minari:pointmaze/umaze-scripted-v0", 100),),
        "training_steps=3000 hidden_dims=[256,256] lr=1e-3",
    ),
    Row(
        "swimmer",
        "expert:Swimmer-v5",
        "linear ARS expert, expert_buffer.pt",
        (
            f"{EXPERT} expert:Swimmer-v5 experts/swimmer --iterations 60 --directions 4 --top 4",
            "understudy data generate expert:Swimmer-v5 --policy experts/swimmer --episodes 20 --noise 0.1",
        ),
        "training_steps=3000 hidden_dims=[256,256]",
    ),
    Row(
        "methods",
        CUBE,
        "OGBench's scripted oracle, npz",
        (generate(CUBE, 100),),
        CHUNKS,
        (
            "bc policy=mse training_steps=2000",
            "bc policy=gmm training_steps=2000",
            "bc std=state grad_clip=1.0 training_steps=4000",
            "flow_bc actor=one_step training_steps=3000",
            "ddpm_bc target_update_rate=0.01 training_steps=4000",
        ),
    ),
    Row(
        "single-actions",
        CUBE,
        "the same",
        (generate(CUBE, 100),),
        "hidden_dims=[256,256] lr=1e-3 training_steps=4000",
        ("bc", "flow_bc", "ddpm_bc target_update_rate=0.01"),
    ),
    Row(
        "goals",
        "cube-single-scripted-oraclerep-v0",
        "OGBench's oracle, five tasks; goals are the cube's place",
        (generate("cube-single-scripted-oraclerep-v0", 200),),
        CHUNKS,
        ("gc_bc training_steps=6000", "gc_ddpm_bc target_update_rate=0.01 training_steps=8000"),
    ),
    Row(
        "choosing",
        "halfcheetah-mixed",
        "two linear ARS experts (returns 4970 and 1820), D4RL HDF5",
        (
            f"{EXPERT} halfcheetah-policy-v2 experts/halfcheetah --iterations 160",
            generate("halfcheetah-policy-v2", 20, "--policy experts/halfcheetah --noise 0.1"),
            f"{EXPERT} halfcheetah-policy-v2 experts/halfcheetah-medium --iterations 30",
            generate(
                "halfcheetah-policy-v2",
                20,
                "--policy experts/halfcheetah-medium --noise 0.1 --name halfcheetah-medium-made",
            ),
            "python benchmarks/merge_d4rl.py mixed.hdf5 datasets/raw/halfcheetah-policy-v2.hdf5"
            " datasets/raw/halfcheetah-medium-made.hdf5",
            "understudy data import d4rl mixed.hdf5 --name halfcheetah-mixed --env_name halfcheetah-policy-v2",
        ),
        "training_steps=4000 hidden_dims=[256,256] lr=1e-3",
        ("flow_bc", "flow_bc actor=best_of_n"),
    ),
    Row(
        "act",
        "lift-scripted-low_dim",
        "scripted controller, robomimic HDF5",
        (generate("lift-scripted-low_dim", 100),),
        "chunk_size=10 normalize_actions=zscore dim_model=64 n_heads=4 dim_feedforward=128 n_encoder_layers=2"
        " n_vae_encoder_layers=2 lr=1e-3 batch_size=64 training_steps=2500",
        ("act", "act n_action_steps=1 temporal_ensemble_coeff=0.01"),
        episodes=20,
    ),
    Row(
        "pick-lerobot",
        f"lerobot:FOLDER/datasets/raw/{PICK.replace('/', '__')}.lerobot",
        "gym-hil's scripted pick, LeRobot v3 (AV1), two cameras and the state",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64 --format lerobot"),),
        f"{PIXELS} hidden_dims=[256,256] action_chunking=true horizon_length=5",
        ("bc training_steps=400", "flow_bc training_steps=800"),
        episodes=20,
    ),
    Row(
        "pick-act",
        PICK,
        "gym-hil's scripted pick, the rendered HDF5",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64"),),
        f"{PIXELS} chunk_size=10 normalize_actions=zscore dim_model=64 n_heads=4 dim_feedforward=128"
        " n_encoder_layers=2 n_vae_encoder_layers=2 training_steps=1200",
        ("act",),
        episodes=20,
    ),
    Row(
        "lift-image",
        "lift-scripted-image",
        "scripted controller, robomimic HDF5, two cameras and the state",
        (generate("lift-scripted-image", 60),),
        f"{PIXELS} hidden_dims=[256,256] action_chunking=true horizon_length=5 training_steps=800",
        ("bc",),
        episodes=20,
    ),
    Row(
        "visual-cube",
        "visual-cube-single-scripted-singletask-task1-v0",
        "OGBench's scripted oracle, npz, one camera",
        (generate("visual-cube-single-scripted-singletask-task1-v0", 80),),
        f"{PIXELS} hidden_dims=[256,256] action_chunking=true horizon_length=5 training_steps=1500",
        ("bc",),
        episodes=20,
    ),
    Row(
        "bridge",
        "bridge:reach",
        "a hand that goes to an object, raw BridgeData tree of 640 x 480 pictures",
        (
            "python tests/contract/bridge_tree.py bridge_raw --task reach --trajectories 100 --steps 20",
            "understudy data import bridge-raw bridge_raw --depth 2 --im-size 64",
        ),
        f"{PIXELS} hidden_dims=[256,256] training_steps=600 validation_filter_key=valid normalize_actions=zscore",
        ("bc policy=mse", "gc_bc policy=mse"),
        episodes=0,
    ),
    Row(
        "classifier-lift",
        "lift-scripted-image",
        "scripted controller, robomimic HDF5, two cameras and the state",
        (generate("lift-scripted-image", 60),),
        f"{PIXELS} reward_threshold=-0.5 augmentation=drq training_steps=250 validation_fraction=0.2",
        ("reward_classifier",),
    ),
    Row(
        "classifier-pick",
        PICK,
        "gym-hil's scripted pick, the rendered HDF5",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64"),),
        f"{PIXELS} augmentation=drq training_steps=250 validation_fraction=0.2",
        ("reward_classifier",),
    ),
)


def run(command: str, folder: Path) -> None:
    """Run one command line as a user would, with this Python, from `folder`."""
    words = shlex.split(command)
    python = {"understudy": ["-m", "understudy"], "python": [str(Path(__file__).parents[1] / words[1])]}[words[0]]
    rest = words[1:] if words[0] == "understudy" else words[2:]
    print(f"$ {command}", flush=True)
    subprocess.run([sys.executable, *python, *rest], cwd=folder, check=True)


def make_data(row: Row, folder: Path) -> None:
    """Make the row's demonstrations where they are missing."""
    if not (store_path(row.env_name, folder / "datasets") / MANIFEST).is_file():
        for command in row.data:
            if command.startswith("understudy"):
                run(f"{command} --data_dir {folder / 'datasets'}", folder)
            elif not any((folder / word).is_dir() for word in shlex.split(command)[2:]):
                run(command, folder)


def train(row: Row, algorithm: str, folder: Path) -> tuple[str, Path]:
    """Train one algorithm on the row's data, once; return the command and the run directory."""
    command = (
        f"understudy train algo={algorithm} env_name={row.env_name} {row.train} eval_episodes={row.episodes} {COMMON}"
    )
    root = folder / "runs" / row.name / algorithm.replace(" ", ",")
    if not list(root.rglob("eval.csv")):
        run(f"{command} data_dir={folder / 'datasets'} save_dir={root}", folder)
    return command, min(root.rglob("eval.csv"), key=lambda path: len(path.parts)).parent


def score(measures: Mapping[str, float]) -> str | None:
    """Return the objective of an evaluation with its 95 % interval; None where no episode was played."""
    for name in ("success", "normalized_return", "return"):
        if f"{name}_low" in measures:
            text = f"{name} {measures[name]:.2f} [{measures[f'{name}_low']:.2f}, {measures[f'{name}_high']:.2f}]"
            return text if name == "return" else f"{text}, return {measures['return']:.1f}"
    return None


def noisy(run_path: Path, episodes: int) -> str | None:
    """Return the objective of the same policy when it acts from N(0, I), on the same start states."""
    kept = run_path / NOISY
    if not kept.is_file():
        measures = understudy.evaluate(run_path, eval_temperature=1, eval_episodes=episodes)
        kept.write_text(json.dumps(measures.metrics))
    return score(json.loads(kept.read_text()))


def result(run_path: Path, algorithm: str, episodes: int) -> str:
    """Return the objective with its interval, of a generative policy both ways, or measures of held-out episodes."""
    last = read_csv(run_path / "eval.csv")[-1]
    if (played := score(last)) is not None:
        both = (
            algorithm.split()[0] in GENERATIVE and "eval_temperature" not in algorithm and "best_of_n" not in algorithm
        )
        return f"from zeros {played}; from N(0, I) {noisy(run_path, episodes)}" if both else played
    seeds = [read_csv(path)[-1] for path in sorted(run_path.glob("sd*/eval.csv"))]
    shown = [key for key in (f"validation/{name}" for name in HELD_OUT) if key in last]
    found = {key: return_interval([[seed[key]] for seed in seeds]) for key in shown}
    return ", ".join(f"{key} {value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]" for key, value in found.items())


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results"), help="datasets, experts and runs go here")
    parser.add_argument("--only", nargs="*", choices=[row.name for row in ROWS], help="rows to make")
    options = parser.parse_args()
    folder = options.folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| dataset | made by | episodes / steps | algorithm | result | command |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        row = replace(row, env_name=row.env_name.replace("FOLDER", str(folder)))
        make_data(row, folder)
        for algorithm in row.algorithms:
            command, path = train(row, algorithm, folder)
            manifest = Manifest.read(store_path(row.env_name, folder / "datasets"))
            size = f"{manifest.num_episodes} / {manifest.num_transitions}"
            cells = [
                f"`{row.env_name}`",
                row.made,
                size,
                algorithm,
                result(path, algorithm, row.episodes),
                f"`{command}`",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
