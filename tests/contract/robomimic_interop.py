"""Let robomimic 0.3 be imported and asked, whose needs of the past are no more: mujoco_py, egl_probe, torchvision."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest


def make_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put empty modules in the place of those that robomimic imports and these tests do not need."""
    mujoco_py: Any = types.ModuleType("mujoco_py")
    mujoco_py.builder = types.SimpleNamespace(MujocoException=RuntimeError)
    monkeypatch.setitem(sys.modules, "mujoco_py", mujoco_py)
    egl_probe: Any = types.ModuleType("egl_probe")
    egl_probe.get_available_devices = list
    monkeypatch.setitem(sys.modules, "egl_probe", egl_probe)
    try:
        import torchvision.transforms.functional  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.transforms.functional")
        stubs: list[Any] = [types.ModuleType(name) for name in names]
        stubs[0].models, stubs[0].transforms, stubs[2].functional = stubs[1:]
        stubs[2].Lambda = stubs[2].Compose = object
        for name, stub in zip(names, stubs, strict=True):
            monkeypatch.setitem(sys.modules, name, stub)
