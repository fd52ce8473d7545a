"""Windows: batches are a pure function of (seed, step), masks end with the episode, selection is by episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.episodes import select_episodes
from understudy.envs.windows.lengths import returns_to_go
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError
from understudy.spec.data import DataSpec
from understudy.spec.learning import Sampling

LENGTHS = [7, 1, 12, 3, 30, 5]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    """A store whose numbers say where they are from: observation [episode, step], action [episode, step, -step]."""
    path = tmp_path_factory.mktemp("data") / "numbered"
    with StoreWriter(path, name="numbered", source="test", env_id="none") as writer:
        for number, length in enumerate(LENGTHS):
            steps = np.arange(length)
            where = np.stack([np.full(length, number), steps], axis=1)
            writer.add_episode(
                {
                    "observations": where,
                    "actions": np.concatenate([where, -steps[:, None]], axis=1),
                    "rewards": np.where(steps == length - 1, 0.0, -2.0),
                    "terminals": np.zeros(length),
                }
            )
    return EpisodeStore.open(path)


def reference(store: EpisodeStore, windows: Windows, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Build the batch sample by sample, straight from the definition."""
    rows = np.concatenate([np.arange(s, s + n) for s, n in zip(store.starts, store.lengths, strict=True)])
    own = [r for r in rows if np.searchsorted(store.starts, r, side="right") - 1 in windows.episodes]
    chunks, masks, observations = [], [], []
    for index in indices:
        row = own[index]
        episode = np.searchsorted(store.starts, row, side="right") - 1
        last = store.starts[episode] + store.lengths[episode] - 1
        steps = range(row, row + windows.horizon)
        chunks.append([store.column("actions")[min(step, last)] for step in steps])
        masks.append([float(step <= last) for step in steps])
        observations.append(store.column("observations")[row])
    return {"observations": np.array(observations), "actions": np.array(chunks), "valid": np.array(masks)}


@settings(max_examples=40, deadline=None)
@given(
    horizon=st.integers(1, 40),
    longer=st.booleans(),
    proportion=st.sampled_from([0.3, 0.6, 1.0]),
    order=st.sampled_from(["seeded", "first"]),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**9),
)
def test_a_batch_is_what_its_definition_says(store, horizon, longer, proportion, order, seed, step) -> None:
    try:
        data = DataSpec(dataset_proportion=proportion, proportion_order=order)
        windows = Windows(store, data, Sampling(horizon=horizon, longer=longer))
    except DatasetError as error:
        assert "longer than every episode" in str(error)
        assert not longer
        return
    batch = windows.sample([seed], step, 32)
    expected = reference(store, windows, windows.indices(seed, step, 32))
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name][0].numpy(), array)


def test_shapes_and_types_are_those_of_a_batch(store) -> None:
    batch = Windows(store, sampling=Sampling(horizon=4)).sample([3, 4], 0, 10)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "observations": ((2, 10, 2), torch.float32),
        "actions": ((2, 10, 4, 3), torch.float32),
        "valid": ((2, 10, 4), torch.float32),
    }


def test_no_window_crosses_into_the_next_episode(store) -> None:
    batch = Windows(store, sampling=Sampling(horizon=6)).sample([0], 0, 2000)
    episodes = batch["actions"][0, :, :, 0]
    assert (episodes == batch["observations"][0, :, :1]).all()


def test_every_transition_is_drawn_about_equally_often(store) -> None:
    windows = Windows(store)
    drawn = np.concatenate([windows.indices(0, step, 580) for step in range(100)])
    counts = np.bincount(drawn, minlength=windows.num_transitions)
    assert len(counts) == sum(LENGTHS)
    expected = len(drawn) / len(counts)
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 110  # 57 degrees of freedom: above 110 once in 25,000


def test_a_batch_depends_on_seed_and_step_alone(store) -> None:
    windows, again = Windows(store, sampling=Sampling(horizon=3)), Windows(store, sampling=Sampling(horizon=3))
    windows.sample([9], 4, 8)  # an earlier draw must not matter
    for name, value in windows.sample([1, 2], 5, 8).items():
        assert torch.equal(value, again.sample([1, 2], 5, 8)[name])
        assert torch.equal(value[1], again.sample([2], 5, 8)[name][0])
    assert not torch.equal(windows.sample([1], 5, 8)["observations"], windows.sample([1], 6, 8)["observations"])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_workers_parts_put_together_are_the_global_batch(store, world) -> None:
    windows = Windows(store, sampling=Sampling(horizon=3))
    whole = windows.sample([1, 2], 7, 12)
    parts = [windows.sample([1, 2], 7, 12, rank, world) for rank in range(world)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts], dim=1), value)


def test_a_batch_that_workers_cannot_share_is_refused(store) -> None:
    with pytest.raises(DatasetError, match="cannot be shared by 3 workers"):
        Windows(store).sample([0], 0, 8, 0, 3)


def test_a_horizon_longer_than_every_episode_is_refused_with_both_numbers(store) -> None:
    Windows(store, sampling=Sampling(horizon=30))
    with pytest.raises(DatasetError) as error:
        Windows(store, sampling=Sampling(horizon=31))
    assert "horizon 31" in str(error.value)
    assert "30 steps" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=40),
    st.floats(0.05, 1.0),
    st.sampled_from(["seeded", "first"]),
    st.integers(0, 1000),
)
def test_a_share_has_enough_transitions_no_episode_too_many_and_holds_smaller_shares(
    lengths, proportion, order, seed
) -> None:
    sizes = np.asarray(lengths)
    chosen = select_episodes(sizes, proportion, order, seed, "train", 0.0)
    assert len(set(chosen)) == len(chosen) > 0
    assert sizes[chosen].sum() >= proportion * sizes.sum() - 1e-6
    smaller = select_episodes(sizes, proportion / 2, order, seed, "train", 0.0)
    assert set(smaller) <= set(chosen)
    if order == "first":
        assert chosen.tolist() == list(range(len(chosen)))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.5), st.integers(0, 100))
def test_training_and_validation_share_no_episode_and_leave_none_out(count, fraction, seed) -> None:
    lengths = np.ones(count, np.int64)
    train, validation = (
        set(select_episodes(lengths, 1.0, "seeded", seed, split, fraction)) for split in ("train", "validation")
    )
    assert not train & validation
    assert train | validation == set(range(count))


def test_a_share_is_taken_from_the_training_split_only(store) -> None:
    validation = Windows(store, DataSpec(validation_fraction=0.4), split="validation")
    train = Windows(store, DataSpec(dataset_proportion=0.5, validation_fraction=0.4))
    assert not set(train.episodes) & set(validation.episodes)
    assert len(train.rewards()) == train.num_transitions


def test_sparse_rewards_are_minus_one_wherever_they_were_not_zero(store) -> None:
    rewards = Windows(store, DataSpec(sparse=True)).rewards()
    plain = Windows(store).rewards()
    assert set(plain.tolist()) == {-2.0, 0.0}
    np.testing.assert_array_equal(rewards, np.where(plain == 0, 0, -1))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), discount=st.sampled_from([0.5, 0.99, 1.0]))
def test_returns_are_the_discounted_sums_to_each_episodes_end(lengths, discount) -> None:
    rewards = np.random.default_rng(0).normal(size=sum(lengths)).astype(np.float32)
    expected = []
    for episode in np.split(rewards, np.cumsum(lengths)[:-1]):
        expected += [sum(discount**k * float(r) for k, r in enumerate(episode[t:])) for t in range(len(episode))]
    np.testing.assert_allclose(returns_to_go(rewards, np.array(lengths), discount), expected, rtol=1e-5, atol=1e-6)


def test_a_batch_has_the_returns_of_the_rewards_that_training_sees(store) -> None:
    windows = Windows(store, DataSpec(sparse=True, discount=0.9), Sampling(horizon=2, columns=("returns_to_go",)))
    last = windows.num_transitions - 1
    batch = windows.gather(np.array([last - 1, last]), (2,))
    before, at = windows.rewards()[-2:]
    np.testing.assert_allclose(batch["returns_to_go"], [before + 0.9 * at, at], rtol=1e-6)


@pytest.mark.parametrize(("proportion", "validation_fraction"), [(0.0, 0.0), (1.5, 0.0), (1.0, 1.0)])
def test_a_share_outside_its_bounds_is_refused(proportion, validation_fraction) -> None:
    with pytest.raises(DatasetError, match="must be"):
        select_episodes(np.asarray(LENGTHS), proportion, "seeded", 0, "train", validation_fraction)


def test_pixels_stay_bytes(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
    with StoreWriter(tmp_path / "x", name="x", source="t", env_id="e") as writer:
        writer.add_episode(
            {
                "observations": pictures,
                "actions": rng.normal(size=(9, 2)),
                "rewards": np.zeros(9),
                "terminals": np.zeros(9),
            }
        )
    windows = Windows(EpisodeStore.open(tmp_path / "x"), sampling=Sampling(horizon=2))
    batch = windows.sample([0], 0, 16)
    assert batch["observations"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["observations"][0].numpy(), pictures[windows.indices(0, 0, 16)])


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> EpisodeStore:
    """Two episodes, one terminated and one cut off, whose observation after the last action was kept."""
    path = tmp_path_factory.mktemp("data") / "ended"
    with StoreWriter(path, name="ended", source="test", env_id="none") as writer:
        for first, length, terminated in ((10.0, 4, True), (20.0, 3, False)):
            steps = np.arange(length)
            writer.add_episode(
                {
                    "observations": (first + steps)[:, None],
                    "actions": np.zeros((length, 1)),
                    "rewards": first + steps,
                    "terminals": (steps == length - 1) & terminated,
                    "final_observations": np.array([first + length], np.float32),
                }
            )
    return EpisodeStore.open(path)


def test_transitions_are_what_followed_the_actions_of_one_episode(ended) -> None:
    windows = Windows(ended, DataSpec(discount=0.5), Sampling(horizon=3, transitions=True))
    batch = windows.gather(np.arange(7), (7,))
    assert batch["rewards"].tolist() == [
        [10, 11, 12],
        [11, 12, 13],
        [12, 13, 0],
        [13, 0, 0],
        [20, 21, 22],
        [21, 22, 0],
        [22, 0, 0],
    ]
    # 0 where the episode terminated, repeated past its end; a time limit leaves the discount.
    assert (batch["discounts"] * 2).tolist() == [
        [1, 1, 1],
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [1, 1, 1],
        [1, 1, 1],
        [1, 1, 1],
    ]
    assert batch["next_observations"].tolist() == [[13], [14], [14], [14], [23], [23], [23]]
    assert batch["valid"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_transitions_of_sampled_batches_have_a_leading_dim_for_each_member(ended) -> None:
    data = DataSpec(sparse=True, goal_relabelling="final", obs_horizon=2)
    batch = Windows(ended, data, Sampling(transitions=True)).sample([0, 1], 5, 8)
    assert {
        name: tuple(batch[name].shape) for name in ("rewards", "discounts", "observations", "next_observations")
    } == {
        "rewards": (2, 8, 1),
        "discounts": (2, 8, 1),
        "observations": (2, 8, 3),
        "next_observations": (2, 8, 3),
    }
    assert batch["rewards"].unique().tolist() == [-1.0]
    now, following = batch["observations"], batch["next_observations"]
    assert torch.equal(now[..., 1], following[..., 0])  # the history goes on by one
    assert torch.equal(now[..., 2], following[..., 2])  # towards the same goal


def test_a_chunk_ends_with_the_first_done_in_it_where_that_is_asked_for(tmp_path) -> None:
    dones = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]])
    with StoreWriter(tmp_path / "done", name="done", source="test", env_id="none") as writer:
        for row in dones:
            steps = np.arange(len(row), dtype=np.float32)[:, None]
            rewards = np.zeros(len(row))
            writer.add_episode({"observations": steps, "actions": steps, "rewards": rewards, "terminals": row})
    store, sampling = EpisodeStore.open(tmp_path / "done"), Sampling(horizon=3, transitions=True)
    batch = Windows(store, DataSpec(mask_after_done=True), sampling).gather(np.arange(12), (12,))
    for index in range(12):
        row, step = divmod(index, 6)
        wanted = [1.0]
        for ahead in (1, 2):
            inside = step + ahead < 6 and not dones[row, step : step + ahead].any()
            wanted.append(float(inside))
        assert batch["valid"][index].tolist() == wanted, index
    whole = Windows(store, DataSpec(), sampling).gather(np.arange(12), (12,))
    assert whole["valid"][1].tolist() == [1.0, 1.0, 1.0]
    assert batch["valid"][1].tolist() == [1.0, 1.0, 0.0]
    assert batch["actions"][1, :, 0].tolist() == [1.0, 2.0, 2.0]  # the last action is repeated
