"""`understudy ui`, `doctor` and `quickstart`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import typer

from understudy.cli.output import console, show_table
from understudy.cli.runs import SAVE_DIR, TRACKING_URI, tracking_address

QUICKSTART_ENV = "cube-single-scripted-singletask-task1-v0"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(short_help="Serve MLflow's pages for the embedded store.")(ui)
    app.command(short_help="Check what a run needs on this machine.")(doctor)
    app.command(short_help="Do the whole job in small, in minutes.")(quickstart)


def ui(
    port: int = typer.Option(5000, "--port", help="port on 127.0.0.1"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Serve MLflow's pages for the embedded store, on 127.0.0.1 only."""
    from understudy.tracking import prepare, ui_command, without_secrets

    address = tracking_address(tracking_uri, save_dir)
    command, environment = ui_command(address, port)
    prepare(address)
    console.print(
        f"MLflow on http://127.0.0.1:{port} (stop with Ctrl-C); store {without_secrets(address)}", soft_wrap=True
    )
    os.execvpe(command[0], command, {**os.environ, **environment})


def doctor() -> None:
    """Check what a run needs here: Python, torch, CUDA, Ray, MLflow, rendering, disk; exit 1 when one is broken."""
    rows, broken = [], False
    for name, check in CHECKS.items():
        try:
            note, fine = check()
        except Exception as error:  # noqa: BLE001  a doctor reports whatever a library raises
            note, fine = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False
        rows.append((name, "ok" if fine else "BROKEN", note))
        broken |= not fine
    show_table(("what", "", "found"), rows)
    if broken:
        raise typer.Exit(1)


def _python() -> tuple[str, bool]:
    number = ".".join(map(str, sys.version_info[:3]))
    return f"{number}, {os.cpu_count()} CPUs", (3, 11) <= sys.version_info[:2] < (3, 14)


def _torch() -> tuple[str, bool]:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads", bool((torch.ones(2) + 1).sum() == 4)


def _cuda() -> tuple[str, bool]:
    import torch

    if not torch.cuda.is_available():
        return "none: training runs on the CPU", True
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names), bool((torch.ones(2, device="cuda") + 1).sum() == 4)


def _ray() -> tuple[str, bool]:
    from understudy.runs.on_ray import ray_round_trip

    return f"{version('ray')}, a task came back in {ray_round_trip():.1f} s", True


def _mlflow() -> tuple[str, bool]:
    from understudy.tracking import default_tracking_uri, list_runs, prepare

    with tempfile.TemporaryDirectory() as folder:
        address = default_tracking_uri(folder)
        prepare(address)
        return f"{version('mlflow')}, a SQLite store works", list_runs(address) == []


def _rendering() -> tuple[str, bool]:
    from understudy.envs.simulators.video import rendering_available

    reason = rendering_available()
    return reason or "MuJoCo renders without a screen", True


def _disk() -> tuple[str, bool]:
    from understudy.spec.run import home

    parts = []
    fine = True
    for folder in (Path.cwd(), home()):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free / 2**30
        writable = os.access(place, os.W_OK)
        fine &= writable and free > 1
        parts.append(f"{folder}: {free:.1f} GiB free{'' if writable else ', NOT WRITABLE'}")
    return "; ".join(parts), fine


CHECKS: dict[str, Callable[[], tuple[str, bool]]] = {
    "python": _python,
    "torch": _torch,
    "CUDA": _cuda,
    "Ray": _ray,
    "MLflow": _mlflow,
    "rendering": _rendering,
    "disk": _disk,
}


def quickstart(
    config_dir: str | None = typer.Option(
        None, "--config-dir", help="folder with an experiment/quickstart.yaml of your own"
    ),
    save_dir: str = typer.Option("runs/quickstart", "--save_dir", help="root of everything it makes but the dataset"),
) -> None:
    """Do the whole job in small: demonstrations, a sweep across seeds, evaluation, tracking, a registered model."""
    from understudy.cli.sweep import start_sweep
    from understudy.envs.commands.generate import generate
    from understudy.spec.compose import flat_values, parse, split_sweeps
    from understudy.sweeping.spec import build_sweep

    started = time.monotonic()
    expert = f"a scripted expert in {QUICKSTART_ENV}"
    console.print(f"[bold]1/3 demonstrations[/bold]: {expert}", soft_wrap=True, markup=True)
    generate(QUICKSTART_ENV, episodes=100, seed=0, noise=0.2, workers=0, data_dir="", overwrite=False)
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
        ("browse it", f"understudy ui --save_dir {save_dir}"),
        ("resume it", f"understudy resume {result.folder}"),
        (
            "scale it",
            "ray start --head, then RAY_ADDRESS=auto understudy sweep space=flow_bc ... cpus=4 max_concurrent=64",
        ),
    ):
        console.print(f"  {what:10} {command}", soft_wrap=True)
