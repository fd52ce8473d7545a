"""How a simulator's pictures are drawn: a picture without shadows is another one than a picture with them.

The options of data are kept in their store's manifest, and environments are made with the same. MuJoCo's own settings
are what published data were drawn with; leaving out shadows, smoothed edges and reflections is several times quicker
on CPUs and is what data made here use unless they are told otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from understudy.errors import UserError, did_you_mean

MOST_SAMPLES = 64


@dataclass(frozen=True)
class Rendering:
    """Options of MuJoCo's renderer; the defaults are its own."""

    shadows: bool = True
    offsamples: int = 4
    """Samples of each pixel, which smooth edges; 0 for one."""
    reflections: bool = True

    @classmethod
    def of(cls, env_name: str, options: Any, otherwise: Rendering) -> Rendering:
        """Return the rendering that options say (JSON values, or a command line's text); UserError for nonsense."""
        known = asdict(otherwise)
        if not isinstance(options, Mapping):
            raise UserError(f"{env_name}: rendering={options!r}: a table of {', '.join(known)} is needed")
        for name in options:
            if name not in known:
                raise UserError(f"{env_name}: no rendering option {name!r}{did_you_mean(str(name), known)}")
        switches = {
            name: switch(env_name, name, options[name]) for name in ("shadows", "reflections") if name in options
        }
        if "offsamples" in options:
            return cls(**{**known, **switches, "offsamples": whole(env_name, "offsamples", options["offsamples"], 0)})
        return cls(**{**known, **switches})

    def settings(self) -> dict[str, Any]:
        """Return all options as JSON values."""
        return asdict(self)

    def apply(self, model: Any) -> None:
        """Set a MuJoCo model's options; renderers that are made of it afterwards follow them."""
        model.vis.quality.offsamples = self.offsamples
        if not self.shadows:
            model.vis.quality.shadowsize = 0
        if not self.reflections:
            model.mat_reflectance[:] = 0


PUBLISHED = Rendering()
FAST = Rendering(shadows=False, offsamples=0, reflections=False)


def switch(env_name: str, name: str, value: Any) -> bool:
    """Return a truth value from JSON or text."""
    chosen = {"true": True, "false": False}.get(str(value).lower())
    if chosen is None:
        raise UserError(f"{env_name}: {name}={value!r}: allowed are true and false")
    return chosen


def whole(env_name: str, name: str, value: Any, low: int, high: int = MOST_SAMPLES) -> int:
    """Return a whole number from JSON or text, in [low, high]."""
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise UserError(f"{env_name}: {name}={value!r}: must be a whole number from {low} to {high}")
    return int(text)


_open: weakref.WeakSet[Any] = weakref.WeakSet()


def close_at_exit(renderer: Any) -> None:
    """Close a mujoco.Renderer when the process ends, if nobody has.

    OpenGL is shut down before the interpreter collects what is left, and a renderer that is collected then complains
    on the console. What is registered last runs first, so this must be called after the renderer was made.
    """
    _open.add(renderer)
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_open):
        with contextlib.suppress(Exception):  # another library has shut OpenGL down: there is nothing left to free
            renderer.close()
