"""`understudy expert`: train an expert by soft actor-critic and let it make demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.output import OVERRIDES, console
from understudy.cli.showing import show_keys, show_run
from understudy.cli.train import read_run, run_training

if TYPE_CHECKING:
    from understudy.runs.demonstrating import Expert, Wanted
    from understudy.runs.directory import RunDir
    from understudy.spec.run import RunSpec

SAVE_DIR = "expert_data"
DEFAULTS = {"algo": "sac", "env_name": "Pendulum-v1", "training_steps": "100000", "seed": "42"}
EXAMPLES = """\
Train an expert by soft actor-critic, collect demonstrations with it and log its model.

  understudy expert --env Pendulum-v1 --frames 100000 --seed 42
  understudy expert env_name=HalfCheetah-v5 frames=500000 seeds=[0,1,2] --episodes 100
  understudy expert --run runs/fbc/bc_training/BC/Pendulum-v1/sd042_20260101_120000 --transitions 20000 --sampled

It writes SAVE_DIR/ENV/expert_buffer.pt, metadata.pt and README.txt (--save-dir, default expert_data); the run itself is
made like that of `understudy train algo=sac`, whose keys it takes, below --runs-dir. Given again, the command goes on
where it was; of several seeds the one that does best on episodes of its own makes the demonstrations."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings=OVERRIDES, short_help="Train an expert and collect demonstrations.")(expert)


def expert(
    context: typer.Context,
    episodes: int = typer.Option(50, "--episodes", min=1, max=1_000_000, help="episodes to collect"),
    transitions: int = typer.Option(
        0, "--transitions", min=0, max=1_000_000_000, help="collect at least so many transitions instead"
    ),
    sampled: bool = typer.Option(
        False, "--sampled/--deterministic", help="draw the expert's actions; default its most likely ones"
    ),
    run: Path | None = typer.Option(None, "--run", help="a finished run whose policy is the expert"),
    runs_dir: str = typer.Option("", "--runs-dir", "--runs_dir", help="root of the training's run directory"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace demonstrations of another expert"),
    config_dir: str | None = typer.Option(None, "--config-dir", help="folder with your own Hydra groups"),
    cfg: bool = typer.Option(False, "--cfg", help="print and check the resolved specification, and stop"),
    help_: bool = typer.Option(False, "--help", help="show every key"),
) -> None:
    """Train an expert and collect demonstrations."""
    from understudy.runs.demonstrating import Wanted, folder_of

    found: RunDir | None = None

    if help_:
        return show_keys(EXAMPLES, ["algo=sac", *context.args])
    wanted = Wanted(episodes, transitions, sampled)
    wanted.check()
    if run is None:
        spec, save_dir = read_expert(context.args, runs_dir, config_dir)
    else:
        found, save_dir = _run_given(context.args, run, runs_dir)
        spec = found.spec()
    if cfg:
        return show_run(spec.flat(), spec)
    make_expert(spec, found, wanted, folder_of(save_dir, spec.env_name), overwrite=overwrite)
    return None


def read_expert(words: list[str], runs_dir: str = "", config_dir: str | None = None) -> tuple[RunSpec, Path]:
    """Return the training that the words describe, and the folder of the demonstrations."""
    from understudy.files import user_path
    from understudy.spec.words import canonical

    keys, place = _sorted(words)
    given = {canonical(key, ("start_training",)) for key in keys}
    defaults = {key: value for key, value in DEFAULTS.items() if key not in given}
    if "seeds" in given:
        del defaults["seed"]
    root = [f"save_dir={runs_dir}"] if runs_dir else []
    spec = read_run([*(f"{key}={value}" for key, value in defaults.items()), *keys.values(), *root], config_dir)
    return spec, user_path(place)


def _run_given(words: list[str], run: Path, runs_dir: str) -> tuple[RunDir, Path]:
    """Return the run that is the expert, and the folder of the demonstrations."""
    from understudy.errors import UserError
    from understudy.files import user_path
    from understudy.runs.directory import RunDir
    from understudy.runs.find import find

    keys, place = _sorted(words)
    if keys or runs_dir:
        raise UserError(f"--run {run} is trained already: {next(iter(keys), '--runs-dir')} changes nothing")
    return RunDir.existing(find(str(run))), user_path(place)


def _sorted(words: list[str]) -> tuple[dict[str, str], str]:
    """Return the words of the training by their keys, and the folder of all demonstrations."""
    from understudy.spec.compose import given_keys, to_overrides

    keys = dict(zip(given_keys(words), to_overrides(words), strict=True))
    place = keys.pop("save_dir", f"save_dir={SAVE_DIR}").partition("=")[2]
    return keys, place


def make_expert(spec: RunSpec, run: RunDir | None, wanted: Wanted, folder: Path, *, overwrite: bool = False) -> None:
    """Train the expert unless it is trained, let it make demonstrations and register its model."""
    from understudy import tracking
    from understudy.runs.demonstrating import (
        check_environment,
        choose_expert,
        demonstrate,
        held_here,
        trained_before,
    )
    from understudy.runs.directory import RunDir
    from understudy.runs.ended import check_ended
    from understudy.runs.loop import check_new, make_loop

    if held_here(folder, spec, wanted, overwrite=overwrite):
        console.print(f"{folder}: the demonstrations of this expert are there already", soft_wrap=True)
        return
    check_environment(spec)
    run = run or trained_before(spec)
    if run is None or run.state().get("status") != "finished":
        check_new(spec)
        loop = make_loop(spec)
        tracking.prepare(spec.placement.tracking())
        run = run or RunDir.create(spec)
        run_training(run.spec(), run, loop)
    else:
        check_ended(run)
        console.print(f"trained already: {run.path}", soft_wrap=True)
    chosen = choose_expert(run)
    console.print(f"expert: {chosen.name}, collecting {wanted.enough}", soft_wrap=True)
    facts = demonstrate(chosen, wanted, folder)
    show_demonstrations(folder, facts)
    _register(chosen)


def show_demonstrations(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print what was collected."""
    how = "deterministic" if facts["deterministic"] else "sampled"
    console.print(
        f"{folder / 'expert_buffer.pt'}: {facts['num_expert_episodes']} episodes, {facts['num_transitions']}"
        f" transitions, {how} actions, mean return {facts['expert_avg_reward']:.2f}",
        soft_wrap=True,
    )


def _register(expert: Expert) -> None:
    """Register the expert's model in MLflow and print what it reaches on episodes that nothing was chosen by."""
    from understudy import tracking
    from understudy.cli.showing import show_result
    from understudy.registry import loops
    from understudy.runs.registering import FINAL_EPISODES, final_evaluation, register_run

    spec = expert.spec
    if spec.placement.tracking() == tracking.OFF:
        final = final_evaluation(spec, FINAL_EPISODES, 2)
        show_result(loops.get(expert.policy.algorithm.loop).evaluate(expert.policy, final).summary)
        console.print("not tracked (tracking_uri=none): the model is not registered")
        return
    made, _ = register_run(expert.run, None, tracking_uri="", seed=expert.seed, episodes=FINAL_EPISODES)
    if made.metrics:
        show_result({"return_seeds": 1.0, "return_episodes": float(FINAL_EPISODES), **made.metrics})
    console.print(f"model: {made.uri}{' (alias best)' if made.best else ''}", soft_wrap=True)
