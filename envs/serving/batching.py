"""Decisions for all clients that wait, in one call of the policy.

While the policy is at work new requests gather; the next call takes them all. So a lone client waits for nobody, and
many share the cost of a call. The policy runs in one thread, and the server goes on listening meanwhile.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from understudy.envs.rollouts.acting import Acting, ask
from understudy.errors import UnderstudyError
from understudy.policy import Policy

Decided = tuple[np.ndarray, int]
"""Actions [H, A], and which decision of the episode they are, from 0."""


@dataclass
class _Waiting:
    acting: Acting
    answer: asyncio.Future[Decided]


class Batcher:
    """Gathers requests and asks one member of a policy for up to `most` of them at once."""

    def __init__(self, policy: Policy, member: int, seed: int, most: int = 64) -> None:
        self.policy, self.member, self.seed, self.most = policy, member, seed, most
        self.calls = 0
        self.decisions = 0
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._work: asyncio.Task[None] | None = None

    async def decide(self, acting: Acting) -> Decided:
        """Return the episode's next chunk; UnderstudyError where the policy gives none."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(acting, loop.create_future())
        self._waiting.append(waiting)
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._drain())
        return await waiting.answer

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # requests that have already arrived join
        while self._waiting:
            batch, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
            try:
                answers = await loop.run_in_executor(self._thread, self._ask, [item.acting for item in batch])
            except Exception as error:  # noqa: BLE001  (whoever waits is told, and the server goes on)
                answers = [error] * len(batch)
            for item, answer in zip(batch, answers, strict=True):
                if item.answer.done():  # the client has left
                    continue
                if isinstance(answer, Exception):
                    item.answer.set_exception(answer)
                else:
                    item.answer.set_result(answer)

    def _ask(self, episodes: list[Acting]) -> list[Decided | Exception]:
        """Return each episode's chunk, or what is wrong with it alone."""
        self.calls += 1
        self.decisions += len(episodes)
        places = [(0, row) for row in range(len(episodes))]
        chunks = ask(self.policy.act_members, episodes, places, [self.member], len(episodes), self.seed)[0]
        answers: list[Decided | Exception] = []
        for acting, chunk in zip(episodes, chunks, strict=True):
            number = acting.decisions
            try:
                acting.decided(chunk)
                answers.append((acting.next_actions(), number))
            except UnderstudyError as error:
                answers.append(error)
        return answers

    def close(self) -> None:
        """End the thread when its call has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)
