"""Acting for a learner over TCP: what `understudy actor` does, in other terminals and on other machines.

Messages and the proof of the secret are those of `actors_remote`, the learner's side.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import numpy as np

from understudy.errors import DatasetError, UnderstudyError, UserError
from understudy.runs.actor_key import actor_key
from understudy.runs.stop import check_signals
from understudy.spec.run import RunSpec
from understudy.trainables.loops.actor import Actor
from understudy.trainables.loops.actors_remote import BROKEN, common, host_and_port
from understudy.trainables.loops.fragments import Fragment, from_bytes, to_bytes

RETRY_SECONDS = 0.5


class _Learner:
    """The actor's side of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.newest: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None
        self.finished = self.gone = False
        self._came = threading.Event()

    def listen(self) -> None:
        """Read in a thread of its own, for as long as the learner is there."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                kind, facts, arrays = from_bytes(self._connection.recv_bytes())
                if kind == "finished":
                    self.finished = True
                    break
                self.newest = (facts, arrays)
                self._came.set()
        except (*BROKEN, DatasetError):
            self.gone = True
        self._came.set()

    def first_weights(self) -> None:
        """Wait for the first weights, or the end."""
        while not self._came.wait(0.2):
            check_signals()

    def send(self, fragment: Fragment) -> None:
        """Send a fragment; waits where the learner is behind."""
        try:
            self._connection.send_bytes(to_bytes("fragment", asdict(fragment.header), fragment.arrays))
        except BROKEN:
            self.gone = True


def act_for_learner(
    spec: RunSpec, address: str, *, patience: float, say: Callable[[str], None], poll: Callable[[], None]
) -> int:
    """Act for the learner at HOST:PORT until it has finished; return the steps that were taken.

    A learner that is not there, or goes away, is waited for `patience` seconds; what was open is thrown away then.
    """
    steps = 0
    while True:
        connection, welcome = _join(spec, address, patience, poll)
        learner = _Learner(connection)
        learner.listen()
        learner.first_weights()
        actor = Actor(spec, welcome["actor"], secrets.token_hex(4), welcome["facts"])
        say(f"actor {welcome['actor']} acts for the learner at {address}")
        with actor.oversight():  # a terminal forgets what was typed before
            if actor.player.overseer is not None and actor.player.overseer.control.help():
                say(actor.player.overseer.control.help())
            steps += _act(actor, learner, poll)
        actor.close()
        connection.close()
        if learner.finished:
            return steps
        say("the learner is gone; waiting for it")


def _act(actor: Actor, learner: _Learner, poll: Callable[[], None]) -> int:
    steps, version = 0, -1
    while not (learner.finished or learner.gone):
        poll()
        assert learner.newest is not None
        facts, arrays = learner.newest
        if facts["version"] != version:
            version = facts["version"]
            buffers = {n.removeprefix("buffer/"): v for n, v in arrays.items() if n.startswith("buffer/")}
            actor.load(version, arrays["flat"], buffers, facts["steps"])
        fragment = actor.step()
        steps += 1
        if fragment is not None:
            learner.send(fragment)
    return steps


def _join(spec: RunSpec, address: str, patience: float, poll: Callable[[], None]) -> tuple[Connection, dict[str, Any]]:
    """Return a connection to the learner and its welcome; one that dies during the greeting is waited for, too."""
    place, deadline = host_and_port(address), time.monotonic() + patience
    while True:
        poll()
        try:
            key = actor_key(make=False)
            joined = socket.create_connection(place, timeout=10.0)
        except (OSError, UserError) as error:
            if time.monotonic() > deadline:
                said = error if isinstance(error, UserError) else f"no learner answers at {address} ({error})"
                raise UserError(f"{said}; `understudy learner` with the same words is one") from None
        else:
            try:
                return _greet(joined, key, spec, address)
            except (ConnectionError, EOFError) as error:
                if time.monotonic() > deadline:
                    why = str(error) or type(error).__name__
                    raise UnderstudyError(f"what is at {address} is no learner ({why})") from None
        time.sleep(RETRY_SECONDS)


def _greet(joined: socket.socket, key: bytes, spec: RunSpec, address: str) -> tuple[Connection, dict[str, Any]]:
    """Return the connection and the learner's welcome; ConnectionError or EOFError where the other side is gone."""
    joined.settimeout(None)
    joined.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(joined.detach())
    try:
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        connection.send_bytes(to_bytes("hello", {"fingerprint": common(spec)}, {}))
        kind, facts, _ = from_bytes(connection.recv_bytes())
    except (ConnectionError, EOFError):
        connection.close()
        raise
    except BROKEN as error:
        raise UnderstudyError(f"what is at {address} is no learner ({error or type(error).__name__})") from None
    except Exception as error:  # noqa: BLE001  (AuthenticationError of multiprocessing)
        raise UserError(f"the learner at {address} has another key ({error}): copy its actor.key here") from None
    if kind == "refused":
        raise UserError(f"the learner at {address} refuses this actor: {facts['why']}")
    return connection, facts
