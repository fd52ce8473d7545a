"""Drive by the keys of a terminal, which works over SSH and needs no window.

A terminal tells when a key is pressed and never when it is let go: a key acts for HOLD seconds, counted in steps.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any

import numpy as np

from understudy.envs.recording.control import Control, Driven, Event, Said
from understudy.errors import UserError
from understudy.registry import controls

HOLD = 0.2
"""Seconds that a key acts for."""
ESCAPE = "\x1b"
ESCAPE_SECONDS = 0.03
"""Within which the rest of an arrow's code follows its first byte: alone it is the key Esc."""
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"}
ARROWS |= {code.replace("[", "O"): name for code, name in ARROWS.items()}
NAMED = {
    "x": ("up", "down"),
    "y": ("left", "right"),
    "z": ("u", "d"),
    "gripper": ("c", "o"),
    "yaw": (",", "."),
    "roll": ("1", "2"),
    "pitch": ("3", "4"),
}
"""Keys that raise and lower each number of an action, by its name; the gripper's close and open it."""
PAIRS = [("right", "left"), ("up", "down"), ("u", "d"), ("1", "2"), ("3", "4"), ("5", "6"), ("7", "8"), ("9", "0")]
"""The same for actions without names, in their order."""
EVENTS = {"s": Event.SUCCESS, "\r": Event.SUCCESS, "\n": Event.SUCCESS, ESCAPE: Event.FAILURE, "r": Event.AGAIN}
EVENTS["q"] = Event.STOP
TAKE_OVER = (" ", "i")


@controls.register("keyboard")
class Keyboard(Control):
    """Drive by keys; beside a policy, space or i takes over and gives back."""

    def __init__(self, driven: Driven) -> None:
        super().__init__(driven)
        pairs = [NAMED.get(name) for name in driven.names] if driven.names else [*PAIRS[: len(driven.low)]]
        pairs += [None] * (len(driven.low) - len(pairs))
        self._keys = {
            key: (axis, sign)
            for axis, pair in enumerate(pairs)
            if pair
            for key, sign in zip(pair, (1, -1), strict=True)
        }
        self._pairs = pairs
        self._steps = max(1, round(HOLD * driven.fps))
        self._left = dict.fromkeys(self._keys, 0)
        """Steps that each key still acts for."""
        self._driving = driven.alone
        self._file, self._before = -1, None

    def __enter__(self) -> Keyboard:
        """Have the terminal tell each key at once, without showing it."""
        if not sys.stdin.isatty():
            raise UserError("control=keyboard: standard input is no terminal; control=scripted needs none")
        self._file = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(self, *raised: object) -> None:
        """Give the terminal back as it was."""
        if self._before is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
            self._before = None

    def help(self) -> str:
        """Return which key does what."""
        names = self.driven.names or [f"action {axis}" for axis in range(len(self.driven.low))]
        words = {"gripper": "gripper close, open"}
        moves = [f"{pair[0]} / {pair[1]} {words.get(n, n)}" for n, pair in zip(names, self._pairs, strict=True) if pair]
        unmoved = [name for name, pair in zip(names, self._pairs, strict=True) if not pair]
        said = "; ".join(moves) + "; s success, Esc failure, r again, q end"
        said += "" if self.driven.alone else "; space or i takes over and gives back"
        return said + (f"; no key for {', '.join(unmoved)}" if unmoved else "")

    def begin(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Forget the keys of the last episode; the policy acts again."""
        self._left = dict.fromkeys(self._keys, 0)
        self._driving = self.driven.alone

    def read(self, env: Any, observation: Any, info: dict[str, Any]) -> Said:
        """Return what the keys since the last step say."""
        event = None
        for key in self._pressed():
            if key in self._left:
                self._left[key] = self._steps
                opposite = next(k for k, (axis, _) in self._keys.items() if axis == self._keys[key][0] and k != key)
                self._left[opposite] = 0
            elif key in TAKE_OVER and not self.driven.alone:
                self._driving = not self._driving
            else:
                event = EVENTS.get(key, event)
        shares = np.zeros(len(self.driven.low), np.float32)
        for key, steps in self._left.items():
            axis, sign = self._keys[key]
            shares[axis] += sign * (steps > 0)
            self._left[key] = max(steps - 1, 0)
        return Said(self.driven.action(shares) if self._driving else None, event)

    def _pressed(self) -> list[str]:
        """Return the keys that were pressed since the last call."""
        text = ""
        while self._waits(0.0 if not text.endswith(ESCAPE) else ESCAPE_SECONDS):
            read = os.read(self._file, 1024)
            if not read:
                return [*split_keys(text), "q"]  # the terminal is gone
            text += read.decode(errors="replace")
        return split_keys(text)

    def _waits(self, seconds: float) -> bool:
        return bool(select.select([self._file], [], [], seconds)[0])


def split_keys(text: str) -> list[str]:
    """Return the keys in what a terminal sent: arrows by their names, letters in lower case."""
    keys: list[str] = []
    place = 0
    while place < len(text):
        code = text[place : place + 3]
        if code in ARROWS:
            keys.append(ARROWS[code])
            place += 3
            continue
        keys.append(text[place].lower())
        place += 1
    return keys
