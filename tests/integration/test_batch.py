"""A batch job on a real Ray of two nodes: what Slurm would do is done by stand-ins for its programs.

The script is the one that Slurm would get. It is told to stop as a scheduler tells it, and resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.commands import run
from tests.integration.test_submit import (
    LONG,
    PACKAGE,
    PLUGIN,
    SECRET,
    SWEEP,
    assert_went_on,
    command_lines,
    saved,
    texts,
    training,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SLURM = {
    "sbatch": """
for word in "$@"; do case "$word" in --export=*) kept=${word#--export=};; *.sbatch) script=$word;; esac; done
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
number=$((@NUMBER@ + $(ls @FOLDER@/started | wc -l))); touch @FOLDER@/started/$number
set --
for name in $(echo "$kept" | tr , ' '); do eval "value=\\${$name}"; set -- "$@" "$name=$value"; done
(env -i "$@" SLURM_JOB_ID=$number SLURM_JOB_NODELIST="$(hostname)" bash "$script" >"$output" 2>&1 &
 echo $! >@FOLDER@/started/$number
 wait $!
 echo $? >@FOLDER@/ended-$number) </dev/null >/dev/null 2>&1 &
echo $number
""",
    "scontrol": """
if [ "$2" = hostnames ]; then hostname; exit; fi
state=RUNNING; code=0
[ -e @FOLDER@/ended-$4 ] && { code=$(cat @FOLDER@/ended-$4); [ $code = 0 ] && state=COMPLETED || state=FAILED; }
echo "JobId=$4 JobState=$state ExitCode=$code:0 EndTime=2026-01-02T03:04:05"
""",
    "scancel": '[ "$1 $2" = "--batch --signal=TERM" ] && kill -TERM "$(cat @FOLDER@/started/$3)"\n',
    "srun": 'while case "$1" in --*) true;; *) false;; esac; do shift; done\nexec "$@"\n',
}
"""Stand-ins for Slurm on one machine: sbatch runs the script with what it was told to take, srun runs its command."""


@dataclass
class Slurm:
    """A machine with these stand-ins on its path, and a profile that leads to it."""

    folder: Path
    profile: Path
    number: int
    environment: dict[str, Any]

    def command(self, *words: str, code: int = 0) -> str:
        """Run a client."""
        return run(*words, "-p", str(self.profile), cwd=self.folder, code=code, **self.environment)


@pytest.fixture
def slurm(hopper_data: Path, tmp_path: Path) -> Iterator[Slurm]:
    """Make the stand-ins, the shared folder and the profile; no script and no Ray of theirs lives on."""
    number, tools, shared = 7000 + os.getpid() % 2000, tmp_path / "bin", tmp_path / "shared"
    scripts = {**SLURM, "ray": f'exec {sys.executable} -m ray.scripts.scripts "$@"\n'}
    for folder in (tools, shared, tmp_path / "started"):
        folder.mkdir()
    for name, text in scripts.items():
        text = text.replace("@NUMBER@", str(number)).replace("@FOLDER@", str(tmp_path))
        (tools / name).write_text(f"#!/bin/sh\n{text}")
        (tools / name).chmod(0o755)
    shutil.copytree(hopper_data / "hopper-medium-v2", shared / "datasets" / "hopper-medium-v2")
    profile = tmp_path / "s.yaml"
    profile.write_text(
        f"extends: slurm\nstorage: {{path: {shared}}}\npython: {sys.executable}\nslurm: {{start: head-worker}}\n"
        f"secrets: [PLUGGED_PASSWORD]\nenvironment: {{PLUGGED_NOTES: {tmp_path}, OMP_NUM_THREADS: '1'}}\n"
        "workers: {cpu: {count: 2, cpus: 1, memory: ''}}\n"
    )
    environment = {**PACKAGE, "PATH": f"{tools}:{os.environ['PATH']}", "PLUGGED_PASSWORD": SECRET}
    yield Slurm(tmp_path, profile, number, environment)
    for started in (tmp_path / "started").iterdir():
        with contextlib.suppress(psutil.NoSuchProcess):
            script = psutil.Process(int(started.read_text()))
            for process in [*script.children(recursive=True), script]:
                process.kill()


def test_a_batch_job_that_is_stopped_saves_its_trials_ends_its_ray_and_goes_on(slurm: Slurm) -> None:
    slurm.command("submit", "sweep", "--plugin", PLUGIN, "--name", "batch", *SWEEP, *LONG)
    shared = slurm.folder / "shared"
    folder = shared / "runs/bc_training/BC/hopper-medium-v2/batch"
    wait_until(lambda: training(folder))
    assert "is being stopped" in slurm.command("jobs", "stop", "batch")
    wait_until(lambda: (slurm.folder / f"ended-{slurm.number}").is_file())
    assert (slurm.folder / f"ended-{slurm.number}").read_text().strip() == "143"
    wait_until(lambda: not [line for line in command_lines() if f":{20000 + slurm.number}" in line])
    assert re.search(r"batch +stopped", slurm.command("jobs", "list"))
    steps = saved(folder)

    said = slurm.command("jobs", "resume", "batch", "--plugin", PLUGIN, "--follow")
    assert "3 configurations: 3 complete" in said
    assert_went_on(folder, steps, 3000)
    assert re.search(r"batch-r1 +finished", slurm.command("jobs", "list"))
    notes = [json.loads(path.read_text()) for path in slurm.folder.glob("*.json")]
    assert {note["secret"] for note in notes} == {hashlib.sha256(SECRET.encode()).hexdigest()}
    assert len({note["node"] for note in notes} - {""}) >= 3  # of two Rays of two nodes
    ran = {f"{shared}/jobs/{name}/code/cluster_plugin.py" for name in ("batch", "batch-r1")}
    assert {note["code"] for note in notes} == ran
    assert SECRET not in said + "\n".join(texts(shared / "jobs"))
    wait_until(lambda: not [line for line in command_lines() if f":{20000 + slurm.number + 1}" in line])
