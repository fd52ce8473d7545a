"""How long a training will take, said once its speed is known: measured over a minute, after it has warmed up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

HOUR = 3600
WARM_UP = 15.0
"""Seconds that are not measured: first steps import, allocate and compile, also where a run goes on."""
SPAN = 60.0
"""Seconds that are measured at least."""
SAMPLES = 10
"""Speeds that the median is taken of at least. An evaluation or a checkpoint slows one or two of them."""
APART = 0.4
"""Seconds that a speed is taken over at least."""


class TimeLeft:
    """Watches a run's progress; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._last: tuple[float, int] | None = None
        self._measured = 0.0
        self._speeds: list[float] = []
        self.said = False
        """Whether the time was worked out, be it worth a line or not."""

    def at(self, step: int, last: int) -> str:
        """Return a line on how long the run will take, once, where that is over an hour; else ""."""
        if self.said:
            return ""
        now = self._clock()
        if self._began is None:
            self._began = now
        if now - self._began < WARM_UP:
            return ""
        if self._last is None:
            self._last = now, step
            return ""
        then, before = self._last
        if now - then < APART or step <= before:
            return ""
        self._last = now, step
        self._measured += now - then
        self._speeds.append((step - before) / (now - then))
        if self._measured < SPAN or len(self._speeds) < SAMPLES:
            return ""
        self.said = True
        return hours_left(last - step, statistics.median(self._speeds))


def hours_left(steps: int, speed: float) -> str:
    """Return a line on how long so many steps take at a speed in steps/s, where that is over an hour; else ""."""
    if steps / speed < HOUR:
        return ""
    hours, minutes = divmod(round(steps / speed / 60), 60)
    return f"note: about {hours} h {minutes:02d} min to go ({steps} steps at {speed:.3g} steps/s, without evaluations)"
