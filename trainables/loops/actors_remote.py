"""Actors that come to the learner over TCP: the learner's side; `acting_for_learner` is theirs.

Each side proves that it knows the same secret (the standard library's HMAC challenge) before anything is read;
messages are safetensors files, in which nothing can run. Every actor has a thread that reads and one that writes:
weights go out as soon as they are there, the newest alone where an actor is slow.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from understudy.errors import DatasetError, UserError
from understudy.runs.actor_key import actor_key
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.trainables.loops.fragments import Fragment, Header, from_bytes, to_bytes
from understudy.trainables.loops.learner import Published

logger = logging.getLogger("understudy")
WAITING = 16
"""Fragments of an actor that may wait for the learner; one that sends more waits itself."""
RETRY_SECONDS = 0.5
BROKEN = (OSError, EOFError, ValueError)


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of HOST:PORT; UserError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not int(port) < 65536:
        raise UserError(f"actor_address={address!r}: must be HOST:PORT, like 127.0.0.1:50051")
    return host.strip("[]"), int(port)


def common(spec: RunSpec) -> str:
    """Return the fingerprint of what learner and actors must have in common: not where files and machines are."""
    own = {"actor_address": "", "num_actors": 0, **dict.fromkeys(spec.config.local())}
    return with_changes(spec, **own).fingerprint()


class RemoteActors:
    """The learner's side: who has come, what they sent, and the newest weights for them."""

    def __init__(self, spec: RunSpec, facts: Mapping[str, Any], folder: Path) -> None:
        assert isinstance(spec.config, InTheLoop)
        self._spec, self._facts = spec, dict(facts)
        self._count, address = spec.config.actors * len(spec.all_seeds), spec.config.actor_address
        host, port = host_and_port(address)
        try:
            self._server = socket.create_server((host, port))
        except OSError as error:
            raise UserError(f"actor_address={address}: cannot listen there ({error.strerror or error})") from None
        self._key = actor_key(make=True)
        self._fragments = [queue.Queue[Fragment](WAITING) for _ in range(self._count)]
        self._came = threading.Event()
        self._changed = threading.Condition()
        self._weights: list[Published] = []
        self._present: dict[int, Connection] = {}
        self._closing = False
        self.lives = Counter[int]()

    @property
    def address(self) -> str:
        """HOST:PORT that actors come to; a port of 0 was replaced by a free one."""
        host, port = self._server.getsockname()[:2]
        return f"{host}:{port}"

    def start(self, weights: Sequence[Published]) -> None:
        """Let actors come."""
        self._weights = list(weights)
        threading.Thread(target=self._accept, name="understudy-actors", daemon=True).start()
        logger.info("waiting for actors at %s: `understudy actor` with the same words", self.address)

    def publish(self, weights: Sequence[Published]) -> None:
        """Send each its weights, to everyone who is there."""
        with self._changed:
            self._weights = list(weights)
            self._changed.notify_all()

    def poll(self, numbers: Collection[int], seconds: float) -> list[Fragment]:
        """Return what has come of these actors; wait at most so long for the first."""
        deadline = time.monotonic() + seconds
        while True:
            self._came.clear()
            found: list[Fragment] = []
            for number in numbers:
                with contextlib.suppress(queue.Empty):
                    while True:
                        found.append(self._fragments[number].get_nowait())
            if found or not self._came.wait(max(0.0, deadline - time.monotonic())):
                return found

    def close(self) -> None:
        """Tell everyone that training is over."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        deadline = time.monotonic() + 5.0
        while self._present and time.monotonic() < deadline:
            self.poll(range(self._count), 0.0)  # a reader may wait for room
            time.sleep(0.02)
        for connection in list(self._present.values()):
            connection.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                joined, _ = self._server.accept()
            except OSError:
                return
            joined.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(joined.detach())
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: Connection) -> None:
        """Know an actor, give it a number and the weights, and read what it sends."""
        number: int | None = None
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            _, facts, _ = from_bytes(connection.recv_bytes())
            number, refusal = self._numbered(connection, facts)
            if number is None:
                connection.send_bytes(to_bytes("refused", {"why": refusal}, {}))
                return
            connection.send_bytes(to_bytes("welcome", {"actor": number, "facts": self._facts}, {}))
            threading.Thread(target=self._write, args=(connection, number), daemon=True).start()
            self._read(connection, number)
        except (*BROKEN, DatasetError) as error:
            logger.info("an actor is gone (%s)", error or type(error).__name__)
        except Exception as error:  # noqa: BLE001  (AuthenticationError of multiprocessing)
            logger.warning("somebody was refused: %s", error)
        finally:
            with self._changed:
                if number is not None:
                    self._present.pop(number, None)
                self._changed.notify_all()
            connection.close()

    def _numbered(self, connection: Connection, facts: Mapping[str, Any]) -> tuple[int | None, str]:
        """Return the lowest free number, or None and why the actor is refused."""
        if facts.get("fingerprint") != common(self._spec):
            return None, "its settings are not the learner's: give both the same words and files"
        with self._changed:
            free = [number for number in range(self._count) if number not in self._present]
            if not free:
                return None, (
                    f"{self._count} actors are here already; the learner's num_actors says how many may come for a seed"
                )
            self._present[free[0]] = connection
            self.lives[free[0]] += 1
            return free[0], ""

    def _read(self, connection: Connection, number: int) -> None:
        while not self._closing:
            _, facts, arrays = from_bytes(connection.recv_bytes())
            header: dict[str, Any] = {**facts, "actor": number}
            fragment = Fragment(Header(**header), arrays)
            while not self._closing:
                with contextlib.suppress(queue.Full):
                    self._fragments[number].put(fragment, timeout=0.5)
                    self._came.set()
                    break

    def _write(self, connection: Connection, number: int) -> None:
        """Send each version of the weights, the newest alone where this actor is slow, and the end."""
        sent = -1
        try:
            while (weights := self._next(connection, number, sent)) is not None:
                arrays = {"flat": weights.flat, **{f"buffer/{name}": v for name, v in weights.buffers.items()}}
                facts = {"version": weights.version, "steps": weights.steps}
                connection.send_bytes(to_bytes("weights", facts, arrays))
                sent = weights.version
            if self._closing:
                connection.send_bytes(to_bytes("finished", {}, {}))
        except BROKEN:
            return

    def _next(self, connection: Connection, number: int, sent: int) -> Published | None:
        """Wait for weights of another version than `sent`; None at the end, and when the actor is gone."""

        def due() -> bool:
            return self._closing or self._present.get(number) is not connection or self._newest(number).version != sent

        with self._changed:
            self._changed.wait_for(due)
            gone = self._closing or self._present.get(number) is not connection
            return None if gone else self._newest(number)

    def _newest(self, number: int) -> Published:
        return self._weights[number % len(self._weights)]
