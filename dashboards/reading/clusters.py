"""A cluster as its page shows it, made of what its head said and of the runs that train now. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.cluster.job import LABEL, known_job
from understudy.dashboards.reading.running import Running
from understudy.secrecy import without_secrets

STATUS = {"SUCCEEDED": "complete", "FINISHED": "complete", "PENDING": "waiting", "SUSPENDED": "waiting"}
ROLES = {"ImplicitFunc": "trial", "RayTrainWorker": "worker", "ActorProcess": "actor"}
"""Classes of Ray's actors that trainings are made of, and what they are of a run."""
HIDDEN = ("JobSupervisor", "_Unused", "StatsActor", "_StatsActor")


@dataclass(frozen=True)
class Amount:
    """How much of something is used."""

    used: float
    total: float

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(1.0, max(0.0, self.used / self.total)) if self.total > 0 else 0.0


NONE = Amount(0, 0)


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    busy: float | None
    """Percent."""
    memory: Amount
    """Bytes."""


@dataclass(frozen=True)
class Work:
    """A process of the cluster that trains, or helps to."""

    role: str
    title: str
    run: Running | None
    pid: int
    asks: str
    """What it has of the node, like `1 CPU`."""


@dataclass(frozen=True)
class Node:
    """One machine, or what stands for one."""

    id: str
    host: str
    ip: str
    head: bool
    alive: bool
    why: str
    busy: float
    """Percent of its CPUs that work."""
    cpus: Amount
    """Those that Ray has given out."""
    gpus: Amount
    memory: Amount
    store: Amount
    disk: Amount
    devices: tuple[Device, ...] = ()
    work: tuple[Work, ...] = ()


@dataclass(frozen=True)
class JobRow:
    """A job: one that was submitted, or a process that joined."""

    id: str
    status: str
    what: str
    run: Running | None
    folder: str
    started: float
    ended: float
    message: str
    submitted: bool


@dataclass(frozen=True)
class ClusterView:
    """All that the page shows of a head's answers."""

    nodes: list[Node] = field(default_factory=list[Node])
    waiting: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """What is asked for that no node has free, and how often."""
    jobs: list[JobRow] = field(default_factory=list[JobRow])
    version: str = ""

    @property
    def alive(self) -> list[Node]:
        """The nodes that are there."""
        return [node for node in self.nodes if node.alive]

    def sum(self, name: str) -> Amount:
        """Return an amount of all nodes that are there."""
        amounts = [getattr(node, name) for node in self.alive]
        return Amount(sum(item.used for item in amounts), sum(item.total for item in amounts))


def view_of(said: Mapping[str, Any], running: Iterable[Running]) -> ClusterView:
    """Return what a head's answers say; parts that are not as Ray 2.50 to 2.60 has them are left out."""
    runs = list(running)
    summary = _get(said, "nodes", "data", "summary")
    report = _get(said, "status", "data", "clusterStatus", "loadMetricsReport")
    actors = _get(said, "actors", "data", "actors")
    jobs = _items(said.get("jobs"))
    hosts = {_text(_get(item, "raylet", "nodeId")): _text(item.get("hostname")) for item in _items(summary)}
    work = _work(actors if isinstance(actors, dict) else {}, jobs, hosts, runs)
    logical = _get(said, "nodes", "data", "nodeLogicalResources")
    nodes = [_node(item, report, logical, work) for item in _items(summary)]
    return ClusterView(
        sorted(nodes, key=lambda node: (not node.alive, not node.head, node.host, node.ip)),
        _waiting(report),
        sorted(_jobs(jobs, runs), key=lambda job: job.started, reverse=True),
        _text(_get(said, "version", "ray_version")),
    )


def _node(item: Mapping[str, Any], report: Any, logical: Any, work: Mapping[str, list[Work]]) -> Node:
    raylet = _get(item, "raylet") or {}
    name, memory = _text(_get(raylet, "nodeId")), _floats(item.get("mem"))
    given = _get(report, "usageByNode", name)
    used = _number(_get(raylet, "objectStoreUsedMemory"))
    disk = _get(item, "disk", "/") or {}
    return Node(
        id=name,
        host=_text(item.get("hostname")) or _text(_get(raylet, "nodeManagerHostname")),
        ip=_text(item.get("ip")) or _text(_get(raylet, "nodeManagerAddress")),
        head=bool(_get(raylet, "isHeadNode")),
        alive=_get(raylet, "state") == "ALIVE",
        why=_text(_get(raylet, "stateMessage")),
        busy=_number(item.get("cpu")),
        cpus=_given(given, raylet, _get(logical, name), "CPU"),
        gpus=_given(given, raylet, _get(logical, name), "GPU"),
        memory=Amount(memory[3], memory[0]) if len(memory) == 4 else NONE,
        store=Amount(used, used + _number(_get(raylet, "objectStoreAvailableMemory"))),
        disk=Amount(_number(_get(disk, "used")), _number(_get(disk, "used")) + _number(_get(disk, "free"))),
        devices=tuple(_device(gpu) for gpu in _items(item.get("gpus"))),
        work=tuple(work.get(name, ())),
    )


def _given(usage: Any, raylet: Any, logical: Any, kind: str) -> Amount:
    """Return how much of a resource is given out: by the autoscaler's report, or the line that Ray shows of a node."""
    pair = _floats(_get(usage, kind))
    if len(pair) == 2:
        return Amount(*pair)
    found = re.search(rf"([\d.]+)/([\d.]+) {kind}\b", _text(logical))
    if found:
        return Amount(float(found[1]), float(found[2]))
    return Amount(0, _number(_get(raylet, "resourcesTotal", kind)))


def _device(item: Mapping[str, Any]) -> Device:
    busy, mega = item.get("utilizationGpu"), 2**20
    memory = Amount(_number(item.get("memoryUsed")) * mega, _number(item.get("memoryTotal")) * mega)
    return Device(_text(item.get("name")), _number(busy) if busy is not None else None, memory)


def _work(
    actors: Mapping[str, Any], jobs: list[Mapping[str, Any]], hosts: Mapping[str, str], runs: list[Running]
) -> dict[str, list[Work]]:
    """Return the living actors of each node, with the runs that they train: known by their process, or their driver's.

    A trial's process is its actor's; a run with workers or actors of its own is its driver's.
    """
    drivers = {_text(_get(job, "driver_info", "id")) or _text(job.get("job_id")): job for job in jobs}
    found: dict[str, list[Work]] = {}
    for actor in actors.values():
        if _get(actor, "state") != "ALIVE" or _text(actor.get("className")) in HIDDEN:
            continue
        node, pid = _text(_get(actor, "address", "nodeId")), int(_number(actor.get("pid")))
        kind = _text(actor.get("className"))
        run = _run_of(runs, pid, hosts.get(node, ""))
        if run is None:
            driver = drivers.get(_text(actor.get("jobId")), {})
            run = _run_of(runs, int(_number(_get(driver, "driver_info", "pid"))), "")
        role = ROLES.get(kind, "")
        found.setdefault(node, []).append(Work(role or kind, kind, run, pid, _asked(actor.get("requiredResources"))))
    for items in found.values():
        items.sort(key=lambda item: (item.run is None, item.run.path if item.run else "", item.title, item.pid))
    return found


def _run_of(runs: list[Running], pid: int, host: str) -> Running | None:
    """Return the run of a process, a trial before its sweep; hosts must be the same where both are known."""
    same = [run for run in runs if pid and run.pid == pid and (not host or not run.host or run.host == host)]
    return min(same, key=lambda run: run.kind != "run", default=None)


def _waiting(report: Any) -> list[tuple[str, int]]:
    """Return what is asked for that nothing has free, and how often."""
    found: list[tuple[str, int]] = []
    for item in _pairs(_get(report, "resourceDemand")):
        found.append((_asked(item[0]) or "a process", item[1]))
    for item in _pairs(_get(report, "pgDemand")):
        bundles = [f"{count} x {_asked(bundle) or 'a process'}" for bundle, count in _pairs(_get(item[0], "bundles"))]
        several = len(bundles) > 1 or not bundles or not bundles[0].startswith("1 x ")
        found.append((f"{' + '.join(bundles)} together" if several else bundles[0].removeprefix("1 x "), item[1]))
    return found


def _pairs(value: Any) -> list[tuple[Any, int]]:
    """Return what is listed as [what, how often]."""
    kept = [item for item in value if isinstance(item, list) and len(item) == 2] if isinstance(value, list) else []
    return [(item[0], int(_number(item[1]))) for item in kept]


def _asked(resources: Any) -> str:
    """Return resources in words, like `2 CPU + 1 GPU`; what Ray adds of its own is left out."""
    held = resources.items() if isinstance(resources, Mapping) else ()
    kept = [(str(name), _number(amount)) for name, amount in held]
    return " + ".join(f"{amount:g} {name}" for name, amount in kept if re.fullmatch(r"CPU|GPU|[a-z]{1,12}", name))


def _jobs(jobs: list[Mapping[str, Any]], runs: list[Running]) -> list[JobRow]:
    """Return the jobs, of processes that joined only those that are there: each start of a sweep joins once to try."""
    found = [_job(item, runs) for item in jobs]
    return [job for job in found if job.submitted or job.run is not None or job.status == "running"]


def _job(item: Mapping[str, Any], runs: list[Running]) -> JobRow:
    submitted = bool(item.get("submission_id"))
    job = known_job(_get(item, "metadata", LABEL)) if submitted else None
    run = _run_of(runs, int(_number(_get(item, "driver_info", "pid"))), "")
    status = _text(item.get("status"))
    if job is not None:
        what = f"{job.kind} {job.flat.get('algo', '')} on {job.flat.get('env_name', '')}"
    else:
        what = without_secrets(" ".join(_text(item.get("entrypoint")).split()))[:200]
    said = _text(item.get("message")).strip().splitlines()
    return JobRow(
        id=_text(item.get("submission_id")) or _text(item.get("job_id")),
        status=STATUS.get(status, status.lower()),
        what=what,
        run=run,
        folder=job.folder if job is not None else "",
        started=_number(item.get("start_time")) / 1000,
        ended=_number(item.get("end_time")) / 1000,
        message=without_secrets(said[0]) if said and status == "FAILED" else "",
        submitted=submitted,
    )


def _get(value: Any, *keys: str) -> Any:
    """Return what lies at these keys; None where something else does."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    """Return a number, as itself or written as text, as protocol buffers have large ones; 0 for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if abs(number) < 1e30 else 0.0


def _floats(value: Any) -> list[float]:
    return [_number(item) for item in value] if isinstance(value, list) else []
