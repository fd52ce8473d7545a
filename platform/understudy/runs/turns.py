"""Trainings in threads of one process of which exactly one runs at any moment: they meet to do a step together.

It knows nothing of what they train. What a training does between two meetings depends on no other's pace, and no code
of theirs has to bear being run by several threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

THREAD = "training "
"""What names of the threads begin with."""
Together = Callable[[Mapping[int, Any]], Mapping[int, Any]]
"""What is done with what all have handed in, by their places; returns what some or all of them get."""


class Turns:
    """`count` trainings, by their places from 0 on. The first one that is not waiting for the others has its turn."""

    def __init__(self, count: int) -> None:
        self._condition = threading.Condition()
        self._here = set(range(count))
        self._handed: dict[int, Any] = {}
        self._got: dict[int, Any] = {}
        self._turn: int | None = 0
        self._together: Together | None = None

    @contextmanager
    def of(self, place: int) -> Generator[None]:
        """Wait for a training's first turn; at the end of the block it leaves, and the others go on without it."""
        with self._condition:
            self._condition.wait_for(lambda: self._turn == place)
        try:
            yield
        finally:
            with self._condition:
                self._here.discard(place)
                self._pass_on()

    def meet(self, place: int, value: Any, together: Together) -> Any:
        """Hand in a value, let the others have their turns, and return what `together` makes of all values for this.

        Those that `together` returns nothing for stay as they are, and wait for the next meeting with what they gave.
        What it raises is raised in all.
        """
        with self._condition:
            self._handed[place], self._together = value, together
            self._pass_on()
            self._condition.wait_for(lambda: self._turn == place)
            found = self._got.pop(place)
        if isinstance(found, _Raised):
            raise found.error
        return found

    def _pass_on(self) -> None:
        """Give the turn to the next; where all who are here wait, do what they wait for first."""
        waiting = self._here - self._handed.keys()
        if not waiting and self._here:
            self._do()
            waiting = self._here - self._handed.keys()
        self._turn = min(waiting, default=None)
        self._condition.notify_all()

    def _do(self) -> None:
        values = {place: self._handed[place] for place in sorted(self._here)}
        try:
            found = cast("Together", self._together)(values)
        except BaseException as error:  # noqa: BLE001  (raised in the threads that wait)
            found = dict.fromkeys(values, _Raised(error))
        for place, value in found.items():
            self._got[place] = value
            del self._handed[place]


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
