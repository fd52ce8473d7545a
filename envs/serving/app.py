"""The server of a policy: GET / says what it is, POST /act and a WebSocket at / answer observations with chunks.

Only who has the token is answered, and no web page is: a request with an Origin is refused. What a client sends is
checked before the policy sees it, and what is wrong costs that client one line.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from understudy.envs.serving.batching import Batcher
from understudy.envs.serving.sessions import Session, described, ready_made
from understudy.envs.serving.settings import Settings
from understudy.envs.serving.wire import pack, unpack
from understudy.errors import UnderstudyError, UserError
from understudy.policy import Policy

MSGPACK = "application/msgpack"
TRY_AGAIN = 1013


class Refused(Exception):
    """A request that is answered with a status of HTTP and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


@dataclass
class _Kept:
    """An HTTP client's session between two requests."""

    session: Session
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = 0.0


class PolicyServer:
    """One member of a policy and its clients."""

    def __init__(self, policy: Policy, member: int, settings: Settings) -> None:
        self.policy, self.member, self.settings = policy, member, settings
        self.batcher = Batcher(policy, member, settings.noise_seed, most=settings.max_clients)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._sockets = 0
        self._episodes = 0
        ready_made(policy, (1,))

    def app(self) -> Starlette:
        """Return the application."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            self.batcher.close()

        return Starlette(
            routes=[
                Route("/", self._about),
                Route("/healthz", _healthy),
                Route("/act", self._act, methods=["POST"]),
                WebSocketRoute("/", self._socket),
            ],
            exception_handlers={
                Refused: _refused,
                404: _nothing_here,
                405: _nothing_here,
            },
            lifespan=lifespan,
        )

    def about(self) -> dict[str, Any]:
        """Return what the policy is, JSON-able."""
        return described(self.policy, self.member, self.settings.temperature)

    # ---- one request ----

    async def answer(self, session: Session, message: Any) -> dict[str, Any]:
        """Return the reply to one request of a session; UnderstudyError where there is none."""
        acting = session.take(message, self._episodes)
        self._episodes += acting.decisions == 0
        actions, decision = await self.batcher.decide(acting)
        return {
            "actions": np.ascontiguousarray(actions, np.float32),
            "executed": min(self.policy.algorithm.executed, len(actions)),
            "episode": acting.episode,
            "decision": decision,
        }

    def session(self) -> Session:
        """Return a new client's session."""
        return Session(self.policy, self.member, self.settings.temperature, self.settings.noise_seed)

    # ---- HTTP ----

    async def _about(self, request: Request) -> Response:
        self._admit(request.headers)
        return JSONResponse(self.about())

    async def _act(self, request: Request) -> Response:
        self._admit(request.headers)
        body = await self._body(request)
        text = request.headers.get("content-type", MSGPACK).partition(";")[0] == "application/json"
        try:
            message = _of_json(body) if text else unpack(body)
            reply = await self._in_session(message)
        except UnderstudyError as error:
            raise Refused(400 if isinstance(error, UserError) else 500, str(error)) from None
        if text:
            return JSONResponse({**reply, "actions": reply["actions"].tolist()})
        return Response(pack(reply), media_type=MSGPACK)

    async def _in_session(self, message: Any) -> dict[str, Any]:
        """Answer in the request's session; one without a session is an episode of its own."""
        name = message.get("session") if isinstance(message, dict) else None
        if name is None:
            return await self.answer(self.session(), message)
        if not self.settings.http_sessions:
            raise UserError("several replicas answer HTTP here: `session` needs a WebSocket, which stays with one")
        kept = self._kept_session(name, bool(message.get("reset")))
        async with kept.lock:
            reply = await self.answer(kept.session, message)
        kept.used = time.monotonic()
        return reply

    def _kept_session(self, name: Any, begins: bool) -> _Kept:
        if not isinstance(name, str) or not 0 < len(name) <= 64:
            raise UserError("`session` is a name of the client's choice, of at most 64 letters")
        self._forget_idle()
        if name not in self._kept:
            if not begins:
                raise UserError(f"no session {name[:64]!r}: begin it with reset=true; idle ones are forgotten")
            if len(self._kept) + self._sockets >= self.settings.max_clients:
                raise Refused(503, f"{self.settings.max_clients} clients are here already: try again later")
            self._kept[name] = _Kept(self.session())
        kept = self._kept[name]
        kept.used = time.monotonic()
        self._kept.move_to_end(name)
        return kept

    def _forget_idle(self) -> None:
        limit = time.monotonic() - self.settings.idle_seconds
        while self._kept:
            name, kept = next(iter(self._kept.items()))
            if kept.used >= limit or kept.lock.locked():
                return
            del self._kept[name]

    async def _body(self, request: Request) -> bytes:
        most = self.settings.max_request
        told = request.headers.get("content-length", "0")
        parts, size = [], int(told) if told.isdigit() else 0
        if size <= most:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > most:
                    break
                parts.append(part)
        if size > most:
            raise Refused(413, f"a request of {size} bytes: at most {most} are taken (--max-request)")
        return b"".join(parts)

    # ---- WebSocket ----

    async def _socket(self, socket: WebSocket) -> None:
        try:
            self._admit(socket.headers)
        except Refused:
            await socket.close()  # before it is accepted: the client sees HTTP's 403
            return
        await socket.accept()
        if len(self._kept) + self._sockets >= self.settings.max_clients:
            await socket.close(TRY_AGAIN, f"{self.settings.max_clients} clients are here already")
            return
        self._sockets += 1
        try:
            await socket.send_bytes(pack(self.about()))
            await self._talk(socket)
        except WebSocketDisconnect:
            pass
        finally:
            self._sockets -= 1

    async def _talk(self, socket: WebSocket) -> None:
        """Answer one client's messages until it leaves; what is wrong with one is a text."""
        session = self.session()
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            try:
                if data is None:
                    raise UserError("a request is a binary message: a map in msgpack")
                if len(data) > self.settings.max_request:
                    raise UserError(f"a request of {len(data)} bytes: at most {self.settings.max_request} are taken")
                reply = pack(await self.answer(session, unpack(data)))
            except UnderstudyError as error:
                await socket.send_text(str(error))
            else:
                await socket.send_bytes(reply)

    # ---- who gets in ----

    def _admit(self, headers: Headers) -> None:
        """Raise Refused unless the request has the token and comes from no web page."""
        if "origin" in headers:
            raise Refused(403, "web pages are not answered")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        wanted = self.settings.token
        if wanted and not (
            scheme.lower() in ("bearer", "api-key") and hmac.compare_digest(given.strip().encode(), wanted.encode())
        ):
            raise Refused(401, "the header Authorization: Bearer TOKEN is missing or has another token")


def _of_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("the message is no JSON") from None


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status)


async def _nothing_here(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "GET / says what is served, POST /act asks it"}, getattr(error, "status_code", 404))
