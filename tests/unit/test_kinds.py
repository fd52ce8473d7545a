"""What columns are: pictures in any order of axes and any range come to one form, doubts are one line."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from understudy.envs.rollouts.forms import in_stored_form
from understudy.envs.store.incoming import Incoming
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.verification import findings
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError, UserError
from understudy.observations import batched
from understudy.spec.data import DataSpec

T, H, W = 5, 24, 32
LEVELS = np.random.default_rng(0).integers(0, 256, (T + 1, H, W, 3)).astype(np.uint8)
GREY = LEVELS[..., :1]
STACKS = np.random.default_rng(1).integers(0, 256, (T + 1, 4, H, W, 3)).astype(np.uint8)
ON_CHANNELS = np.moveaxis(STACKS, 1, -2).reshape(T + 1, H, W, 12)
ALPHA = np.random.default_rng(2).integers(0, 256, (T + 1, H, W, 4)).astype(np.uint8)
BITS = np.random.default_rng(3).random((T + 1, H, W)) < 0.5

COMES_IN = {
    "as it is": (LEVELS, LEVELS),
    "channels first": (LEVELS.transpose(0, 3, 1, 2), LEVELS),
    "floats to 1": ((LEVELS / 255).astype(np.float32), LEVELS),
    "doubles to 1, channels first": (LEVELS.transpose(0, 3, 1, 2) / 255, LEVELS),
    "halves to 255": (LEVELS.astype(np.float16), LEVELS),
    "floats to 255": (LEVELS.astype(np.float32), LEVELS),
    "long integers": (LEVELS.astype(np.int64), LEVELS),
    "16 bits of colour": (LEVELS.astype(np.uint16) * 257, LEVELS),
    "grey matrices": (GREY[..., 0], GREY),
    "grey with a channel": (GREY, GREY),
    "grey, channel first": (GREY.transpose(0, 3, 1, 2), GREY),
    "alpha": (ALPHA, ALPHA),
    "alpha, channels first": (ALPHA.transpose(0, 3, 1, 2), ALPHA),
    "stacked frames": (STACKS, ON_CHANNELS),
    "stacked frames, channels first": (STACKS.transpose(0, 1, 4, 2, 3), ON_CHANNELS),
    "stacked grey frames": (STACKS[..., 0], STACKS[..., 0].transpose(0, 2, 3, 1)),
    "masks of bits": (BITS, BITS[..., None] * np.uint8(255)),
}


def episode(looks: np.ndarray, column: str = "observations", **more) -> dict:
    steps = len(looks) - 1
    final = "final_observation" if column == "observations" else f"final_{column}"
    zeros = {"rewards": np.zeros(steps, np.float32), "terminals": np.zeros(steps, bool)}
    return {column: looks[:-1], final: looks[-1], "actions": np.full((steps, 2), 0.5, np.float32), **zeros, **more}


def write(path: Path, *episodes: dict, asked: dict[str, str] | None = None) -> EpisodeStore:
    with StoreWriter(path, name="x", source="t", env_id="t", incoming=Incoming(asked=asked)) as writer:
        for one in episodes:
            writer.add_episode(one)
    return EpisodeStore.open(path)


class Shows(gymnasium.Env):
    """An environment that shows some looks one after another."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: spaces.Space, looks) -> None:
        self.observation_space, self._looks, self._at = space, looks, 0

    def reset(self, *, seed=None, options=None):
        self._at = 0
        return self._looks[0], {"goal": self._looks[1]}

    def step(self, action):
        self._at += 1
        return self._looks[self._at], 0.0, False, False, {}


def space_of(looks: np.ndarray) -> spaces.Box:
    if looks.dtype == np.bool_:
        return spaces.Box(0, 1, looks.shape[1:], np.bool_)
    high = 1 if looks.max() <= 1 else (65535 if looks.dtype == np.uint16 else 255)
    return spaces.Box(0, high, looks.shape[1:], looks.dtype.type)


@pytest.mark.parametrize("column", ["observations", "images/front"])
@pytest.mark.parametrize("kind", COMES_IN)
def test_pictures_come_to_one_form_and_what_was_done_is_said(tmp_path, kind, column) -> None:
    looks, wanted = COMES_IN[kind]
    store = write(tmp_path / "x", episode(looks, column), episode(looks, column))
    np.testing.assert_array_equal(store.column(column), np.concatenate([wanted[:-1]] * 2))
    final = "final_observations" if column == "observations" else f"final_{column}"
    np.testing.assert_array_equal(store.episode_column(final)[0], wanted[-1])
    told = [line for line in findings(store)[1] if line.startswith(f"{column}: pictures:")]
    assert len(told) == (looks is not wanted)
    assert Windows(store).observation_shape in (wanted.shape[1:], {"front": wanted.shape[1:]})


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("kind", COMES_IN)
def test_an_environment_is_shown_in_the_form_of_its_data(tmp_path, kind, recorded) -> None:
    looks, wanted = COMES_IN[kind]
    if kind == "16 bits of colour" and not recorded:
        pytest.skip("its space has no bounds of light")
    store = write(tmp_path / "x", episode(looks))
    env = in_stored_form(
        Shows(space_of(looks), looks), "x", store.manifest.provenance.get("forms") if recorded else None
    )
    first, info = env.reset()
    np.testing.assert_array_equal(first, wanted[0])
    np.testing.assert_array_equal(info["goal"], wanted[1])
    np.testing.assert_array_equal(env.step(None)[0], wanted[1])
    assert env.observation_space.contains(first)


def test_cameras_of_an_environment_are_shown_in_the_form_of_its_data_and_states_stay() -> None:
    space = spaces.Dict({"state": spaces.Box(-9, 9, (4,)), "front": spaces.Box(0, 1, (3, H, W), np.float32)})
    looks = [
        {"state": np.ones(4, np.float32), "front": (p / 255).astype(np.float32)} for p in LEVELS.transpose(0, 3, 1, 2)
    ]
    first, _ = in_stored_form(Shows(space, looks), "x").reset()
    np.testing.assert_array_equal(first["front"], LEVELS[0])
    assert first["state"].tolist() == [1, 1, 1, 1]


def test_an_environment_in_the_stores_form_is_left_alone() -> None:
    for space in (spaces.Box(-np.inf, np.inf, (5,)), spaces.Box(0, 255, (H, W, 3), np.uint8), spaces.Discrete(3)):
        env = Shows(space, LEVELS)
        assert in_stored_form(env, "x") is env


def test_an_environment_whose_pictures_have_no_bounds_is_refused_unless_the_data_tell(tmp_path) -> None:
    looks = (LEVELS / 255).astype(np.float32)
    env = Shows(spaces.Box(-np.inf, np.inf, (H, W, 3), np.float32), looks)
    with pytest.raises(DatasetError, match="Box needs bounds") as error:
        in_stored_form(env, "lab")
    assert "\n" not in str(error.value)
    forms = write(tmp_path / "x", episode(looks)).manifest.provenance["forms"]
    np.testing.assert_array_equal(in_stored_form(env, "lab", forms).reset()[0], LEVELS[0])
    bright = Shows(env.observation_space, LEVELS.astype(np.float32))
    with pytest.raises(DatasetError, match="pictures are of 0 to 1"):
        in_stored_form(bright, "lab", forms).reset()


DOUBTS = {
    "three by three pixels": (np.zeros((T + 1, 3, 3, 3), np.uint8), "chw", (3, 3, 3)),
    "values to both sides of 0": ((LEVELS / 127.5 - 1).astype(np.float32), "-1..1", (H, W, 3)),
    "signed bytes": ((LEVELS.astype(np.int16) - 128).astype(np.int8), "-128..127", (H, W, 3)),
    "sensors of 12 bits": (LEVELS.astype(np.uint16) * 16, "0..4100", (H, W, 3)),
    "depth": (LEVELS[..., 0].astype(np.uint16) * 16, "0..4100", (H, W, 1)),
    "blocks of numbers": (np.random.default_rng(0).normal(size=(T + 1, 5, 6, 7)), "state", (210,)),
}


@pytest.mark.parametrize("kind", DOUBTS)
def test_doubts_are_one_line_and_what_it_says_to_type_works(tmp_path, kind) -> None:
    looks, words, shape = DOUBTS[kind]
    with pytest.raises(DatasetError, match=r"understudy data import") as error:
        write(tmp_path / "x", episode(looks))
    assert f"--as observations={words}" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    store = write(tmp_path / "x", episode(looks), asked={"observations": words})
    assert store.manifest.columns["observations"].shape == shape
    assert store.manifest.provenance["asked"] == {"observations": words}


def test_flattened_pictures_are_told_of_and_unfolded_when_asked(tmp_path) -> None:
    looks = np.random.default_rng(0).integers(0, 256, (T + 1, 16, 16, 3)).astype(np.uint8)
    flat = looks.reshape(T + 1, -1)
    store = write(tmp_path / "x", episode(flat))
    assert any("--as observations=16x16x3" in line for line in findings(store)[1])
    store = write(tmp_path / "y", episode(flat), asked={"observations": "16x16x3"})
    np.testing.assert_array_equal(store.column("observations"), looks[:-1])
    with pytest.raises(DatasetError, match="--as images/front=16x16x3"):
        write(tmp_path / "z", episode(flat, "images/front"))


def test_depth_beside_other_things_is_left_out_and_said(tmp_path) -> None:
    depth = LEVELS[..., :1].astype(np.uint16) * 16
    more = {"images/depth": depth[:-1], "final_images/depth": depth[-1]}
    store = write(tmp_path / "x", episode(np.zeros((T + 1, 4), np.float32), **more))
    assert set(store.manifest.columns) == {"observations", "actions", "rewards", "terminals"}
    assert any("images/depth: depth" in line and "is left out" in line for line in findings(store)[1])
    kept = write(tmp_path / "y", episode(np.zeros((T + 1, 4), np.float32), **more), asked={"images/depth": "0..4100"})
    assert kept.manifest.columns["images/depth"].shape == (H, W, 1)


def test_pictures_beside_the_observations_become_cameras(tmp_path) -> None:
    store = write(tmp_path / "x", episode(np.zeros((T + 1, 4), np.float32), wrist=LEVELS[:-1].transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(store.column("images/wrist"), LEVELS[:-1])
    assert Windows(store).observation_shape == {"state": (4,), "wrist": (H, W, 3)}


@pytest.mark.parametrize("later", [LEVELS.astype(np.float32), LEVELS, LEVELS.transpose(0, 3, 1, 2) / 255])
def test_an_episode_of_another_range_type_or_order_than_the_first_is_refused(tmp_path, later) -> None:
    with pytest.raises(DatasetError, match="episode 1: column 'observations'"):
        write(tmp_path / "x", episode((LEVELS / 255).astype(np.float32)), episode(later))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["", "rgb", "0..0", "0x4", "state,hwc", "hw", "64x64x3"])
def test_words_that_say_nothing_or_do_not_fit_are_one_line(tmp_path, words) -> None:
    with pytest.raises(DatasetError, match="--as observations=") as error:
        write(tmp_path / "x", episode(LEVELS), asked={"observations": words})
    assert "\n" not in str(error.value)
    with pytest.raises(DatasetError, match="no such column"):
        write(tmp_path / "x", episode(LEVELS), asked={"observation": "hwc"})


@pytest.mark.parametrize("mode", ["zscore", "bounds", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.bool_])
def test_states_of_small_types_are_kept_and_scaled_like_any_state(tmp_path, mode, dtype) -> None:
    looks = np.random.default_rng(0).integers(0, 2 if dtype == np.bool_ else 100, (T + 1, 7)).astype(dtype)
    store = write(tmp_path / "x", episode(looks))
    windows = Windows(store, DataSpec(obs_horizon=2))
    batch = windows.gather(np.arange(T), (T,))
    assert str(batch["observations"].dtype) == "torch.float32"
    scaled = windows.normaliser(mode).on("cpu").observations(batch["observations"])
    assert bool((abs(scaled) <= (100 if mode == "none" else 3)).all())
    assert (windows.normaliser(mode).mode == mode) or mode == "none"


def test_a_policy_takes_floats_to_1_and_whole_numbers_to_255_and_nothing_else() -> None:
    for given in (LEVELS, (LEVELS / 255).astype(np.float32), LEVELS.astype(np.int64)):
        np.testing.assert_array_equal(batched(given, (H, W, 3), "this policy")[0], LEVELS)
    for given in (LEVELS.astype(np.float32), LEVELS / 127.5 - 1, LEVELS.astype(np.int64) - 1, LEVELS * np.nan):
        with pytest.raises(UserError, match="floats, 0 to 1"):
            batched(given, (H, W, 3), "this policy")
