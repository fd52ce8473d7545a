"""Data of one's own: named arrays in files of any layout, under any name, with an environment of one's own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from understudy.cluster.code import own_environment
from understudy.envs.sources.arrays.trees import open_tree
from understudy.envs.sources.arrays.zarr import decompressed
from understudy.envs.sources.source import task_of
from understudy.envs.store.finding import find_store
from understudy.envs.store.store import EpisodeStore
from understudy.errors import UnderstudyError
from understudy.spec.keys import build_run

MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces


class Centre:
    def reset(self, env, observation, info, rng):
        pass

    def act(self, env, observation, info):
        return -observation


class Reach(gymnasium.Env):
    max_episode_steps = 20
    has_success = True
    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (2,), np.float32)
    expert = Centre

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + 0.5 * action
        there = float(np.abs(self.place).max()) < 0.1
        return self.place, 0.0, there, False, {"success": there}


def make():
    return Reach()


number = 3
"""
BLOSC = (
    "02012104000500000005000005010000140000000c0000001f000100ff285000000000000c0000001f000100ff28500000000000a5000000cf"
    "0080004000800040008000400c0001cf80a0c0e080a0c0e080a0c0e00c0001cf0010203000102030001020300c0001cf40506070405060704"
    "05060700c0001cf8088909880889098808890980c0001cfa0a8b0b8a0a8b0b8a0a8b0b80c0001cfc0c8d0d8c0c8d0d8c0c8d0d80c0001cfe0"
    "e8f0f8e0e8f0f8e0e8f0f80c0001cf0004080c0004080c0004080c0c0001cb1014181c1014181c1014181c0c00501c1014181c24000000cf0"
    "03f4040003f4040003f40400c00010f02000d1f410100ac1f42010027504242424242"
)
"""What numcodecs' Blosc(lz4, 5, SHUFFLE) makes of `arange(40)` as float32 [10, 4], each row eight times."""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory) -> Iterator[str]:
    """Write the user's module where Python finds it."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "reaching.py").write_text(MODULE)
    sys.path.append(str(folder))
    yield "reaching"
    sys.path.remove(str(folder))
    sys.modules.pop("reaching", None)


def demonstrations() -> list[dict[str, np.ndarray]]:
    """Three episodes of 4, 5 and 6 steps, with a row more of observations."""
    rng = np.random.default_rng(0)
    return [
        {
            "joints": rng.normal(size=(steps + 1, 2)).astype(np.float32),
            "front": rng.integers(0, 255, (steps + 1, 16, 16, 3), dtype=np.uint8),
            "command": rng.uniform(-2, 2, (steps, 2)).astype(np.float32),
        }
        for steps in (4, 5, 6)
    ]


def flat() -> dict[str, np.ndarray]:
    """The rows of all episodes one after another."""
    parts = demonstrations()
    rows = {name: np.concatenate([part[name][: len(part["command"])] for part in parts]) for name in parts[0]}
    return {**rows, "episode_ends": np.array([4, 9, 15])}


def write_zarr(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as zarr of format 2 has them, without compression, in chunks of 4 rows."""
    (folder).mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    for name, array in arrays.items():
        place = folder / name
        place.mkdir(parents=True)
        about = {"shape": array.shape, "chunks": [4, *array.shape[1:]], "dtype": array.dtype.str, "order": "C"}
        (place / ".zarray").write_text(json.dumps({**about, "compressor": None, "filters": None, "fill_value": 0}))
        for number in range(-(-len(array) // 4)):
            chunk = np.zeros((4, *array.shape[1:]), array.dtype)
            rows = array[4 * number : 4 * number + 4]
            chunk[: len(rows)] = rows
            (place / ".".join(map(str, (number, *[0] * (array.ndim - 1))))).write_bytes(chunk.tobytes())


def write(kind: str, folder: Path) -> Path:
    """Write the demonstrations in a layout of that name."""
    if kind == "flat npz":
        np.savez(folder / "demos.npz", **flat())
        return folder / "demos.npz"
    if kind == "zarr":
        arrays = {f"data/{name}": array for name, array in flat().items() if name != "episode_ends"}
        write_zarr(folder / "demos.zarr", {**arrays, "meta/episode_ends": flat()["episode_ends"]})
        return folder / "demos.zarr"
    if kind == "npy":
        for name, array in flat().items():
            np.save(folder / f"{name}.npy", array)
        return folder
    if kind == "a file an episode":
        for number, episode in enumerate(demonstrations()):
            np.savez(folder / f"take_{number + 9}.npz", **episode)
        return folder
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for number, episode in enumerate(demonstrations()):
            group = file.create_group(f"data/demo_{number + 9}")
            for name in ("joints", "front"):
                group[f"obs/{name}"], group[f"next_obs/{name}"] = episode[name][:-1], episode[name][1:]
            group["command"], group["dones"] = episode["command"], np.arange(len(episode["command"])) > 2
    return folder / "demos.hdf5"


@pytest.mark.parametrize(
    ("kind", "format_"),
    [
        ("flat npz", "npz"),
        ("flat npz", "arrays"),
        ("zarr", "zarr"),
        ("npy", "arrays"),
        ("a file an episode", "npz"),
        ("robomimic's", "hdf5"),
    ],
)
def test_files_of_any_layout_become_the_same_episodes(kind, format_, tmp_path, done) -> None:
    (tmp_path / "files").mkdir()
    file = write(kind, tmp_path / "files")
    keys = ["--obs", "joints,front", "--action", "command"]
    done("data", "import", format_, str(file), "--name", "mine", *keys, "--data_dir", str(tmp_path / "data"))
    store = find_store("mine", tmp_path / "data")
    assert store.lengths.tolist() == [4, 5, 6]
    np.testing.assert_array_equal(store.column("actions"), flat()["command"])
    np.testing.assert_array_equal(store.column("observations"), flat()["joints"])
    np.testing.assert_array_equal(store.frames("images/front").gather(np.arange(15)), flat()["front"])
    if kind not in ("flat npz", "zarr", "npy"):
        last = [part["joints"][-1] for part in demonstrations()]
        np.testing.assert_array_equal(store.episode_column("final_observations"), last)
    if kind == "robomimic's":
        assert store.column("terminals").sum() == 1 + 2 + 3


def test_a_chunk_of_blosc_is_what_was_compressed() -> None:
    rows = np.arange(40, dtype=np.float32).reshape(10, 4).repeat(8, 0)
    found = np.frombuffer(decompressed(bytes.fromhex(BLOSC), {"id": "blosc"}, rows.nbytes), np.float32)
    np.testing.assert_array_equal(found.reshape(80, 4), rows)


def test_rows_of_a_zarr_are_read_across_chunks(tmp_path) -> None:
    write_zarr(tmp_path / "a.zarr", {"x": np.arange(22).reshape(11, 2)})
    with open_tree(tmp_path / "a.zarr", "zarr") as tree:
        np.testing.assert_array_equal(tree["x"][3:9], np.arange(22).reshape(11, 2)[3:9])


def test_data_are_evaluated_and_trained_in_an_environment_of_ones_own(tmp_path, done) -> None:
    folders = [f"data_dir={tmp_path / 'data'}", f"save_dir={tmp_path / 'runs'}", "tracking_uri=none"]
    small = ["training_steps=4", "log_interval=2", "eval_episodes=2", "batch_size=8", "hidden_dims=[8]"]
    np.savez(str(tmp_path / "demos.npz"), **flat())
    words = ["--name", "mine", "--env", "reaching:Reach", "--obs", "joints", "--action", "command"]
    done("data", "import", "npz", str(tmp_path / "demos.npz"), *words, "--data_dir", str(tmp_path / "data"))
    assert "success" in done("train", "algo=bc", "env_name=mine", *small, *folders)
    made = ["--name", "made", "--episodes", "3", "--workers", "1", "--data_dir", str(tmp_path / "data")]
    assert "made: 3 episodes" in done("data", "generate", "reaching:Reach", *made)
    assert find_store("made", tmp_path / "data").manifest.provenance["env_name"] == "reaching:Reach"
    assert "success" in done("train", "algo=bc", "env_name=made", *small, *folders)
    spec = build_run({"algo": "bc", "env_name": "made", "data_dir": str(tmp_path / "data")})
    assert [item.name for item in own_environment(spec, [])] == ["reaching"]
    assert own_environment(spec, ["reaching"]) == []


def test_actions_of_data_without_an_environment_are_not_clipped(tmp_path, done) -> None:
    np.savez(str(tmp_path / "demos.npz"), **flat())
    words = ["--name", "mine", "--obs", "joints", "--action", "command", "--data_dir", str(tmp_path)]
    assert "clips" not in done("data", "import", "npz", str(tmp_path / "demos.npz"), *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--obs", "joint"], "no array 'joint' (did you mean 'joints'?)"),
        (["--action", "comand"], "no array 'comand' (did you mean 'command'?)"),
        (["--action", ""], "give --action KEY"),
        (["--ends", "stops"], "no array 'stops'"),
        (["--ends", "joints"], "says that episodes end at"),
        (["--env", "reaching:Reech"], "'Reech' of reaching is not there (did you mean 'Reach'?)"),
        (["--env", "reaching:number"], "is no gymnasium.Env"),
        (["--env", "os:system"], "is no gymnasium.Env"),
        (["--env", "nowhere:Reach"], "there is no module 'nowhere'"),
        (["--env", "Pendulun-v1"], "did you mean 'Pendulum-v1'"),
    ],
)
def test_what_is_not_there_is_one_line(words, said, tmp_path, say) -> None:
    np.savez(str(tmp_path / "demos.npz"), **flat())
    given = {"--name": "mine", "--obs": "joints", "--action": "command", words[0]: words[1]}
    options = [item for pair in given.items() for item in pair]
    refused = say("data", "import", "npz", str(tmp_path / "demos.npz"), *options, "--data_dir", str(tmp_path))
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["reaching:Reach", "reaching:make"])
def test_an_environments_task_goes_to_other_processes_by_its_name(name) -> None:
    task = task_of(name)
    again, arguments = task.__reduce__()
    assert again(*arguments) == task
    observation, _ = task.make_env().reset(seed=1)
    assert observation.shape == (2,)


def test_a_name_that_only_looks_like_a_module_is_unknown() -> None:
    with pytest.raises(UnderstudyError, match="unknown environment"):
        task_of("labb:demo")


def test_a_store_of_python_has_an_environment_of_ones_own(tmp_path) -> None:
    import understudy

    episodes = [{"observations": part["joints"], "actions": part["command"]} for part in demonstrations()]
    store = understudy.write_dataset("mine", episodes, env="reaching:Reach", data_dir=tmp_path)
    assert isinstance(store, EpisodeStore)
    assert store.manifest.provenance["env_name"] == "reaching:Reach"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"command": np.array([None] * 15, object)}, "command holds Python objects"),
        ({"episode_ends": None, "done": np.ones(12)}, "done has 12 rows and the actions have 15"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changed, said, tmp_path, say) -> None:
    arrays: dict = {name: array for name, array in (flat() | changed).items() if array is not None}
    np.savez(str(tmp_path / "demos.npz"), **arrays)
    words = ["--name", "mine", "--obs", "joints", "--action", "command", "--data_dir", str(tmp_path)]
    refused = say("data", "import", "npz", str(tmp_path / "demos.npz"), *words)
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.count("\n") == 1


def test_data_without_an_environment_say_so(tmp_path, done) -> None:
    np.savez(str(tmp_path / "demos.npz"), **flat())
    words = ["--name", "mine", "--obs", "joints", "--action", "command", "--data_dir", str(tmp_path)]
    done("data", "import", "npz", str(tmp_path / "demos.npz"), *words)
    assert "npz, without an environment" in done("data", "info", "mine", "--data_dir", str(tmp_path))


def test_the_environment_of_the_page_is_whole(tmp_path, monkeypatch, done) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n# my_module.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--episodes", "3", "--workers", "1", "--name", "my-reach", "--data_dir", str(tmp_path)]
    done("data", "generate", "my_module:MyEnv", *words)
    store = find_store("my-reach", tmp_path)
    assert store.manifest.num_episodes == 3
    assert max(store.lengths) < 30  # solved
    sys.modules.pop("my_module", None)
