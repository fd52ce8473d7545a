"""Make docs/results.md's table: data made here, bc and flow_bc trained on them for a few minutes, rollouts.

    python benchmarks/results.py                    every row; what is in --folder already is not done again
    python benchmarks/results.py --only lift cube   some rows

A row is a dataset (with the commands that make it) and the overrides of its training; each is trained with three
seeds as one pack, by the same commands that a user types, and evaluated on 50 episodes a seed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from understudy.envs.store import MANIFEST, Manifest, store_path
from understudy.run_dir import read_csv

COMMON = "seeds=[0,1,2] eval_episodes=50 eval_interval=0 save_interval=-1 log_interval=500 tracking_uri=none"
CHUNKS = "hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5"
EXPERT = "python benchmarks/linear_expert.py"


@dataclass(frozen=True)
class Row:
    """One dataset and how it is trained on."""

    name: str
    env_name: str
    made: str
    """How the demonstrations were made, in words."""
    data: tuple[str, ...]
    """Commands that make them."""
    train: str
    """Overrides of both algorithms."""


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
        "cube-single-scripted-singletask-task1-v0",
        "OGBench's scripted oracle, npz",
        ("understudy data generate cube-single-scripted-singletask-task1-v0 --episodes 100",),
        f"training_steps=2000 {CHUNKS}",
    ),
    Row(
        "cube-goals",
        "cube-single-scripted-v0",
        "the same, goals are whole states",
        ("understudy data generate cube-single-scripted-v0 --episodes 200",),
        f"training_steps=4000 {CHUNKS}",
    ),
    Row(
        "cube-places",
        "cube-single-scripted-oraclerep-v0",
        "the same, goals are the cube's place",
        ("understudy data generate cube-single-scripted-oraclerep-v0 --episodes 200",),
        f"training_steps=6000 {CHUNKS}",
    ),
    Row(
        "lift",
        "lift-scripted-low_dim",
        "scripted controller, robomimic HDF5",
        ("understudy data generate lift-scripted-low_dim --episodes 100",),
        f"training_steps=3000 {CHUNKS}",
    ),
    Row(
        "pointmaze",
        "minari:pointmaze/umaze-scripted-v0",
        "scripted controller, Minari",
        ("understudy data generate minari:pointmaze/umaze-scripted-v0 --episodes 100",),
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
)
ALGORITHMS = ("bc", "flow_bc")


def run(command: str, folder: Path) -> None:
    """Run one command line as a user would, with this Python, from `folder`."""
    words = shlex.split(command)
    python = {"understudy": ["-m", "understudy"], "python": [str(Path(__file__).parents[1] / words[1])]}[words[0]]
    rest = words[1:] if words[0] == "understudy" else words[2:]
    print(f"$ {command}", flush=True)
    subprocess.run([sys.executable, *python, *rest], cwd=folder, check=True)


def make_data(row: Row, folder: Path) -> Manifest:
    """Make the row's demonstrations where they are missing; return their manifest."""
    path = store_path(row.env_name, folder / "datasets")
    if not (path / MANIFEST).is_file():
        for command in row.data:
            if command.startswith(EXPERT) and (folder / shlex.split(command)[3]).is_dir():
                continue
            where = f" --data_dir {folder / 'datasets'}" if command.startswith("understudy") else ""
            run(command + where, folder)
    return Manifest.read(path)


def train(row: Row, algorithm: str, folder: Path) -> tuple[str, dict[str, float]]:
    """Train one algorithm on the row's data, once; return the command and the last row of its eval.csv."""
    command = f"understudy train algo={algorithm} env_name={row.env_name} {row.train} {COMMON}"
    root = folder / "runs" / row.name / algorithm
    found = sorted(path for path in root.rglob("eval.csv") if (path.parent / "run.json").is_file())
    if not found:
        run(f"{command} data_dir={folder / 'datasets'} save_dir={root}", folder)
        found = sorted(path for path in root.rglob("eval.csv") if (path.parent / "run.json").is_file())
    return command, read_csv(found[-1])[-1]


def cells(row: Row, manifest: Manifest, algorithm: str, command: str, figures: dict[str, float]) -> list[str]:
    """Return the table's cells: the objective with its 95 % interval, and the return."""
    name = next(key for key in ("success", "normalized_return", "return") if f"{key}_low" in figures)
    text = f"{name} {figures[name]:.2f} [{figures[f'{name}_low']:.2f}, {figures[f'{name}_high']:.2f}]"
    if name != "return":
        text += f", return {figures['return']:.1f}"
    size = f"{manifest.num_episodes} / {manifest.num_transitions}"
    return [f"`{row.env_name}`", row.made, size, algorithm, text, f"`{command}`"]


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
        manifest = make_data(row, folder)
        for algorithm in ALGORITHMS:
            lines.append("| " + " | ".join(cells(row, manifest, algorithm, *train(row, algorithm, folder))) + " |")
            print(lines[-1], flush=True)
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
