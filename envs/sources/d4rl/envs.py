"""D4RL's environments on today's MuJoCo: observations, rewards, ends and time limits as d4rl 1.1 has them.

d4rl ran on MuJoCo 2.0/2.1 through mujoco_py; here it is the `mujoco` package, whose solver gives slightly different
trajectories. Compiled by it, d4rl's own XML files of Adroit, Kitchen and AntMaze's ant agree with those used here in
every number that the physics reads. What else differs:

- MuJoCo (gymnasium's v4; v5 changed rewards, ends and models): actions are clipped before the control cost is taken,
  as d4rl does. Ant's 84 contact forces are zeros, and there is no contact cost: so they are in d4rl's data, because
  mujoco_py computed none (D4RL issue 143); gymnasium's would be others.
- Adroit (gymnasium-robotics): its observations are d4rl's, its rewards are not (since 1.2.1 hammer, door and relocate
  pay for the palm's distance instead of charging for it, and a dropped pen does not end the episode), so rewards and
  ends are computed here by d4rl's formulas. Rewards are the dense ones, which all of d4rl's datasets have. Success is
  the goal reached at a step; d4rl's own `evaluate_success` asks for more than 20 (pen) or 25 such steps.
- Kitchen (gymnasium-robotics' FrankaKitchen-v1): its 9 joint positions come with d4rl's noise; objects' positions,
  their noise, the goal, the reward and the end are made here. The floor, which only a fallen kettle meets, is solid.
- AntMaze: OGBench's ant is d4rl's (gear 30, where gymnasium's and gymnasium-robotics' have 150), in d4rl's mazes. The
  goal is drawn anew at each reset, which d4rl does for v2 names only: v0 and v1 kept one goal for an environment's
  life. The marker of the goal, for videos, touches nothing.

Every episode is a function of the reset's seed and the actions; d4rl drew AntMaze's goals from the global `np.random`.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from understudy.envs.simulators.registered import make_registered
from understudy.envs.simulators.video import choose_renderer
from understudy.envs.sources.source import missing_package

IDS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4",
       "pen": "AdroitHandPen-v1", "hammer": "AdroitHandHammer-v1", "door": "AdroitHandDoor-v1",
       "relocate": "AdroitHandRelocate-v1", "kitchen": "FrankaKitchen-v1"}  # fmt: skip
CONTACT_FORCES = 84
MAZES = {
    "umaze": ("#####", "#R..#", "###.#", "#G..#", "#####"),
    "medium": ("########", "#R.##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#.G#", "########"),
    "large": ("############", "#R...#.....#", "#.##.#.#.#.#", "#......#...#", "#.####.###.#", "#..#.#.....#",
              "##.#.#.#.###", "#..#...#.G.#", "############"),
}  # fmt: skip
"""d4rl's U_MAZE_TEST, BIG_MAZE_TEST and HARDEST_MAZE_TEST: walls, start (the origin) and goal cell. Rows are y."""
CELL, GOAL_RADIUS = 4.0, 0.5
GOAL_NOISE = (1.0, 0.5)
"""d4rl adds two uniform draws to the goal cell's centre, in each of x and y."""
KITCHEN_GOALS = {
    "bottom burner": ((11, 12), (-0.88, -0.01)),
    "light switch": ((17, 18), (-0.69, -0.05)),
    "slide cabinet": ((19,), (0.37,)),
    "microwave": ((22,), (-0.75,)),
    "kettle": ((23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
"""Places in qpos [30] and what they should be."""
KITCHEN_TASKS = (("microwave", "kettle", "light switch", "slide cabinet"),
                 ("microwave", "kettle", "bottom burner", "light switch"))  # fmt: skip
"""Subtasks of the datasets "complete" and "partial", and of "mixed"."""
KITCHEN_NOISE = 0.1
OBJECT_NOISE = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])
"""Amplitude of each object coordinate's noise, before KITCHEN_NOISE, from d4rl's franka_config.xml."""
REACHED = 0.3


def make_mujoco(env_name: str, task: str, limit: int, render: bool, size: int) -> gymnasium.Env:
    """Return HalfCheetah, Hopper, Walker2d or Ant."""
    if importlib.util.find_spec("mujoco") is None:
        raise missing_package(env_name, "mujoco", "envs")
    env = make_registered(env_name, IDS[task], render=render, size=size, arguments={"max_episode_steps": limit})
    return Clipped(NoContactForces(env) if task == "ant" else env)


def make_adroit(env_name: str, task: str, limit: int, render: bool, size: int) -> gymnasium.Env:
    """Return Adroit's pen, hammer, door or relocate."""
    _need_robotics(env_name)
    env = make_registered(env_name, IDS[task], render=render, size=size, arguments={"max_episode_steps": limit})
    return Adroit(env, task)


def make_kitchen(env_name: str, mixed: bool, limit: int, render: bool, size: int) -> gymnasium.Env:
    """Return the kitchen with the four tasks of the dataset."""
    _need_robotics(env_name)
    tasks = KITCHEN_TASKS[mixed]
    arguments = {"tasks_to_complete": list(tasks), "terminate_on_tasks_completed": False, "max_episode_steps": limit,
                 "robot_noise_ratio": KITCHEN_NOISE, "object_noise_ratio": 0.0}  # fmt: skip
    return Kitchen(make_registered(env_name, IDS["kitchen"], render=render, size=size, arguments=arguments), tasks)


def make_antmaze(env_name: str, maze: str, limit: int, render: bool, size: int) -> gymnasium.Env:
    """Return the ant in a maze: umaze, medium or large."""
    if importlib.util.find_spec("ogbench") is None:
        raise missing_package(env_name, "ogbench", "envs")
    choose_renderer()
    return gymnasium.wrappers.TimeLimit(AntMaze(maze, size if render else 200), limit)


class Clipped(gymnasium.ActionWrapper):
    """Clip actions to the action space before the environment sees them."""

    def action(self, action: np.ndarray) -> np.ndarray:
        """Return the clipped action."""
        space: Any = self.action_space
        return np.clip(action, space.low, space.high)


class NoContactForces(gymnasium.ObservationWrapper):
    """Append the zeros that d4rl's Ant has in place of contact forces."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        shape = (env.observation_space.shape or (0,))[0] + CONTACT_FORCES
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (shape,), np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return positions and velocities [27], then the zeros."""
        return np.concatenate([observation, np.zeros(CONTACT_FORCES)])


class Adroit(gymnasium.Wrapper):
    """Pay d4rl's rewards, end where d4rl ends, tell success at each step."""

    def __init__(self, env: gymnasium.Env, task: str) -> None:
        super().__init__(env)
        judges = {"pen": _judge_pen, "hammer": _judge_hammer, "door": _judge_door, "relocate": _judge_relocate}
        self._judge = judges[task]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; only a dropped pen ends an episode before the time limit."""
        observation, _, _, truncated, info = self.env.step(action)
        hand: Any = self.env.unwrapped
        reward, solved = self._judge(hand)
        dropped = self._judge is _judge_pen and bool(hand.data.body("Object").xpos[2] < 0.075)
        return observation, float(reward), dropped, truncated, {**info, "success": bool(solved)}


def _judge_pen(hand: Any) -> tuple[float, bool]:
    site, pen = hand.data.site, hand.data.body("Object").xpos
    held = (site("object_top").xpos - site("object_bottom").xpos) / hand.pen_length
    wanted = (site("target_top").xpos - site("target_bottom").xpos) / hand.tar_length
    distance, similarity = _length(pen - site("eps_ball").xpos), float(held @ wanted)
    near = distance < 0.075
    bonus = 10 * (near and similarity > 0.9) + 50 * (near and similarity > 0.95)
    return similarity - distance + bonus - 5 * (pen[2] < 0.075), near and similarity > 0.95


def _judge_hammer(hand: Any) -> tuple[float, bool]:
    site, handle = hand.data.site, hand.data.body("Object").xpos
    head, nail = site("tool").xpos, site("S_target").xpos
    left = _length(nail - site("nail_goal").xpos)
    cost = 0.1 * _length(site("S_grasp").xpos - handle) + _length(head - nail) + 10 * left
    cost += 0.01 * _length(hand.data.qvel)
    bonus = 2 * (handle[2] > 0.04 and head[2] > 0.04) + 25 * (left < 0.02) + 75 * (left < 0.01)
    return bonus - cost, left < 0.01


def _judge_door(hand: Any) -> tuple[float, bool]:
    site, hinge = hand.data.site, hand.data.joint("door_hinge").qpos[0]
    cost = 0.1 * _length(site("S_grasp").xpos - site("S_handle").xpos) + 0.1 * (hinge - 1.57) ** 2
    cost += 1e-5 * float(np.sum(hand.data.qvel**2))
    return 2 * (hinge > 0.2) + 8 * (hinge > 1.0) + 10 * (hinge > 1.35) - cost, hinge >= 1.35


def _judge_relocate(hand: Any) -> tuple[float, bool]:
    palm, ball, target = (hand.data.site("S_grasp").xpos, hand.data.body("Object").xpos, hand.data.site("target").xpos)
    left = _length(ball - target)
    reward = 10 * (left < 0.1) + 20 * (left < 0.05) - 0.1 * _length(palm - ball)
    if ball[2] > 0.04:
        reward += 1.0 - 0.5 * _length(palm - target) - 0.5 * left
    return reward, left < 0.1


class Kitchen(gymnasium.Wrapper):
    """Observe joints [9], objects [21] and the goal [30]; pay 1 for each task when it is first completed."""

    def __init__(self, env: gymnasium.Env, tasks: tuple[str, ...]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (60,), np.float64)
        self._tasks, self._left = tasks, set(tasks)
        self._goal = np.zeros(30)
        for task in tasks:
            places, values = KITCHEN_GOALS[task]
            self._goal[list(places)] = values

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the start is always the same but for the noise of the observation."""
        observation, _ = self.env.reset(seed=seed, options=options)
        self._left = set(self._tasks)
        return self._flat(observation), {"tasks_left": sorted(self._left)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; the episode ends when no task is left. Tasks are judged by the noisy observation, as d4rl does."""
        observation, _, _, truncated, _ = self.env.step(action)
        flat = self._flat(observation)
        done = {task for task in self._left if self._distance(flat, task) < REACHED}
        self._left -= done
        info = {"success": not self._left, "tasks_left": sorted(self._left)}
        return flat, float(len(done)), not self._left, truncated, info

    def _distance(self, flat: np.ndarray, task: str) -> float:
        places = list(KITCHEN_GOALS[task][0])
        return _length(flat[places] - self._goal[places])

    def _flat(self, observation: dict[str, Any]) -> np.ndarray:
        kitchen: Any = self.env.unwrapped
        noise = kitchen.robot_env.np_random.uniform(-1.0, 1.0, 21)
        objects = kitchen.data.qpos[9:] + KITCHEN_NOISE * OBJECT_NOISE * noise
        return np.concatenate([observation["observation"][:9], objects, self._goal])


class AntMaze(gymnasium.Wrapper):
    """The ant in a maze: observe qpos [15] and qvel [14]; 1 and the episode's end within 0.5 of the goal."""

    def __init__(self, maze: str, size: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")
            from ogbench.locomaze.ant import AntEnv
        rows = MAZES[maze]
        self._goal_cell = next((x, y) for y, row in enumerate(rows) for x, cell in enumerate(row) if cell == "G")
        self._goal = np.zeros(2)
        with tempfile.TemporaryDirectory() as folder:  # MuJoCo reads files
            file = Path(folder) / f"{maze}.xml"
            _maze_tree(AntEnv.xml_file, rows).write(file)
            across, down = len(rows[0]), len(rows)
            camera = {"lookat": np.array([CELL / 2 * (across - 3), CELL / 2 * (down - 3), 0.0]), "elevation": -90.0,
                      "distance": 1.25 * CELL * (max(across, down) - 2), "azimuth": 90.0}  # fmt: skip
            super().__init__(AntEnv(xml_file=str(file), width=size, height=size, default_camera_config=camera))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset to the start cell with d4rl's noise and draw the goal; it is `target_goal` [2] of the info."""
        import mujoco

        observation, info = self.env.reset(seed=seed, options=options)
        ant: Any = self.env.unwrapped
        centre = (np.array(self._goal_cell) - 1) * CELL  # the start cell is (1, 1) in every maze, at the origin
        self._goal = centre + sum(ant.np_random.uniform(0.0, width, 2) for width in GOAL_NOISE)
        ant.model.geom("target").pos[:2] = self._goal
        mujoco.mj_kinematics(ant.model, ant.data)  # pyright: ignore[reportAttributeAccessIssue]
        return observation, {**info, "target_goal": self._goal.copy()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; the simulator clips the action."""
        observation, _, _, truncated, _ = self.env.step(action)
        reached = _length(observation[:2] - self._goal) <= GOAL_RADIUS
        return observation, float(reached), reached, truncated, {"success": reached}


def _maze_tree(ant_file: str, rows: tuple[str, ...]) -> Any:
    """Return the ant's XML tree with a wall 2 high for each '#' and a marker of the goal."""
    tree = ET.parse(ant_file)
    world: Any = tree.find(".//worldbody")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell == "#":
                place, size = f"{(x - 1) * CELL} {(y - 1) * CELL} {CELL / 4}", f"{CELL / 2} {CELL / 2} {CELL / 4}"
                wall = {"name": f"block_{y}_{x}", "pos": place, "size": size, "type": "box", "material": "wall"}
                ET.SubElement(world, "geom", {**wall, "contype": "1", "conaffinity": "1"})
    marker = {"name": "target", "type": "cylinder", "size": f"{GOAL_RADIUS} .05", "pos": "0 0 .05"}
    ET.SubElement(world, "geom", {**marker, "material": "target", "contype": "0", "conaffinity": "0"})
    return tree


def _need_robotics(env_name: str) -> None:
    if importlib.util.find_spec("gymnasium_robotics") is None:
        raise missing_package(env_name, "gymnasium-robotics", "envs")


def _length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))
