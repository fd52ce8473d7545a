"""What every test stands on: one thread per maths library, an understudy home of its own, a quiet local Ray.

The environment is set at import, before anything under test is: maths libraries, MLflow and Ray read theirs once.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.kept_memory"]

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")  # a red run is red again, and a change that has nothing to do with it stays green


def folder_in_memory() -> str | None:
    """Return a folder that is held in memory, where there is one with room for what tests write.

    A commit to SQLite waits for a disk, for 20 ms on a busy one, and tests make tens of thousands.
    """
    folder, needed = "/dev/shm", 6 * 2**30
    if not (os.path.ismount(folder) and os.access(folder, os.W_OK)):
        return None
    roomy = min(shutil.disk_usage(folder).free, psutil.virtual_memory().available) > needed
    return folder if roomy else None


if memory := folder_in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)  # where pytest has tmp_path
HOME = Path(tempfile.mkdtemp(prefix="understudy-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))

# Two cores run the tests and Ray's workers: a thread pool in each process makes everything several times slower.
for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

# The hundreds of processes that tests start read what the first of them compiled, also where an image forbids that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

os.environ["UNDERSTUDY_HOME"] = str(HOME)
for name in [n for n in os.environ if n.startswith("MLFLOW_")] + ["MUJOCO_GL", "RAY_ADDRESS"]:
    os.environ.pop(name, None)  # a developer's own server or cluster must not receive the tests' runs
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # each report of a Ray Train worker waits for one of these
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` starts: one a CPU that this one may use, 2 GiB of free memory for each.

    Slow tests wait for other processes for half of their time: where they run there are half as many again.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = cpus if "slow" in config.option.markexpr else cpus + (cpus + 1) // 2
    return max(1, min(wanted, int(psutil.virtual_memory().available / 2**31)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold tests of faults, then slow ones: what takes longest must not be what ends last.

    A file's tests stay together, and so do the fixtures that they share.
    """
    first: dict[Path, int] = {}
    for item in items:
        rank = 0 if item.get_closest_marker("faults") else 1 if item.get_closest_marker("slow") else 2
        first[item.path] = min(rank, first.get(item.path, 2))
    items.sort(key=lambda item: first[item.path])


@pytest.fixture(scope="session")
def understudy_home() -> Path:
    """Return the session's UNDERSTUDY_HOME: datasets and defaults, shared by all tests, empty at the start."""
    return HOME


def pytest_sessionfinish() -> None:
    """Remove the session's home; processes that a killed test left behind may still hold files in it."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def hopper_data(understudy_home: Path) -> Path:
    """Import `hopper-medium-v2`: real Hopper episodes, random actions, D4RL's file format; return the folder."""
    import h5py
    import numpy as np

    from understudy.envs.rollouts.factory import EnvFactory
    from understudy.envs.sources.source import task_of
    from understudy.envs.store.transfer import import_file

    env = EnvFactory("hopper-medium-v2")()
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {
        key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    }
    for episode in range(30):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = rng.uniform(-1, 1, 3).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            values = (observation, action, reward, terminated, truncated, following)
            for key, value in zip(rows, values, strict=True):
                rows[key].append(value)
            observation = following
    env.close()
    file = understudy_home / "hopper_medium-v2.hdf5"
    with h5py.File(file, "w") as target:
        for key, values in rows.items():
            kind = bool if key in ("terminals", "timeouts") else np.float32
            target[key] = np.asarray(values).astype(kind)
    import_file(task_of("hopper-medium-v2"), file, understudy_home / "datasets")
    return understudy_home / "datasets"


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Return the repository's root."""
    return Path(__file__).resolve().parent.parent
