"""Pictures in a store and in what a policy sees: raw or JPEG, several cameras, histories, goals, loader workers."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from understudy.envs.rollouts.acting import Acting, Execution, View
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import episodes_of
from understudy.envs.store.verification import verify_store
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError, UserError
from understudy.observations import batched, has_pictures, shape_of
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run, with_changes
from understudy.trainables.loops.batches import HELD_OUT, Batches, LoaderDied, Order, Steps, loader_workers
from understudy.trainables.loops.data import open_data

LENGTHS = [4, 1, 9, 3]
SIZE = 16
CAMERAS = ("front", "wrist")


def picture(camera: str, episode: int, step: int) -> np.ndarray:
    """Return a smooth picture that says where it is from: its mean red is 20 x episode, its mean green 10 x step."""
    shade = np.linspace(0, 40, SIZE)[None, :, None] * np.ones((SIZE, 1, 3))
    return (shade + np.array([20 * episode, 10 * step, 100 * CAMERAS.index(camera)])).astype(np.uint8)


def episode(number: int, length: int) -> dict[str, Any]:
    """Return an episode whose every part says where it is from."""
    steps = np.arange(length + 1)
    states = np.stack([np.full(length + 1, number), steps], axis=1).astype(np.float32)
    frames = {camera: np.stack([picture(camera, number, int(step)) for step in steps]) for camera in CAMERAS}
    return {
        "observations": states[:-1],
        "final_observation": states[-1],
        "actions": states[:-1] / 10,
        "rewards": np.zeros(length),
        "terminals": np.zeros(length),
        "language": f"push nº {number}",
        "task_index": np.full(length, number, np.int64),
        **{f"images/{camera}": values[:-1] for camera, values in frames.items()},
        **{f"final_images/{camera}": values[-1] for camera, values in frames.items()},
    }


def write(path: Path, encoding: str = "raw", **changes: Any) -> EpisodeStore:
    """Write the store of LENGTHS at `path`."""
    with StoreWriter(path, name=path.name, source="test", env_id="none", pictures=PictureEncoding(encoding)) as writer:
        for number, length in enumerate(LENGTHS):
            writer.add_episode({**episode(number, length), **changes})
    return EpisodeStore.open(path)


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def store(tmp_path_factory, request) -> EpisodeStore:
    """The store in both encodings."""
    return write(tmp_path_factory.mktemp("data") / request.param, request.param)


def test_what_is_written_is_read_back_and_a_jpeg_is_near(store) -> None:
    tolerance = 0 if store.name == "raw" else 4
    for number, found in enumerate(episodes_of(store)):
        wanted = episode(number, LENGTHS[number])
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            if "images/" in name:
                assert np.abs(found[name].astype(int) - values).max() <= tolerance, name
            else:
                np.testing.assert_array_equal(found[name], np.asarray(values, np.asarray(found[name]).dtype))
    assert store.column("task_index").dtype == np.int64
    assert store.texts("language")[2] == "push nº 2"
    assert verify_store(store) == []


def test_frames_come_in_any_order_each_decoded_as_another_library_does(tmp_path) -> None:
    frames: Any = write(tmp_path / "store", "jpeg").frames("images/front")
    rows = np.array([7, 0, 7, 16, 3])
    found = frames.gather(rows)
    for frame, row in zip(found, rows, strict=True):
        independent = np.asarray(Image.open(io.BytesIO(frames.encoded(int(row)).tobytes())))
        assert np.abs(frame.astype(int) - independent).max() <= 1
    assert (len(frames), frames.shape) == (sum(LENGTHS), (SIZE, SIZE, 3))


def test_a_damaged_picture_is_named(tmp_path) -> None:
    store = write(tmp_path / "store", "jpeg")
    frames: Any = store.frames("images/front")
    file = store.path / "transitions.arrow"
    content = bytearray(file.read_bytes())
    at = content.find(frames.encoded(5).tobytes())
    content[at : at + 40] = bytes(40)
    file.write_bytes(content)
    again = EpisodeStore.open(store.path)
    with pytest.raises(DatasetError, match=r"images/front: frame 5 cannot be decoded") as error:
        again.frames("images/front").gather(np.array([4, 5]))
    assert "\n" not in str(error.value)
    assert any("its bytes changed" in line for line in verify_store(again))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images/front": np.zeros((4, 8, 8, 3), np.float32)}, "not shaped like the others"),
        ({"images/front": np.zeros((4, 8, 8), np.uint8)}, "not shaped like the others"),
        ({"saliency/front": np.full((4, 8, 8, 1), 2.0)}, r"must hold values in \[0, 1\]"),
        ({"final_images/front": np.zeros((8, 9, 3), np.uint8)}, "not shaped like the others"),
        ({"language": np.zeros(3)}, "not text"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused_and_nothing_stays(tmp_path, changes, said) -> None:
    with pytest.raises(DatasetError, match=said):
        write(tmp_path / "bad", **changes)
    assert list(tmp_path.iterdir()) == []


SPACES: dict[str, spaces.Space[Any]] = {
    "state": spaces.Box(-9, 99, (2,), np.float32),
    **{camera: spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8) for camera in CAMERAS},
}


class Filmed(gymnasium.Env):
    """An environment that plays the episodes of LENGTHS: episode `seed`, whatever the action."""

    observation_space = spaces.Dict(SPACES)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episode `seed`; its goal is its final observation."""
        self._episode, self._step = seed or 0, 0
        last = self._at(LENGTHS[self._episode])
        return self._at(0), {"goal": {name: last[name] for name in CAMERAS}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go to the next frame."""
        self._step += 1
        return self._at(self._step), 0.0, self._step == LENGTHS[self._episode], False, {}

    def _at(self, step: int) -> dict[str, np.ndarray]:
        pictures = {camera: picture(camera, self._episode, step) for camera in CAMERAS}
        return {"state": np.array([self._episode, step], np.float32), **pictures}


SIGHTS: list[dict[str, Any]] = [
    {},
    {"obs_horizon": 3},
    {"cameras": ["wrist"], "use_proprio": False},
    {"cameras": ["wrist"], "use_proprio": False, "obs_horizon": 2},
    {"cameras": ["front"], "use_proprio": False, "goal_relabelling": "final"},
    {"goal_relabelling": "final", "obs_horizon": 2},
    {"cameras": []},
]


@pytest.mark.parametrize("sight", SIGHTS, ids=str)
def test_what_is_seen_in_the_data_is_what_the_environment_shows(tmp_path, sight) -> None:
    windows = Windows(write(tmp_path / "store"), DataSpec(**sight))
    goals, length = "goal_relabelling" in sight, sight.get("obs_horizon", 1)
    env, view = Filmed(), View(length, goals, sight.get("cameras"), sight.get("use_proprio", True))
    seen = []
    for number in range(len(LENGTHS)):
        observation, info = env.reset(seed=number)
        acting, done = Acting(view, Execution(), observation, info.get("goal")), False
        while not done:
            assert shape_of(acting.shown()) == windows.observation_shape
            seen.append(acting.shown())
            observation, _, done, _, _ = env.step(np.zeros(2))
            acting.see(observation)
    count = windows.num_transitions
    found = windows.gather(np.arange(count), (count,), np.zeros((2, count)))["observations"]
    if isinstance(found, dict):
        assert {name: part.shape[1:] for name, part in found.items()} == windows.observation_shape
        for name, part in found.items():
            np.testing.assert_array_equal(part.numpy(), np.stack([one[name] for one in seen]))
    else:
        np.testing.assert_array_equal(found.numpy(), np.stack(seen))


def test_only_states_are_scaled_and_each_of_a_history_alike(tmp_path) -> None:
    windows = Windows(write(tmp_path / "store"), DataSpec(obs_horizon=2))
    normaliser = windows.normaliser("zscore", "bounds")
    on = normaliser.on("cpu")
    count = windows.num_transitions
    batch = windows.gather(np.arange(count), (count,))
    seen = on.observations(batch["observations"])
    assert isinstance(seen, dict)
    assert seen["front"].dtype == torch.uint8
    np.testing.assert_allclose(seen["state"][:, 2:].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(seen["state"][:, 2:].std(0, correction=0), 1, atol=1e-5)
    scaled = on.actions(batch["actions"])
    assert (float(scaled.min()), float(scaled.max())) == pytest.approx((-1, 1))
    np.testing.assert_allclose(on.actions_back(scaled), batch["actions"], atol=1e-6)
    again = type(normaliser).from_dict(json.loads(json.dumps(normaliser.to_dict())))
    once_more: Any = again.on("cpu").observations(batch["observations"])
    np.testing.assert_array_equal(once_more["state"], seen["state"])


def test_an_unknown_camera_gets_the_nearest_known_one(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"no camera 'frnt'.*front"):
        Windows(write(tmp_path / "store"), DataSpec(cameras=["frnt"]))


def test_observations_of_a_wrong_shape_are_told_which_part() -> None:
    shape = {"state": (2,), "front": (4, 4, 3)}
    good = {"state": np.zeros(2), "front": np.zeros((4, 4, 3), np.uint8), "more": np.zeros(1)}
    arrays, single = batched(good, shape, "this policy")
    assert single
    assert shape_of(arrays, leading=1) == shape
    assert has_pictures(shape)
    for bad, said in (
        ({"state": np.zeros(2)}, "needs 'front'"),
        ({**good, "state": np.zeros(3)}, r"state \(3,\)"),
        ({**good, "state": np.zeros((5, 2))}, "different batch sizes"),
        (np.zeros(2), "needs 'state'"),
    ):
        with pytest.raises(UserError, match=said):
            batched(bad, shape, "this policy")


@pytest.fixture
def spec(tmp_path) -> Any:
    """A run on the store, JPEGs included."""
    write(tmp_path / "filmed", "jpeg")
    return build_run({"algo": "bc", "env_name": "filmed", "data_dir": str(tmp_path), "batch_size": 8})


@pytest.fixture
def batches(spec) -> Iterator[Batches]:
    """Two workers that prepare steps 3 to 400."""
    made = Batches(Steps(spec, [0, 1], 0, 1), Order(3, 400), 2, torch.device("cpu"))
    yield made
    made.close()


def test_workers_bring_the_batches_that_are_drawn_without_them(spec, batches) -> None:
    data = open_data(spec)
    assert loader_workers(spec, data) == 1
    here = Batches(Steps(spec, [0, 1], 0, 1, data), Order(3, 400), 0, torch.device("cpu"))
    for _ in range(8):
        one, other = next(batches), next(here)
        assert one.keys() == other.keys()
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert batches.waited > 0


@pytest.mark.parametrize("augmentation", ["bridge", "[random_shift,random_contrast]"])
def test_pictures_augmented_by_loader_workers_are_those_augmented_on_the_device(spec, augmentation) -> None:
    names = augmentation if augmentation == "bridge" else augmentation.strip("[]").split(",")
    keys = {"encoder": "impala_small", "augmentation": names, "augment_where": "workers"}
    augmented = with_changes(spec, **keys)
    here = Batches(Steps(spec, [0, 1], 0, 1), Order(3, 5), 0, torch.device("cpu"))
    there = Batches(Steps(augmented, [0, 1], 0, 1), Order(3, 5), 1, torch.device("cpu"))
    for step, one, other in zip(range(3, 6), here, there, strict=True):
        batch = augment_batch(one, augmented.augment, [0, 1], step, device="cpu")
        assert not torch.equal(batch["observations"]["front"], one["observations"]["front"])
        torch.testing.assert_close(batch, other, rtol=0, atol=0)
    there.close()


def test_workers_bring_the_held_out_batches_too_after_the_steps_that_are_validated(spec) -> None:
    held_out = with_changes(spec, validation_fraction=0.4)
    order = Order(3, 6, lambda step: step in (4, 6))
    assert list(order) == [3, 4, *range(0, -HELD_OUT, -1), 5, 6, *range(0, -HELD_OUT, -1)]
    steps = Steps(held_out, [0, 1], 0, 1)
    there, here = (Batches(steps, order, workers, torch.device("cpu")) for workers in (1, 0))
    for _ in order:
        torch.testing.assert_close(next(there), next(here), rtol=0, atol=0)
    there.close()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_nothing_hangs(batches) -> None:
    next(batches)
    victim = batches.workers()[1]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(LoaderDied, match=rf"{victim}.*loader_workers=0") as error:
        for _ in range(300):
            next(batches)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_ctrl_c_reaches_no_worker_even_one_that_is_being_started(batches) -> None:
    for worker in batches.workers():
        os.kill(worker, signal.SIGINT)
    for _ in range(4):
        next(batches)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class OnSmallMemory(Steps):
    """Batches in processes whose shared memory holds 1000 bytes, as a container's may hold too few."""

    def __getitem__(self, step: int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return super().__getitem__(step)


def test_too_little_shared_memory_is_an_error_that_says_so_and_no_hang(spec) -> None:
    made = Batches(OnSmallMemory(spec, [0], 0, 1), Order(1, 9), 1, torch.device("cpu"))
    with pytest.raises(LoaderDied, match=r"shared memory .*--shm-size=2g.*loader_workers=0") as error:
        next(made)
    made.close()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_damage_that_a_worker_meets_is_told_in_one_line(spec, tmp_path) -> None:
    file = tmp_path / "filmed" / "transitions.arrow"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\xff\xd8\xff", b"\x00\x00\x00"))
    made = Batches(Steps(spec, [0], 0, 1), Order(1, 9), 1, torch.device("cpu"))
    with pytest.raises(DatasetError, match=r"frame \d+ cannot be decoded") as error:
        next(made)
    made.close()
    assert "\n" not in str(error.value)
