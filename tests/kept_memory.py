"""A pytest plug-in: what the processes of the tests hold in memory at their end, and which files' tests left it.

Loaded by conftest.py. With pytest-xdist each process tells the one that reports.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

SHOWN = 8
MIB = 2**20
KEPT_ENVIRONMENTS = {
    "understudy.envs.sources.ogbench.envs": ("_arm_prototype",),
    "understudy.envs.experts.attempts": ("_actors", "_pictured"),
    "understudy.envs.sources.robomimic.rendering": ("_kept",),
}
"""Functions that keep an environment for the next call: 150 MiB each, of tasks that the next file does not play."""
_kept: dict[str, int] = {}
"""Bytes by file: what this process held more after its tests than before."""
_ends: dict[str, dict[str, int]] = {}
"""The same of each process, by its name."""


@pytest.fixture(scope="module", autouse=True)
def freed_memory_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have allocators give back, after each file, what its tests freed: they would keep gigabytes to the end."""
    held = _held()
    yield
    _let_go_of_stores()
    _let_go_of_environments()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    name = request.path.name
    _kept[name] = _kept.get(name, 0) + _held() - held


def _held() -> int:
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)  # mapped files are not counted


def _let_go_of_stores() -> None:
    """Close the SQLite stores that MLflow was asked for: it keeps each one that a process has ever opened."""
    if "mlflow.store.tracking.sqlalchemy_store" not in sys.modules:
        return
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as ModelStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as RunStore
    from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
    from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry

    from understudy.tracking.client import client

    client.cache_clear()
    for registry in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        registry._get_store_with_resolved_uri.cache_clear()
    for kind in (RunStore, ModelStore):
        for engine in kind._engine_map.values():
            engine.dispose()
        kind._engine_map.clear()


def _let_go_of_environments() -> None:
    for module, names in KEPT_ENVIRONMENTS.items():
        for name in names if module in sys.modules else ():
            getattr(sys.modules[module], name).cache_clear()
    gc.collect()  # what they hold is held in circles


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports, or be it."""
    told = {**_kept, "": _held()}
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["kept_memory"] = told
    elif not _ends:
        _ends["this process"] = told


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of pytest-xdist tells at its end; one that crashed tells nothing."""
    if told := getattr(node, "workeroutput", {}).get("kept_memory"):
        _ends[node.gateway.id] = told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each process held, and what was left by which files' tests."""
    for name, told in sorted(_ends.items()):
        most = sorted(((size, file) for file, size in told.items() if file), reverse=True)[:SHOWN]
        files = ", ".join(f"{file} {size / MIB:.0f}" for size, file in most if size > 20 * MIB)
        terminalreporter.write_line(f"memory of {name}: {told[''] / MIB:.0f} MiB; left by {files or 'no file'}")
