"""Read, drive and show one sweep."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.models import show_alias
from understudy.cli.output import console, show_mapping
from understudy.cli.showing import show_notes, show_run
from understudy.files import typed

if TYPE_CHECKING:
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.run import SweepResult
    from understudy.sweeping.sweep_spec import SweepSpec
    from understudy.sweeping.table import SweepTable

MIN_ROWS = 10
LINE_SECONDS = 30.0
"""Seconds between two progress lines, where the output is no screen."""


def read_sweep(words: list[str], config_dir: str | None = None) -> SweepSpec:
    """Return the validated sweep that the words describe."""
    from understudy.errors import SpecError
    from understudy.runs.epochs import EPOCHS, epochs_in, steps_of
    from understudy.spec.compose import flat_values, given_keys, parse, split_sweeps
    from understudy.sweeping.sweep_spec import build_sweep, check_given

    plain, sweeps = split_sweeps(parse(words))
    values = flat_values(plain, config_dir)
    epochs = epochs_in(values, _algo_of(values))
    if epochs is not None:
        del values[EPOCHS]
    spec = build_sweep(values, sweeps)
    show_notes(check_given(spec, given_keys(words)))
    if epochs is not None:
        if "batch_size" in spec.dimensions:
            raise SpecError(f"epochs={epochs:g} are other numbers of steps at each batch_size: give training_steps")
        steps, said = steps_of(spec.base, epochs)
        show_notes([said])
        spec = build_sweep({**values, "training_steps": steps}, sweeps)
    return spec


def _algo_of(values: Mapping[str, Any]) -> str:
    """Return the algorithm that a sweep's flat keys name, by itself or by its search space."""
    from understudy.registry import search_spaces
    from understudy.spec.keys import algo_of

    return search_spaces.get(str(values["space"])).algo if values.get("space") is not None else algo_of(values)


def show_sweep(spec: SweepSpec) -> None:
    """Print a sweep as YAML: how it searches, what it varies, and the run that every trial starts from."""
    from understudy.spec.space import Interval

    found = spec.dimensions.items()
    swept = {key: str(item) if isinstance(item, Interval) else list(item.values) for key, item in found}
    show_mapping({"options": spec.options.model_dump(mode="json")}, "how it searches")
    show_mapping({"dimensions": swept}, "what is trained at different values")
    show_mapping(
        {"grid": {key: list(values) for key, values in spec.grid.items()}}, "what is only evaluated at different values"
    )
    print("# the rest of every trial\nrun:")
    show_run({key: value for key, value in spec.run.items() if key not in swept and key not in spec.grid}, spec.base, 2)


def start_sweep(spec: SweepSpec, folder: Path | None = None) -> SweepResult:
    """Check everything, then make the sweep's folder (`folder`, else a new one) and drive it."""
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.run import check_sweep

    check_sweep(spec)
    return drive(SweepDir.at(folder, spec) if folder else SweepDir.create(spec))


def drive(sweep: SweepDir) -> SweepResult:
    """Run what is left of a sweep under a live table; exit 1 when a trial crashed."""
    from understudy.errors import NotTracked
    from understudy.sweeping.run import run_sweep

    console.print(f"sweep: {sweep.path}", soft_wrap=True)
    result = run_sweep(sweep, show=show_live)
    show_best(result)
    if result.crashed:
        console.print(
            f"trial{'s'[: len(result.crashed) - 1]} {', '.join(map(str, result.crashed))} crashed;"
            f" `understudy resume {typed(sweep.path)} --retry-failed` tries again what failed",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    if result.untracked:
        raise NotTracked(
            f"done, but {result.untracked}; once that is mended, `understudy sync {typed(sweep.path)}` sends the rest"
        )
    return result


@contextmanager
def show_live(table: SweepTable) -> Generator[None]:
    """Draw the sweep's table once a second on a screen; elsewhere print a line every half minute and the table last."""
    from rich.live import Live

    if console.is_terminal:
        table.limit = max(MIN_ROWS, console.height - 8)
        with Live(get_renderable=table.__rich__, console=console, refresh_per_second=1):
            yield
        return
    done = threading.Event()

    def print_lines() -> None:
        while not done.wait(LINE_SECONDS):
            console.print(table.line(), soft_wrap=True)

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        console.print(table)


def show_best(result: SweepResult) -> None:
    """Print the best configuration, what it was ranked by and what it was confirmed at, and the registered model."""
    from understudy.runs.results import objective_name
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.report import confirmation_lines

    best, spec = result.best, SweepDir(result.folder).spec()
    counts = ", ".join(f"{count} {name}" for name, count in result.counts.items() if count)
    console.print(f"\n{result.trials} configuration{'s' * (result.trials != 1)}: {counts}")
    is_default = "  (the default)" if best.is_default else ""
    console.print(f"best: trial {best.trial}  {settings_text(best.parameters)}{is_default}", soft_wrap=True)
    for line in (*confirmation_lines(best, spec), *result.report):
        console.print(line, soft_wrap=True)
    if best.model:
        name = objective_name(best.seed_metrics) or "return"
        loaded = best.loaded_metrics
        again = f"; loaded back through MLflow and evaluated again: {loaded[name]:.3f}" if loaded else ""
        console.print(
            f"registered {best.model} ({'alias best, ' if best.is_best else ''}seed {best.seed}):"
            f" {name} {best.seed_metrics[name]:.3f}{again}",
            soft_wrap=True,
        )
        show_alias(best.model, best.is_best, best.why, spec.base)
    if best.video:
        console.print(f"video: {best.video}", soft_wrap=True)


def settings_text(parameters: Mapping[str, Any]) -> str:
    """Return parameters as `lr=0.001  horizon_length=5`."""
    from understudy.sweeping.format import number

    return "  ".join(f"{key}={number(value)}" for key, value in parameters.items())
