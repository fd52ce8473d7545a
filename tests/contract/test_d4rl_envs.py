"""D4RL's environments: layouts, rewards, ends and the ant's numbers, against d4rl 1.1's own formulas and files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.d4rl.envs import KITCHEN_NOISE, MAZES, OBJECT_NOISE
from understudy.envs.sources.d4rl.source import REFERENCE_SCORES

ANT = json.loads((Path(__file__).parents[1] / "golden" / "d4rl_ant.json").read_text())
SPACES = {
    "halfcheetah-medium-v2": (17, 6, 1000),
    "hopper-medium-v2": (11, 3, 1000),
    "walker2d-medium-v2": (17, 6, 1000),
    "ant-medium-v2": (111, 8, 1000),
    "pen-human-v1": (45, 24, 100),
    "hammer-human-v1": (46, 26, 200),
    "door-human-v1": (39, 28, 200),
    "relocate-human-v1": (39, 30, 200),
    "antmaze-umaze-v2": (29, 8, 700),
    "antmaze-large-diverse-v2": (29, 8, 1000),
    "kitchen-complete-v0": (60, 9, 280),
}
LIGHT = [name for name in SPACES if "kitchen" not in name]
KITCHEN_STEPS = 4


def played(name: str, steps: int = 5, seed: int = 3) -> tuple[Any, np.ndarray, float, dict[str, Any]]:
    """Return an environment after some random steps, with the last observation, reward and info."""
    env = EnvFactory(name)()
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    observation, reward, info = np.zeros(0), 0.0, {}
    for _ in range(steps):
        observation, reward, _, _, info = env.step(rng.uniform(-1, 1, SPACES[name][1]).astype(np.float32))
    return env, observation, float(reward), info


def data_of(env: Any) -> Any:
    return env.unwrapped.data


def trace(name: str, seed: int, steps: int = 12, env: Any = None) -> str:
    """Return a digest of an episode's observations, rewards and ends."""
    env = env or EnvFactory(name)()
    rng = np.random.default_rng(seed)
    seen = hashlib.sha256(np.asarray(env.reset(seed=seed)[0]).tobytes())
    for _ in range(steps):
        observation, reward, ended, late, _ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        seen.update(np.append(observation, [reward, ended, late]).tobytes())
    return seen.hexdigest()


@pytest.mark.parametrize("name", SPACES)
def test_environments_have_d4rls_dims_action_bounds_and_time_limit(name) -> None:
    env: Any = EnvFactory(name)()
    observed, acted, limit = SPACES[name]
    assert env.observation_space.shape == env.reset(seed=0)[0].shape == (observed,)
    assert env.action_space.shape == (acted,)
    assert (env.action_space.low.min(), env.action_space.high.max()) == (-1, 1)
    assert env.get_wrapper_attr("_max_episode_steps") == limit


@pytest.mark.parametrize("name", LIGHT)
def test_episodes_are_a_function_of_the_seed_whatever_ran_before(name) -> None:
    env = EnvFactory(name)()
    first, other = trace(name, 3, env=env), trace(name, 4, env=env)
    np.random.random(5)  # the global stream must not matter
    assert first == trace(name, 3, env=env) == trace(name, 3)
    assert first != other


def test_the_kitchens_episodes_are_a_function_of_the_seed_whatever_ran_before() -> None:
    env = EnvFactory("kitchen-mixed-v0")()
    first = trace("", 3, KITCHEN_STEPS, env)
    assert first != trace("", 4, KITCHEN_STEPS, env)
    assert first == trace("", 3, KITCHEN_STEPS, env)


def test_a_fresh_process_plays_the_same_episodes_and_says_nothing() -> None:
    names = ["hopper-medium-v2", "hammer-human-v1", "antmaze-umaze-v2"]
    code = f"import test_d4rl_envs as t\nprint(*[t.trace(name, 3) for name in {names}])"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.split() == [trace(name, 3) for name in names]
    assert done.stderr == ""


@pytest.mark.parametrize(("name", "clip"), [("halfcheetah-medium-v2", np.inf), ("hopper-medium-v2", 10),
                                            ("walker2d-medium-v2", 10)])  # fmt: skip
def test_runners_observe_positions_without_x_and_then_velocities(name, clip) -> None:
    env, observation, _, _ = played(name, 3)
    env.unwrapped.data.qvel[:3] = (-11.0, 12.0, 13.0)
    data = data_of(env)
    np.testing.assert_array_equal(
        env.unwrapped._get_obs(), np.concatenate([data.qpos[1:], np.clip(data.qvel, -clip, clip)])
    )
    assert observation.shape == (SPACES[name][0],)


def test_ant_observes_zeros_for_contact_forces_and_pays_nothing_for_them() -> None:
    env, observation, reward, info = played("ant-medium-v2", 31)
    data, action = data_of(env), env.unwrapped.data.ctrl
    np.testing.assert_array_equal(observation, np.concatenate([data.qpos[2:], data.qvel, np.zeros(84)]))
    assert np.abs(data.cfrc_ext).max() > 0  # the ant did touch the floor
    assert reward == pytest.approx(info["x_velocity"] + 1.0 - 0.5 * np.sum(action**2))


def test_actions_are_clipped_before_they_cost() -> None:
    env = EnvFactory("halfcheetah-medium-v2")()
    outcomes = []
    for size in (1.0, 3.0):
        env.reset(seed=0)
        outcomes.append(env.step(np.full(6, size, np.float32)))
    np.testing.assert_array_equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]


def test_the_pen_is_observed_and_paid_as_in_d4rl() -> None:
    env, seen, reward, info = played("pen-human-v1", 3)
    data = data_of(env)
    np.testing.assert_array_equal(seen[:24], data.qpos[:24])
    np.testing.assert_array_equal(seen[24:27], data.body("Object").xpos)
    np.testing.assert_array_equal(seen[27:33], data.qvel[-6:])
    held, wanted, away, turned = (seen[i : i + 3] for i in (33, 36, 39, 42))
    np.testing.assert_allclose(np.linalg.norm([held, wanted], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(turned, held - wanted, atol=1e-12)
    distance, similarity = np.linalg.norm(away), held @ wanted
    bonus = 10 * (similarity > 0.9) + 50 * (similarity > 0.95) if distance < 0.075 else 0
    assert seen[26] > 0.075
    assert reward == pytest.approx(similarity - distance + bonus)
    assert info["success"] == (distance < 0.075 and similarity > 0.95)


def test_a_pen_at_its_goal_is_a_success_and_a_dropped_one_ends_the_episode() -> None:
    env: Any = EnvFactory("pen-human-v1")()
    env.reset(seed=0)
    hand = env.unwrapped
    hand.model.body("target").quat[:] = hand.data.body("Object").xquat
    _, reward, ended, _, info = env.step(np.zeros(24, np.float32))
    assert (reward > 60, ended, info["success"]) == (True, False, True)
    for axis in ("OBJTx", "OBJTy", "OBJTz"):  # the pen lies: its frame is turned
        hand.data.joint(axis).qpos[0] -= 0.3 * hand.data.joint(axis).xaxis[2]
    _, reward, ended, _, info = env.step(np.zeros(24, np.float32))
    assert (reward < -4, ended, info["success"]) == (True, True, False)


def test_the_hammer_is_observed_and_paid_as_in_d4rl() -> None:
    env, seen, reward, info = played("hammer-human-v1", 6)
    data = data_of(env)
    np.testing.assert_array_equal(seen[:27], data.qpos[:27])
    np.testing.assert_array_equal(seen[27:33], np.clip(data.qvel[-6:], -1, 1))
    palm, handle, nail = (seen[i : i + 3] for i in (33, 36, 42))
    np.testing.assert_array_equal(palm, data.site("S_grasp").xpos)
    left, head = np.linalg.norm(nail - data.site("nail_goal").xpos), data.site("tool").xpos
    cost = 0.1 * np.linalg.norm(palm - handle) + np.linalg.norm(head - nail) + 10 * left
    lifted = handle[2] > 0.04 and head[2] > 0.04
    assert reward == pytest.approx(2 * lifted - cost - 0.01 * np.linalg.norm(data.qvel))
    assert info["success"] is False


def test_the_door_is_observed_and_paid_as_in_d4rl_and_an_open_one_is_a_success() -> None:
    env, seen, reward, info = played("door-human-v1", 4)
    data = data_of(env)
    np.testing.assert_array_equal(seen[:27], data.qpos[1:28])
    np.testing.assert_array_equal(seen[27:29], data.qpos[[29, 28]])  # the latch, then the hinge
    np.testing.assert_allclose(seen[35:38], seen[29:32] - seen[32:35])
    cost = 0.1 * np.linalg.norm(seen[35:38]) + 0.1 * (seen[28] - 1.57) ** 2 + 1e-5 * np.sum(data.qvel**2)
    assert (reward, info["success"], seen[38]) == (pytest.approx(-cost), False, -1)
    data.joint("door_hinge").qpos[0] = 1.5
    seen, reward, _, _, info = env.step(np.zeros(28, np.float32))
    assert (reward > 19, info["success"], seen[38]) == (True, True, 1)


def test_relocate_is_observed_and_paid_as_in_d4rl() -> None:
    env, seen, reward, _ = played("relocate-human-v1", 4)
    data = data_of(env)
    np.testing.assert_array_equal(seen[:30], data.qpos[:30])
    to_ball, to_target, ball_to_target = (seen[i : i + 3] for i in (30, 33, 36))
    np.testing.assert_allclose(to_target - to_ball, ball_to_target, atol=1e-12)
    lifted = 1 - 0.5 * np.linalg.norm(to_target) - 0.5 * np.linalg.norm(ball_to_target)
    expected = -0.1 * np.linalg.norm(to_ball) + (lifted if data.body("Object").xpos[2] > 0.04 else 0)
    assert np.linalg.norm(ball_to_target) > 0.1
    assert reward == pytest.approx(expected)
    env.unwrapped.model.site("target").pos[:] = data.body("Object").xpos
    _, reward, _, _, info = env.step(np.zeros(30, np.float32))
    assert (reward > 29, info["success"]) == (True, True)


@pytest.mark.parametrize(
    ("name", "last", "goal"),
    [
        ("kitchen-partial-v0", "slide cabinet", {19: 0.37}),
        ("kitchen-mixed-v0", "bottom burner", {11: -0.88, 12: -0.01}),
    ],
)
def test_the_kitchen_observes_joints_objects_and_goal_and_pays_each_task_once(name, last, goal) -> None:
    env: Any = EnvFactory(name)()
    seen, info = env.reset(seed=0)
    qpos = data_of(env).qpos.copy()
    np.testing.assert_allclose(qpos[[0, 7, 22, 25]], [0.148388, 0.0479268, 0.00108010, 1.61944683], atol=1e-6)
    assert 0 < np.abs(seen[:9] - qpos[:9]).max() <= 0.1 * 0.1
    assert np.all(np.abs(seen[9:30] - qpos[9:]) <= KITCHEN_NOISE * OBJECT_NOISE)
    expected = np.zeros(30)
    goals = {17: -0.69, 18: -0.05, 22: -0.75, 23: -0.23, 24: 0.75, 25: 1.62, 26: 0.99, 29: -0.06, **goal}
    expected[list(goals)] = list(goals.values())
    np.testing.assert_array_equal(seen[30:], expected)
    assert last in info["tasks_left"]
    total = 0.0
    for places in ([22], [17, 18], [*goal], [*range(23, 30)]):
        data_of(env).qpos[places] = expected[places]
        data_of(env).qvel[:] = 0
        _, reward, ended, _, info = env.step(np.zeros(9))
        total += reward
        assert (reward, ended, info["success"]) == (1.0, total == 4, total == 4)
    assert EnvFactory(name).normalized_score(np.array([total])) == [100.0]


def test_the_antmazes_ant_is_d4rls_in_every_number() -> None:
    model = EnvFactory("antmaze-umaze-v2")().unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
    own = [i for i in range(1, model.ngeom) if model.geom_bodyid[i] > 0]
    assert (model.opt.timestep, model.opt.integrator) == (ANT["timestep"], ANT["integrator"])
    assert [model.joint(i).name for i in range(model.njnt)] == ANT["joints"]
    assert [model.joint(i).name for i in model.actuator_trnid[:, 0]] == ANT["actuators"]
    np.testing.assert_array_equal(model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1], ANT["force_at_action_1"])
    for name in ("qpos0", "body_mass", "body_inertia", "body_pos", "dof_damping", "dof_armature", "jnt_range"):
        np.testing.assert_allclose(getattr(model, name), ANT[name], atol=1e-9, err_msg=name)
    for name in [name for name in ANT if name.startswith("geom_")]:
        np.testing.assert_allclose(getattr(model, name)[own], ANT[name], atol=1e-9, err_msg=name)
    floor, wall = model.geom("floor").id, model.geom("block_0_0").id
    for name, value in ANT["floor"].items():
        np.testing.assert_array_equal(getattr(model, name)[floor], value, err_msg=name)
        np.testing.assert_array_equal(getattr(model, name)[wall], value, err_msg=name)


@pytest.mark.parametrize(("maze", "goal"), [("umaze", (0, 8)), ("medium-play", (20, 20)), ("large-diverse", (32, 24))])
def test_antmazes_start_at_the_origin_and_end_with_1_at_d4rls_goal(maze, goal) -> None:
    env: Any = EnvFactory(f"antmaze-{maze}-v2")()
    offsets = []
    for seed in range(20):
        seen, info = env.reset(seed=seed)
        assert np.abs(seen[:2]).max() <= 0.1
        offsets.append(info["target_goal"] - goal)
    np.testing.assert_array_equal(seen, np.concatenate([data_of(env).qpos, data_of(env).qvel]))
    assert (np.min(offsets) >= 0, np.max(offsets) <= 1.5, np.ptp(offsets) > 1) == (True, True, True)
    still, target = np.zeros(8, np.float32), info["target_goal"]
    assert env.step(still)[1:] == (0.0, False, False, {"success": False})
    data_of(env).qpos[:2] = target[0] + 0.9, target[1]
    data_of(env).qvel[:] = 0
    assert env.step(still)[1] == 0.0
    data_of(env).qpos[:2] = target[0] + 0.2, target[1] - 0.2
    data_of(env).qvel[:] = 0
    assert env.step(still)[1:] == (1.0, True, False, {"success": True})
    assert EnvFactory("antmaze-umaze-v2").normalized_score(np.array([1.0])) == [100.0]


def test_antmaze_walls_are_d4rls_and_solid() -> None:
    env: Any = EnvFactory("antmaze-large-play-v2")()
    env.reset(seed=0)
    model = env.unwrapped.model
    rows = MAZES["large"]
    walls = [i for i in range(model.ngeom) if model.geom(i).name.startswith("block_")]
    assert len(walls) == sum(row.count("#") for row in rows)
    np.testing.assert_array_equal(model.geom("block_1_5").pos, [16, 0, 1])
    np.testing.assert_array_equal(model.geom_size[walls], np.tile([2, 2, 1], (len(walls), 1)))
    data_of(env).qpos[:2] = (-1.9, 0)  # its legs in the wall at x = -2
    import mujoco  # not above: whoever imports it first has chosen the renderer for all tests

    mujoco.mj_forward(model, data_of(env))  # pyright: ignore[reportAttributeAccessIssue]
    touched = {model.geom(int(g)).name for contact in data_of(env).contact for g in contact.geom}
    assert any(name.startswith("block_1_0") for name in touched)
    assert "target" not in touched


@pytest.mark.parametrize(("name", "episodes", "error"), [("halfcheetah-random-v2", 4, 110), ("hammer-human-v1", 3, 20),
                                                         ("door-human-v1", 3, 3)])  # fmt: skip
def test_a_random_policy_earns_d4rls_reference_minimum(name, episodes, error) -> None:
    env, returns = EnvFactory(name)(), np.zeros(episodes)
    for episode in range(episodes):
        rng, late = np.random.default_rng(episode), False
        env.reset(seed=episode)
        while not late:
            _, reward, _, late, _ = env.step(rng.uniform(-1, 1, SPACES[name.replace("random", "medium")][1]))
            returns[episode] += float(reward)
    assert returns.mean() == pytest.approx(REFERENCE_SCORES[name.split("-")[0]][0], abs=error)


def test_simulator_states_are_mujocos() -> None:
    for name in ("hopper-medium-v2", "pen-human-v1", "antmaze-umaze-v2"):
        factory = EnvFactory(name)
        env = factory()
        env.reset(seed=0)
        state = factory.task.simulator_state(env)
        assert sorted(state) == ["qpos", "qvel"]
        np.testing.assert_array_equal(state["qpos"], data_of(env).qpos)
        env.step(np.ones(env.action_space.shape or ()))
        assert not np.array_equal(state["qpos"], data_of(env).qpos)
