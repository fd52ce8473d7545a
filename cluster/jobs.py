"""What every kind of cluster can do with jobs, and what is shown of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from understudy.cluster.job import Job
from understudy.errors import UnknownName, did_you_mean

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
    """None where the job was not submitted by an understudy like this one."""

    @property
    def going(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in GOING


def pick(held: Mapping[str, T], job_id: str, where: str) -> T:
    """Return what a cluster holds under a job's id; UnknownName with the nearest id."""
    if job_id not in held:
        raise UnknownName(f"{where} has no job {job_id!r}{did_you_mean(job_id, held)}")
    return held[job_id]


class Cluster(Protocol):
    """One profile's cluster. Every method raises UserError or UnderstudyError with one line."""

    def render(self) -> dict[str, str]:
        """Return the files that this cluster is made from, by name."""
        ...

    def up(self) -> list[str]:
        """Bring it up; return what to tell the user."""
        ...

    def status(self) -> list[str]:
        """Return what it is doing."""
        ...

    def down(self) -> list[str]:
        """Take it down."""
        ...

    def submit(self, job: Job, code: Path) -> dict[str, str]:
        """Start a job with the code staged in that folder; return links by name."""
        ...

    def jobs(self) -> list[JobState]:
        """Return its jobs, oldest first."""
        ...

    def find(self, job_id: str) -> JobState:
        """Return one job; UnknownName with the nearest id."""
        ...

    def logs(self, job_id: str, follow: bool) -> Iterator[str]:
        """Yield a job's output; with `follow`, as it comes, until the job ends."""
        ...

    def stop(self, job_id: str) -> str:
        """Stop a job; return what became of it."""
        ...
