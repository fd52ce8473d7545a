"""`understudy doctor`: whether a run would work on this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import typer

from understudy.cli.output import show_table
from understudy.registry import commands


@commands.register("doctor")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(short_help="Check what a run needs on this machine.")(doctor)


def doctor() -> None:
    """Check what a run needs here: Python, torch, CUDA, Ray, MLflow, rendering, disk, ports; exit 1 if one is bad."""
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
    from understudy.runs.ray_start import ray_round_trip

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
    from understudy.files import home

    parts = []
    fine = True
    for folder in (Path.cwd(), home()):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free / 2**30
        writable = os.access(place, os.W_OK)
        fine &= writable and free > 1
        parts.append(f"{folder}: {free:.1f} GiB free{'' if writable else ', NOT WRITABLE'}")
    return "; ".join(parts), fine


def _listening() -> tuple[str, bool]:
    from understudy.listening import described, listening

    return described(listening()), True


CHECKS: dict[str, Callable[[], tuple[str, bool]]] = {
    "python": _python,
    "torch": _torch,
    "CUDA": _cuda,
    "Ray": _ray,
    "MLflow": _mlflow,
    "rendering": _rendering,
    "disk": _disk,
    "listening": _listening,
}
