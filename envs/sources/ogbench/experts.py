"""Scripted experts for OGBench's arm tasks: OGBench's own oracles, put in an order that reaches the task's goal.

An oracle moves one object: a cube to a place, a button down, the drawer or the window to a position. OGBench collects
its data with goals drawn at random; here the next goal is the first thing that keeps the episode's task from being
solved. The oracles' actions are functions of the state, so they correct the noise on what is executed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.envs.sources.task import Expert

FAMILIES = ("cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4")
"""Where the expert was measured to solve nearly every episode; docs/data.md has the figures."""
NEAR = 0.035
"""Metres from its goal at which a cube counts as placed; OGBench's own limit is 0.04."""
CLEAR = 0.05
"""Metres between the centres of cubes that do not touch, whatever their yaw, with room for the fingers."""
HEIGHT = 0.04
"""Edge of a cube, in metres."""
ABOVE = {"cube": 0.16, "button": 0.16, "drawer": 0.18, "window": 0.28}
"""Height of the gripper, in metres, at which each oracle has let go and the next thing may be begun."""
AROUND = 0.06
"""Metres from a cube's centre, along each axis, within which the fingers are around it."""
OPEN_DRAWER = -0.16
SLIDE = 0.02
"""How far the drawer and the window may be from their goals; OGBench's own limit is 0.04."""
PARKING = np.array([(x, y, 0.02) for x, y in itertools.product((0.425, 0.5, 0.35), (0.0, 0.1, -0.1, 0.2, -0.2))])
"""Places on the table for cubes that are in the way."""


@dataclass(frozen=True)
class Subtask:
    """One thing for an oracle to do: `kind` is cube, button, drawer or window; `goal` its place, state or slide."""

    kind: str
    index: int
    goal: tuple[float, ...]


def expert_for(family: str) -> Expert | None:
    """Return a new expert for a family of tasks, such as cube-single; None where no oracle solves them."""
    return OracleExpert(family.partition("-")[0]) if family in FAMILIES else None


class OracleExpert:
    """Choose what to do next and let OGBench's oracle for it act.

    The oracles draw where to rest afterwards from the global `np.random`, which is seeded while episodes are made.
    """

    def __init__(self, kind: str) -> None:
        self._next_step = {"cube": next_cube, "scene": next_in_scene, "puzzle": next_button}[kind]
        self._closed = kind == "puzzle"  # buttons are pressed with a closed gripper, as in OGBench's own data
        self._step = Subtask("cube", 0, (0.0,))
        self._oracle: Any = None

    def reset(self, env: Any, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode that goes on when the task is solved, so that the data show how to stay there."""
        arm = env.unwrapped
        arm._terminate_at_goal = False
        first = self._next_step(arm)
        if first is not None:
            self._begin(env, observation, info, first)

    def act(self, env: Any, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the oracle's action [5]."""
        arm = env.unwrapped
        free = info["proprio/effector_pos"][2] > ABOVE[self._step.kind]
        if (free and is_done(arm, self._step)) or is_lost(arm, self._step):
            wanted = self._next_step(arm)
            if wanted is not None:
                self._begin(env, observation, info, wanted)
        hints = told(arm, self._step)
        if self._is_released(arm, info):  # near enough: the oracle would grasp it again
            cube = hints["privileged/target_block_pos"] = _cubes(arm)[self._step.index]
            if np.abs(info["proprio/effector_pos"] - cube).max() < AROUND:
                return _let_go(info)
        return self._oracle.select_action(observation, {**info, **hints})

    def _is_released(self, arm: Any, info: dict[str, Any]) -> bool:
        """Return whether one of several cubes lies at its goal; a single one is left to the oracle."""
        held = info["proprio/gripper_contact"][0] >= 0.5
        return self._step.kind == "cube" and arm._num_cubes > 1 and not held and is_done(arm, self._step)

    def _begin(self, env: Any, observation: np.ndarray, info: dict[str, Any], step: Subtask) -> None:
        from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
        from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
        from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

        self._step = step
        if step.kind == "button":
            self._oracle = ButtonMarkovOracle(env=env, min_norm=0.4, gripper_always_closed=self._closed)
        else:
            oracles = {"cube": CubeMarkovOracle, "drawer": DrawerMarkovOracle, "window": WindowMarkovOracle}
            self._oracle = oracles[step.kind](env=env, min_norm=0.4)
        self._oracle.reset(observation, info)


def _let_go(info: dict[str, Any]) -> np.ndarray:
    """Open the gripper and only then rise, straight up: the oracle does both at once, which fells stacks."""
    is_open = info["proprio/gripper_opening"][0] < 0.1
    return np.array([0.0, 0.0, 1.0 if is_open else 0.0, 0.0, -1.0])


def told(arm: Any, step: Subtask) -> dict[str, Any]:
    """Return what the oracle looks for in `info`, which OGBench leaves out of its single-task mode."""
    if step.kind == "cube":
        extra = {"target_block": step.index, "target_block_pos": np.array(step.goal), "target_block_yaw": np.zeros(1)}
    elif step.kind == "button":
        top = arm._data.site_xpos[arm._button_site_ids[step.index]].copy()
        extra = {"target_button": step.index, "target_button_state": int(step.goal[0]), "target_button_top_pos": top}
    else:
        site = arm._drawer_site_id if step.kind == "drawer" else arm._window_site_id
        # the drawer's handle moves towards -y as its slide grows, the window's towards +x
        way = np.array([0.0, -1.0, 0.0] if step.kind == "drawer" else [1.0, 0.0, 0.0])
        handle = arm._data.site_xpos[site] + (step.goal[0] - _slide(arm, step.kind)) * way
        extra = {f"target_{step.kind}_handle_pos": handle}
    return {f"privileged/{name}": value for name, value in extra.items()}


def is_done(arm: Any, step: Subtask) -> bool:
    """Return whether a step's object is where the step wants it."""
    if step.kind == "cube":
        return bool(np.linalg.norm(_cubes(arm)[step.index] - step.goal) <= NEAR)
    if step.kind == "button":
        return arm._cur_button_states[step.index] == step.goal[0]
    return abs(_slide(arm, step.kind) - step.goal[0]) <= SLIDE


def is_lost(arm: Any, step: Subtask) -> bool:
    """Return whether the cube that another one is being put on is not there any more."""
    if step.kind != "cube" or arm._num_cubes == 1 or step.goal[2] < HEIGHT:
        return False
    below = np.array(step.goal) - [0.0, 0.0, HEIGHT]
    return _nearest(below, np.delete(_cubes(arm), step.index, axis=0)) > CLEAR


def next_cube(arm: Any) -> Subtask | None:
    """Return a cube to move: to its goal, lowest goals first, or out of the way where no goal can be reached."""
    places, goals = _cubes(arm), _goals(arm)
    waiting = [i for i in np.argsort(goals[:, 2], kind="stable") if np.linalg.norm(places[i] - goals[i]) > NEAR]
    movable = [i for i in waiting if not _covered(places[i], np.delete(places, i, axis=0))]
    for i in movable:
        others = np.delete(places, i, axis=0)
        place, below = goals[i], goals[i] - [0.0, 0.0, HEIGHT]
        blocked = (np.linalg.norm(others[:, :2] - place[:2], axis=1) < CLEAR) & (others[:, 2] > below[2] + NEAR)
        if below[2] > 0.0:  # on another cube: where that one really is, or it would tip over
            under = others[np.linalg.norm(others - below, axis=1).argmin()]
            blocked |= bool(np.linalg.norm(under - below) > NEAR)
            place = under + np.array([0.0, 0.0, HEIGHT])
        if not blocked.any():
            return Subtask("cube", int(i), tuple(place.tolist()))
    wanted = goals[waiting, :2]
    in_the_way = [i for i in movable if np.linalg.norm(wanted - places[i, :2], axis=1).min() < CLEAR]
    for i in in_the_way or movable:
        for spot in PARKING:
            if min(_nearest(spot, places), _nearest(spot, goals)) > 1.5 * CLEAR:
                return Subtask("cube", int(i), tuple(spot.tolist()))
    return None


def next_in_scene(arm: Any) -> Subtask | None:
    """Return what to move next: the cube, the drawer, the window, then the buttons that lock the last two."""
    cube, goal = _cubes(arm)[0], _goals(arm)[0]
    if np.linalg.norm(cube - goal) > NEAR:
        if goal[1] > -0.3:
            return Subtask("cube", 0, tuple(goal.tolist()))
        if not arm._is_in_drawer(cube):
            if _slide(arm, "drawer") > OPEN_DRAWER + SLIDE:
                return _unlocked(arm, Subtask("drawer", 0, (OPEN_DRAWER,)))
            return Subtask("cube", 0, tuple(arm._drawer_center.tolist()))
    for step in (
        Subtask("drawer", 0, (float(arm._target_drawer_pos),)),
        Subtask("window", 1, (float(arm._target_window_pos),)),
    ):
        if not is_done(arm, step):
            return _unlocked(arm, step)
    wanted = [Subtask("button", i, (int(state),)) for i, state in enumerate(arm._target_button_states)]
    return next((step for step in wanted if not is_done(arm, step)), None)


def _unlocked(arm: Any, step: Subtask) -> Subtask:
    """Return the step, or the button that unlocks it; the button's index is the step's."""
    if arm._cur_button_states[step.index] == 1:
        return step
    return Subtask("button", step.index, (1,))


def next_button(arm: Any) -> Subtask | None:
    """Return the first button of the shortest solution of the puzzle."""
    presses = lights_out(arm._cur_button_states != arm._target_button_states, arm._num_rows, arm._num_cols)
    if not presses:
        return None
    return Subtask("button", presses[0], (1 - int(arm._cur_button_states[presses[0]]),))


def lights_out(wrong: np.ndarray, rows: int, columns: int) -> list[int]:
    """Return the fewest buttons whose presses, each turning itself and its neighbours, right the `wrong` ones [n].

    The first row's presses decide all others (each later row must right the one above it), so 2^columns are tried.
    """
    best: list[int] | None = None
    for first in itertools.product((0, 1), repeat=columns):
        left = np.asarray(wrong, np.int64).reshape(rows, columns).copy()
        pressed = np.zeros_like(left)
        for row in range(rows):
            pressed[row] = first if row == 0 else left[row - 1]
            _press(left, pressed[row], row)
        if not left.any() and (best is None or pressed.sum() < len(best)):
            best = np.flatnonzero(pressed).tolist()
    return best or []


def _press(lights: np.ndarray, presses: np.ndarray, row: int) -> None:
    lights[row] ^= presses
    lights[row, 1:] ^= presses[:-1]
    lights[row, :-1] ^= presses[1:]
    if row > 0:
        lights[row - 1] ^= presses
    if row + 1 < len(lights):
        lights[row + 1] ^= presses


def _cubes(arm: Any) -> np.ndarray:
    return np.array([arm._data.joint(f"object_joint_{i}").qpos[:3] for i in range(arm._num_cubes)])


def _goals(arm: Any) -> np.ndarray:
    return np.array([arm._data.mocap_pos[i] for i in arm._cube_target_mocap_ids])


def _slide(arm: Any, kind: str) -> float:
    return float(arm._data.joint(f"{kind}_slide").qpos[0])


def _nearest(place: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(others - place, axis=1).min(initial=np.inf))


def _covered(place: np.ndarray, others: np.ndarray) -> bool:
    """Return whether another cube stands on the one at `place`."""
    return bool(((np.linalg.norm(others[:, :2] - place[:2], axis=1) < NEAR) & (others[:, 2] > place[2] + NEAR)).any())
