"""What a Ray head answers over HTTP: its nodes, jobs, actors and what waits. No Ray is started or joined for it.

Each question has seconds, in a thread of its own; the token goes to the head that it is for, and nowhere else: not to
where an answer leads, not to a proxy for this machine's own addresses, into no view and no message.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from understudy.cluster.job_server import JobServer
from understudy.cluster.jobs import open_cluster
from understudy.cluster.profile import list_profiles, load_profile
from understudy.cluster.tokens import Token
from understudy.errors import UnderstudyError, UserError
from understudy.files import read_object

log = logging.getLogger("understudy")
QUESTIONS = {
    "nodes": "/nodes?view=summary",
    "status": "/api/cluster_status",
    "actors": "/logical/actors",
    "jobs": "/api/jobs/",
    "version": "/api/version",
}
ANSWER_SECONDS = 4.0
"""How long a head has for each."""
FRESH_SECONDS = 2.0
"""How old an answer may be: many pages ask once."""
MOST_BYTES = 1 << 25


@dataclass(frozen=True)
class Answers:
    """What one cluster's head said."""

    name: str
    address: str = ""
    said: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By the names of QUESTIONS; a question that only one head cannot answer is left out."""
    problem: str = ""
    asking: bool = False
    """Whether the head is still being asked."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def ask(address: str, token: Token | None, path: str, seconds: float = ANSWER_SECONDS) -> Any:
    """Return what a head answers, decoded; UserError, in one line, where it does not."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1"):
        handlers.append(urllib.request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {token.value}"} if token else {}
    try:
        request = urllib.request.Request(f"{address}{path}", headers=headers)
        with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as answer:
            return json.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            said = f"refuses the token from {token.source}" if token else "wants a token"
            raise UserError(f"the head at {address} {said}: set RAY_AUTH_TOKEN_PATH to its file") from None
        raise UserError(f"the head at {address} answers {path.partition('?')[0]} with {error.code}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        told = "no answer" if isinstance(error, OSError) else "what answers there is no Ray head"
        named = getattr(reason, "strerror", None)
        raise UserError(f"{address}: {told}{f' ({named})' if named else ''}") from None


def ask_all(cluster: JobServer, name: str) -> Answers:
    """Return what a head says to every question; the nodes it must know, other questions may go without an answer."""
    address, token = cluster.address, cluster.token
    said: dict[str, Any] = {}
    with ThreadPoolExecutor(len(QUESTIONS)) as threads:
        asked = {what: threads.submit(ask, address, token, path) for what, path in QUESTIONS.items()}
    for what, answer in asked.items():
        try:
            said[what] = answer.result()
        except UserError as error:
            if what == "nodes":
                return Answers(name, address, problem=str(error))
    return Answers(name, address, said)


class Heads:
    """The clusters that this machine knows of, and what their heads said last."""

    def __init__(self, given: str = "") -> None:
        """Take the profile that is shown first; others are found by their notes."""
        self.given = given
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="understudy-heads")
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[float, Future[Answers]]] = {}
        self._last: dict[str, Answers] = {}

    def names(self) -> list[str]:
        """Return the profiles whose heads may be up: the one given, those started here, those with an address."""
        found = [name for name in sorted(list_profiles()) if _may_be_up(name)]
        first = [self.given] if self.given else []
        return list(dict.fromkeys([*first, *found]))

    def read(self, name: str, seconds: float) -> Answers:
        """Return what a cluster's head says, asking it anew where that is old; the last answer after `seconds`."""
        with self._lock:
            asked_at, future = self._asked.get(name, (float("-inf"), None))
            if future is None or (future.done() and time.monotonic() - asked_at > FRESH_SECONDS):
                future = self._threads.submit(_answers_of, name)
                self._asked[name] = (time.monotonic(), future)
        try:
            self._last[name] = future.result(seconds)
        except TooLong:
            return self._last.get(name, Answers(name, asking=True))
        return self._last[name]


def _answers_of(name: str) -> Answers:
    try:
        profile = load_profile(name)
        cluster = open_cluster(profile)
        if not isinstance(cluster, JobServer):
            hint = f"`understudy jobs list --profile {name}` lists its jobs"
            return Answers(name, problem=f"{name} ({profile.kind}) has no head of its own to ask: {hint}")
        if cluster.on_this_machine and not cluster.may_be_up():  # another head may be at its usual port
            return Answers(name, problem=f"{name} is down: `understudy cluster up {name}` starts it")
        return ask_all(cluster, name)
    except UnderstudyError as error:
        return Answers(name, problem=str(error))
    except Exception:
        log.exception("the cluster %s could not be asked", name)
        return Answers(name, problem="it could not be asked: the terminal of `understudy dashboard` says why")


def _may_be_up(name: str) -> bool:
    try:
        return open_cluster(load_profile(name)).may_be_up()
    except UnderstudyError:
        return False


def pages_beside(name: str) -> dict[str, str]:
    """Return the addresses of what was started beside a head of this machine: Prometheus, Grafana."""
    try:
        notes = getattr(open_cluster(load_profile(name)), "notes", None)
        held = read_object(notes).get("processes", []) if notes is not None and notes.is_file() else []
    except UnderstudyError:
        return {}
    return {str(item["name"]).capitalize(): str(item["monitor"]) for item in held if item.get("monitor")}
