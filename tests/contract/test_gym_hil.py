"""gym-hil's pick cube: gym-hil's own numbers, pictures that repeat by seed, an expert that picks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.pick_cube import NAME, STATE, actions_of, digest, seen_in
from tests.contract.source_examples import can_render, one_line

from understudy.envs.experts.attempts import AttemptSpec, play
from understudy.envs.experts.demonstrations import supported_names
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.gym_hil.env import MAX_STEPS
from understudy.envs.sources.names import made_name
from understudy.envs.sources.source import task_of
from understudy.errors import UserError
from understudy.randomness import stream_key

UPSTREAM = {"rendering": {"shadows": True, "offsamples": 8, "reflections": True}}
"""How gym-hil itself draws."""


def upstream(**options: Any) -> Any:
    """Return gym-hil's own environment, wrapped by gym-hil itself."""
    from gym_hil.envs import PandaPickCubeGymEnv
    from gym_hil.wrappers.hil_wrappers import DEFAULT_EE_STEP_SIZE, EEActionWrapper

    env = PandaPickCubeGymEnv(random_block_position=True, **options)
    return EEActionWrapper(env, DEFAULT_EE_STEP_SIZE, use_gripper=True)


# ---- the environment ----


def test_states_rewards_and_endings_are_gym_hils_own_bit_for_bit() -> None:
    if not can_render():  # gym-hil's constructor renders
        return
    env, theirs = EnvFactory(STATE)(), upstream()
    solved, _ = play(AttemptSpec(STATE), 0)
    seeds = {5: actions_of(5, 12), stream_key(0, "expert", 0) % 2**31: solved["actions"]}
    for seed, actions in seeds.items():
        np.random.seed(seed)
        look, _ = theirs.reset(seed=seed)
        ours, _ = env.reset(seed=seed)
        for action in actions:
            np.testing.assert_array_equal(ours, np.concatenate([look["agent_pos"], look["environment_state"]]))
            moves = np.clip(action, -1, 1).astype(np.float64)
            look, reward, ended, _, told = theirs.step([*moves[:3], moves[3] + 1.0])
            ours, *rest, info = env.step(action)
            assert rest == [reward, ended, False]
            assert info["success"] == told["succeed"]
    assert (rest[:2], info["success"]) == ([1.0, True], True)


def test_drawn_with_gym_hils_options_the_first_pictures_are_gym_hils_own_bit_for_bit() -> None:
    if not can_render():
        return
    theirs = upstream(image_obs=True)
    np.random.seed(3)
    pixels = theirs.reset(seed=3)[0]["pixels"]
    theirs.close()
    env = EnvFactory(NAME, settings=json.dumps(UPSTREAM))()
    seen, _ = env.reset(seed=3)
    quick, _ = EnvFactory(NAME)().reset(seed=3)
    for camera in ("front", "wrist"):
        np.testing.assert_array_equal(seen[camera], pixels[camera])
        assert (np.abs(quick[camera].astype(int) - seen[camera]) > 20).mean() > 0.1  # shadows
    np.testing.assert_array_equal(seen["state"], quick["state"])
    env.close()


@pytest.mark.slow
def test_pictures_repeat_by_seed_and_actions_after_other_episodes_and_in_a_fresh_process() -> None:
    if not can_render():
        return
    small = {"height": 24, "width": 32}
    env = EnvFactory(NAME, settings=json.dumps(small))()
    assert env.observation_space["wrist"].shape == (24, 32, 3)  # type: ignore[index]
    env.reset(seed=9)
    for action in actions_of(9, 4):
        env.step(action)
    before = np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    actions = actions_of(7, 5)
    looks = [env.reset(seed=7)[0], *(env.step(action)[0] for action in actions)]
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]
    assert all(env.observation_space.contains(look) for look in looks)
    assert all(look[camera].std() > 10 for look in looks for camera in ("front", "wrist"))
    program = (
        "from tests.contract.pick_cube import *\n"
        f"print('digest', digest(seen_in(NAME, {small!r}, 7, actions_of(7, 5))))"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert f"digest {digest(looks)}" in done.stdout
    assert digest(looks) != digest(seen_in(NAME, small, 8, actions))


def test_an_episode_is_cut_after_gym_hils_hundred_steps_and_states_need_no_opengl() -> None:
    program = f"""
import numpy as np
from understudy.envs.rollouts.factory import EnvFactory
env = EnvFactory({STATE!r})()
env.reset(seed=0)
ends = [env.step(np.zeros(4))[2:4] for _ in range({MAX_STEPS})]
assert ends[-1] == (False, True) and not any(a or b for a, b in ends[:-1]), ends
"""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "platform"), "MUJOCO_GL": "off"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        (NAME, {"cameras": ["front", "hand"]}, "no camera 'hand'; there are front, wrist"),
        (NAME, {"cameras": ["front", "front"]}, "cameras=front,front: one is named twice"),
        (NAME, {"cameras": "front"}, "a list is needed, of front, wrist"),
        (NAME, {"heigth": 64}, "no setting 'heigth' (did you mean 'height'"),
        (NAME, {"width": 4}, "width=4: must be a whole number from 8 to 1024"),
        (NAME, {"rendering": {"shadow": True}}, "no rendering option 'shadow' (did you mean 'shadows'"),
        (NAME, {"rendering": {"shadows": "some"}}, "allowed are true and false"),
        (STATE, {"height": 64}, "has no pictures"),
        ("gym_hil/PandaPickCube-scriptd-v0", {}, "did you mean"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_in_one_line(name, settings, said) -> None:
    with pytest.raises(UserError) as error:
        EnvFactory(name, settings=json.dumps(settings))()
    one_line(error, said)


# ---- the expert ----


def test_the_expert_picks_the_cube_ten_times_of_ten_and_leaves_the_global_stream_alone() -> None:
    before = np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    lengths = []
    for number in range(10):
        episode, solved = play(AttemptSpec(STATE, seed=1), number)
        lengths.append(len(episode["actions"]))
        assert solved
        assert episode["rewards"].tolist() == [0.0] * (lengths[-1] - 1) + [1.0]
        assert np.abs(episode["actions"]).max() <= 1
    assert max(lengths) < 40
    assert len(set(lengths)) > 3
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]


# ---- names ----


@pytest.mark.parametrize(
    ("name", "scripted", "policy"),
    [
        ("gym_hil/PandaPickCube-v0", NAME, "gym_hil/PandaPickCube-policy-v0"),
        (NAME, NAME, "gym_hil/PandaPickCube-policy-v0"),
        ("gym_hil/PandaPickCube-human-v0", NAME, "gym_hil/PandaPickCube-policy-v0"),
        ("gym_hil/PandaPickCube-state-v0", STATE, "gym_hil/PandaPickCube-state-policy-v0"),
    ],
)
def test_what_is_made_here_is_named_by_who_made_it(name, scripted, policy) -> None:
    assert (made_name(name, "scripted"), made_name(name, "policy")) == (scripted, policy)
    assert {NAME, STATE} <= set(supported_names())
    assert task_of(policy).source.name == "gym_hil"
