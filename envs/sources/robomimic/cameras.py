"""Draw what robosuite's cameras see: which ones, how large and how is in a dataset's `env_args`, as robomimic has it.

`env_kwargs` has robosuite's camera_names, camera_heights and camera_widths; `rendering` beside it is ours, and files
without it were drawn with all that MuJoCo draws. With that, pictures are those of robomimic's EnvRobosuite, bit for
bit (its flip included: row 0 is the top).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.envs.simulators.rendering import FAST, PUBLISHED, Rendering, close_at_exit, whole
from understudy.errors import UserError, did_you_mean

PIXELS = (8, 2048)
"""The least and the most of a picture's sides."""
OPTIONS = ("cameras", "height", "width", *PUBLISHED.settings())


@dataclass(frozen=True)
class Cameras:
    """Cameras with their pictures' (height, width), and how they are drawn."""

    sizes: dict[str, tuple[int, int]]
    rendering: Rendering = PUBLISHED

    @classmethod
    def chosen(cls, env_name: str, options: Mapping[str, str], usual: Cameras) -> Cameras:
        """Return what a command line's options say, and for the rest the `usual` cameras, drawn quickly."""
        for name in options:
            if name not in OPTIONS:
                raise UserError(f"{env_name}: no rendering option {name!r}{did_you_mean(name, OPTIONS)}")
        drawn = {name: value for name, value in options.items() if name in PUBLISHED.settings()}
        names = [name.strip() for name in str(options.get("cameras", ",".join(usual.sizes))).split(",")]
        if not all(names) or len(set(names)) != len(names):
            raise UserError(
                f"{env_name}: cameras={options.get('cameras')!r}: names with commas between them are needed"
            )
        height, width = next(iter(usual.sizes.values()))
        height = whole(env_name, "height", options.get("height", height), *PIXELS)
        width = whole(env_name, "width", options.get("width", width), *PIXELS)
        return cls({name: (height, width) for name in names}, Rendering.of(env_name, drawn, FAST))

    @classmethod
    def of(cls, env_args: Mapping[str, Any], usual: Cameras) -> Cameras:
        """Return the cameras of `env_args`, the `usual` ones where it names none; nonsense raises UserError."""
        task, kwargs = str(env_args.get("env_name", "env_args")), env_args.get("env_kwargs") or {}
        rendering = Rendering.of(task, env_args.get("rendering") or {}, PUBLISHED)
        names = kwargs.get("camera_names") or []
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{task}: env_args with camera_names={names!r}: a list of names is needed")
        sides = [_each(task, kwargs, key, len(names)) for key in ("camera_heights", "camera_widths")]
        sizes = {name: (height, width) for name, height, width in zip(names, *sides, strict=True)}
        return cls(sizes or usual.sizes, rendering)

    def check(self, task: str, model: Any) -> None:
        """Raise UserError for a camera that a compiled model does not have."""
        known = [model.camera(number).name for number in range(model.ncam)]
        for name in self.sizes:
            if name not in known:
                raise UserError(f"{task}: no camera {name!r}{did_you_mean(name, known)}")

    def settings(self, env_args: Mapping[str, Any]) -> dict[str, Any]:
        """Return `env_args` with these cameras, from which robomimic too makes an environment with pictures."""
        settings = copy.deepcopy(dict(env_args))
        heights, widths = ([size[side] for size in self.sizes.values()] for side in (0, 1))
        settings["env_kwargs"] = {
            **settings.get("env_kwargs", {}),
            "has_offscreen_renderer": True,
            "use_camera_obs": True,
            "camera_depths": False,
            "camera_names": list(self.sizes),
            "camera_heights": heights[0] if len(set(heights)) == 1 else heights,
            "camera_widths": widths[0] if len(set(widths)) == 1 else widths,
        }
        return {**settings, "rendering": self.rendering.settings()}


class Photographer:
    """Renderers of one compiled model, one for each size of pictures."""

    def __init__(self, model: Any, cameras: Cameras) -> None:
        import mujoco

        self._cameras = cameras
        cameras.rendering.apply(model)
        sizes = sorted(set(cameras.sizes.values()))
        buffer = model.vis.global_
        buffer.offheight = max(buffer.offheight, *(height for height, _ in sizes))
        buffer.offwidth = max(buffer.offwidth, *(width for _, width in sizes))
        self._options = mujoco.MjvOption()  # pyright: ignore[reportAttributeAccessIssue]
        self._options.geomgroup[0] = 0  # collision shapes
        self._renderers = {size: mujoco.Renderer(model, *size) for size in sizes}
        for renderer in self._renderers.values():
            close_at_exit(renderer)

    def pictures(self, data: Any) -> dict[str, np.ndarray]:
        """Return each camera's picture [H, W, 3] uint8 of positions that are up to date."""
        seen = {}
        for name, size in self._cameras.sizes.items():
            self._renderers[size].update_scene(data, name, self._options)
            seen[name] = self._renderers[size].render()
        return seen

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()


def _each(task: str, kwargs: Mapping[str, Any], key: str, count: int) -> list[int]:
    """Return robosuite's one number for all cameras, or list with one for each, as a list."""
    value = kwargs.get(key, 256)  # robosuite's own
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise UserError(f"{task}: env_args with {key}={value!r} for {count} cameras")
    return [whole(task, key, number, *PIXELS) for number in values]
