"""Slurm: each job is one sbatch script that starts a Ray of its own on the nodes it gets, and runs the driver there.

A requeued job runs the same script: the driver finds the job's folder and goes on.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from understudy.cluster.job import FILE, Job, read_job
from understudy.cluster.jobs import GOING, Cluster, JobState, pick
from understudy.cluster.slurm_script import LOG, script
from understudy.cluster.tools import call, check_secrets, need
from understudy.errors import Preempted, UnderstudyError, UserError
from understudy.registry import cluster_kinds
from understudy.runs.directory import RunDir

logger = logging.getLogger("understudy")
SCRIPT, NUMBER = "job.sbatch", "slurm_id"
KEPT = ("HOME", "USER", "PATH", "LANG")
"""Variables that the job takes from the submitting shell, beside its secrets."""
STATES = {
    "COMPLETED": "FINISHED",
    "RUNNING": "RUNNING",
    "COMPLETING": "RUNNING",
    "PENDING": "PENDING",
    "CONFIGURING": "PENDING",
    "REQUEUED": "PENDING",
    "SUSPENDED": "SUSPENDED",
    "CANCELLED": "STOPPED",
}
PREEMPTED = (f"{Preempted.exit_code}:0", "0:15")
"""Exit codes, as Slurm shows them, of a driver or a script that SIGTERM ended in good order."""


@cluster_kinds.register("slurm")
class SlurmCluster(Cluster):
    """The jobs of one profile; their files are on the shared storage."""

    @property
    def folder(self) -> Path:
        """The folder of the jobs' folders, which hold script, code, token and output."""
        self.profile.require(storage__path="a folder that the login node and all compute nodes have")
        return Path(self.profile.storage.path) / "jobs"

    def render(self) -> dict[str, str]:
        """Return the script as `submit` would write it."""
        example = Job(
            id="example", kind="sweep", folder=f"{self.profile.storage.path}/runs/example", spec={}, code="0" * 16
        )
        return {SCRIPT: script(self.profile, example, self.folder / example.id)}

    # ---- sbatch and its relatives ----

    def up(self) -> list[str]:
        """Refuse: each job brings its own cluster."""
        raise UserError(
            f"{self.profile.name} is Slurm: nothing to bring up, `understudy submit` starts a Ray for each job"
        )

    def down(self) -> list[str]:
        """Refuse: `jobs stop` ends a job and its Ray."""
        raise UserError(
            f"{self.profile.name} is Slurm: nothing to take down, `understudy jobs stop JOB` ends a job's Ray"
        )

    def status(self) -> list[str]:
        """Return the user's queue."""
        need("squeue", f"profile {self.profile.name} is Slurm")
        return call(["squeue", "--me", "--format=%i %j %T %M %D %R"]).strip().splitlines()

    def submit(self, job: Job, code: Path) -> dict[str, str]:
        """Write the job's folder on the shared storage and hand its script to sbatch."""
        need("sbatch", f"profile {self.profile.name} is Slurm: submit from a login node")
        check_secrets(self.profile.secrets)
        folder = self.folder / job.id
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{folder} is there already: give another --name, or resume that job") from None
        except OSError as error:
            raise UserError(f"cannot write {folder} ({error.strerror}): submit where storage.path is mounted") from None
        shutil.copytree(code, folder / "code")
        job.write(folder)
        (folder / SCRIPT).write_text(script(self.profile, job, folder), encoding="utf-8")
        kept = ",".join([*KEPT, *self.profile.secrets])
        number = call(["sbatch", "--parsable", f"--export={kept}", str(folder / SCRIPT)]).strip().split(";")[0]
        (folder / NUMBER).write_text(number, encoding="ascii")
        return {"slurm": f"job {number}", "output": str(folder / LOG)}

    def jobs(self) -> list[JobState]:
        """Return the jobs whose folders are on the shared storage, oldest first."""
        places = sorted(self.folder.glob(f"*/{NUMBER}"), key=lambda path: path.stat().st_mtime)
        found = []
        for path in places:
            try:
                found.append(self._state(path.parent, path.read_text().strip()))
            except (UserError, OSError, UnicodeDecodeError) as error:
                logger.warning("left out: %s", error)  # one bad file is none of the others' business
        return found

    def _state(self, folder: Path, number: str) -> JobState:
        job = read_job(folder / FILE)
        status, ended = _asked(number)
        if status == "UNKNOWN" and RunDir(job.folder).state().get("status") == "finished":
            status = "FINISHED"
        return JobState(
            id=folder.name,
            status=status,
            started=(folder / NUMBER).stat().st_mtime,
            ended=ended,
            message=f"Slurm job {number}; output: {folder / LOG}",
            job=job,
        )

    def find(self, job_id: str) -> JobState:
        """Return one job; UnknownName with the nearest id."""
        path = pick({path.parent.name: path for path in self.folder.glob(f"*/{NUMBER}")}, job_id, str(self.folder))
        return self._state(path.parent, path.read_text().strip())

    def logs(self, job_id: str, follow: bool) -> Iterator[str]:
        """Yield what the job has written so far; with `follow`, what it writes until it ends."""
        state, path = self.find(job_id), self.folder / job_id / LOG
        place = 0
        while True:
            if path.is_file():
                with open(path, encoding="utf-8", errors="replace") as file:
                    file.seek(place)
                    text, place = file.read(), file.tell()
                if text:
                    yield text
            if not follow or not state.going:
                return
            time.sleep(1.0)
            state = self.find(job_id)

    def stop(self, job_id: str) -> str:
        """Have the driver write its checkpoints and end; a job that has not begun is cancelled."""
        state, number = self.find(job_id), (self.folder / job_id / NUMBER).read_text().strip()
        if not state.going:
            return f"{job_id} has ended already ({state.status.lower()})"
        if state.status != "RUNNING":
            call(["scancel", number])
            return f"{job_id} is being cancelled; `understudy jobs resume {job_id}` goes on with it"
        call(["scancel", "--batch", "--signal=TERM", number])  # the script hands it on to the driver alone
        return (
            f"{job_id} is being stopped (`scancel {number}` kills it);"
            f" `understudy jobs resume {job_id}` goes on with it"
        )


def _asked(number: str) -> tuple[str, float]:
    """Return a job's state and when it ended: from the queue, else the accounting; UNKNOWN where both forgot it."""
    need("scontrol", "the profile is Slurm")
    try:
        words = call(["scontrol", "show", "job", "--oneliner", number]).split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        state, end, code = (fields.get(key, "") for key in ("JobState", "EndTime", "ExitCode"))
    except UnderstudyError:
        words = ["sacct", "--jobs", number, "--allocations", "--noheader", "--parsable2", "--format=State,End,ExitCode"]
        try:
            line = call(words).strip().splitlines()[0] if shutil.which("sacct") else ""
        except (UnderstudyError, IndexError):  # no accounting here, or it knows no such job
            line = ""
        state, end, code = (*line.split("|"), "", "")[:3]
    if not state:
        return "UNKNOWN", 0.0
    status = STATES.get(state.split()[0].rstrip("+"), "STOPPED" if code in PREEMPTED else "FAILED")
    return status, 0.0 if status in GOING else _seconds(end)


def _seconds(moment: str) -> float:
    try:
        return time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
