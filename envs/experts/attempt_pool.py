"""Play attempts in parallel until enough are kept; the outcome depends on neither workers, order nor interruptions.

The attempts played are always 0 to n - 1 for the smallest n that gives enough episodes. Where their pictures are
rendered afterwards, that is done in parallel too, for those that are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from understudy.envs.experts.attempts import AttemptSpec, play_and_keep, render_and_keep, was_kept
from understudy.envs.files.processes import process_pool
from understudy.errors import UnderstudyError

FAILURE_LIMIT = 5
"""Give up after this many attempts for each episode asked for."""
HOPELESS = 50
"""Give up when so many attempts failed and none succeeded."""
AHEAD = 4
"""Attempts handed out for each worker."""
OnAttempt = Callable[[int, int], None]
"""Called with (episodes kept, attempts made)."""


class AttemptPool:
    """Attempts of one task, each a file in `folder` when it is finished."""

    def __init__(
        self,
        attempt: AttemptSpec,
        folder: Path,
        *,
        keep_all: bool = False,
        progress: OnAttempt | None = None,
        on_first: Callable[[int], None] | None = None,
        on_pictures: Callable[[int, int], None] | None = None,
    ) -> None:
        self._attempt, self._folder, self._keep_all = attempt, folder, keep_all
        self._progress, self._on_first, self._on_pictures = progress, on_first, on_pictures
        self._renders = attempt.without_pictures() is not None
        self.kept: list[int] = []
        self.attempts = 0

    def run(self, episodes: int, workers: int) -> list[int]:
        """Play until `episodes` are kept and return their numbers in order; `on_first` gets the first one known.

        Where pictures are rendered afterwards, they are before `on_first` is told, and all of them before the return.
        """
        with self._processes(workers) as pool:
            if pool is None:
                while (number := self._next(self.attempts, episodes)) is not None:
                    self._note(number, play_and_keep(self._attempt, self._folder, self._keep_all, number))
            else:
                self._play_parallel(episodes, workers, pool)
            if len(self.kept) < episodes:
                raise UnderstudyError(
                    f"{self._attempt.env_name}: the task was solved in only {len(self.kept)} of {self.attempts}"
                    f" attempts; use less noise than {self._attempt.noise:g}, a better policy, or --keep all"
                )
            if self._renders:
                self._render(sorted(self.kept), pool)
        return sorted(self.kept)

    def _play_parallel(self, episodes: int, workers: int, pool: ProcessPoolExecutor) -> None:
        pending: dict[Future[bool], int] = {}
        handed_out = 0
        while True:
            while len(pending) < AHEAD * workers and (number := self._next(handed_out, episodes)) is not None:
                handed_out += 1
                done = was_kept(self._folder, number)
                if done is None:
                    future = pool.submit(play_and_keep, self._attempt, self._folder, self._keep_all, number)
                    pending[future] = number
                else:
                    self._note(number, done)
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                self._note(pending.pop(future), future.result())

    def _render(self, numbers: list[int], pool: ProcessPoolExecutor | None) -> None:
        render = functools.partial(render_and_keep, self._attempt, self._folder)
        done = map(render, numbers) if pool is None else pool.map(render, numbers)
        for count, _ in enumerate(done, start=1):
            if self._on_pictures is not None:
                self._on_pictures(count, len(numbers))

    @contextmanager
    def _processes(self, workers: int) -> Iterator[ProcessPoolExecutor | None]:
        """Give a pool of processes; None for one worker, which is this process."""
        if workers == 1:
            yield None
            return
        died = f"{self._attempt.env_name}: a generating process died; the same command goes on, try fewer workers"
        with process_pool(workers, died, alone="try --workers 1") as pool:
            yield pool

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
                if self._renders:
                    render_and_keep(self._attempt, self._folder, number)
                self._on_first(number)
        if self._progress is not None:
            self._progress(len(self.kept), self.attempts)
