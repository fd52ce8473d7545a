"""Find a job that ended or was lost, and make the one that goes on with its folder, maybe with more to do."""

from __future__ import annotations

import re
from collections.abc import Sequence

from understudy.cluster.job import Job, More, remembered
from understudy.cluster.jobs import Cluster
from understudy.cluster.profile import Profile
from understudy.errors import UnknownName, UserError, did_you_mean
from understudy.runs.directory import RunDir


def find_job(profile: Profile, cluster: Cluster, job_id: str) -> Job:
    """Return an ended job's description, from the cluster or, where its head was lost, from this machine's notes."""
    held = {item.id: item for item in cluster.jobs()}
    noted = remembered(profile)
    state = held.get(job_id)
    if state is not None and state.going:
        raise UserError(f"{job_id} is {state.status.lower()}: `understudy jobs stop {job_id}` ends it first")
    job = (state.job if state else None) or noted.get(job_id)
    if job is None:
        raise UnknownName(f"{profile.name} has no job {job_id!r}{did_you_mean(job_id, {*held, *noted})}")
    _refuse_second(job, held)
    return job


def _refuse_second(job: Job, held: dict) -> None:
    """Raise UserError when another job is at work in the same folder."""
    for state in held.values():
        if state.going and state.job is not None and state.job.folder == job.folder:
            raise UserError(f"{state.id} is at work in {job.folder} already: follow that one, or stop it first")


def next_job(profile: Profile, cluster: Cluster, old: Job, more: More, code: str, plugins: Sequence[str]) -> Job:
    """Return the job that goes on with `old`'s folder, its id ending in the first free -r1, -r2, ..."""
    first = re.sub(r"-r\d+$", "", old.id)
    taken = {*(item.id for item in cluster.jobs()), *remembered(profile)}
    number = next(number for number in range(1, 10_000) if f"{first}-r{number}" not in taken)
    changes = {"id": f"{first}-r{number}", "more": more, "code": code, "plugins": tuple(plugins)}
    return old.model_copy(update=changes)


def still_to_add(job: Job) -> More:
    """Return what the job still has to add to its folder: nothing, if an earlier start of its driver added it."""
    if job.more == More():
        return job.more
    folder = RunDir(job.folder)
    held = folder.state().get("added_by", [])
    if job.id in held:
        return More()
    folder.update_state(added_by=[*held, job.id])
    return job.more
