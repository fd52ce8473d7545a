"""Give a sweep more to do: further trials, longer ones, another go at failed ones, other intervals.

The study keeps what it has. Each change is there or not when sweep.json is written, which is one rename.
"""

from __future__ import annotations

from collections.abc import Mapping

from hydra.core.override_parser.types import Sweep

from understudy.errors import SpecError, did_you_mean
from understudy.files import write_json
from understudy.runs.directory import RunDir
from understudy.runs.ended import KEY
from understudy.spec.space import Dimension, Interval, checked
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.run import check_sweep
from understudy.sweeping.study import Study, failed, retried
from understudy.sweeping.sweep_spec import SweepSpec, dimension_of, largest_number, value_of


def add_trials(sweep: SweepDir, count: int) -> None:
    """Let the sweep try `count` configurations more; SpecError when its grid holds no more."""
    if count < 1:
        raise SpecError(f"--add-trials {count}: must be at least 1")
    with sweep.held():
        spec = sweep.spec()
        wanted = spec.options.num_trials + count
        limit = largest_number(spec.options, spec.dimensions)
        if wanted > limit:
            raise SpecError(
                f"--add-trials {count}: the space holds {limit:g} configurations, {wanted} would be tried;"
                " --add-steps trains finished trials on, and `understudy sweep` searches other values"
            )
        _save(sweep, spec, num_trials=wanted)


def add_steps(sweep: SweepDir, steps: int) -> None:
    """Let every trial that finished, or still goes on, train `steps` more; stopped and failed ones stay as they are."""
    if steps < 1:
        raise SpecError(f"--add-steps {steps}: must be at least 1")
    with sweep.held():
        spec = sweep.spec()
        total = spec.base.total_steps + steps
        begun = (RunDir(folder) for folder in sorted((sweep.path / "trials").glob("*")))
        most = max((run.spec().total_steps for run in begun if run.flags.is_file()), default=0)
        if most > total:
            raise SpecError(
                f"--add-steps {steps}: one trial was given more alone, and all must compare at one number of steps;"
                f" give at least {most - spec.base.total_steps}"
            )
        name = Study(sweep.path, spec).go_on_with(total)
        spec = spec.model_copy(update={"run": {**spec.run, **spec.base.longer(steps)}, "study": name})
        _save(sweep, spec)


def retry_failed(sweep: SweepDir) -> list[int]:
    """Enqueue the parameters of failed trials as new trials, each once; return the failed ones' numbers."""
    with sweep.held():
        spec = sweep.spec()
        study = Study(sweep.path, spec)
        again = retried(study.trials())
        lost = [trial for trial in study.trials() if failed(trial) and trial.number not in again]
        for trial in lost:
            study.enqueue(trial.params, retry_of=trial.number)
        _save(sweep, spec, num_trials=spec.options.num_trials + len(lost))
    return [trial.number for trial in lost]


def change_space(sweep: SweepDir, sweeps: Mapping[str, Sweep]) -> None:
    """Search other intervals from now on; SpecError, with the reason, for what would corrupt the Optuna study."""
    with sweep.held():
        spec = sweep.spec()
        changed = {key: _changed(spec, key, value) for key, value in sweeps.items()}
        changed = checked(changed, lambda key, value: value_of(spec.base, key, value))
        spec = spec.model_copy(update={"dimensions": {**spec.dimensions, **changed}})
        check_sweep(spec)
        _save(sweep, spec)


def _changed(spec: SweepSpec, key: str, value: Sweep) -> Dimension:
    """Return a dimension's new interval where Optuna can hold trials of both in one study."""
    if key in spec.grid:
        raise SpecError(
            f"--change-space {key}: finished trials were evaluated at {', '.join(map(str, spec.grid[key]))} only, and"
            " others would not compare; `understudy evaluate` takes any value"
        )
    if key not in spec.dimensions:
        raise SpecError(
            f"--change-space {key}: the trials were not searched for it{did_you_mean(key, spec.dimensions)};"
            " start a new sweep"
        )
    old, new = spec.dimensions[key], dimension_of(spec.base.algo, key, value)
    if not isinstance(old, Interval) or not isinstance(new, Interval):
        raise SpecError(
            f"--change-space {key}: Optuna refuses another list of values within a study ({old} became {new});"
            " start a new sweep"
        )
    if (old.log, old.integer) != (new.log, new.integer):
        raise SpecError(f"--change-space {key}: the scale cannot change within a study, from {old} to {new}")
    return new


def _save(sweep: SweepDir, spec: SweepSpec, **options: int) -> None:
    spec = spec.model_copy(update={"options": spec.options.model_copy(update=options)})
    sweep.update_state(**{KEY: None})  # of the sweep.json that the sweep ended with
    write_json(sweep.path / "sweep.json", spec.model_dump(mode="json"))
