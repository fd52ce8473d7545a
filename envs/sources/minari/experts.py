"""Scripted experts for gymnasium tasks whose data are made here: walking through a maze, swinging a pendulum up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

Cell = tuple[int, int]
WALL = 1


class MazeWalker:
    """Solve gymnasium-robotics' PointMaze: the shortest way over free cells, each next centre by a PD controller."""

    def __init__(self, position_gain: float = 10.0, velocity_gain: float = 1.0) -> None:
        self._gains = position_gain, velocity_gain

    def reset(self, env: Any, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode; nothing is kept of the last one."""

    def act(self, env: Any, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the force [2] towards the next cell on the way, or towards the goal from the last one."""
        task = env.unwrapped
        place, speed = task.point_env.data.qpos[:2], task.point_env.data.qvel[:2]
        way = shortest_way(task.maze.maze_map, _cell(task, place), _cell(task, task.goal))
        target = task.goal if len(way) < 3 else task.maze.cell_rowcol_to_xy(np.asarray(way[1]))
        force = self._gains[0] * (target - place) - self._gains[1] * speed
        return np.clip(force, -1.0, 1.0).astype(np.float32)


class EnergyPendulum:
    """Solve Pendulum-v1: pump the energy of the upright rest into it, then hold it with a PD controller.

    With angle a from upright and speed w, energy w^2 / 6 + 5 cos a changes by torque times w (m = l = 1, g = 10).
    """

    def reset(self, env: Any, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode; nothing is kept of the last one."""

    def act(self, env: Any, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the torque [1] for the observation (cos a, sin a, w)."""
        cosine, sine, speed = (float(value) for value in observation)
        angle = np.arctan2(sine, cosine)
        if cosine > 0.9:
            torque = -12.0 * angle - 3.0 * speed
        else:
            missing = 5.0 - (speed**2 / 6 + 5.0 * cosine)
            torque = 2.0 * missing * (1.0 if speed >= 0 else -1.0)
        return np.clip([torque], -2.0, 2.0).astype(np.float32)


def shortest_way(maze: Sequence[Sequence[Any]], start: Cell, goal: Cell) -> list[Cell]:
    """Return the cells from start to goal, both included, over free neighbours; only the start where no way is."""
    before: dict[Cell, Cell] = {goal: goal}
    waiting = deque([goal])
    while waiting and start not in before:
        row, column = waiting.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= cell[0] < len(maze) and 0 <= cell[1] < len(maze[0])
            if inside and maze[cell[0]][cell[1]] != WALL and cell not in before:
                before[cell] = (row, column)
                waiting.append(cell)
    way = [start]
    while way[-1] in before and way[-1] != goal:
        way.append(before[way[-1]])
    return way


def _cell(task: Any, place: np.ndarray) -> Cell:
    row, column = task.maze.cell_xy_to_rowcol(place)
    return int(row), int(column)
