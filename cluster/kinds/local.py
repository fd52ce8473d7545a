"""A cluster on this machine: `ray start --head`, and any more nodes, as processes that are ours and that we end alone.

The job server, Prometheus and Grafana listen on 127.0.0.1, and all of a head without more nodes does; with more nodes
Ray's own ports listen on every interface, and ask for the token. Never `ray stop`: it would end other Rays as well.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from understudy.cluster.job_server import SAVE_SECONDS, JobServer
from understudy.cluster.jobs import Cluster
from understudy.cluster.monitoring import Monitor, prepare
from understudy.cluster.monitoring import environment as pages_of
from understudy.cluster.ports import free_port, one_at_a_time
from understudy.cluster.processes import children_of, noted_process, send_signal, started_at
from understudy.cluster.profile import Nodes, Profile
from understudy.cluster.tokens import environment, find_token, make_token, own_path
from understudy.cluster.tools import RAY, check_secrets
from understudy.errors import UnderstudyError, UserError
from understudy.files import read_object, write_json
from understudy.registry import cluster_kinds
from understudy.runs.ray_start import NO_IDLE_WORKERS
from understudy.runs.stop import STOP_WAIT

HOST = "127.0.0.1"
JOB_SERVER, GCS = 8265, 6379
USUAL = {"gcs": GCS, "dashboard": JOB_SERVER, "client": 10001}
"""The ports of a head that is alone on a machine."""
MONITORS = (9090, 3000)
"""The usual ports of Prometheus and of Grafana."""
START_SECONDS = 90.0
ATTEMPTS = 3
"""Ray gives a node 30 seconds to come up, which a busy machine may not make; and a port that was free may be taken."""
STOP_SECONDS = 15.0
READY_SECONDS = 20.0
"""How long a monitor, and the agent of a head that is up, may take."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What has a node that no other may join be 127.0.0.1 on Linux, as it is elsewhere: Ray binds all ports to its node,
`/metrics` too, which asks for no token."""
FORGOTTEN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
"""Variables of the shell that would tie a new head to another one."""


class _DidNotComeUp(UnderstudyError):
    """What another attempt, with ports that are free then, may do better."""


@cluster_kinds.register("local")
class LocalCluster(JobServer, Cluster):
    """A head on this machine and its notes in the profile's state folder."""

    on_this_machine = True

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.notes = profile.state / "head.json"
        address = self._noted().get("address", f"http://{HOST}:{JOB_SERVER}")
        super().__init__(
            address,
            find_token(profile) if self.notes.is_file() else None,
            python=shlex.quote(sys.executable),
            start_hint=f"start it with `understudy cluster up {profile.name}`",
        )

    @property
    def _client(self) -> Any:
        if not self.notes.is_file():  # another head may be at the usual port
            raise UserError(f"{self.profile.name} is down: {self.start_hint}")
        return super()._client

    def may_be_up(self) -> bool:
        """Return whether `up` was called and `down` was not."""
        return self.notes.is_file()

    def _noted(self) -> dict[str, Any]:
        return read_object(self.notes) if self.notes.is_file() else {}

    def render(self) -> dict[str, str]:
        """Return the commands that `up` starts, as a script."""
        lines = ["#!/usr/bin/env bash", "# What `understudy cluster up` starts, each line as a process of its own."]
        lines += [
            "set -euo pipefail",
            f"export {STOP_WAIT}={SAVE_SECONDS}",
            f"token={shlex.quote(str(own_path(self.profile)))}",
        ]
        lines += ['export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"'] if self._asks() else []
        if self._asks():
            lines.append(
                '[ -s "$token" ] || (umask 077; mkdir -p "$(dirname "$token")";'
                " head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' >\"$token\")"
            )
        lines += [f"export {name}={value}" for name, value in (NO_IDLE_WORKERS | self._alone()).items()]
        lines.append(f"{shlex.join(['ray', *self._head(USUAL)])} &")
        for index, (_, group) in enumerate(self._nodes()):
            lines.append(f"{shlex.join(['ray', *self._node(index, group, f'{HOST}:{GCS}')])} &")
        return {"start.sh": "\n".join([*lines, "wait"]) + "\n"}

    def _asks(self) -> bool:
        return self.profile.authentication == "token"

    def _alone(self) -> dict[str, str]:
        return {} if self._nodes() else ALONE

    def _nodes(self) -> list[tuple[str, Nodes]]:
        return [(name, group) for name, group in self.profile.workers.items() for _ in range(group.count)]

    def _head(self, ports: dict[str, int], temp: str = "") -> list[str]:
        command = ["start", "--head", f"--port={ports['gcs']}", f"--dashboard-host={HOST}", "--block"]
        command += [f"--dashboard-port={ports['dashboard']}", *_agent_port(ports.get("agent"))]
        command += [f"--ray-client-server-port={ports['client']}", "--include-dashboard=true", "--disable-usage-stats"]
        return [*command, *_resources(self.profile.head), *([f"--temp-dir={temp}"] if temp else [])]

    def _node(self, index: int, group: Nodes, gcs: str, temp: str = "", agent: int | None = None) -> list[str]:
        command = ["start", f"--address={gcs}", "--block", "--disable-usage-stats", *_agent_port(agent)]
        command += ["--min-worker-port=0", "--max-worker-port=0"]  # the head's raylet hands out the usual ones
        if sys.platform.startswith("linux"):
            command.append(f"--node-ip-address=127.0.1.{index + 1}")  # an address of its own, like another machine
        return [*command, *_resources(group), *([f"--temp-dir={temp}"] if temp else [])]

    def up(self) -> list[str]:
        """Start the head and the nodes, and wait until the job server answers."""
        with one_at_a_time():
            for left in range(ATTEMPTS - 1, -1, -1):
                try:
                    return self._up()
                except _DidNotComeUp:
                    if not left:
                        raise
            raise AssertionError("the last attempt returns or raises")

    def _up(self) -> list[str]:
        if any(not item.get("monitor") and noted_process(item) for item in self._noted().get("processes", [])):
            return [f"{self.profile.name} is up already: {self.address}"]
        check_secrets(self.profile.secrets)
        if self.notes.is_file():
            self.down()  # what a head that died has left
        env = {key: value for key, value in os.environ.items() if key not in FORGOTTEN}
        if self._asks():
            make_token(own_path(self.profile))
            env |= environment(own_path(self.profile))
        env |= {STOP_WAIT: str(SAVE_SECONDS), "RAY_DASHBOARD_REDACT_RUNTIME_ENV": "1", **self._alone()}
        env = NO_IDLE_WORKERS | env
        temp = tempfile.mkdtemp(prefix="understudy-", dir=_short_temp())  # sockets' paths are at most 107 long
        # Every other Ray here takes the agents' usual port as it starts, and an agent that finds it taken does without.
        ports = {**{name: free_port(port) for name, port in USUAL.items()}, "agent": free_port(0)}
        self.address = f"http://{HOST}:{ports['dashboard']}"
        notes: dict[str, Any] = {"address": self.address, "gcs_port": ports["gcs"], "temp": temp, "processes": []}
        monitors: list[Monitor] = []
        if self.profile.metrics:
            monitors = prepare(self.profile.state, Path(temp, "h"), (free_port(MONITORS[0]), free_port(MONITORS[1])))
            env |= pages_of(monitors)
        try:
            self._start([*RAY, *self._head(ports, f"{temp}/h")], env, "head", notes)
            self._wait(notes, nodes=1)
            self._wait_for_agent(notes, ports["agent"])
            for index, (name, group) in enumerate(self._nodes()):
                command = self._node(index, group, f"{HOST}:{ports['gcs']}", f"{temp}/{index}", free_port(0))
                self._start([*RAY, *command], env, f"{name}-{index}", notes)
            self._wait(notes, nodes=1 + len(self._nodes()))
            beside = [self._start_monitor(monitor, notes) for monitor in monitors]
        except BaseException:
            self.down()
            raise
        return [
            f"{self.profile.name} is up: {self.address}, {1 + len(self._nodes())} nodes",
            f"token: {own_path(self.profile)}" if self._asks() else "no token: everyone on this machine may use it",
            f"logs: {self.profile.state}",
            *beside,
        ]

    def _start_monitor(self, monitor: Monitor, notes: dict[str, Any]) -> str:
        """Start what is installed; return what to tell of it. The cluster is up without it too."""
        if monitor.program is None:
            return monitor.missing()
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
        name = monitor.name.lower()
        self._start(monitor.command, env, name, notes, monitor=monitor.address)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and noted_process(notes["processes"][-1]):
            if _answers(monitor.address + monitor.ready):
                return f"{monitor.name}: {monitor.address}"
            time.sleep(0.2)
        return f"{monitor.name} did not get ready: {_last_line(self.profile.state / f'{name}.log')}"

    def _start(
        self, command: Sequence[str], env: dict[str, str], name: str, notes: dict[str, Any], *, monitor: str = ""
    ) -> None:
        """Start one process that outlives this one, and note it at once."""
        self.profile.state.mkdir(parents=True, exist_ok=True)
        with open(self.profile.state / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )
        started = started_at(psutil.Process(process.pid))
        notes["processes"].append({"name": name, "pid": process.pid, "started": started, "monitor": monitor})
        write_json(self.notes, notes)

    def _wait(self, notes: dict[str, Any], nodes: int) -> None:
        """Wait until the head answers and so many nodes are alive."""
        self.token, self._held = find_token(self.profile), None
        deadline = time.monotonic() + START_SECONDS
        while self._count() < nodes:
            ended = [item["name"] for item in notes["processes"] if noted_process(item) is None]
            if ended or time.monotonic() > deadline:
                name = ended[0] if ended else notes["processes"][-1]["name"]
                what = "ended" if ended else f"did not get ready in {START_SECONDS:g} s"
                log = self.profile.state / f"{name}.log"
                kind = _DidNotComeUp if ended else UnderstudyError
                raise kind(f"{name} {what}: {_last_line(log)} ({log})")
            time.sleep(0.25)

    def _wait_for_agent(self, notes: dict[str, Any], port: int) -> None:
        """Wait until the head's agent, which starts jobs, listens: Ray goes on without where its port was taken."""
        head = noted_process(notes["processes"][0])
        deadline = time.monotonic() + READY_SECONDS
        while head is None or not any(_listens(process, port) for process in children_of(head)):
            if head is None or time.monotonic() > deadline:
                raise _DidNotComeUp(f"the head's agent, which starts jobs, does not listen at its port {port}")
            time.sleep(0.25)

    def _count(self) -> int:
        """Return how many nodes are alive; 0 while the job server does not answer yet."""
        return sum(item.get("raylet", {}).get("state") == "ALIVE" for item in self._summary())

    def _summary(self) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.token.value}"} if self.token else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.address}/nodes?view=summary", headers=headers), timeout=5
            ) as answer:
                return json.load(answer)["data"]["summary"]
        except (OSError, ValueError, KeyError):
            return []

    def _alive(self) -> list[psutil.Process]:
        return [process for item in self._noted().get("processes", []) if (process := noted_process(item))]

    def status(self) -> list[str]:
        """Return the address, and each node's state."""
        noted = self._noted()
        if not noted:
            return [f"{self.profile.name} is down: `understudy cluster up {self.profile.name}` starts it"]
        lines = []
        for item in noted["processes"]:
            process = noted_process(item)
            lines.append(f"{item['name']:10} {f'process {process.pid}' if process else 'DEAD'}")
        return [f"{self.profile.name}: {self.address}, {self._count()} nodes alive", *lines]

    def down(self) -> list[str]:
        """End the processes that `up` started and all that they started, and nothing else."""
        noted = self._noted()
        if not noted:
            return [f"{self.profile.name} is down already"]
        family: dict[int, psutil.Process] = {}
        leaders = self._alive()
        for process in leaders:
            family |= {item.pid: item for item in [process, *children_of(process)]}
        for process in reversed(leaders):
            send_signal(process.terminate)
        psutil.wait_procs(leaders, timeout=STOP_SECONDS)
        _, left = psutil.wait_procs(list(family.values()), timeout=3.0)
        for process in left:
            send_signal(process.kill)
        psutil.wait_procs(left, timeout=STOP_SECONDS)
        shutil.rmtree(noted["temp"], ignore_errors=True)
        self.notes.unlink(missing_ok=True)
        return [f"{self.profile.name} is down: {len(family)} processes ended"]


def _answers(address: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=2).close()
    except OSError:
        return False
    return True


def _agent_port(port: int | None) -> list[str]:
    return [] if port is None else [f"--dashboard-agent-listen-port={port}"]


def _listens(process: psutil.Process, port: int) -> bool:
    """Return whether a process listens at a port; not one that has ended."""
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _resources(nodes: Nodes) -> list[str]:
    words = [f"--num-cpus={nodes.cpus}"] if nodes.cpus else []
    return [*words, *([f"--num-gpus={nodes.gpus}"] if nodes.gpus else [])]


def _short_temp() -> str | None:
    return "/tmp" if Path("/tmp").is_dir() else None


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else "it said nothing"
