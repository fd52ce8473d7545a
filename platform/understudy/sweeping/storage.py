"""A study that is read from memory and written to its database behind: asking and reporting wait for no disk.

A configuration is in the database before anybody trains it: `together` waits. All else may be behind by moments. What a
killed driver had not written yet is known from the trials' own directories: a trial that had ended is handed out once
more and is found to be finished, one that is under way reports its earlier evaluations again.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger("understudy")
TO_OTHERS = "tpe:relative_params"
"""Where TPE writes what a trial's parameters will be, which they are a moment later."""
_open: weakref.WeakSet[WriteBehind] = weakref.WeakSet()


def write_all(address: str) -> None:
    """Write what is still to be written of each study that this process has open in a database."""
    for storage in [item for item in _open if item.address == address]:
        storage.flush()


class WriteBehind(InMemoryStorage):
    """One study of `backing`, a database that this process alone writes it to; what is read is as read from there."""

    def __init__(self, backing: BaseStorage, address: str, name: str) -> None:
        super().__init__()
        write_all(address)  # one that was opened before may be of the same study
        self.address = address
        self._backing, self._place = backing, backing.get_study_id_from_name(name)
        self._writing = threading.Lock()
        self._dirty: dict[int, None] = {}
        self._touched: dict[int, None] = {}
        self._settings: dict[str, Any] = {}
        self._held, self._draining = 0, False
        self._failed = False
        self.study = super().create_new_study(backing.get_study_directions(self._place), name)
        for key, value in backing.get_study_system_attrs(self._place).items():
            super().set_study_system_attr(self.study, key, value)
        self._written: dict[int, _Written] = {}
        self._ids: dict[int, int] = {}
        for trial in backing.get_all_trials(self._place, deepcopy=False):
            super().create_new_trial(self.study, trial)
            self._ids[trial.number] = backing.get_trial_id_from_study_id_trial_number(self._place, trial.number)
            self._written[trial.number] = _Written.of(trial)
        _open.add(self)

    # ---- what is read is what the database would give ----

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial."""
        trial_id = super().create_new_trial(study_id, template_trial and _as_stored(template_trial))
        return self._changed(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set one parameter."""
        super().set_trial_param(trial_id, param_name, param_value_internal, _stored(distribution))
        self._changed(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state, and the values of one that ends."""
        done = super().set_trial_state_values(trial_id, state, values)
        self._changed(trial_id)
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value of one step."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._changed(trial_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute."""
        super().set_trial_user_attr(trial_id, key, _as_json(value))
        self._changed(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's own, but not TPE's note to other processes that ask: there are none."""
        if key.startswith(TO_OTHERS):
            return
        super().set_trial_system_attr(trial_id, key, _as_json(value))
        self._changed(trial_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's own of the study."""
        with self._lock:
            super().set_study_system_attr(study_id, key, _as_json(value))
            self._settings[key] = _as_json(value)
        self._drain_soon()

    # ---- writing ----

    @contextmanager
    def together(self) -> Generator[None]:
        """Write the trials that change within at its end, each at once, and wait until they are in the database.

        What failed before is written first, and raises what the database raises.
        """
        if self._failed:
            self.flush()
        with self._lock:
            self._held, self._touched = self._held + 1, {}
        try:
            yield
            with self._writing:
                for number in sorted(self._touched):
                    if self._take(number):
                        self._write(number)
        finally:
            with self._lock:
                self._held -= 1
            self._drain_soon()

    def flush(self) -> None:
        """Write what is still to be written, what failed before too; raise what the database raises."""
        with self._writing:
            while (item := self._next()) is not None:
                self._write(item)
            self._failed = False

    def _changed(self, trial_id: int) -> int:
        with self._lock:
            number = self.get_trial_number_from_id(trial_id)
            self._dirty[number] = self._touched[number] = None
        self._drain_soon()
        return trial_id

    def _drain_soon(self) -> None:
        with self._lock:
            idle = not (self._dirty or self._settings)
            if idle or self._draining or self._held or self._failed:
                return
            self._draining = True
        threading.Thread(target=self._drain, name="study").start()  # no daemon: a process that ends waits for it

    def _drain(self) -> None:
        while True:
            with self._writing:
                with self._lock:
                    if self._held or not (self._dirty or self._settings):
                        self._draining = False
                        return
                item = self._next()
                try:
                    if item is not None:
                        self._write(item, gives_way=True)
                except Exception as error:  # noqa: BLE001  (whoever asks next writes it again, or raises)
                    logger.debug("the study is not written yet: %s", error)
                    with self._lock:
                        self._draining = False
                    return

    def _take(self, number: int) -> bool:
        """Return whether a trial is still to be written, and take that on."""
        with self._lock:
            return self._dirty.pop(number, self) is None

    def _next(self) -> int | dict[str, Any] | None:
        """Return what is written next, in this order: settings of the study, trials by number."""
        with self._lock:
            if self._settings:
                settings, self._settings = self._settings, {}
                return settings
            number = min(self._dirty, default=None)
            if number is not None:
                del self._dirty[number]
            return number

    def _write(self, item: int | dict[str, Any], gives_way: bool = False) -> None:
        """Write it; what could not be written, or not before another thread waits for the database, is still to be."""
        try:
            if isinstance(item, dict):
                for key, value in item.items():
                    self._backing.set_study_system_attr(self._place, key, value)
            else:
                self._write_trial(item, gives_way)
        except BaseException:
            with self._lock:
                self._failed = True
                if isinstance(item, dict):
                    self._settings = {**item, **self._settings}
                else:
                    self._dirty[item] = None
            raise

    def _write_trial(self, number: int, gives_way: bool) -> None:
        with self._lock:
            trial = self._studies[self.study].trials[number]  # never changed, but replaced
        before, backing = self._written.get(number), self._backing
        if before is None:
            self._ids[number] = backing.create_new_trial(self._place, trial)  # in one transaction
        else:
            place = self._ids[number]
            if trial.state == TrialState.RUNNING != before.state:
                backing.set_trial_state_values(place, trial.state)
            for key, distribution in trial.distributions.items():
                if key not in before.parameters:
                    value = distribution.to_internal_repr(trial.params[key])
                    backing.set_trial_param(place, key, value, distribution)
            written = set(before.steps)
            for step in trial.intermediate_values.keys() - written:
                if gives_way and self._held:
                    self._written[number] = replace(before, steps=frozenset(written))
                    with self._lock:
                        self._dirty[number] = None  # the rest afterwards
                    return
                backing.set_trial_intermediate_value(place, step, trial.intermediate_values[step])
                written.add(step)
            for key, value in trial.user_attrs.items():
                if key not in before.user_attrs or before.user_attrs[key] != value:
                    backing.set_trial_user_attr(place, key, value)
            for key, value in trial.system_attrs.items():
                if key not in before.system_attrs or before.system_attrs[key] != value:
                    backing.set_trial_system_attr(place, key, value)
            if trial.state.is_finished() and not before.state.is_finished():
                backing.set_trial_state_values(place, trial.state, trial.values)
        self._written[number] = _Written.of(trial)


@dataclass(frozen=True)
class _Written:
    """What the database has of a trial; copies, since Optuna writes into a trial that it has just asked for."""

    state: TrialState
    parameters: frozenset[str]
    steps: frozenset[int]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]

    @classmethod
    def of(cls, trial: FrozenTrial) -> _Written:
        """Return what is to be compared with later."""
        keys = frozenset(trial.distributions), frozenset(trial.intermediate_values)
        return cls(trial.state, *keys, dict(trial.user_attrs), dict(trial.system_attrs))


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _stored(distribution: BaseDistribution) -> BaseDistribution:
    """Return a distribution as it comes out of a database, with lists for tuples."""
    return json_to_distribution(distribution_to_json(distribution))


def _as_stored(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as it comes out of a database."""
    distributions = {key: _stored(item) for key, item in trial.distributions.items()}
    params = {
        key: item.to_external_repr(trial.distributions[key].to_internal_repr(trial.params[key]))
        for key, item in distributions.items()
    }
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions=distributions,
        user_attrs=_as_json(trial.user_attrs),
        system_attrs=_as_json(trial.system_attrs),
        intermediate_values=trial.intermediate_values,
    )
