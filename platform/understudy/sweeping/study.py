"""The sweep's memory: an Optuna study in a database. What it holds survives the driver, so a sweep goes on from it.

It is SQLite in the sweep's folder, or any database that SQLAlchemy reaches, under a name of its own; either is a plain
Optuna study, which `optuna.load_study` and optuna-dashboard open. A trial's number names its folder. Proposals are a
pure function of (sweep seed, number, finished trials), and an interrupted trial keeps its number and its parameters.

A study's trials compare at one number of steps, and Optuna never changes a finished trial. So trials that are given
more steps go on in a further study beside the first, which stays as it is.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from understudy.errors import UserError
from understudy.files import write_json
from understudy.sweeping.proposals import distribution, sampler_for
from understudy.sweeping.spec import STORAGE_VARIABLE, SweepSpec
from understudy.tracking.addresses import absolute, check_lasting, sqlite_address, without_secrets

optuna.logging.set_verbosity(optuna.logging.WARNING)
STUDY = "sweep"
RECORD = "study.json"
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

    Raises UserError when the key or $UNDERSTUDY_STUDY_STORAGE now say another place than it was begun in.
    """
    local, record = folder / "study.db", folder / RECORD
    given = _given(spec)
    if local.is_file() or not (given or record.is_file()):
        return StudyPlace(sqlite_address(local), spec.study or STUDY)
    if not record.is_file():
        name = f"{folder.name}-{secrets.token_hex(4)}"
        write_json(record, {"study_name": name, "storage": without_secrets(given)})
    held = json.loads(record.read_text())
    if without_secrets(given) not in (held["storage"], without_secrets(absolute(held["storage"]))):
        now = without_secrets(given) or "not set"
        raise UserError(
            f"the study of {folder} is in {held['storage']}: set {STORAGE_VARIABLE} to that address (now: {now})"
        )
    return StudyPlace(given, spec.study or held["study_name"])


def _given(spec: SweepSpec) -> str:
    """Return the address that the key, else the environment says; "" for neither."""
    return absolute(spec.options.study_storage or os.environ.get(STORAGE_VARIABLE, ""))


@contextmanager
def _database_errors(place: StudyPlace) -> Iterator[None]:
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


def _open(place: StudyPlace) -> optuna.Study:
    return optuna.create_study(
        storage=place.address,
        study_name=place.name,
        direction="maximize",
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
        self._distributions = {key: distribution(item) for key, item in spec.dimensions.items()}
        place = study_place(folder, spec)
        with _database_errors(place):
            self._study = _open(place)

    def __reduce__(self) -> tuple[type[Study], tuple[Path, SweepSpec]]:
        """Tune pickles what it is given to disk: an open database would take its password there."""
        return Study, (self._folder, self.spec)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, all when none is given, by number."""
        return self._study.get_trials(deepcopy=False, states=states or None)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Propose one more configuration: (trial number, parameters)."""
        self._study.sampler = sampler_for(self.spec, number=len(self.trials()))
        trial = self._study.ask(self._distributions)
        # It has no say when trials end: Optuna's grid sampler would stop an optimize() that we never run.
        self._study.sampler = optuna.samplers.RandomSampler()
        return trial.number, dict(trial.params)

    def enqueue(self, parameters: dict[str, Any], **attributes: Any) -> None:
        """Have these parameters proposed next, as a new trial with `attributes`."""
        self._study.enqueue_trial(parameters, user_attrs=attributes)

    def go_on_with(self, steps: int) -> str:
        """Make the study in which the trials train to `steps`, and return its name.

        Finished trials are running ones there, which a resumed sweep hands out first; those that were stopped or
        failed stay so. What an attempt that was killed in here left goes.
        """
        first = study_place(self._folder, self.spec.model_copy(update={"study": ""}))
        place = StudyPlace(first.address, f"{first.name}-{steps}")
        with _database_errors(place):
            if place.name in optuna.get_all_study_names(place.address):
                optuna.delete_study(study_name=place.name, storage=place.address)
            _open(place).add_trials([_running(trial) for trial in self.trials()])
        return place.name

    def _held(self, number: int) -> FrozenTrial:
        """Return one trial as the database has it; `Study.trials` would copy all of them, .3 s at 1,000 trials."""
        storage = self._study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))

    def report(self, number: int, step: int, value: float) -> None:
        """Keep an intermediate value; what is there already stays, and an ended trial takes no more."""
        held = self._held(number)
        if not held.state.is_finished() and step not in held.intermediate_values:
            self._study._storage.set_trial_intermediate_value(held._trial_id, step, value)

    def finish(self, number: int, state: TrialState, value: float | None, **attributes: Any) -> None:
        """Close a trial once; `attributes` (JSON-able) are kept with it."""
        trial = self._held(number)
        if trial.state.is_finished():
            return
        for key, item in attributes.items():
            self._study._storage.set_trial_user_attr(trial._trial_id, key, item)
        self._study.tell(number, value if state == TrialState.COMPLETE else None, state=state)
