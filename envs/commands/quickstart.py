"""`understudy quickstart`: the whole job in small."""

from __future__ import annotations

import time

import typer

from understudy.cli.output import console
from understudy.envs.commands.generate import make_dataset
from understudy.envs.commands.options import data_folder
from understudy.files import typed
from understudy.registry import commands

QUICKSTART_ENV = "cube-single-scripted-singletask-task1-v0"


@commands.register("quickstart")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(short_help="Do the whole job in small, in minutes.")(quickstart)


def quickstart(
    config_dir: str | None = typer.Option(
        None, "--config-dir", help="folder with an experiment/quickstart.yaml of your own"
    ),
    save_dir: str = typer.Option("runs/quickstart", "--save_dir", help="root of everything it makes but the dataset"),
) -> None:
    """Do the whole job in small: demonstrations, a sweep across seeds, evaluation, tracking, a registered model."""
    from understudy.cli.sweep import start_sweep
    from understudy.envs.experts.demonstrations import Demonstrations
    from understudy.envs.store.transfer import ImportOptions
    from understudy.spec.compose import flat_values, parse, split_sweeps
    from understudy.sweeping.sweep_spec import build_sweep

    started = time.monotonic()
    expert = f"a scripted expert in {QUICKSTART_ENV}"
    console.print(f"[bold]1/3 demonstrations[/bold]: {expert}", soft_wrap=True, markup=True)
    make_dataset(Demonstrations(QUICKSTART_ENV, episodes=100, noise=0.2), data_folder(""), ImportOptions())
    words = [f"env_name={QUICKSTART_ENV}", f"save_dir={save_dir}", "experiment=quickstart", "space=flow_bc"]
    plain, sweeps = split_sweeps(parse(words))
    spec = build_sweep(flat_values(plain, config_dir), sweeps)
    seeds = len(spec.base.all_seeds)
    console.print(
        f"\n[bold]2/3 a sweep[/bold]: {spec.options.num_trials} configurations of {spec.base.algo},"
        f" each across {seeds} seeds",
        soft_wrap=True,
        markup=True,
    )
    result = start_sweep(spec)
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    console.print(f"\n[bold]3/3 done[/bold] in {minutes} min {seconds} s", markup=True)
    for what, where in (
        ("demonstrations", f"understudy data info {QUICKSTART_ENV}"),
        ("sweep", result.folder),
        ("every trial", result.folder / "summary.csv"),
        ("registered model", f"{result.best.model} (alias best)"),
    ):
        console.print(f"  {what:17} {where}", soft_wrap=True)
    console.print("\nnext:")
    for what, command in (
        ("browse it", f"understudy ui --save_dir {typed(save_dir)}"),
        ("resume it", f"understudy resume {typed(result.folder)}"),
        (
            "scale it",
            "ray start --head, then RAY_ADDRESS=auto understudy sweep space=flow_bc ... cpus=4 max_concurrent=64",
        ),
    ):
        console.print(f"  {what:10} {command}", soft_wrap=True)
