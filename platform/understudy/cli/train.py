"""Runs that words describe: read and trained; for `understudy train` and every command that trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.cli.output import console, progress_bar
from understudy.cli.showing import show_notes, show_result, show_settings
from understudy.cli.time_left import TimeLeft
from understudy.files import typed
from understudy.registry import algorithms

if TYPE_CHECKING:
    from understudy.runs.directory import RunDir
    from understudy.runs.loop import Trains
    from understudy.spec.compose import Sweep
    from understudy.spec.run import RunSpec

TAKES = "train takes one"
DEPENDENT = "seeds that exchange weights are not independent: the interval above is none for other populations"


def read_run(words: list[str], config_dir: str | None = None, takes: str = TAKES) -> RunSpec:
    """Return the validated run that the words describe; `takes` says what the command does with several values."""
    from understudy.config_files import config_words
    from understudy.runs.epochs import EPOCHS, epochs_in, steps_of
    from understudy.spec.compose import given_keys
    from understudy.spec.effects import check_effects, check_searched
    from understudy.spec.keys import algo_of, build_run, check_keys, with_changes

    values = run_values(words, config_dir, takes)
    words = config_words(words)[1]
    epochs = epochs_in(values, algo_of(values))
    if epochs is not None:
        del values[EPOCHS]
    check_keys(values, algo_of(values))
    spec = build_run(values)
    show_notes(check_effects(spec, given_keys(words)))
    check_searched(spec, spec.evaluation.eval_grid or ())
    spec = without_environment(spec, given_keys(words))
    if epochs is not None:
        steps, said = steps_of(spec, epochs)
        show_notes([said])
        spec = with_changes(spec, training_steps=steps)
    return spec


def without_environment(spec: RunSpec, given: list[str]) -> RunSpec:
    """Return the spec without episodes to play, which a note says, where its data name no environment to play in.

    Where episodes are asked for, the spec stays as it is: that there is no environment is said when it is made.
    """
    from understudy.runs.loop import plays
    from understudy.spec.keys import with_changes
    from understudy.spec.words import canonical

    acts = algorithms.get(spec.algo).acts and spec.evaluation.eval_episodes
    if not acts or any(canonical(key) == "eval_episodes" for key in given) or plays(spec):
        return spec
    if not spec.data.holds_out:
        show_notes(
            [
                f"{spec.env_name}: its data name no environment that policies could be evaluated in;"
                " validation_fraction=0.1 scores them on held-out episodes"
            ]
        )
    return with_changes(spec, eval_episodes=0)


def run_values(words: list[str], config_dir: str | None = None, takes: str = TAKES) -> dict[str, Any]:
    """Return the keys that the words give, names and values not checked yet."""
    from understudy.config_files import config_words
    from understudy.errors import SpecError
    from understudy.spec.compose import flat_values, listed, parse, split_sweeps

    path, words = config_words(words)
    plain, sweeps = split_sweeps(parse(words))
    values = flat_values(plain, config_dir)
    values = values if path is None else _over_file(path, values)
    for key in ("seed", "seeds"):
        if key in sweeps:
            values["seeds"] = listed(key, sweeps.pop(key))
    values |= _several_settings(values, sweeps)
    if sweeps:
        from understudy.matrix.cells import is_matrix

        key = next(iter(sweeps))
        if is_matrix([f"{key}=1,2"], config_dir):
            raise SpecError(f"{key} has several values: `understudy compare`, or train -m, trains each; {takes}")
        raise SpecError(f"{key} has several values: `understudy sweep` tries them; {takes}")
    return values


def _several_settings(values: Mapping[str, Any], sweeps: dict[str, Sweep]) -> dict[str, Any]:
    """Take the evaluation-time keys from those with several values: the first counts, all are `eval_grid`."""
    from understudy.spec.compose import listed
    from understudy.spec.keys import algo_of
    from understudy.spec.words import canonical

    algo = algo_of(values)
    acting = algorithms.get(algo).evaluation_parameters if algo in algorithms.names() else ()
    several = {key: canonical(key, acting) for key in sweeps if canonical(key, acting) in acting}
    grid = {name: listed(key, sweeps.pop(key)) for key, name in several.items()}
    return {**{name: each[0] for name, each in grid.items()}, "eval_grid": grid} if grid else {}


def _over_file(path: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a configuration file, LeRobot's or of our own, with `values` over them."""
    from understudy.spec.keys import algo_of, run_fields
    from understudy.spec.lerobot_config import read_training
    from understudy.spec.words import canonical

    read = read_training(path)
    show_notes([f"{key} is ignored: {why}" for key, why in read.ignored.items()])
    allowed = run_fields(algo_of({**read.values, **values}))
    given = {canonical(key, allowed) for key in values}
    return {**{key: value for key, value in read.values.items() if canonical(key, allowed) not in given}, **values}


def start_training(spec: RunSpec, folder: Path | None = None) -> RunDir | None:
    """Check everything, then make the run directory (`folder`, else a new one), train and return it.

    None in the processes that help another one's run, started by torchrun.
    """
    from understudy import tracking
    from understudy.runs import torchrun
    from understudy.runs.directory import RunDir
    from understudy.runs.loop import check_new, make_loop
    from understudy.runs.on_ray import check_launcher

    check_new(spec)
    made: list[RunDir] = []

    def lead(loop: Trains | None) -> None:
        check_launcher(spec)
        tracking.prepare(spec.placement.tracking())
        made.append(RunDir.at(folder, spec) if folder else RunDir.create(spec))
        run_training(spec, made[0], loop)

    group = torchrun.group()
    if group is None:
        lead(make_loop(spec))
    else:
        group.train(spec, lead)
    return made[0] if made else None


def run_training(spec: RunSpec, run: RunDir, loop: Trains | None = None, parent_run_id: str | None = None) -> None:
    """Train in a run directory with a progress bar, and print what came of it."""
    from understudy.errors import NotTracked
    from understudy.runs.directory import TRACKING_ERROR
    from understudy.runs.launch import launch
    from understudy.runs.population import lineage
    from understudy.runs.results import objective_name
    from understudy.secrecy import without_secrets
    from understudy.sweeping.format import objective_text

    console.print(f"run directory: {run.path}", soft_wrap=True)
    lines = None if console.is_terminal else TrainingLines(spec)
    left = TimeLeft()
    with progress_bar(spec.algo, "steps") as bar:

        def progress(step: int, last: int, metrics: Mapping[str, float]) -> None:
            if long := left.at(step, last):
                console.print(long, soft_wrap=True)
            if lines is not None:
                return lines.tell(step, last, metrics)
            speed = f"{metrics['steps_per_sec']:.0f} steps/s  " if "steps_per_sec" in metrics else ""
            loss = next((f"{key} {value:.4f}  " for key, value in metrics.items() if key.endswith("loss")), "")
            return bar(step, last, f"{speed}{loss}{objective_text(metrics) if objective_name(metrics) else ''}")

        try:
            result = launch(spec, run, loop=loop, progress=progress, parent_run_id=parent_run_id)
        finally:
            if lines is not None:
                lines.end()
    show_result(result.metrics)
    show_settings(run, spec)
    if found := lineage(run, spec):
        console.print(f"{found.line()} ({DEPENDENT})", soft_wrap=True)
    state = run.state()
    console.print(
        f"model: {run.path / 'final_model.pt' if len(spec.all_seeds) == 1 else run.path / 'sd*/final_model.pt'}",
        soft_wrap=True,
    )
    if state.get("run_id"):
        console.print(f"MLflow run {state['run_id']} in {without_secrets(spec.placement.tracking())}", soft_wrap=True)
    if state.get(TRACKING_ERROR):
        raise NotTracked(
            f"trained, but not all of it is tracked: {state[TRACKING_ERROR]};"
            f" `understudy sync {typed(run.path)}` sends the rest once that is mended"
        )


class TrainingLines:
    """Progress for a log file: a line for each logged row, evaluation and kept checkpoint."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec, self._kept = spec, 0
        self._step, self._held = 0, ""

    def tell(self, step: int, last: int, metrics: Mapping[str, float]) -> None:
        """Hold a line where the step is one of those; a later one of the step, with its score, takes its place."""
        from understudy.runs.results import objective_name
        from understudy.sweeping.format import objective_text

        if step != self._step:
            self.end()
        self._step, hooks = step, self._spec.hooks
        every = hooks.save_interval
        if every > 0 and step // every > self._kept and step % every:
            self._kept = step // every
            console.print(f"[Step {self._kept * every}] Saved checkpoint_{self._kept * every}.pt")
        name = objective_name(metrics)
        due = (
            step % hooks.log_interval == 0 or step == last or (hooks.eval_interval and step % hooks.eval_interval == 0)
        )
        if not due:
            return
        losses = [f"{key} {value:.4g}" for key, value in metrics.items() if "loss" in key and "/" not in key]
        speed = [f"{metrics['steps_per_sec']:.0f} steps/s"] if "steps_per_sec" in metrics else []
        scored = [f"{name} {objective_text(metrics)}"] if name else []
        self._held = f"[Step {step}/{last}] {', '.join([*losses, *scored, *speed])}"

    def end(self) -> None:
        """Print the line that is held, if there is one."""
        if self._held:
            console.print(self._held, markup=False, soft_wrap=True)
        self._held = ""
