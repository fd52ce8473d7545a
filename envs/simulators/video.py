"""Write mp4 files, and find out whether this machine can render at all.

MuJoCo picks its OpenGL library when it is first imported and cannot change it afterwards: an evaluation without
pictures would spoil the later ones. So every simulator here calls `choose_renderer` first, which chooses EGL where its
library loads (that opens no display yet), and the test whether it works runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from understudy.errors import StorageError
from understudy.files import storage_errors

PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
raise SystemExit(0 if picture.max() > 0 else "the rendered picture is black")
"""


def choose_renderer() -> None:
    """Choose MuJoCo's headless renderer, unless the user chose one; call before importing mujoco."""
    _import_triton()
    if "MUJOCO_GL" not in os.environ and "mujoco" not in sys.modules and _egl_loads():
        os.environ["MUJOCO_GL"] = "egl"


@functools.cache
def _import_triton() -> None:
    """Import triton, where torch's CUDA builds bring it, before a renderer: each has an LLVM of its own.

    Mesa's loaded first crashes the process when an optimiser makes torch import triton; the other order works.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


@functools.cache
def _egl_loads() -> bool:
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True


@functools.cache
def rendering_available() -> str | None:
    """Return None when pictures can be rendered, else the reason in one line with what to do."""
    environment = {**os.environ}
    if _egl_loads():
        environment.setdefault("MUJOCO_GL", "egl")
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no videos: the rendering test did not finish ({error})"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["it crashed"]
    reason = lines[-1].strip()[:160]
    return f"no videos: MuJoCo cannot render here ({reason}); on Debian: apt-get install libegl1 libgl1-mesa-dri"


def write_mp4(frames: np.ndarray, path: str | Path, fps: int = 15) -> Path:
    """Write frames [T, height, width, 3] uint8 as H.264; odd sizes lose one row or column, which H.264 cannot hold."""
    import imageio_ffmpeg

    target = Path(path)
    frames = np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.mp4")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        size = (frames.shape[2], frames.shape[1])
        options = {"fps": fps, "macro_block_size": 2, "ffmpeg_log_level": "error"}
        writer = imageio_ffmpeg.write_frames(str(temporary), size, **options)
        try:
            writer.send(None)
            for frame in frames:
                writer.send(frame)
            writer.close()
            if not temporary.exists() or temporary.stat().st_size == 0:
                raise StorageError(f"{target}: ffmpeg wrote nothing")
            temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
