"""A job: what is to run, in which folder, with which code. It holds all that the driver in the cluster needs.

The folder's name is fixed when the job is submitted, so a job that is started again (its head was lost, its node was
taken away) finds what it did before and goes on.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.cluster.profile import NAME, Profile
from understudy.errors import SpecError, UserError
from understudy.files import home, write_json
from understudy.registry import cluster_kinds
from understudy.secrecy import holds_secret
from understudy.spec.run import RunSpec
from understudy.sweeping.options import STORAGE_VARIABLE
from understudy.sweeping.sweep_spec import SweepSpec

FILE = "job.json"
LABEL = "understudy.job"
"""The key of a job's description in its cluster's records."""


class More(BaseModel):
    """What a job adds to the sweep or run that it goes on with, as `understudy resume` does."""

    model_config = ConfigDict(frozen=True)

    add_steps: int = 0
    add_trials: int = 0
    retry_failed: bool = False
    change_space: tuple[str, ...] = ()

    def check(self, kind: str) -> None:
        """Raise UserError for what a job of that kind cannot be given."""
        for option, count in (("--add-steps", self.add_steps), ("--add-trials", self.add_trials)):
            if count < 0:
                raise UserError(f"{option} {count}: must be at least 1")
        if kind == "train" and (self.add_trials or self.retry_failed or self.change_space):
            raise UserError("the job is a run: --add-trials, --retry-failed and --change-space are for sweeps")


class Job(BaseModel):
    """One submitted sweep or run. Keys that another version of understudy wrote are left aside."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Literal["sweep", "train"]
    folder: str
    """Folder of the sweep or the run, on the cluster's shared storage."""
    spec: dict[str, Any]
    """A SweepSpec, or a run's flat keys."""
    code: str
    """Hash of the package and the plug-ins."""
    plugins: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Other modules of the user's that are sent along: the one of an environment named `module:Class`."""
    secrets: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    storage_uri: str = ""
    """Where its dataset comes from when the nodes' folder lacks it."""
    more: More = More()

    @property
    def flat(self) -> dict[str, Any]:
        """Flat keys of the run, or of the one that the sweep's trials start from; plug-ins need not be there."""
        return self.spec if self.kind == "train" else self.spec.get("run", {})

    @property
    def variables(self) -> dict[str, str]:
        """What the driver and the trials find in their environment."""
        return {**self.environment, "UNDERSTUDY_PLUGINS": ",".join(self.plugins)}

    def command(self, python: str) -> tuple[str, ...]:
        """Return the driver's command line; it runs in the folder that holds the code and the job's file."""
        return (python, "-m", "understudy", "jobs", "run", FILE)

    def write(self, folder: Path) -> None:
        """Write the job's file."""
        write_json(folder / FILE, self.model_dump(mode="json"))


def read_job(file: Path) -> Job:
    """Read a job back from its file; UserError when there is none, or none of a job."""
    try:
        return Job.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the job {file} ({error.strerror or error})") from None
    except ValidationError as error:
        raise UserError(f"{file} describes no job of this understudy ({error.error_count()} keys differ)") from None


def known_job(text: str | None) -> Job | None:
    """Read a job back from a cluster's records; None for somebody else's, and for one that this version cannot read."""
    try:
        return Job.model_validate_json(text) if text else None
    except ValidationError:
        return None


def default_words(profile: Profile, what: str) -> list[str]:
    """Return the overrides that a profile puts before the user's own: where data, runs, metrics and studies are."""
    words = []
    if profile.storage.path:
        words += [f"save_dir={profile.storage.path}/runs", f"data_dir={profile.storage.path}/datasets"]
    elif cluster_kinds.get(profile.kind).on_this_machine:
        words.append(f"data_dir={home() / 'datasets'}")
    if profile.storage.uri:
        words.append(f"checkpoint_storage={profile.storage.uri.rstrip('/')}/runs")
    uri = profile.mlflow_uri or _told(profile, "MLFLOW_TRACKING_URI")
    study = _told(profile, STORAGE_VARIABLE) if what == "sweep" else ""
    return words + [f"{key}={value}" for key, value in (("tracking_uri", uri), ("study_storage", study)) if value]


def _told(profile: Profile, name: str) -> str:
    """Return a variable of this shell where the job may be told it; with a password in it, it must be a secret."""
    value = os.environ.get(name, "")
    if name in profile.secrets:
        return ""
    if holds_secret(value):
        raise UserError(f"{name} holds a password: list {name} in the profile's secrets")
    return value


def check_folders(spec: RunSpec, profile: Profile) -> None:
    """Raise SpecError for a folder that the cluster's nodes do not share."""
    if cluster_kinds.get(profile.kind).on_this_machine:
        return
    root = profile.storage.path
    profile.require(storage__path="the folder that all nodes share")
    for key, value in spec.paths().items():
        if not Path(value).is_relative_to(root):
            raise SpecError(f"{key}={value} is not on the storage that the cluster's nodes share: put it below {root}")


def make_job(
    spec: RunSpec | SweepSpec,
    profile: Profile,
    name: str,
    code: str,
    plugins: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> Job:
    """Return the job of a validated run or sweep; its id is `name`, or says what it is and when it was submitted."""
    kind: Literal["sweep", "train"] = "sweep" if isinstance(spec, SweepSpec) else "train"
    base = spec.base if isinstance(spec, SweepSpec) else spec
    check_folders(base, profile)
    if name and not re.fullmatch(NAME, name):
        raise SpecError(f"--name {name}: must be lower-case letters, digits and hyphens, at most 40")
    made = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = base.folder / (name or made)
    return Job(
        id=name or made,
        kind=kind,
        folder=str(folder),
        spec=spec.model_dump(mode="json") if isinstance(spec, SweepSpec) else spec.flat(),
        code=code,
        plugins=tuple(plugins),
        modules=tuple(modules),
        secrets=profile.secrets,
        environment=profile.environment,
        storage_uri=profile.storage.uri,
    )


# ---- this machine's notes, for the time when a lost head remembers nothing ----


def remember(profile: Profile, job: Job) -> None:
    """Note a submitted job."""
    write_json(profile.state / "jobs" / f"{job.id}.json", job.model_dump(mode="json"))


def remembered(profile: Profile) -> dict[str, Job]:
    """Return the jobs submitted from here, oldest first."""
    paths = sorted((profile.state / "jobs").glob("*.json"), key=lambda path: path.stat().st_mtime)
    noted = {path.stem: known_job(path.read_text(encoding="utf-8")) for path in paths}
    return {name: job for name, job in noted.items() if job is not None}
