"""Play attempts in parallel until enough are kept; the outcome depends on neither workers, order nor interruptions.

The attempts played are always 0 to n - 1 for the smallest n that gives enough episodes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from understudy.envs.attempts import Task, end_with_parent, play_and_keep, was_kept
from understudy.errors import UnderstudyError

FAILURE_LIMIT = 5
"""Give up after this many attempts for each episode asked for."""
HOPELESS = 50
"""Give up when so many attempts failed and none succeeded."""
AHEAD = 4
"""Attempts handed out for each worker."""
Progress = Callable[[int, int], None]
"""Called with (episodes kept, attempts made)."""


class AttemptPool:
    """Attempts of one task, each a file in `folder` when it is finished."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        keep_all: bool = False,
        progress: Progress | None = None,
        on_first: Callable[[int], None] | None = None,
    ) -> None:
        self._task, self._folder, self._keep_all = task, folder, keep_all
        self._progress, self._on_first = progress, on_first
        self.kept: list[int] = []
        self.attempts = 0

    def run(self, episodes: int, workers: int) -> list[int]:
        """Play until `episodes` are kept and return their numbers in order; `on_first` gets the first one known."""
        try:
            if workers == 1:
                while (number := self._next(self.attempts, episodes)) is not None:
                    self._note(number, play_and_keep(self._task, self._folder, self._keep_all, number))
            else:
                self._run_parallel(episodes, workers)
        except BrokenProcessPool as error:
            raise UnderstudyError(
                f"{self._task.env_name}: a generating process died; the same command goes on, try fewer workers"
            ) from error
        if len(self.kept) < episodes:
            raise UnderstudyError(
                f"{self._task.env_name}: the task was solved in only {len(self.kept)} of {self.attempts} attempts;"
                f" use less noise than {self._task.noise:g}, a better policy, or --keep all"
            )
        return sorted(self.kept)

    def _run_parallel(self, episodes: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # simulators and torch do not survive a fork
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
        pending: dict[Future[bool], int] = {}
        handed_out = 0
        try:
            while True:
                while len(pending) < AHEAD * workers and (number := self._next(handed_out, episodes)) is not None:
                    handed_out += 1
                    done = was_kept(self._folder, number)
                    if done is None:
                        future = pool.submit(play_and_keep, self._task, self._folder, self._keep_all, number)
                        pending[future] = number
                    else:
                        self._note(number, done)
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    self._note(pending.pop(future), future.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _next(self, number: int, episodes: int) -> int | None:
        """Return `number` if it must be played, whatever the attempts that are still being played come to."""
        failures = self.attempts - len(self.kept)
        hopeless = not self.kept and failures >= HOPELESS
        return number if number < min(episodes + failures, FAILURE_LIMIT * episodes) and not hopeless else None

    def _note(self, number: int, kept: bool) -> None:
        self.attempts += 1
        if kept:
            self.kept.append(number)
            if len(self.kept) == 1 and self._on_first is not None:
                self._on_first(number)
        if self._progress is not None:
            self._progress(len(self.kept), self.attempts)
