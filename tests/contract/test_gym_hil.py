"""gym-hil's pick cube: gym-hil's own numbers, pictures that repeat, an expert, demonstrations that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.contract.source_examples import one_line, same_episodes
from tests.integration.commands import kill_when, start
from tests.unit.command_line import understudy

from understudy.envs import gym_hil
from understudy.envs.attempts import Task, attempt_file, pictures_file, play, render
from understudy.envs.experts import generate, made_name, supported_names
from understudy.envs.gym_hil_env import MAX_STEPS, Pictures
from understudy.envs.importing import episodes_of, import_file
from understudy.envs.source import EnvFactory, source_for
from understudy.envs.store import EpisodeStore
from understudy.envs.video import rendering_available
from understudy.errors import DatasetError, UserError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import stream_key, torch_generator
from understudy.registry import algorithms, sources

NAME = "gym_hil/PandaPickCube-scripted-v0"
STATE = "gym_hil/PandaPickCube-state-scripted-v0"
SMALL = {"height": "24", "width": "32"}
UPSTREAM = {"rendering": {"shadows": True, "offsamples": 8, "reflections": True}}
"""How gym-hil itself draws."""


@pytest.fixture(scope="module")
def can_render() -> bool:
    """Whether there is OpenGL; without it the error says so, and pictures are not tested."""
    reason = rendering_available()
    assert reason is None or "MuJoCo cannot render here" in reason
    return reason is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pick_cube")


@pytest.fixture(scope="module")
def store(folder, can_render) -> EpisodeStore | None:
    """Two demonstrations with small pictures of both cameras."""
    if not can_render:
        return None
    made = generate(NAME, 2, out_path=folder / "two.hdf5", rendering=SMALL, formats=["lerobot"])
    assert made.extra == (folder / "two.lerobot",)
    return import_file("gym_hil", made.path, NAME, folder / "stores")


def actions_of(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, 4)).astype(np.float32)


def upstream(**options: Any) -> Any:
    """Return gym-hil's own environment, wrapped by gym-hil itself."""
    from gym_hil.envs import PandaPickCubeGymEnv
    from gym_hil.wrappers.hil_wrappers import DEFAULT_EE_STEP_SIZE, EEActionWrapper

    env = PandaPickCubeGymEnv(random_block_position=True, **options)
    return EEActionWrapper(env, DEFAULT_EE_STEP_SIZE, use_gripper=True)


# ---- the environment ----


def test_states_rewards_and_endings_are_gym_hils_own_bit_for_bit(can_render) -> None:
    if not can_render:  # gym-hil's constructor renders
        return
    env, theirs = EnvFactory(STATE)(), upstream()
    solved, _ = play(Task(STATE), 0)
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


def test_drawn_with_gym_hils_options_the_first_pictures_are_gym_hils_own_bit_for_bit(can_render) -> None:
    if not can_render:
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


def seen_in(name: str, settings: dict[str, Any], seed: int, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    env = EnvFactory(name, settings=json.dumps(settings))()
    looks = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    env.close()
    return looks


def digest(looks: list[dict[str, np.ndarray]]) -> str:
    return hashlib.sha256(b"".join(look[name].tobytes() for look in looks for name in sorted(look))).hexdigest()


def test_pictures_repeat_by_seed_and_actions_after_other_episodes_and_in_a_fresh_process(can_render) -> None:
    if not can_render:
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
        "from tests.contract.test_gym_hil import *\n"
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
from understudy.envs.source import EnvFactory
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
        episode, solved = play(Task(STATE, seed=1), number)
        lengths.append(len(episode["actions"]))
        assert solved
        assert episode["rewards"].tolist() == [0.0] * (lengths[-1] - 1) + [1.0]
        assert np.abs(episode["actions"]).max() <= 1
    assert max(lengths) < 40
    assert len(set(lengths)) > 3
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]


# ---- demonstrations ----


def test_pictures_rendered_afterwards_are_those_seen_while_playing_bit_for_bit(store) -> None:
    if store is None:
        return
    settings = store.manifest.provenance["environment"]
    for number, episode in enumerate(episodes_of(store)):
        seen = seen_in(NAME, settings, stream_key(0, "expert", number) % 2**31, episode["executed_actions"])
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(episode[f"images/{camera}"], np.stack([look[camera] for look in seen[:-1]]))
            np.testing.assert_array_equal(episode[f"final_images/{camera}"], seen[-1][camera])
        np.testing.assert_array_equal(episode["observations"], np.stack([look["state"] for look in seen[:-1]]))
        np.testing.assert_array_equal(episode["final_observation"], seen[-1]["state"])
        assert episode["rewards"][-1] == 1


def test_the_same_demonstrations_are_a_lerobot_dataset_with_two_cameras_that_names_their_environment(
    store, folder
) -> None:
    if store is None:
        return
    made = folder / "two.lerobot"
    written = import_file("lerobot", made, f"lerobot:{made}", folder / "stores", name="two")
    assert written.cameras() == ["front", "wrist"]
    provenance = written.manifest.provenance
    assert (provenance["env_name"], provenance["fps"]) == (NAME, 10)
    assert provenance["environment"] == store.manifest.provenance["environment"]
    for ours, theirs in zip(episodes_of(store), episodes_of(written), strict=True):
        for column in ("observations", "actions", "executed_actions", "rewards", "terminals", "final_observation"):
            np.testing.assert_array_equal(ours[column], theirs[column])
        for camera in ("images/front", "images/wrist"):
            difference = np.abs(ours[camera].astype(int) - theirs[camera])
            assert difference.mean() < 12  # videos are lossy
    info = json.loads((made / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 10, 2)


def test_the_rendering_is_kept_in_the_manifest_and_evaluations_draw_alike(tmp_path, can_render) -> None:
    if not can_render:
        return
    chosen = {"cameras": "wrist", "height": "16", "width": "40", "reflections": "true", "offsamples": "4"}
    made = generate(NAME, 1, out_path=tmp_path / "one.hdf5", rendering=chosen, noise=0.0)
    store = import_file("gym_hil", made.path, NAME, tmp_path)
    settings = store.manifest.provenance["environment"]
    drawing = {"shadows": False, "offsamples": 4, "reflections": True}
    assert settings == {"cameras": ["wrist"], "height": 16, "width": 40, "rendering": drawing}
    assert store.cameras() == ["wrist"]
    env = EnvFactory(NAME, settings=json.dumps(settings, sort_keys=True))()
    look, _ = env.reset(seed=stream_key(0, "expert", 0) % 2**31)
    np.testing.assert_array_equal(look["wrist"], store.frames("images/wrist").gather(np.array([0]))[0])
    with pytest.raises(UserError, match=r"was begun with settings=.*not"):
        attempts = tmp_path / "attempts"
        generate(NAME, 1, out_path=tmp_path / "x.hdf5", rendering=chosen, noise=0.0, attempts_dir=attempts)
        generate(NAME, 1, out_path=tmp_path / "x.hdf5", rendering=SMALL, noise=0.0, attempts_dir=attempts)


def test_a_killed_generation_renders_only_what_is_missing(store, tmp_path, monkeypatch, capsys) -> None:
    if store is None:
        return
    words = ["data", "generate", "gym_hil/PandaPickCube-v0", "--episodes", "2", "--workers", "1"]
    words += ["--data_dir", str(tmp_path), *(f"--rendering={name}={value}" for name, value in SMALL.items())]
    attempts = tmp_path / ".generating" / "gym_hil__PandaPickCube-scripted-v0"
    process = start(*words, cwd=tmp_path)
    kill_when(process, attempt_file(attempts, 1).exists)
    assert pictures_file(attempts, 0).exists()  # the first one's are rendered at once, to be written on trial
    assert not pictures_file(attempts, 1).exists()
    before = {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")}

    other = understudy(monkeypatch, capsys, *words, "--rendering", "shadows=true")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--overwrite drops what was made" in other.err
    assert {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")} == before
    pictures_file(attempts, 1).write_bytes(b"half")

    done = understudy(monkeypatch, capsys, *[word if word != "1" else "2" for word in words])
    assert done.code == 0, done.err
    again = EpisodeStore.open(tmp_path / attempts.name)
    assert again.manifest.content_hash == store.manifest.content_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == [attempts.name, "raw"]


def test_states_are_played_before_any_picture_and_failed_attempts_have_none(tmp_path, can_render) -> None:
    episode, solved = play(Task(NAME, noise=4.0), 0)
    assert (solved, episode["observations"].shape[1]) == (False, 18)
    assert not [name for name in episode if name.startswith("images/")]
    np.testing.assert_array_equal(episode["last/qpos"].shape, (22,))
    if not can_render:
        return
    task = Task(NAME, settings=json.dumps(Pictures(height=16, width=16).settings()))
    pictures = render(task, 0, {name: rows if name.startswith("last/") else rows[:3] for name, rows in episode.items()})
    assert sorted(pictures) == ["final_images/front", "final_images/wrist", "images/front", "images/wrist"]
    assert pictures["images/front"].shape == (3, 16, 16, 3)


def test_a_policy_that_sees_pictures_plays_with_them_and_they_are_what_is_recorded(
    store, tmp_path, monkeypatch
) -> None:
    if store is None:
        return
    monkeypatch.setattr(gym_hil, "MAX_STEPS", 6)
    kind, settings = algorithms.get("bc"), store.manifest.provenance["environment"]
    shape = {"state": (18,), "front": (24, 32, 3), "wrist": (24, 32, 3)}
    algorithm = kind(shape, 4, kind.Config(hidden_dims=(8,), encoder="impala_small"))
    weights = [dict(algorithm.network(torch_generator(0, "a test")).named_parameters())]
    normaliser = Normaliser.of_parts({"state": Normaliser.identity((18,))})
    policy = Policy(algorithm, weights, normaliser, env_name=NAME, environment=settings).save(tmp_path / "policy")
    task = Task(NAME, policy=str(policy), settings=json.dumps(settings))
    monkey, _ = play(task, 0)
    steps = len(monkey["actions"])
    looks = seen_in(NAME, settings, task.reset_seed(0), monkey["actions"])
    np.testing.assert_array_equal(monkey["images/wrist"], np.stack([look["wrist"] for look in looks[:-1]]))
    np.testing.assert_array_equal(monkey["final_images/front"], looks[steps]["front"])
    assert not [name for name in monkey if name.startswith("last/")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rendering": {"shadow": "true"}}, "no rendering option 'shadow' (did you mean 'shadows'"),
        ({"rendering": {"cameras": "front,back"}}, "no camera 'back'"),
        ({"rendering": {"height": "tall"}}, "height='tall': must be a whole number"),
        ({"env_name": STATE, "rendering": SMALL}, "has no pictures, so it takes no rendering options"),
        ({"policy": "/no/where", "rendering": SMALL}, "leave the rendering options out"),
    ],
)
def test_bad_rendering_options_are_refused_before_any_work(tmp_path, options, said) -> None:
    with pytest.raises(UserError) as error:
        generate(**{"env_name": NAME, "episodes": 1, "out_path": tmp_path / "none.hdf5", **options})
    one_line(error, said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- the file ----


def test_every_column_of_an_episode_with_pictures_survives_a_file(tmp_path) -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for length in (3, 1, 12):
        pictures = rng.integers(0, 256, (length + 1, 128, 128, 3), np.uint8)
        state = rng.normal(size=(length + 1, 18)).astype(np.float32)
        episodes.append(
            {
                "observations": state[:-1], "final_observation": state[-1],
                "actions": rng.normal(size=(length, 4)), "rewards": np.zeros(length), "terminals": np.zeros(length),
                "images/front": pictures[:-1], "final_images/front": pictures[-1],
                "images/wrist": pictures[1:], "final_images/wrist": pictures[0],
                "language": f"pick up the cube, {length} ☃", "qpos": rng.normal(size=(length, 22)),
                "mask/valid": np.asarray(length == 1), "task_index": np.arange(length) + 2**40,
            }
        )  # fmt: skip
    source, path = sources.get("gym_hil"), tmp_path / "x.hdf5"
    source.write(path, iter(episodes), NAME, {"environment": Pictures().settings(), "made_by": "a test"})
    found = list(source.read(path, NAME))
    same_episodes(found, episodes)
    np.testing.assert_array_equal(found[2]["qpos"], episodes[2]["qpos"])  # in float64
    assert source.provenance(path, NAME) == {"environment": Pictures().settings(), "made_by": "a test", "fps": 10.0}
    stored = import_file("gym_hil", path, NAME, tmp_path / "stores")
    same_episodes(episodes_of(stored), episodes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": {"height": 64}}, "images/front (24, 32, 3), "),
        ({"environment": {"cameras": ["front"], "height": 24, "width": 32, "rendering": {"shadow": 1}}}, "'shadow'"),
        ({"environment": [1]}, "no object with names and values"),
        ({"environment": "{"}, "damaged"),
        ({"drop": "wrist"}, "no 'images/wrist'"),
    ],
)
def test_a_file_whose_pictures_are_not_what_it_says_is_refused(store, folder, tmp_path, change, said) -> None:
    if store is None:
        return
    path = tmp_path / "changed.hdf5"
    path.write_bytes((folder / "two.hdf5").read_bytes())
    with h5py.File(path, "r+") as file:
        if "drop" in change:
            for place in ("images", "final_images"):
                del file[f"episodes/1/{place}/{change['drop']}"]
        else:
            kept = change["environment"]
            file.attrs["environment"] = kept if isinstance(kept, str) else json.dumps(kept)
    with pytest.raises((DatasetError, UserError)) as error:
        import_file("gym_hil", path, NAME, tmp_path / "stores")
    one_line(error, said)


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
    assert source_for(policy).name == "gym_hil"
