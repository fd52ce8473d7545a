"""The sweep's memory: an Optuna study in a database. What it holds survives the driver, so a sweep goes on from it.

It is SQLite in the sweep's folder, or any database that SQLAlchemy reaches, under a name of its own; either is a plain
Optuna study, which `optuna.load_study` and optuna-dashboard open. A trial's number names its folder. Proposals are a
pure function of (sweep seed, number, finished trials), and an interrupted trial keeps its number and its parameters.

A study's trials compare at one number of steps, and Optuna never changes a finished trial. So trials that are given
more steps go on in a further study beside the first, which stays as it is.
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from understudy.errors import UserError
from understudy.files import read_object, write_json
from understudy.secrecy import without_secrets
from understudy.sweeping.objective import Goal
from understudy.sweeping.options import STORAGE_VARIABLE
from understudy.sweeping.proposals import Coding, Known, sampler_for
from understudy.sweeping.storage import WriteBehind
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.tracking.addresses import absolute_address, check_lasting, sqlite_address

optuna.logging.set_verbosity(optuna.logging.WARNING)
STUDY = "sweep"
RECORD = "study.json"
OF = "of"
"""Attribute of a trial that another sweep trained: the sampler knows it, and it is none of this sweep's."""
FAR = 1e30
"""What is stored for infinity, which no database takes."""
OUTCOME = ("metrics", "best_parameters")
"""A finished trial's attributes beside those that it began with."""


@dataclass(frozen=True)
class StudyPlace:
    """Where a study is: the database's address, which may hold a password, and its name there."""

    address: str
    name: str

    @property
    def shown(self) -> str:
        """The address without its password."""
        return without_secrets(self.address)


def study_place(folder: Path, spec: SweepSpec) -> StudyPlace:
    """Return where a sweep's study is. Once begun it stays there: study.json holds its name and address.

    Raises UserError when the key or $UNDERSTUDY_STUDY_STORAGE now names another place than the study was begun in.
    """
    local, record = folder / "study.db", folder / RECORD
    given = _given(spec)
    if local.is_file() or not (given or record.is_file()):
        return StudyPlace(sqlite_address(local), spec.study or STUDY)
    if not record.is_file():
        name = f"{folder.name}-{secrets.token_hex(4)}"
        write_json(record, {"study_name": name, "storage": without_secrets(given)})
    held = read_object(record)
    if without_secrets(given) not in (held["storage"], without_secrets(absolute_address(held["storage"]))):
        now = without_secrets(given) or "not set"
        raise UserError(
            f"the study of {folder} is in {held['storage']}: set {STORAGE_VARIABLE} to that address (now: {now})"
        )
    return StudyPlace(given, spec.study or held["study_name"])


def _given(spec: SweepSpec) -> str:
    """Return the address that the key, else the environment says; "" for neither."""
    return absolute_address(spec.options.study_storage or os.environ.get(STORAGE_VARIABLE, ""))


@contextmanager
def _database_errors(place: StudyPlace) -> Generator[None]:
    """Turn what SQLAlchemy raises on opening into one line without the password."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"study_storage={place.shown}: its driver is not installed ({error})") from None
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"study_storage={place.shown} cannot be used: {without_secrets(reason[:200])}") from error


def check_storage(spec: SweepSpec) -> None:
    """Raise UserError, in one line, when the database that the study shall be in does not let us in."""
    given = _given(spec)
    if given:
        check_lasting(given)
        with _database_errors(StudyPlace(given, "")):
            optuna.storages.get_storage(given)


def _open(storage: BaseStorage, name: str, goal: Goal) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize" if objective.minimized else "maximize" for objective in goal.objectives],
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )


def _running(trial: FrozenTrial) -> FrozenTrial:
    """Return a finished trial as it was before its end; any other as it is."""
    if trial.state != TrialState.COMPLETE:
        return trial
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs={key: value for key, value in trial.user_attrs.items() if key not in OUTCOME},
        system_attrs=trial.system_attrs,
    )


class Study:
    """One sweep's trials: ask, report, finish; open it again and it is where it was."""

    def __init__(self, folder: Path, spec: SweepSpec) -> None:
        self.spec, self._folder = spec, folder
        self._coding, self._goal = Coding(spec), spec.goal
        place = study_place(folder, spec)
        with _database_errors(place):
            database = optuna.storages.get_storage(place.address)
            _open(database, place.name, self._goal)
            self._storage = WriteBehind(database, place.address, place.name)
        self._study = optuna.load_study(study_name=place.name, storage=self._storage)
        self._study.pruner = optuna.pruners.NopPruner()
        self._place, self._known = place, Known()

    def __reduce__(self) -> tuple[type[Study], tuple[Path, SweepSpec]]:
        """Tune pickles what it is given to disk: an open database would take its password there."""
        return Study, (self._folder, self.spec)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, all when none is given, by number, with the values that runs take."""
        found = self._study.get_trials(deepcopy=False, states=states or None)
        return [self._read(trial) for trial in found if OF not in trial.user_attrs]

    def _read(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial with parameters as runs take them."""
        read = copy.copy(trial)  # the study's own stays as it is
        read.params = self._coding.read(trial.params)
        return read

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Propose one more configuration: (trial number, parameters)."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = sampler_for(self.spec, number, self._known)
        with _database_errors(self._place), self._storage.together():
            trial = self._study.ask(self._coding.space)
        # It has no say when trials end: Optuna's grid sampler would stop an optimize() that we never run.
        self._study.sampler = optuna.samplers.RandomSampler()
        return trial.number, self._coding.read(trial.params)

    def enqueue(self, parameters: dict[str, Any], **attributes: Any) -> None:
        """Have these parameters (the sampler fills in what is missing) proposed next, as a trial with `attributes`."""
        with _database_errors(self._place), self._storage.together():
            self._study.enqueue_trial(self._coding.write(parameters), user_attrs=attributes)

    def learn_from(self, trials: list[FrozenTrial], where: str) -> int:
        """Have the sampler know trials of another study of this space; returns how many. They are none of ours."""
        known: list[FrozenTrial] = []
        for trial in trials:
            inside = trial.state == TrialState.COMPLETE and trial.params.keys() == self._coding.space.keys()
            if inside and self._coding.holds(trial.params):
                known.append(
                    optuna.trial.create_trial(
                        params=self._coding.write(trial.params),
                        distributions=self._coding.space,
                        values=trial.values,
                        user_attrs={OF: where},
                    )
                )
        with _database_errors(self._place), self._storage.together():
            self._study.add_trials(known)
        return len(known)

    def go_on_with(self, steps: int) -> str:
        """Make the study in which the trials train to `steps`, and return its name.

        Finished trials are running ones there, which a resumed sweep hands out first; those that were stopped or
        failed stay so. What an earlier, killed attempt left is deleted.
        """
        first = study_place(self._folder, self.spec.model_copy(update={"study": ""}))
        place = StudyPlace(first.address, f"{first.name}-{steps}")
        with _database_errors(place):
            if place.name in optuna.get_all_study_names(place.address):
                optuna.delete_study(study_name=place.name, storage=place.address)
            further = _open(optuna.storages.get_storage(place.address), place.name, self._goal)
            further.add_trials([_running(trial) for trial in self._study.get_trials(deepcopy=False)])
        return place.name

    def _held(self, number: int) -> FrozenTrial:
        """Return one trial as the study holds it; `Study.trials` would copy all of them, .3 s at 1,000 trials."""
        return self._storage.get_trial(self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        """Return the storage's own number of a trial."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._storage.study, number)

    def flush(self) -> None:
        """Wait until all of it is in the database."""
        with _database_errors(self._place):
            self._storage.flush()

    def parameters(self, number: int) -> dict[str, Any]:
        """Return one trial's parameters as runs take them."""
        return self._coding.read(self._held(number).params)

    def left(self) -> bool:
        """Return whether a trial waits, or one more may be proposed."""
        trials = self._study.get_trials(deepcopy=False)
        ours = sum(OF not in trial.user_attrs for trial in trials)
        return ours < self.spec.options.num_trials or any(trial.state == TrialState.WAITING for trial in trials)

    def report(self, number: int, step: int, score: float) -> None:
        """Keep an intermediate score (higher is better); what is there stays, and an ended trial takes no more."""
        held = self._held(number)
        if not held.state.is_finished() and step not in held.intermediate_values:
            value = self._goal.first.signed(score)
            self._storage.set_trial_intermediate_value(self._trial_id(number), step, value)

    def rungs(self, trial: FrozenTrial) -> list[tuple[int, float]]:
        """Return a trial's (step, score) in order, higher being better."""
        return [(step, self._goal.first.signed(value)) for step, value in sorted(trial.intermediate_values.items())]

    def finish(self, number: int, state: TrialState, scores: float | Sequence[float] | None, **attributes: Any) -> None:
        """Close a trial once, with a score (higher is better) for each objective; `attributes` are kept with it.

        One that `diverged` counts as stopped and as worse than all others, so that the sampler learns to avoid it.
        """
        trial, trial_id, storage = self._held(number), self._trial_id(number), self._storage
        if trial.state.is_finished():
            return
        metrics = attributes.get("metrics")
        excess = {str(bound): min(bound.excess(metrics), FAR) for bound in self._goal.constraints} if metrics else {}
        if attributes.get("diverged"):
            excess["trained to its end"] = 1.0
        for key, item in attributes.items():
            storage.set_trial_user_attr(trial_id, key, item)
        for key, value in excess.items():
            storage.set_trial_system_attr(trial_id, f"constraints:{key}", value)
        values = None
        if state == TrialState.COMPLETE and scores is not None:
            each = [scores] if isinstance(scores, int | float) else list(scores)
            bounded = [max(-FAR, min(score, FAR)) for score in each]
            values = [item.signed(score) for item, score in zip(self._goal.objectives, bounded, strict=True)]
        self._study.tell(number, values, state=state)


def failed(trial: FrozenTrial) -> bool:
    """Return whether a trial has no result: its process died, or its loss was no number."""
    return trial.state == TrialState.FAIL or bool(trial.user_attrs.get("diverged"))


def retried(trials: Iterable[FrozenTrial]) -> set[int]:
    """Return the numbers of failed trials whose configuration a later trial tries once more."""
    return {trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs}


def crashed(trials: Sequence[FrozenTrial]) -> list[int]:
    """Return the numbers of trials whose process died and whose configuration was not tried once more."""
    done = retried(trials)
    return [trial.number for trial in trials if trial.user_attrs.get("crashed") and trial.number not in done]


def state_name(trial: FrozenTrial) -> str:
    """Return a trial's state in a word: complete, pruned, fail, running or waiting."""
    return "fail" if failed(trial) else trial.state.name.lower()
