"""Drive by a gamepad, read with pygame: RB held takes over, Y is success, A failure, X records anew.

Pads number their sticks and buttons differently. gym-hil's table of pads is used where gym-hil is installed.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any, Protocol

import numpy as np

from understudy.envs.recording.control import Control, Driven, Event, Said
from understudy.errors import UserError
from understudy.registry import controls

DEAD = 0.1
"""What a stick at rest may show."""
PLAIN: dict[str, Any] = {
    "axes": {"left_x": 0, "left_y": 1, "right_x": 2, "right_y": 3},
    "buttons": {"a": 0, "b": 1, "x": 2, "y": 3, "lb": 4, "rb": 5, "lt": 6, "rt": 7},
    "axis_inversion": {"left_x": False, "left_y": True, "right_x": False, "right_y": True},
}
"""A pad that no table knows, in the form of gym-hil's controller_config.json."""
STICKS = {"x": ("left_y", 1.0), "y": ("left_x", -1.0), "z": ("right_y", 1.0), "yaw": ("right_x", 1.0)}
"""The stick, and its sign, for each number of an action by its name."""
ORDER = (("left_x", 1.0), ("left_y", 1.0), ("right_x", 1.0), ("right_y", 1.0))
"""The same for actions without names."""
EVENTS = {"y": Event.SUCCESS, "a": Event.FAILURE, "x": Event.AGAIN, "b": Event.STOP}


class Pad(Protocol):
    """What is used of pygame's joystick."""

    def get_axis(self, number: int) -> float:
        """Return where a stick is, -1 to 1."""
        ...

    def get_button(self, number: int) -> int:
        """Return whether a button is held."""
        ...

    def get_numaxes(self) -> int:
        """Return how many axes there are."""
        ...

    def get_numbuttons(self) -> int:
        """Return how many buttons there are."""
        ...


@controls.register("gamepad")
class Gamepad(Control):
    """Drive by the sticks; LT opens the gripper, RT closes it."""

    def __init__(self, driven: Driven) -> None:
        super().__init__(driven)
        self._pad: Pad | None = None
        self._layout = PLAIN
        self._held: set[str] = set()

    def __enter__(self) -> Gamepad:
        """Open the first pad."""
        try:
            import pygame
        except ImportError:
            raise UserError("control=gamepad needs 'pygame'; run `pip install pygame`") from None
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pads are told of through its window system
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        pygame.display.init()  # not all of pygame: its sound complains aloud of a machine that has none
        pygame.joystick.init()
        if not pygame.joystick.get_count():
            pygame.quit()
            raise UserError("control=gamepad: no gamepad is connected; control=keyboard needs none")
        pad: Any = pygame.joystick.Joystick(0)
        self.use(pad, layout_of(pad.get_name()))
        return self

    def use(self, pad: Pad, layout: dict[str, Any]) -> None:
        """Read this pad, whose sticks and buttons have the numbers that `layout` says."""
        self._pad, self._layout = pad, layout

    def __exit__(self, *raised: object) -> None:
        """Close pygame."""
        if self._pad is not None:
            import pygame

            pygame.quit()
            self._pad = None

    def help(self) -> str:
        """Return which stick and button does what."""
        over = "" if self.driven.alone else "hold RB to take over; "
        return f"{over}sticks move, LT / RT open / close the gripper; Y success, A failure, X again, B end"

    def read(self, env: Any, observation: Any, info: dict[str, Any]) -> Said:
        """Return what sticks and buttons say now."""
        if self._pad is not None and type(self._pad).__module__.startswith("pygame"):
            import pygame

            pygame.event.pump()
        pressed = {name for name in self._layout["buttons"] if self._button(name)}
        new, self._held = pressed - self._held, pressed
        event = next((event for name, event in EVENTS.items() if name in new), None)
        if not self.driven.alone and "rb" not in pressed:
            return Said(None, event)
        return Said(self.driven.action(self._shares(pressed)), event)

    def _shares(self, pressed: set[str]) -> np.ndarray:
        shares = np.zeros(len(self.driven.low), np.float32)
        names = self.driven.names
        for axis in range(len(shares)):
            if names and names[axis] == "gripper":
                shares[axis] = float("rt" in pressed) - float("lt" in pressed)
                continue
            stick = STICKS.get(names[axis]) if names else ORDER[axis] if axis < len(ORDER) else None
            if stick is not None:
                shares[axis] = stick[1] * self._axis(stick[0])
        return shares

    def _axis(self, name: str) -> float:
        number = self._layout["axes"].get(name, -1)
        if self._pad is None or not 0 <= number < self._pad.get_numaxes():
            return 0.0
        value = self._pad.get_axis(number)
        value = -value if self._layout.get("axis_inversion", {}).get(name) else value
        return 0.0 if abs(value) < DEAD else value

    def _button(self, name: str) -> bool:
        number = self._layout["buttons"][name]
        return self._pad is not None and number < self._pad.get_numbuttons() and bool(self._pad.get_button(number))


def layout_of(name: str) -> dict[str, Any]:
    """Return the numbers of a pad's sticks and buttons: gym-hil's for its name, else for any pad."""
    try:
        table = json.loads(resources.files("gym_hil").joinpath("controller_config.json").read_text())
    except (ModuleNotFoundError, OSError, ValueError):
        return PLAIN
    return {**PLAIN, **table.get(name, table.get("default", {}))}
