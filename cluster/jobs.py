"""What every kind of cluster can do with jobs, and what is shown of one."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from understudy.cluster.job import Job
from understudy.cluster.profile import Profile
from understudy.errors import UnknownName, did_you_mean
from understudy.registry import cluster_kinds
from understudy.runs.directory import RunDir

T = TypeVar("T")
GOING = ("PENDING", "RUNNING", "SUSPENDED")


@dataclass(frozen=True)
class JobState:
    """One job as its cluster sees it; times are unix seconds, 0 where unknown."""

    id: str
    status: str
    started: float = 0.0
    ended: float = 0.0
    message: str = ""
    job: Job | None = None
    """None where the job was not submitted by this version of understudy."""

    @property
    def going(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in GOING


def lost_job(job: Job) -> JobState:
    """Return the state of a job that its cluster no longer knows, as the job's folder tells it."""
    state = RunDir(job.folder).state()
    ended = {"finished": "FINISHED", "failed": "FAILED"}
    return JobState(job.id, ended.get(state.get("status", ""), "UNKNOWN"), job=job)


def pick(held: Mapping[str, T], job_id: str, where: str) -> T:
    """Return what a cluster holds under a job's id; UnknownName with the nearest id."""
    if job_id not in held:
        raise UnknownName(f"{where} has no job {job_id!r}{did_you_mean(job_id, held)}")
    return held[job_id]


class Cluster(abc.ABC):
    """One profile's cluster. Every method raises UserError or UnderstudyError with one line."""

    profile_type: ClassVar[type[Profile]] = Profile
    """The profile's class: a kind with keys of its own has a subclass of Profile."""
    on_this_machine: ClassVar[bool] = False
    """Whether its nodes are this machine, so that every folder here is shared."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def may_be_up(self) -> bool:
        """Return whether its head may answer, by this machine's notes: what pages ask without being told to."""
        return False

    @abc.abstractmethod
    def render(self) -> dict[str, str]:
        """Return the files that this cluster is made from, by name."""

    @abc.abstractmethod
    def up(self) -> list[str]:
        """Bring it up; return what to tell the user."""

    @abc.abstractmethod
    def status(self) -> list[str]:
        """Return what it is doing."""

    @abc.abstractmethod
    def down(self) -> list[str]:
        """Take it down."""

    @abc.abstractmethod
    def submit(self, job: Job, code: Path) -> dict[str, str]:
        """Start a job with the code staged in that folder; return links by name."""

    @abc.abstractmethod
    def jobs(self) -> list[JobState]:
        """Return its jobs, oldest first."""

    @abc.abstractmethod
    def find(self, job_id: str) -> JobState:
        """Return one job; UnknownName with the nearest id."""

    @abc.abstractmethod
    def logs(self, job_id: str, follow: bool) -> Iterator[str]:
        """Yield a job's output; with `follow`, as it comes, until the job ends."""

    @abc.abstractmethod
    def stop(self, job_id: str) -> str:
        """Stop a job; return what became of it."""


def open_cluster(profile: Profile) -> Cluster:
    """Return the cluster that a profile describes; nothing is asked of it yet."""
    return cluster_kinds.get(profile.kind)(profile)
