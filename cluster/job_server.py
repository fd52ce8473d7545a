"""A Ray head's job server as a client sees it: every way that it can say no is one clear line.

The token goes in the Authorization header; secrets go nowhere: the head's own environment has them, because what is
given to Ray with a job (runtime_env, entrypoint, metadata) can be read by everyone who may list jobs.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.cluster.job import LABEL, Job, known_job
from understudy.cluster.jobs import JobState, pick
from understudy.cluster.tokens import Token
from understudy.errors import UnderstudyError, UserError

STATUS = {"SUCCEEDED": "FINISHED"}
ANSWER_SECONDS = 10
AGENT_SECONDS = 300
"""How long a head's agent, which starts jobs, is waited for."""
NO_AGENT = "No available agent"
"""What Ray's job server says until it is there."""
SAVE_SECONDS = 30
"""Seconds that a stopped job has to write its trials' checkpoints, on heads that understudy started."""


class JobServer:
    """The jobs of one head."""

    def __init__(self, address: str, token: Token | None, *, python: str = "python", start_hint: str = "") -> None:
        self.address, self.token, self.python = address, token, python
        self.start_hint = start_hint or "start the cluster, or correct the profile's address"
        self._held: Any = None

    @property
    def _client(self) -> Any:
        if self._held is None:
            from ray.job_submission import JobSubmissionClient

            for name in (
                "dashboard.modules.dashboard_sdk",
                "dashboard.modules.job.sdk",
                "_private.runtime_env.packaging",
            ):
                logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
            headers = {"Authorization": f"Bearer {self.token.value}"} if self.token else {}
            self._held = JobSubmissionClient(self.address, headers=headers)
        return self._held

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the client raises into one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            if self.token is None:  # Ray's client wants one before it asks whether anybody answers
                try:
                    requests.get(self.address, timeout=ANSWER_SECONDS)
                except requests.exceptions.RequestException:
                    raise self._away("no answer") from None
                raise UserError(
                    f"the head at {self.address} wants a token: set RAY_AUTH_TOKEN_PATH to its file,"
                    " or token_path in the profile"
                ) from None
            raise UserError(f"the head at {self.address} refuses the token from {self.token.source}") from None
        except (ConnectionError, requests.exceptions.RequestException, OSError) as error:
            reason = "no answer" if isinstance(error, ConnectionError) else type(error).__name__
            raise self._away(reason) from None
        except RuntimeError as error:
            text = str(error)
            if "status code 401" in text or "status code 403" in text:
                raise UserError(f"the head at {self.address} refuses us: {text.splitlines()[0]}") from None
            raise UnderstudyError(f"the job server at {self.address}: {text.strip().splitlines()[-1]}") from None

    def _away(self, reason: str) -> UserError:
        return UserError(f"no job server answers at {self.address} ({reason}): {self.start_hint}")

    def submit(self, job: Job, code: Path) -> dict[str, str]:
        """Upload the staged folder and start the job's driver on the head; return links."""
        job.write(code)
        with self._errors():
            known = {item.submission_id for item in self._client.list_jobs()}
            if job.id in known:
                raise UserError(f"{self.address} has a job {job.id} already: give another --name, or resume that one")
            self._start_driver(job, code)
        return {"dashboard": f"{self.address}/#/jobs/{job.id}"}

    def _start_driver(self, job: Job, code: Path) -> None:
        """Start the driver; a head that has just come up has no agent for a while, and says to try again."""
        ends = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._client.submit_job(
                    submission_id=job.id,
                    entrypoint=shlex.join(job.command(self.python)),
                    runtime_env={"working_dir": str(code), "env_vars": job.variables},
                    metadata={LABEL: job.model_dump_json()},
                )
                return
            except RuntimeError as error:
                if NO_AGENT not in str(error):
                    raise
            if time.monotonic() > ends:
                raise UnderstudyError(
                    f"the head at {self.address} has had no agent, which starts jobs, for {AGENT_SECONDS} s: start it"
                    " anew (its dashboard_agent.log has the reason)"
                )
            time.sleep(1.0)

    def jobs(self) -> list[JobState]:
        """Return the jobs that were submitted, oldest first."""
        with self._errors():
            found = [_state(item) for item in self._client.list_jobs() if item.submission_id]
        return sorted(found, key=lambda item: item.started)

    def find(self, job_id: str) -> JobState:
        """Return one job; UnknownName with the nearest id."""
        return pick({item.id: item for item in self.jobs()}, job_id, self.address)

    def logs(self, job_id: str, follow: bool) -> Iterator[str]:
        """Yield the driver's output; with `follow`, as it comes, until the job ends."""
        self.find(job_id)
        with self._errors():
            if follow:
                yield from _pulled(self._client.tail_job_logs(job_id))
            else:
                yield self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> str:
        """Ask the driver to end (SIGTERM, later SIGKILL)."""
        state = self.find(job_id)
        if not state.going:
            return f"{job_id} has ended already ({state.status.lower()})"
        with self._errors():
            self._client.stop_job(job_id)
        return f"{job_id} is being stopped; `understudy jobs resume {job_id}` goes on with it"


def _state(item: Any) -> JobState:
    status = str(getattr(item.status, "value", item.status))
    return JobState(
        id=item.submission_id,
        status=STATUS.get(status, status),
        started=(item.start_time or 0) / 1000,
        ended=(item.end_time or 0) / 1000,
        message=(item.message or "").strip().splitlines()[0] if item.message else "",
        job=known_job((item.metadata or {}).get(LABEL)),
    )


def _pulled(lines: Any) -> Iterator[str]:
    """Yield what an asynchronous iterator gives, from a loop in a thread of its own."""
    end = object()
    items: queue.Queue[Any] = queue.Queue()

    async def pull() -> None:
        try:
            async for line in lines:
                items.put(line)
            items.put(end)
        except Exception as error:  # noqa: BLE001  (raised again where the lines are read)
            items.put(error)

    threading.Thread(target=lambda: asyncio.run(pull()), daemon=True).start()
    while (item := items.get()) is not end:
        if isinstance(item, Exception):
            raise item
        yield item
