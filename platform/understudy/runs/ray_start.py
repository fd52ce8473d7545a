"""Start or reach Ray. With `on_ray` the only place of `runs` that knows ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from understudy import errors
from understudy.errors import UserError
from understudy.files import check_room
from understudy.runs import ray_processes
from understudy.runs.ray_token import ensure_token
from understudy.runs.stop import kept_handlers, noted_at_start, stopped_at_start

CONNECT_SECONDS = 40.0
"""The longest that a Ray at $RAY_ADDRESS may take to answer."""
INSTEAD = "or unset RAY_ADDRESS and a Ray is started on this machine"
PROBE = """
import logging, sys, ray
try:
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
except BaseException as error:
    print(type(error).__name__, error, sep=": ")
    sys.exit(1)
"""
"""Joins the Ray at $RAY_ADDRESS and leaves it again."""
UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
"""What Ray's Node would start on the one node of a Ray of our own, and nobody would ask: the autoscaler's monitor, the
log monitor, the dashboard's server without a dashboard. They are 0.3 GB and three seconds of a CPU."""
SOCKET_BYTES = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""What Ray adds to its folder for a socket's path."""
NO_IDLE_WORKERS = {"RAY_prestart_worker_first_driver": "0"}
"""Ray would start an idle worker a CPU beforehand, of which trials, Ray Train's workers and actors use none; this
stops a node that is started with it."""
START_TRIES = 3
RAY_BYTES = 16 << 20
"""What Ray's own files need at least: with less it waits for half a minute for one that it cannot write."""


class _Ray(Protocol):
    """What is used of the module ray where its own functions have types in part only."""

    def init(self, **settings: Any) -> object:
        """Join a Ray, or start one."""
        ...

    def get(self, task: Any, /, *, timeout: float | None = None) -> Any:
        """Return what a task gives."""
        ...

    def cluster_resources(self) -> Mapping[str, float]:
        """Return what the cluster has of each resource."""
        ...

    def shutdown(self) -> None:
        """Leave Ray."""
        ...


def _ray() -> _Ray:
    import ray

    return ray


def start_ray(cpus: int | None = None) -> None:
    """Connect to $RAY_ADDRESS, or start a Ray of our own on this machine, quietly; nothing when already connected.

    UserError, in CONNECT_SECONDS at most, where no Ray of this version that takes our token answers at the address.
    """
    import ray

    if ray.is_initialized():
        _watch()
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for key, value in NO_IDLE_WORKERS.items():
        os.environ.setdefault(key, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "local"):
        alone = _is_alone(address)
        _check_address(address, alone)
        _init(f"no Ray answers at RAY_ADDRESS={address}", alone, **quiet)
        return
    folder = temp_folder()
    check_room(Path(folder), RAY_BYTES, "Ray's files (RAY_TMPDIR moves them)")
    ensure_token()
    # "local": without an address Ray would join whatever cluster was last started on this machine, or wait for it.
    _init(
        f"Ray cannot be started on this machine (its files are in {folder}, RAY_TMPDIR moves them)",
        alone=True,
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        _temp_dir=folder,
        **quiet,
    )


def _watch() -> None:
    import ray

    context: Any = ray.get_runtime_context()
    ray_processes.watch(str(context.gcs_address))


def _init(failure: str, alone: bool, **settings: Any) -> None:
    """Call ray.init; whatever it raises becomes one line that begins with `failure`. `alone`: the node is 127.0.0.1.

    Ray gives a node 30 s to start, which is too little on a busy machine: it is tried again.
    """
    from ray._private import worker

    # As Ray's debugger does: a raylet that dies would have us print its log.
    worker._worker_logs_enabled = False  # pyright: ignore[reportPrivateUsage]
    with noted_at_start() as poll:
        for left in reversed(range(START_TRIES)):
            try:
                with kept_handlers(), ray_processes.ended_unless_whole(), _in_our_way(alone):
                    _ray().init(**settings)
                    _watch()
                    poll()
                return
            except SystemExit:  # Ray's own answer to SIGTERM
                raise stopped_at_start(signal.SIGTERM.name) from None
            except errors.Stopped:
                raise
            except Exception as error:
                poll()
                if left and "timed out during startup" in str(error):
                    continue
                raise UserError(f"{failure}: {_one_line(f'{type(error).__name__}: {error}')}") from error


@contextmanager
def _in_our_way(alone: bool) -> Generator[None]:
    """Have Ray start what is used of it only, and each process as the leader of a session of its own.

    A signal to our process group must not end them before us: the trials and workers write checkpoints then. Linux ends
    these processes with the one that started them. With `alone` the node is 127.0.0.1, as elsewhere than on Linux: Ray
    binds all its ports to that, `/metrics` too, which asks for no token.
    """
    from ray._private import ray_constants, services
    from ray._private.node import Node

    constants: Any = ray_constants
    plain, joined = services.ConsolePopen, constants.ENABLE_RAY_CLUSTER
    kept: dict[str, Any] = {name: getattr(Node, name) for name in UNUSED if hasattr(Node, name)}

    class InSession(plain):
        def __init__(self, *words: Any, **settings: Any) -> None:
            super().__init__(*words, start_new_session=True, **settings)

    def start_nothing(node: Any, **_settings: Any) -> None:
        node._webui_url = ""

    services.ConsolePopen = InSession
    constants.ENABLE_RAY_CLUSTER = joined and not alone
    for name in kept:
        setattr(Node, name, start_nothing)
    try:
        yield
    finally:
        services.ConsolePopen, constants.ENABLE_RAY_CLUSTER = plain, joined
        for name, method in kept.items():
            setattr(Node, name, method)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _is_alone(address: str) -> bool:
    """Return whether the head at an address of this machine answers on 127.0.0.1 only, as `cluster up local` has it.

    Ray would take 127.0.0.1 for the machine's own address.
    """
    from ray._private import services

    theirs: Any = services
    if address == "auto":
        with suppress(ConnectionError):
            address = str(theirs.get_ray_address_from_environment(address, None))
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdecimal():
        return False
    try:
        socket.create_connection((theirs.get_node_ip_address(), int(port)), timeout=CONNECT_SECONDS / 4).close()
    except (OSError, OverflowError):
        return True
    return False


def _check_address(address: str, alone: bool) -> None:
    """Raise UserError unless a Ray that we may use answers at $RAY_ADDRESS.

    ray.init would try a dead address for minutes, and ends the process where the GCS refuses it: so a process of its
    own tries it first.
    """
    wrong = f"RAY_ADDRESS={address}"
    if address != "auto":
        host, port = _host_and_port(address)
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS / 4).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"no Ray answers at {wrong} ({reason}): correct it, {INSTEAD}") from None
    environment = {**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "2"}  # of the GCS, in fact
    environment.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)  # the try is no part of a submitted job
    if alone:
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=CONNECT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"what is at {wrong} gave no answer as Ray's GCS in {CONNECT_SECONDS:g} s: correct it, {INSTEAD}"
        ) from None
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if "Unauthenticated" in said or "AuthenticationError" in said:
        raise UserError(
            f"the Ray at {wrong} refuses our token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that"
            f" its head was started with; {INSTEAD.removeprefix('or ')}"
        )
    if address == "auto" and "Could not find any running Ray" in said:
        raise UserError(f"{wrong}: no Ray runs on this machine: `ray start --head` starts one, {INSTEAD}")
    lines = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()] or ["it said nothing"]
    raise UserError(f"cannot join the Ray at {wrong}: {_one_line(' '.join(lines))}")


def _host_and_port(address: str) -> tuple[str, int]:
    """Return where $RAY_ADDRESS points; UserError when it is no HOST:PORT."""
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address}: Ray Client holds no training; start understudy on a node of the cluster with"
            " RAY_ADDRESS=HOST:6379, or send it there with `understudy submit`"
        )
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"RAY_ADDRESS={address}: must be HOST:PORT of a head, like 10.0.0.1:6379, auto or local")
    return host, int(port)


def temp_folder() -> str:
    """Return the folder of Ray's files: below $RAY_TMPDIR or $TMPDIR, or below /tmp where its sockets do not fit there.

    Batch systems make long ones; the path of a socket has 107 bytes at most (103 on macOS).
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    chosen = os.path.join(os.path.abspath(folder), "ray")
    room = (103 if sys.platform == "darwin" else 107) - SOCKET_BYTES
    if len(os.fsencode(chosen)) <= room:
        return chosen
    if os.environ.get("RAY_TMPDIR") or not os.access("/tmp", os.W_OK):
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        raise UserError(
            f"{name}={folder} is too long a path for Ray's sockets ({room - len('/ray')} bytes at most):"
            " set RAY_TMPDIR to a short one"
        )
    return "/tmp/ray"


def cluster_resources() -> Mapping[str, float]:
    """Return what the Ray that this process is connected to has of each resource."""
    return _ray().cluster_resources()


def ray_round_trip() -> float:
    """Start a Ray of one CPU, run one task on it, stop it; return the seconds it took."""
    import ray

    started = time.monotonic()
    start_ray(cpus=1)
    try:
        _ray().get(ray.remote(lambda: os.getpid()).remote(), timeout=120)
    finally:
        _ray().shutdown()
    return time.monotonic() - started
