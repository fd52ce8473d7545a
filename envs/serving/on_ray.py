"""Serve a policy on Ray Serve: replicas on a cluster's nodes, each a server of its own with its own clients.

The one place here that knows ray. A WebSocket stays with the replica that it came to, and so does its episode; an HTTP
session would not, so that with several replicas each HTTP request is an episode of its own.
"""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from understudy.envs.serving.running import check_address
from understudy.envs.serving.settings import LOCAL, Settings
from understudy.errors import UnderstudyError, UserError
from understudy.runs.ray_start import start_ray

NAME = "understudy"
STARTS_SECONDS = 600.0


def replica(settings: dict[str, Any]) -> Any:
    """Return the application of one replica, which loads the policy."""
    from understudy.envs.serving.app import PolicyServer

    told = Settings(**settings)
    policy, member = told.load()
    return PolicyServer(policy, member, told).app()


def serve(settings: Settings, replicas: int, cpus: float, gpus: float, say: Callable[[str], None], place: str) -> None:
    """Run the replicas on the Ray at $RAY_ADDRESS, or one of our own, and answer at this address until Ctrl-C."""
    if importlib.util.find_spec("grpc_reflection") is None:
        raise UserError("--cluster needs Ray Serve: pip install 'understudy-learn[deploy]'")
    check_address(settings).close()
    settings.load()  # what is wrong with the model or its settings is said here
    start_ray()
    from ray import serve as ray_serve

    api: Any = ray_serve
    told = {**replace(settings, http_sessions=replicas == 1).__dict__}
    api.start(proxy_location="HeadOnly", http_options={"host": settings.host, "port": settings.port})

    def build() -> Any:
        return replica(told)

    deployment = api.deployment(
        name="policy",
        num_replicas=replicas,
        max_ongoing_requests=settings.max_clients,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )(api.ingress(build)())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        api.run(deployment.bind(), name=NAME, route_prefix="/", blocking=False)
        _wait(api, stopped)
        say(f"{settings.model}: {replicas} replica{'s' if replicas > 1 else ''} on Ray Serve")
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        token = f"token: {place}" if settings.token else "no token"
        say(f"http://{shown}:{settings.port}, ws://{shown}:{settings.port}; {token}; Ctrl-C ends it")
        if settings.host not in LOCAL:
            say("what is sent is not encrypted: keep it to a network of your own, or put TLS in front of it")
        stopped.wait()
    finally:
        api.shutdown()


def _wait(api: Any, stopped: threading.Event) -> None:
    """Return when the replicas run, or are to be ended; UnderstudyError with what Ray says where they do not start."""
    begun = time.monotonic()
    while not stopped.is_set():
        application = api.status().applications[NAME]
        state = str(getattr(application.status, "value", application.status))
        if state == "RUNNING":
            return
        if state in ("DEPLOY_FAILED", "UNHEALTHY") or time.monotonic() - begun > STARTS_SECONDS:
            line = " ".join(str(application.message).split())[:400]
            raise UnderstudyError(f"the replicas do not start ({state.lower()}): {line}")
        time.sleep(0.5)
