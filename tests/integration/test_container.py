"""A container at its worst: no network, a read-only root, an unwritable /dev/shm, a user without a name.

The kernel's own namespaces make it, so the tests need root and util-linux; what is tested runs as another user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import understudy

NEEDED = ("unshare", "setpriv", "mount")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, NEEDED)), reason="needs root and util-linux"),
]
USER = "54321"
ROOM = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t tmpfs -o ro none /dev/shm
mount -o remount,bind,ro /
cd "$1"; shift
caps=-all,+dac_read_search
exec setpriv --inh-caps=$caps --ambient-caps=$caps --reuid $0 --regid $0 --clear-groups "$@"
"""
DATA = "minari:pendulum/scripted-v0"
TRAIN = ("train", "algo=flow_bc", f"env_name={DATA}", "training_steps=20", "hidden_dims=[8]", "eval_episodes=1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the one folder that can be written to; it is on a disk, since memory's file system is hidden inside."""
    folder = tmp_path_factory.mktemp("container")
    if Path("/dev/shm") in folder.parents:
        folder = Path(subprocess.check_output(["mktemp", "-d", "/var/tmp/understudy-XXXXXX"], text=True).strip())
    os.chown(folder, int(USER), int(USER))
    return folder


def inside(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "TMPDIR")}
    own = {**kept, "PYTHONPATH": str(Path(understudy.__file__).parents[1]), "UNDERSTUDY_HOME": str(home / "home")}
    room = ["unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "bash", "-c", ROOM, USER, str(home)]
    command = [sys.executable, "-m", "understudy", *words]
    return subprocess.run([*room, *command], capture_output=True, text=True, check=False, env=own, timeout=1200)


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("understudy: ")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return said[0]


def test_demonstrations_training_and_evaluation_work_in_a_container_without_anything(home: Path) -> None:
    refused = one_line(inside(home, "data", "generate", DATA, "--episodes", "3", "--workers", "2"), 1)
    assert "--shm-size=2g" in refused
    assert "try --workers 1" in refused
    done = inside(home, "data", "generate", DATA, "--episodes", "3", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "loader_workers=0" in one_line(inside(home, *TRAIN, "save_dir=a", "loader_workers=2"), 1)
    assert "/anywhere" in one_line(inside(home, *TRAIN, "save_dir=/anywhere"), 1)
    done = inside(home, *TRAIN, "save_dir=runs")
    assert done.returncode == 0, done.stderr
    run = next((home / "runs").rglob("final_model.pt")).parent
    assert (home / "runs").rglob("mlflow.db")
    done = inside(home, "evaluate", str(run), "eval_episodes=1")
    assert done.returncode == 0, done.stderr
    assert "return" in done.stdout
