"""robomimic's picture files: read, written, drawn from states, and equal to what robomimic's own code draws."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.contract.robomimic_interop import make_importable
from tests.contract.source_examples import can_render

from understudy.envs.experts.attempts import AttemptSpec, play, render
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.rendering import FAST, PUBLISHED
from understudy.envs.sources.robomimic.cameras import Cameras
from understudy.envs.sources.robomimic.robosuite import RobosuiteEnv, published_settings
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Episode
from understudy.envs.store.transfer import export_store, import_file
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

File: Any = h5py.File  # whose types say little about what is in a file
SOURCE = sources.get("robomimic")
LIFT, SCRIPTED = "lift-mh-image", "lift-scripted-image"
KEYS = ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
WRIST = {"cameras": "robot0_eye_in_hand", "height": "48", "width": "64"}
"""One small camera, whose pictures are rendered quickly."""


def episode(length: int, seed: int = 0, *, final: bool = True, **sizes: tuple[int, int]) -> dict[str, Any]:
    """Return a made-up episode with pictures of these (height, width)."""
    rng = np.random.default_rng(seed)
    sizes = sizes or {"agentview": (12, 10), "robot0_eye_in_hand": (8, 16)}
    made: dict[str, Any] = {
        "observations": rng.normal(size=(length, 9)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        "rewards": np.where(np.arange(length) == length - 1, 0.0, -1.0).astype(np.float32),
        "terminals": np.arange(length) == length - 1,
        "states": rng.normal(size=(length, 32)),
    }
    for name, size in sizes.items():
        made[f"images/{name}"] = rng.integers(0, 256, (length, *size, 3), np.uint8)
        if final:
            made[f"final_images/{name}"] = rng.integers(0, 256, (*size, 3), np.uint8)
    return {**made, "final_observation": rng.normal(size=9).astype(np.float32)} if final else made


def write(path: Path, episodes: list[Any] | None = None, **provenance: Any) -> Path:
    SOURCE.write(path, episodes or [episode(5), episode(1, 1), episode(4, 2)], LIFT, provenance)
    return path


def assert_same(found: Sequence[Episode], expected: Sequence[Episode]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name, values in other.items():
            assert one[name].dtype == values.dtype or name in ("states", "rewards", "terminals"), name
            np.testing.assert_array_equal(one[name], values, err_msg=name)


@pytest.fixture(scope="module")
def wrist() -> Iterator[Any]:
    """Lift with one small camera, quickly drawn."""
    env = SOURCE.task(SCRIPTED).make_env(settings=SOURCE.task(SCRIPTED).rendering(WRIST))
    yield env
    env.close()


# names and options


def test_picture_names_have_robomimics_cameras() -> None:
    names = [name for name in SOURCE.known_names() if name.endswith("-image")]
    assert {name.split("-")[0] for name in names} == {"lift", "can", "square", "transport", "tool_hang"}
    assert SCRIPTED in names
    assert not SOURCE.matches("can-scripted-image")

    def cameras(name: str) -> tuple[list[str], int]:
        kwargs = (SOURCE.task(name).rendering({}) or {})["env_kwargs"]
        assert kwargs["use_camera_obs"]
        assert kwargs["camera_widths"] == kwargs["camera_heights"]
        return kwargs["camera_names"], kwargs["camera_heights"]

    assert cameras("square-ph-image") == (["agentview", "robot0_eye_in_hand"], 84)
    assert cameras("tool_hang-ph-image") == (["sideview", "robot0_eye_in_hand"], 240)
    shoulders = ["shouldercamera0", "shouldercamera1"]
    assert cameras("transport-mh-image") == ([*shoulders, "robot0_eye_in_hand", "robot1_eye_in_hand"], 84)


def test_data_made_here_are_drawn_quickly_unless_told_otherwise() -> None:
    assert (SOURCE.task(SCRIPTED).rendering({}) or {})["rendering"] == FAST.settings()
    chosen = SOURCE.task(SCRIPTED).rendering(
        {"shadows": "true", "offsamples": "4", "reflections": "true", "height": "96"}
    )
    assert (chosen or {})["rendering"] == PUBLISHED.settings()
    assert (chosen or {})["env_kwargs"]["camera_heights"] == 96
    assert SOURCE.task("lift-ph-low_dim").rendering({}) is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (LIFT, {"shadow": "true"}, "no rendering option 'shadow' (did you mean 'shadows'?)"),
        (LIFT, {"shadows": "perhaps"}, "shadows='perhaps': allowed are true and false"),
        (LIFT, {"offsamples": "-1"}, "offsamples='-1': must be a whole number from 0 to 64"),
        (LIFT, {"height": "4"}, "height='4': must be a whole number from 8 to 2048"),
        (LIFT, {"cameras": "agentview,,frontview"}, "cameras='agentview,,frontview'"),
        (LIFT, {"cameras": "wrist"}, "Lift: no camera 'wrist'; allowed: agentview, birdview"),
        ("lift-ph-low_dim", {"height": "84"}, "has no pictures"),
    ],
)
def test_options_that_make_no_sense_are_one_line(name, options, said) -> None:
    with pytest.raises(UserError) as error:
        SOURCE.task(name).rendering(options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"camera_names": ["agentview", "wrist"]}, "no camera 'wrist'"),
        ({"camera_names": 3}, "camera_names=3"),
        ({"camera_names": ["agentview"], "camera_heights": [84, 84]}, "camera_heights=[84, 84] for 1 cameras"),
        ({"camera_names": ["agentview"], "camera_widths": "wide"}, "camera_widths='wide'"),
    ],
)
def test_cameras_that_robosuite_does_not_have_are_one_line(change, said) -> None:
    wrong = published_settings("Lift")
    wrong["env_kwargs"] |= {"camera_heights": 84, "camera_widths": 84, **change}
    with pytest.raises(UserError) as error:
        SOURCE.task(LIFT).make_env(settings=wrong)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# files


@pytest.mark.parametrize("final", [True, False])
def test_pictures_are_read_as_they_were_written_and_stored_and_exported(tmp_path, final) -> None:
    episodes = [episode(5, final=final), episode(1, 1, final=final), episode(4, 2, final=final)]
    assert_same(list(SOURCE.task(LIFT).read(write(tmp_path / "x.hdf5", episodes))), episodes)
    store = import_file(task_of(LIFT), tmp_path / "x.hdf5", tmp_path / "stores")
    assert store.manifest.columns["images/agentview"].shape == (12, 10, 3)
    environment = store.manifest.provenance["environment"]
    assert environment["env_kwargs"]["camera_names"] == ["agentview", "robot0_eye_in_hand"]
    assert environment["env_kwargs"]["camera_heights"] == [12, 8]
    assert environment["env_kwargs"]["camera_widths"] == [10, 16]
    assert environment["rendering"] == PUBLISHED.settings()
    export_store(store, tmp_path / "y.hdf5", "robomimic")
    again = import_file(task_of(LIFT), tmp_path / "y.hdf5", tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash
    assert again.manifest.provenance["environment"] == environment


def test_a_files_own_cameras_are_read_whatever_its_env_args_say(tmp_path) -> None:
    env_args = Cameras({"sideview": (84, 84)}, FAST).settings(published_settings("Lift"))
    path = write(tmp_path / "x.hdf5", [episode(3, frontview=(10, 10))], environment=env_args)
    with File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps(env_args)
    found = SOURCE.task(LIFT).provenance(path)["environment"]
    assert (found["env_kwargs"]["camera_names"], found["env_kwargs"]["camera_heights"]) == (["frontview"], 10)
    assert found["rendering"] == FAST.settings()
    assert [name for name in next(iter(SOURCE.task(LIFT).read(path))) if name.startswith("images/")] == [
        "images/frontview"
    ]


def test_the_same_file_is_read_for_its_states_alone(tmp_path) -> None:
    path = write(tmp_path / "x.hdf5")
    with File(path, "a") as file:
        for demo in file["data"].values():
            for group in ("obs", "next_obs"):
                demo[f"{group}/object"] = np.zeros((len(demo["actions"]), 10))
    found = next(iter(SOURCE.task("lift-mh-low_dim").read(path)))
    assert found["observations"].shape == (5, 19)
    assert not [name for name in found if "images" in name]


def retype(file: Any) -> None:
    values = file["data/demo_1/obs/agentview_image"][()].astype(np.float32)
    del file["data/demo_1/obs/agentview_image"]
    file["data/demo_1/obs/agentview_image"] = values


def shorten(file: Any) -> None:
    values = file["data/demo_2/obs/agentview_image"][:-1]
    del file["data/demo_2/obs/agentview_image"]
    file["data/demo_2/obs/agentview_image"] = values


def resize(file: Any) -> None:
    del file["data/demo_2/obs/agentview_image"]
    file["data/demo_2/obs/agentview_image"] = np.zeros((4, 10, 12, 3), np.uint8)


def lose(name: str) -> Any:
    def change(file: Any) -> None:
        del file[name]

    return change


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_pictures_of_other_layouts_and_ranges_come_in_as_the_same(tmp_path, floats, first) -> None:
    path, other = write(tmp_path / "x.hdf5"), write(tmp_path / "y.hdf5")
    with File(other, "a") as file:
        for demo in file["data"].values():
            for group in ("next_obs", "last_obs"):
                if group in demo:
                    del demo[group]
            for name in [name for name in demo["obs"] if name.endswith("_image")]:
                values = demo[f"obs/{name}"][()]
                del demo[f"obs/{name}"]
                values = np.moveaxis(values, -1, 1) if first else values
                demo[f"obs/{name}"] = (values / 255).astype(np.float32) if floats else values
    one, two = (import_file(task_of(LIFT), file, tmp_path / file.stem) for file in (path, other))
    for name in ("images/agentview", "images/robot0_eye_in_hand"):
        np.testing.assert_array_equal(one.frames(name).gather(np.arange(5)), two.frames(name).gather(np.arange(5)))
    env_args = [store.manifest.provenance["environment"]["env_kwargs"] for store in (one, two)]
    assert env_args[0]["camera_heights"] == env_args[1]["camera_heights"]
    assert env_args[0]["camera_widths"] == env_args[1]["camera_widths"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (retype, "column 'images/agentview' has rows (12, 10, 3) float32, earlier ones (12, 10, 3) uint8"),
        (shorten, "data/demo_2/obs/agentview_image holds uint8 (3, 12, 10, 3), 4 pictures of (12, 10) are expected"),
        (resize, "data/demo_2/obs/agentview_image holds uint8 (4, 10, 12, 3), 4 pictures of (12, 10) are expected"),
        (lose("data/demo_1/obs/robot0_eye_in_hand_image"), "no dataset 'data/demo_1/obs/robot0_eye_in_hand_image'"),
        (lose("data/demo_2/last_obs"), "is made of"),
        (lose("data/demo_0/obs"), "no group 'data/demo_0/obs'"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tmp_path, change, said) -> None:
    path = write(tmp_path / "x.hdf5")
    with File(path, "a") as file:
        change(file)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(LIFT), path, tmp_path / "stores")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "stores").glob("*")) == []


def test_one_wrong_byte_in_a_picture_is_noticed(tmp_path) -> None:
    marked = episode(3)
    marked["images/agentview"][1] = 77
    data = bytearray(write(tmp_path / "x.hdf5", [marked]).read_bytes())
    place = bytes(data).index(bytes([77]) * 100)
    data[place + 50] = 78
    (tmp_path / "x.hdf5").write_bytes(bytes(data))
    with pytest.raises(DatasetError, match="not a readable HDF5 file"):
        list(SOURCE.task(LIFT).read(tmp_path / "x.hdf5"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share) -> None:
    path = write(tmp_path / "x.hdf5")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DatasetError) as error:
        import_file(task_of(LIFT), path, tmp_path / "stores")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([{**episode(3), "observations": np.zeros((3, 19), np.float32)}], "final_observations"),
        (
            [{**episode(3, final=False), "observations": np.zeros((3, 19), np.float32)}],
            "9 numbers of the arms and noth",
        ),
        ([episode(3), episode(3, agentview=(12, 10))], "column 'final_images/robot0_eye_in_hand' is not in every"),
        ([{key: value for key, value in episode(3).items() if "images" not in key}], "has no pictures"),
        ([{**episode(3), "images/agentview": np.zeros((3, 12, 10, 3))}], "pictures are uint8"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, episodes, said) -> None:
    with pytest.raises(DatasetError, match=said):
        write(tmp_path / "x.hdf5", episodes)
    assert list(tmp_path.iterdir()) == []


def test_pictures_do_not_go_into_a_file_of_states(tmp_path) -> None:
    states = {**episode(3), "observations": np.zeros((3, 19), np.float32), "final_observation": np.zeros(19)}
    with pytest.raises(DatasetError, match="none are expected"):
        SOURCE.write(tmp_path / "x.hdf5", [states], "lift-mh-low_dim", {})


# environments


def test_an_observation_is_the_arm_and_the_pictures_that_the_settings_name(wrist) -> None:
    if not can_render():
        return
    observation, info = wrist.reset(seed=0)
    assert set(observation) == {"state", "robot0_eye_in_hand"}
    assert wrist.observation_space.contains(observation)
    assert observation["state"].shape == (9,)
    assert observation["robot0_eye_in_hand"].shape == (48, 64, 3)
    assert observation["robot0_eye_in_hand"].std() > 10
    assert info == {"success": False}


def test_recorded_states_show_what_playing_showed_bit_for_bit(wrist) -> None:
    if not can_render():
        return
    states, seen = [], [wrist.reset(seed=4)[0]]
    states.append(SOURCE.task(LIFT).simulator_state(wrist))
    for action in np.random.default_rng(0).uniform(-1, 1, (3, 7)):
        seen.append(wrist.step(action)[0])
        states.append(SOURCE.task(LIFT).simulator_state(wrist))
    wrist.reset(seed=5)
    wrist.step(np.ones(7))
    wrist.reset(seed=4)
    for state, expected in zip(states[::-1], seen[::-1], strict=True):
        found = SOURCE.task(LIFT).observed(wrist, state)
        assert {name: value.tobytes() for name, value in found.items()} == {k: v.tobytes() for k, v in expected.items()}
    assert not np.array_equal(seen[0]["robot0_eye_in_hand"], seen[-1]["robot0_eye_in_hand"])


PLAY = """
import hashlib, json, sys
import numpy as np
from understudy.envs.rollouts.factory import EnvFactory
env = EnvFactory(sys.argv[1], settings=sys.argv[2])()
env.reset(seed=9)
seen = [env.reset(seed=5)[0], env.step(np.full(env.action_space.shape, 0.3))[0]]
print(*[hashlib.sha256(value.tobytes()).hexdigest() for row in seen for value in row.values()])
"""


@pytest.mark.slow
def test_a_fresh_process_draws_the_same_pictures_and_says_nothing(wrist) -> None:
    if not can_render():
        return
    settings = json.dumps(SOURCE.task(SCRIPTED).rendering(WRIST))
    run = [sys.executable, "-c", PLAY, SCRIPTED, settings]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    seen = [wrist.reset(seed=5)[0], wrist.step(np.full(7, 0.3))[0]]
    ours = [hashlib.sha256(value.tobytes()).hexdigest() for row in seen for value in row.values()]
    assert done.stdout.split() == ours


@pytest.mark.slow
def test_a_demonstrations_pictures_are_what_its_stores_environment_shows(tmp_path, wrist) -> None:
    """Play, render afterwards, write, import; then evaluate as a policy would be, with the store's own settings."""
    if not can_render():
        return
    settings = SOURCE.task(SCRIPTED).rendering(WRIST)
    task = AttemptSpec(SCRIPTED, settings=json.dumps(settings), seed=3)
    played, solved = play(task, 0)
    assert solved
    short = {name: value[-4:] if len(value) == len(played["actions"]) else value for name, value in played.items()}
    whole = {name: value for name, value in {**short, **render(task, 0, short)}.items() if not name.startswith("last/")}
    whole = {name: value for name, value in whole.items() if name in KEPT or "images/" in name}
    SOURCE.write(tmp_path / "x.hdf5", [whole], SCRIPTED, {"environment": settings})
    store = import_file(task_of(SCRIPTED), tmp_path / "x.hdf5", tmp_path / "stores")
    provenance = store.manifest.provenance
    assert provenance["environment"] == settings
    env = EnvFactory(SCRIPTED, settings=json.dumps(provenance["environment"]))()
    assert store.column("observations").shape == (4, 9)
    env.reset(seed=task.reset_seed(0))
    for row, state in enumerate(whole["states"]):
        shown = SOURCE.task(LIFT).observed(env, {"states": state})
        np.testing.assert_array_equal(store.frames("images/robot0_eye_in_hand").gather(np.array([row]))[0],
                                      shown["robot0_eye_in_hand"])  # fmt: skip
        np.testing.assert_array_equal(store.column("observations")[row], shown["state"])
    env.close()


KEPT = ("observations", "actions", "rewards", "terminals", "states", "final_observation")


# robomimic's own code


@pytest.fixture
def theirs_importable(monkeypatch) -> None:
    """Let robomimic be imported."""
    make_importable(monkeypatch)


def test_robomimics_own_dataset_reads_the_same_pictures(theirs_importable, tmp_path) -> None:
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    episodes = [episode(5), episode(1, 1), episode(4, 2)]
    path = write(tmp_path / "x.hdf5", episodes)
    images = ["agentview_image", "robot0_eye_in_hand_image"]
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": KEYS, "rgb": images}})
    for cache in ("all", None):
        wanted = {"obs_keys": KEYS + images, "dataset_keys": ["actions", "rewards", "dones"], "seq_length": 3}
        dataset = SequenceDataset(str(path), **wanted, hdf5_cache_mode=cache)
        assert len(dataset) == 10
        index = 0
        for made in episodes:
            for step in range(len(made["actions"])):
                window: Any = dataset[index]
                rows = np.minimum(np.arange(step, step + 3), len(made["actions"]) - 1)
                index += 1
                for key in images:
                    pictures = made[f"images/{key.removesuffix('_image')}"]
                    following = np.concatenate([pictures[1:], made[f"final_images/{key.removesuffix('_image')}"][None]])
                    for group, values in (("obs", pictures), ("next_obs", following)):
                        np.testing.assert_array_equal(np.asarray(window[group][key]), values[rows])
                np.testing.assert_array_equal(window["actions"], made["actions"][rows])
        dataset.close_and_delete_hdf5_handle()


def robomimics_environment(env_args: Any) -> Any:
    import robomimic.utils.env_utils as EnvUtils
    import robomimic.utils.obs_utils as ObsUtils

    images = [f"{name}_image" for name in env_args["env_kwargs"]["camera_names"]]
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": KEYS, "rgb": images}})
    env: Any = EnvUtils.create_env_from_metadata(env_args, use_image_obs=True)
    env.postprocess_visual_obs = False  # as its extraction of pictures has it
    return env


@pytest.mark.slow
def test_pictures_are_robomimics_own_bit_for_bit(theirs_importable) -> None:
    if not can_render():
        return
    sizes = {"agentview": (84, 84), "robot0_eye_in_hand": (84, 84)}
    settings = Cameras(sizes, PUBLISHED).settings(published_settings("Lift"))
    ours = SOURCE.task(LIFT).make_env(settings=settings)
    theirs = robomimics_environment(settings)
    np.random.seed(11)
    theirs.reset()
    ours.reset(seed=11)
    shown = {}
    for action in np.random.default_rng(0).uniform(-1, 1, (2, 7)):
        shown = ours.step(action)[0]
        expected = theirs.reset_to({"states": SOURCE.task(LIFT).simulator_state(ours)["states"]})
        for name in sizes:
            np.testing.assert_array_equal(shown[name], expected[f"{name}_image"])
            assert shown[name].std() > 10
        np.testing.assert_array_equal(shown["state"], np.concatenate([expected[k] for k in KEYS], dtype=np.float32))
    quick = SOURCE.task(LIFT).make_env(settings=Cameras({"agentview": (84, 84)}, FAST).settings(settings))
    quick.reset(seed=11)
    drawn = SOURCE.task(LIFT).observed(quick, SOURCE.task(LIFT).simulator_state(ours))["agentview"]
    assert 0.5 < np.abs(drawn.astype(int) - shown["agentview"]).mean() < 30  # another picture, as its settings say
    quick.close()
    ours.close()


def states_file(path: Path, rendering: Any, steps: int = 3) -> tuple[list[np.ndarray], str]:
    """Write a low_dim file as robomimic publishes them, with states and models; return its states and a model."""
    env: Any = SOURCE.task("lift-mh-low_dim").make_env().unwrapped
    seen, states, actions = [env.reset(seed=2)[0]], [env.state()], np.random.default_rng(0).uniform(-1, 1, (steps, 7))
    xml = env.robosuite.sim.model.get_xml()
    for action in actions:
        seen.append(env.step(action)[0])
        states.append(env.state())
    made = {**episode(steps, final=False), "actions": actions, "states": np.stack(states[:-1])}
    made = {name: value for name, value in made.items() if "images" not in name}
    made |= {"observations": np.stack(seen[:-1]), "final_observation": seen[-1]}
    env_args = {**published_settings("Lift"), "rendering": rendering.settings()}
    env_args["env_kwargs"] |= {"camera_names": ["agentview"], "camera_heights": 48, "camera_widths": 48}
    SOURCE.write(path, [made], "lift-mh-low_dim", {"environment": env_args})
    with File(path, "a") as file:
        file["data/demo_0"].attrs["model_file"] = xml
    env.close()
    return states, xml


@pytest.mark.slow
def test_a_file_of_states_gets_its_pictures_when_it_is_imported_as_pictures(theirs_importable, tmp_path) -> None:
    if not can_render():
        return
    states, xml = states_file(tmp_path / "low_dim.hdf5", PUBLISHED)
    store = import_file(task_of(LIFT), tmp_path / "low_dim.hdf5", tmp_path / "stores")
    settings = store.manifest.provenance["environment"]
    assert settings["env_kwargs"]["camera_names"] == ["agentview"]
    assert store.column("observations").shape == (3, 9)
    theirs = robomimics_environment(settings)
    expected = [theirs.reset_to({"model": xml, "states": states[0]})["agentview_image"]]
    expected += [theirs.reset_to({"states": state})["agentview_image"] for state in states[1:3]]
    found = store.frames("images/agentview").gather(np.arange(3))
    np.testing.assert_array_equal(found, np.stack(expected))
    assert store.manifest.episode_columns["final_images/agentview"].shape == (48, 48, 3)


@pytest.mark.slow
def test_several_processes_draw_the_same_pictures_in_order(tmp_path, monkeypatch) -> None:
    if not can_render():
        return
    path = tmp_path / "low_dim.hdf5"
    states_file(path, FAST, steps=2)
    with File(path, "a") as file:
        for number in range(1, 8):
            file.copy("data/demo_0", file["data"], f"demo_{number}")
            file[f"data/demo_{number}/states"][:, 1] += 0.1 * number  # the arm's first joint
    alone, together = (read_with(cpus, path, monkeypatch) for cpus in (1, 2))
    assert len(alone) == 8
    assert len({episode["images/agentview"].tobytes() for episode in alone}) == 8
    assert_same(together, alone)


def read_with(cpus: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    monkeypatch.setattr("understudy.envs.sources.robomimic.rendering.available_cpus", lambda: cpus)
    return list(SOURCE.task(LIFT).read(path))


@pytest.mark.slow
def test_states_without_a_model_are_one_line(tmp_path) -> None:
    if not can_render():
        return
    states_file(tmp_path / "low_dim.hdf5", FAST, steps=1)
    with File(tmp_path / "low_dim.hdf5", "a") as file:
        file["data/demo_0"].attrs["model_file"] = "<mujoco><no such thing/></mujoco>"
    with pytest.raises(DatasetError, match="model_file of data/demo_0 cannot be used") as error:
        list(SOURCE.task(LIFT).read(tmp_path / "low_dim.hdf5"))
    assert "\n" not in str(error.value)
    with File(tmp_path / "low_dim.hdf5", "a") as file:
        del file["data/demo_0"].attrs["model_file"]
    with pytest.raises(DatasetError, match="data/demo_0 has no model_file"):
        list(SOURCE.task(LIFT).read(tmp_path / "low_dim.hdf5"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["can", "square", "transport", "tool_hang"])
def test_other_tasks_show_their_usual_cameras(task) -> None:
    if not can_render():
        return
    name = f"{task}-ph-image"
    env = SOURCE.task(name).make_env(settings=SOURCE.task(name).rendering({}))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert all(value.std() > 5 for key, value in observation.items() if key != "state")
    env.step(np.zeros(env.action_space.shape))
    again = env.reset(seed=0)[0]
    for key, value in observation.items():
        np.testing.assert_array_equal(value, again[key])
    env.close()


@pytest.mark.slow
def test_videos_of_tasks_with_cameras_are_drawn_like_their_pictures() -> None:
    if not can_render():
        return
    cameras = Cameras({"agentview": (40, 40)}, FAST)
    env = RobosuiteEnv("Lift", None, keys=KEYS, max_steps=3, render_size=40, cameras=cameras)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), observation["agentview"])
    env.close()
