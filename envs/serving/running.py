"""Serve a policy in this process until Ctrl-C."""

from __future__ import annotations

import errno
import importlib.util
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from understudy.envs.serving.settings import LOCAL, Settings
from understudy.errors import UserError

GRACE_SECONDS = 3


def check_address(settings: Settings) -> socket.socket:
    """Return a socket that listens at the address; UserError where it cannot, or where everybody would get in."""
    host, port = settings.host, settings.port
    if not settings.token and host not in LOCAL:
        raise UserError(f"--host {host} with --no_token: whoever reaches it would get in; leave out --no_token")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OverflowError:
        raise UserError(f"--port {port}: a port is a number from 1 to 65535") from None
    except OSError as error:
        instead = "give another --port" if error.errno == errno.EADDRINUSE else "give another --host or --port"
        raise UserError(f"--port {port}: cannot listen on {host} ({error.strerror or error}); {instead}") from None


def has_websockets() -> bool:
    """Return whether what WebSockets need is installed."""
    return importlib.util.find_spec("websockets") is not None


def server_of(app: Any, settings: Settings) -> Any:
    """Return uvicorn's server of an application; it ends within GRACE_SECONDS of the first Ctrl-C."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:  # a second Ctrl-C would have what is under way dropped, with a traceback
                super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            ws="auto",
            ws_max_size=settings.max_request,
            ws_per_message_deflate=False,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def serve(settings: Settings, say: Callable[[str], None], token_place: str) -> None:
    """Load the policy, say where it is, and answer until Ctrl-C or SIGTERM."""
    from understudy.envs.serving.app import PolicyServer

    listening = check_address(settings)
    try:
        policy, member = settings.load()
        served = PolicyServer(policy, member, settings)
        said = served.about()
        parts = ", ".join(f"{name} {tuple(shape)}" for name, shape in said["observation"].items())
        parts += ", language (a task's text)" if said.get("language") == "" else ""
        port = listening.getsockname()[1]
        say(
            f"{said['algorithm']} of {said['env_name'] or settings.model}, seed {said['seed']}: {parts} -> chunks of"
            f" {said['chunk_length']} x {said['action_dim']}, {said['executed']} executed"
        )
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        also = f", ws://{shown}:{port}" if has_websockets() else " (pip install websockets: WebSocket too)"
        say(f"http://{shown}:{port}{also}; {f'token: {token_place}' if settings.token else 'no token'}; Ctrl-C ends it")
        if settings.host not in LOCAL:
            say("what is sent is not encrypted: keep it to a network of your own, or put TLS in front of it")
        with suppress(KeyboardInterrupt):  # uvicorn has ended well, and passes it on
            server_of(served.app(), settings).run(sockets=[listening])
        say(f"served {served.batcher.decisions} decisions in {served.batcher.calls} calls of the policy")
    finally:
        listening.close()
