"""OGBench's visual names: pictures read and written in little memory, drawn as the manifest says, pure functions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ogbench.utils
import pytest
from tests.contract.source_examples import can_render

from understudy.envs.experts.attempts import AttemptSpec, play
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.rendering import FAST, PUBLISHED
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import export_store, import_file
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

SOURCE = sources.get("ogbench")
CUBE, SCRIPTED = (f"visual-cube-single-{kind}-singletask-task1-v0" for kind in ("play", "scripted"))
GOAL, MAZE = "visual-cube-single-play-v0", "visual-antmaze-medium-navigate-v0"
QUICK = json.dumps({"rendering": FAST.settings()})


def episode(length: int, seed: int = 0, side: int = 64) -> dict[str, np.ndarray]:
    """Return a made-up episode of pictures with the arm's states."""
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, 256, (length + 1, side, side, 3), np.uint8)
    return {
        "observations": seen[:-1],
        "final_observation": seen[-1],
        "actions": rng.uniform(-1, 1, (length, 5)).astype(np.float32),
        "rewards": np.full(length, -1.0, np.float32),
        "terminals": np.zeros(length, bool),
        "qpos": rng.normal(size=(length, 21)).astype(np.float32),
        "qvel": rng.normal(size=(length, 20)).astype(np.float32),
    }


def write(path: Path, episodes: list[Any] | None = None, env_name: str = CUBE, **provenance: Any) -> Path:
    SOURCE.write(path, episodes or [episode(5), episode(1, 1), episode(3, 2)], env_name, provenance)
    return path


def refused(path: Path, stores: Path, env_name: str = CUBE) -> str:
    """Import a file that must be refused; return the line after a look at what is left."""
    with pytest.raises(DatasetError) as error:
        import_file(task_of(env_name), path, stores)
    assert "\n" not in str(error.value)
    assert not stores.exists() or list(stores.iterdir()) == []
    return str(error.value)


# names and options


def test_visual_names_are_those_that_have_an_environment() -> None:
    names = [name for name in SOURCE.known_names() if name.startswith("visual-")]
    assert {CUBE, SCRIPTED, GOAL, MAZE, "visual-scene-noisy-v0", "visual-puzzle-4x6-play-singletask-v0"} <= set(names)
    assert all(SOURCE.task(name).env_id in gymnasium.registry for name in names if "octuple" not in name)
    assert not SOURCE.matches("visual-pointmaze-medium-navigate-v0")
    assert task_of(SCRIPTED).expert() is not None
    remote = SOURCE.task(GOAL).remote
    assert remote is not None
    assert remote.file_name == "visual-cube-single-play-v0.npz"


def test_published_pictures_have_everything_and_those_made_here_are_drawn_quickly() -> None:
    assert SOURCE.task(SCRIPTED).rendering({}) == {"rendering": FAST.settings()}
    assert SOURCE.task(SCRIPTED).rendering({"shadows": "true", "offsamples": "4", "reflections": "true"}) == {
        "rendering": PUBLISHED.settings()
    }
    assert SOURCE.task("cube-single-play-v0").rendering({}) is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (CUBE, {"reflection": "true"}, "no rendering option 'reflection' (did you mean 'reflections'?)"),
        (CUBE, {"shadows": "2"}, "shadows='2': allowed are true and false"),
        (CUBE, {"offsamples": "many"}, "offsamples='many': must be a whole number from 0 to 64"),
        ("cube-single-play-v0", {"shadows": "true"}, "has no pictures"),
    ],
)
def test_options_that_make_no_sense_are_one_line(name, options, said) -> None:
    for attempt in (
        lambda: SOURCE.task(name).rendering(options),
        lambda: SOURCE.task(name).make_env(settings=table(options)),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def table(options: dict[str, str]) -> dict[str, Any]:
    return {"rendering": options}


# files


def test_pictures_are_read_as_they_were_written_and_stored_and_exported(tmp_path) -> None:
    episodes = [episode(5), episode(1, 1), episode(3, 2)]
    path = write(tmp_path / "x.npz", episodes)
    for found, expected in zip(SOURCE.task(CUBE).read(path), episodes, strict=True):
        assert set(found) == set(expected)
        for name in expected:
            if name not in ("rewards", "terminals"):  # those are computed anew
                assert found[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    store = import_file(task_of(CUBE), path, tmp_path / "stores")
    assert store.manifest.columns["observations"].dtype == "uint8"
    assert store.manifest.provenance["environment"] == {"rendering": PUBLISHED.settings()}
    export_store(store, tmp_path / "y.npz", "ogbench")
    again = import_file(task_of(CUBE), tmp_path / "y.npz", tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash


def test_ogbenchs_own_loader_reads_the_same_pictures(tmp_path) -> None:
    episodes = [episode(4), episode(2, 1)]
    write(tmp_path / "x.npz", episodes)
    write(tmp_path / "x-val.npz", episodes)
    env = SOURCE.task(CUBE.removeprefix("visual-")).make_env()  # all it needs of one is the task
    load: Any = ogbench.utils.make_env_and_datasets
    theirs = load(CUBE, dataset_path=str(tmp_path / "x.npz"), dataset_only=True, cur_env=env)[0]
    ours = list(SOURCE.task(CUBE).read(tmp_path / "x.npz"))
    assert theirs["observations"].dtype == np.uint8
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(np.concatenate([e[name] for e in ours]), theirs[name])
    np.testing.assert_array_equal(theirs["next_observations"][[3, 5]], [e["final_observation"] for e in ours])


def test_files_of_ogbenchs_own_script_are_read(tmp_path) -> None:
    """numpy's compressed archives, 64-bit states, and terminals as floats."""
    made = episode(9)
    rows = {name: np.concatenate([made[name], made[name][-1:]]) for name in ("actions", "qpos", "qvel")}
    seen = np.concatenate([made["observations"], made["final_observation"][None]])
    terminals = (np.arange(10) == 9).astype(np.float32)
    rows["qpos"] = rows["qpos"].astype(np.float64)
    np.savez_compressed(tmp_path / "x.npz", allow_pickle=False, observations=seen, terminals=terminals, **rows)
    (found,) = SOURCE.task(CUBE).read(tmp_path / "x.npz")
    np.testing.assert_array_equal(found["observations"], made["observations"])
    np.testing.assert_array_equal(found["final_observation"], made["final_observation"])
    np.savez(tmp_path / "y.npz", allow_pickle=False, observations=np.asfortranarray(seen), terminals=terminals, **rows)
    (found,) = SOURCE.task(CUBE).read(tmp_path / "y.npz")
    np.testing.assert_array_equal(found["observations"], made["observations"])


def test_memory_does_not_grow_with_the_file(tmp_path) -> None:
    def many() -> Iterator[dict[str, np.ndarray]]:
        for number in range(30):
            yield episode(50, number)

    pictures = 30 * 50 * 64 * 64 * 3
    SOURCE.write(tmp_path / "warm.npz", [episode(2)], GOAL, {})
    list(SOURCE.task(GOAL).read(tmp_path / "warm.npz"))
    tracemalloc.start()
    try:
        SOURCE.write(tmp_path / "x.npz", many(), GOAL, {})
        assert tracemalloc.get_traced_memory()[1] < pictures / 2
        tracemalloc.reset_peak()
        assert sum(len(found["actions"]) for found in SOURCE.task(GOAL).read(tmp_path / "x.npz")) == 1500
        assert tracemalloc.get_traced_memory()[1] < pictures / 2
    finally:
        tracemalloc.stop()


def test_a_states_file_is_not_taken_for_pictures_nor_the_other_way_round(tmp_path) -> None:
    write(tmp_path / "pictures.npz")
    assert "is it the file of another task?" in refused(tmp_path / "pictures.npz", tmp_path / "s", CUBE[7:])
    write(tmp_path / "large.npz", [episode(3, side=32)])
    assert "have shape (32, 32, 3)" in refused(tmp_path / "large.npz", tmp_path / "s")
    floats = {**episode(3), "observations": np.zeros((3, 64, 64, 3)), "final_observation": np.zeros((64, 64, 3))}
    write(tmp_path / "floats.npz", [floats])
    assert "pictures, and only they, are uint8" in refused(tmp_path / "floats.npz", tmp_path / "s")


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share) -> None:
    path = write(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert str(path) in refused(path, tmp_path / "stores")


def test_one_wrong_byte_in_the_pictures_is_noticed(tmp_path) -> None:
    """Wherever it is: in the compressed bytes, or in an archive that is not compressed."""
    path = write(tmp_path / "x.npz")
    with zipfile.ZipFile(path) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
        begin = archive.getinfo("observations.npy").header_offset + 200
    data = path.read_bytes()
    for place in np.random.default_rng(0).integers(begin, begin + 80_000, 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        assert str(path) in refused(path, tmp_path / "stores")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    data = path.read_bytes()
    path.write_bytes(data[: begin + 5000] + bytes([data[begin + 5000] ^ 1]) + data[begin + 5001 :])
    assert "Bad CRC-32" in refused(path, tmp_path / "stores")


def test_an_archive_that_lies_about_its_pictures_is_refused(tmp_path) -> None:
    path = write(tmp_path / "x.npz")
    with zipfile.ZipFile(path) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    for change in (lambda data: data.replace(b"(12, 64, 64, 3)", b"(13, 64, 64, 3)"),
                   lambda data: data.replace(b"'|u1'", b"'|O' "),
                   lambda data: data[:-1],
                   lambda data: b"\x93NUMPY\x09\x00" + data[8:]):  # fmt: skip
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in arrays.items():
                archive.writestr(name, change(content) if name.startswith("observations") else content)
        assert str(path) in refused(path, tmp_path / "stores")


@pytest.mark.parametrize("text", ["{", "[]", '{"rendering": {"shadows": 3}}', '{"rendering": {"fog": true}}', "7"])
def test_rendering_options_that_a_file_cannot_have_are_refused(tmp_path, text) -> None:
    path = write(tmp_path / "x.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, allow_pickle=False, **{**arrays, "environment": np.asarray(text)})
    assert "no table of rendering options" in refused(path, tmp_path / "stores")


def test_files_that_were_drawn_differently_do_not_become_one_dataset(tmp_path) -> None:
    folder = tmp_path / "files"
    write(folder / "a.npz", environment={"rendering": FAST.settings()})
    write(folder / "b.npz", environment={"rendering": FAST.settings()})
    store = import_file(task_of(CUBE), folder, tmp_path / "stores")
    assert store.manifest.provenance["environment"] == {"rendering": FAST.settings()}
    write(folder / "c.npz")
    assert "were drawn with different options" in refused(folder, tmp_path / "others")


def test_named_cameras_do_not_go_into_the_file(tmp_path) -> None:
    named = {**episode(3), "images/front": np.zeros((3, 64, 64, 3), np.uint8)}
    with pytest.raises(DatasetError, match="has named cameras"):
        write(tmp_path / "x.npz", [named])
    assert list(tmp_path.iterdir()) == []


# environments


def digest(name: str, settings: str) -> str:
    """Return a digest of an episode's pictures, with its goal's."""
    env = EnvFactory(name, settings=settings)()
    env.reset(seed=7)
    observation, info = env.reset(seed=3)
    total = hashlib.sha256(observation.tobytes())
    total.update(np.asarray(info["goal"]).tobytes())
    for action in np.random.default_rng(0).uniform(-1, 1, (2, *(env.action_space.shape or ()))).astype(np.float32):
        total.update(env.step(action)[0].tobytes())
    env.close()
    return total.hexdigest()


def test_pictures_and_goals_are_the_same_in_a_fresh_process_which_says_nothing() -> None:
    if not can_render():
        return
    code = (
        "import importlib.util as u, sys; spec = u.spec_from_file_location('t', sys.argv[1])\n"
        "t = u.module_from_spec(spec); spec.loader.exec_module(t); print(t.digest(t.MAZE, t.QUICK))"
    )
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(MAZE, QUICK)
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [GOAL, "visual-scene-play-v0", "visual-puzzle-3x3-play-v0"])
def test_an_arms_pictures_and_goals_are_functions_of_the_seed(name) -> None:
    if not can_render():
        return
    assert digest(name, QUICK) == digest(name, QUICK)


def test_a_goal_is_a_picture_of_another_place() -> None:
    if not can_render():
        return
    env = EnvFactory(MAZE, settings=QUICK)()
    for seed in range(2):
        observation, info = env.reset(seed=seed)
        assert info["goal"].shape == observation.shape == (64, 64, 3)
        assert info["goal"].dtype == observation.dtype == np.uint8
        assert not np.array_equal(info["goal"], observation)
    env.close()


@pytest.mark.parametrize("name", [MAZE, pytest.param(CUBE, marks=pytest.mark.slow)])
def test_pictures_are_ogbenchs_own_and_others_when_the_settings_say_so(name) -> None:
    if not can_render():
        return
    published = SOURCE.task(name).make_env()
    quick = SOURCE.task(name).make_env(settings={"rendering": FAST.settings()})
    theirs: Any = gymnasium.make(SOURCE.task(name).env_id, disable_env_checker=True).unwrapped
    theirs.reset(seed=0)
    pictures = [env.reset(seed=0)[0] for env in (published, quick)]
    ours: Any = published.unwrapped
    theirs.set_state(ours.data.qpos, ours.data.qvel)
    theirs.model.geom_rgba[:] = ours.model.geom_rgba  # colours of the task, which the goal phase may have changed
    np.testing.assert_array_equal(pictures[0], theirs.render())
    assert 0.5 < np.abs(pictures[0].astype(int) - pictures[1]).mean() < 60
    (vars(theirs).get("_renderer") or theirs.custom_renderer).close()
    published.close()
    quick.close()


def test_a_demonstrations_pictures_are_what_its_stores_environment_shows(tmp_path) -> None:
    if not can_render():
        return
    env = SOURCE.task(SCRIPTED).make_env(settings=json.loads(QUICK))
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 5)).astype(np.float32)
    seen = np.stack([env.reset(seed=4)[0], *[env.step(action)[0] for action in actions]])
    played = {**episode(6), "actions": actions, "observations": seen[:-1], "final_observation": seen[-1]}
    SOURCE.write(tmp_path / "x.npz", [played], SCRIPTED, {"environment": json.loads(QUICK)})
    store = import_file(task_of(SCRIPTED), tmp_path / "x.npz", tmp_path / "stores")
    environment = store.manifest.provenance["environment"]
    assert environment == json.loads(QUICK)
    again = EnvFactory(SCRIPTED, settings=json.dumps(environment))()
    shown = np.stack([again.reset(seed=4)[0], *[again.step(action)[0] for action in store.column("actions")]])
    np.testing.assert_array_equal(shown[:-1], store.column("observations"))
    np.testing.assert_array_equal(shown[-1], store.episode_column("final_observations")[0])
    env.close()
    again.close()


@pytest.mark.slow
def test_the_scripted_expert_solves_the_task_of_pictures() -> None:
    if not can_render():
        return
    played, solved = play(AttemptSpec(SCRIPTED, settings=QUICK, seed=1, noise=0.1), 0)
    assert solved
    assert played["observations"].shape == (len(played["actions"]), 64, 64, 3)
    assert played["observations"].dtype == played["final_observation"].dtype == np.uint8
