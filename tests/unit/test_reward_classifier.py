"""The reward classifier: balanced batches, a made-up task of pictures learnt by the loop, and its use afterwards."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from understudy.envs.experts.policy_expert import PolicyExpert
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.episodes import Split
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError, SpecError, UserError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import loops
from understudy.runs.directory import read_csv
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run, with_changes
from understudy.spec.learning import Sampling
from understudy.sweeping.sweep_spec import build_sweep
from understudy.trainables.algorithms.bc import BC
from understudy.trainables.algorithms.reward_classifier import RewardClassifier, RewardClassifierConfig, SuccessDetector
from understudy.trainables.packs.pack import Pack

SIZE, EPISODES, STEPS = 24, 12, 30
SMALL: dict[str, Any] = {"encoder": "impala_small", "latent_dim": 32, "hidden_dim": 32}


def frames(count: int, *stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy pictures [count, SIZE, SIZE, 3] with a square in one half each, and whether that is the right half.

    One in five is a success.
    """
    random = numpy_generator(5, "squares", *stream)
    pixels = random.integers(0, 60, (count, SIZE, SIZE, 3), dtype=np.uint8)
    success = random.random(count) < 0.2
    for index in range(count):
        row, column = random.integers(0, SIZE - 6), random.integers(0, SIZE // 2 - 6) + success[index] * SIZE // 2
        pixels[index, row : row + 6, column : column + 6] = random.integers(150, 255, 3)
    return pixels, success


def write(path: Path, low: float = 0.0) -> EpisodeStore:
    """Write episodes whose reward is low + 1 for an action that led to a success, else `low`; states say nothing."""
    with StoreWriter(path, name=path.name, source="test", env_id="none") as writer:
        for number in range(EPISODES):
            pixels, success = frames(STEPS + 1, number)
            random = numpy_generator(6, "states", number)
            episode = {
                "observations": random.normal(size=(STEPS, 3)).astype(np.float32),
                "actions": random.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
                "rewards": low + success[1:],
                "terminals": np.zeros(STEPS),
                "images/front": pixels[:-1],
                "final_images/front": pixels[-1],
            }
            writer.add_episode(episode)
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return write(tmp_path_factory.mktemp("data") / "squares")


# ---- batches ----


def balanced(store: EpisodeStore, *, after: bool = False, split: Split = "train", **data: Any) -> Windows:
    sampling = Sampling(columns=("rewards",), balanced_above=0.0, after=after)
    return Windows(store, DataSpec(**data), sampling, split=split)


def test_half_of_each_batch_are_successes_and_rewards_are_those_of_the_frames(store: EpisodeStore) -> None:
    windows = balanced(store)
    batch = windows.sample([0, 1], 3, 32)
    assert batch["rewards"].shape == (2, 32)
    assert (batch["rewards"] > 0).sum(1).tolist() == [16, 16]
    rows = windows.indices(1, 3, 32)
    np.testing.assert_array_equal(batch["rewards"][1], store.column("rewards")[rows])
    np.testing.assert_array_equal(batch["observations"]["front"][1], store.frames("images/front").gather(rows))


def test_every_success_and_every_other_frame_is_drawn_about_equally_often(store: EpisodeStore) -> None:
    drawn = np.concatenate([balanced(store).indices(0, step, 400) for step in range(100)])
    positive = store.column("rewards") > 0
    for side in (positive, ~positive):
        counts = np.bincount(drawn, minlength=len(positive))[side]
        assert counts.sum() == 20_000
        assert np.abs(counts / counts.mean() - 1).max() < 0.5


def test_balanced_batches_depend_on_seed_and_step_alone_and_workers_share_them(store: EpisodeStore) -> None:
    windows, again = balanced(store), balanced(store)
    again.indices(9, 200, 32)
    whole = windows.indices(4, 70, 32)
    assert np.array_equal(whole, again.indices(4, 70, 32))
    parts = [again.indices(4, 70, 32, rank, 4) for rank in range(4)]
    assert np.array_equal(whole, np.concatenate(parts))
    positive = windows.rewards() > 0
    assert [int(positive[part].sum()) for part in parts] == [4, 4, 4, 4]


@pytest.mark.parametrize("obs_horizon", [1, 3])
def test_a_reward_is_shown_by_what_followed_its_action(store: EpisodeStore, obs_horizon: int) -> None:
    windows = balanced(store, after=True, obs_horizon=obs_horizon)
    rows = np.array([0, 1, 7, STEPS - 1, STEPS, 2 * STEPS - 1])
    seen = windows.gather(rows, (len(rows),))["observations"]
    for index, row in enumerate(rows):
        episode, step = divmod(int(row), STEPS)
        pixels, _ = frames(STEPS + 1, episode)
        history = np.maximum(np.arange(step + 2 - obs_horizon, step + 2), 0)
        wanted = pixels[history] if obs_horizon > 1 else pixels[step + 1]
        np.testing.assert_array_equal(seen["front"][index], wanted)
        states = np.minimum(history, STEPS - 1) + episode * STEPS  # the last state is what there is after it
        np.testing.assert_array_equal(seen["state"][index], store.column("observations")[states].ravel())


def test_balanced_batches_of_a_split_hold_its_episodes_alone(store: EpisodeStore) -> None:
    windows = balanced(store, split="validation", validation_fraction=0.25)
    wanted = np.concatenate([np.arange(STEPS) + store.starts[episode] for episode in windows.episodes])
    batch = windows.sample([0], 0, 500)
    seen = {bytes(picture) for picture in batch["observations"]["front"][0].numpy()}
    held = {bytes(picture) for picture in store.frames("images/front").gather(wanted)}
    assert seen <= held


def test_data_without_successes_or_rewards_are_refused_in_one_line(store: EpisodeStore) -> None:
    with pytest.raises(DatasetError, match=r"no reward .* reward_threshold=3; they are from 0 to 1") as caught:
        Windows(store, sampling=Sampling(balanced_above=3.0))
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="every reward"):
        Windows(store, sampling=Sampling(balanced_above=-1.0))
    with pytest.raises(DatasetError, match="no column 'prices'"):
        Windows(store, sampling=Sampling(columns=("prices",)))


# ---- the network and its loss ----


def make(shape: Any, **settings: Any) -> RewardClassifier:
    return RewardClassifier(shape, 2, RewardClassifierConfig(**{**SMALL, **settings}))


def batch(shape: dict[str, tuple[int, ...]], size: int = 6) -> dict[str, Any]:
    """Return a batch of one member of drawn numbers."""
    random = numpy_generator(1, "classifier batch")
    observations = {
        name: torch.from_numpy(
            random.integers(0, 256, (1, size, *part), dtype=np.uint8)
            if len(part) > 1
            else random.normal(size=(1, size, *part)).astype(np.float32)
        )
        for name, part in shape.items()
    }
    rewards = torch.tensor([[-1.0, 0.0, 1.0, 0.0, -1.0, 2.0]])[:, :size]
    return {"observations": observations, "actions": torch.zeros(1, size, 1, 2), "rewards": rewards}


def test_the_loss_is_the_cross_entropy_of_rewards_above_the_threshold() -> None:
    shape = {"front": (16, 16, 3)}
    for threshold, labels in ((0.0, [0, 0, 1, 0, 0, 1]), (-0.5, [0, 1, 1, 1, 0, 1])):
        algorithm = make(shape, reward_threshold=threshold)
        pack, data = Pack(algorithm, [0]), batch(shape)
        losses = {name: value.item() for name, value in pack.losses(data, 0).items()}
        told = torch.from_numpy(pack.act(data["observations"], torch.zeros(1, 6))[0, :, 0, 0])
        wanted = torch.tensor(labels, dtype=torch.float32)
        assert losses["actor_loss"] == pytest.approx(functional.binary_cross_entropy(told, wanted).item(), rel=1e-4)
        said = told > 0.5
        assert losses["accuracy"] == pytest.approx((said == wanted.bool()).float().mean().item())
        right = (said & wanted.bool()).sum().item()
        assert losses["precision"] == pytest.approx(right / max(1, said.sum().item()))
        assert losses["recall"] == pytest.approx(right / wanted.sum().item())


def test_every_camera_is_looked_at_and_the_state_only_where_there_is_no_picture() -> None:
    shape = {"state": (3,), "front": (16, 16, 3), "wrist": (12, 20, 3)}
    pack, observations = Pack(make(shape), [0]), batch(shape)["observations"]
    usual = pack.act(observations, torch.zeros(1, 6))
    for name in shape:
        changed = pack.act({**observations, name: observations[name].flip(1)}, torch.zeros(1, 6))
        assert np.array_equal(usual, changed) == (name == "state"), name
    states = Pack(RewardClassifier((3,), 2, RewardClassifierConfig()), [0])
    told = states.act(observations["state"], torch.zeros(1, 6))
    assert len(np.unique(told)) == 6


def test_a_frozen_encoder_leaves_pooling_and_branches_to_be_trained() -> None:
    shape = {"front": (16, 16, 3)}
    pack = Pack(make(shape, encoder_lr=0.0), [0])
    before = pack.member_state(0)["weights"]
    pack.update(batch(shape), 1)
    after = pack.member_state(0)["weights"]
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith("encoder.")}
    assert "branches.0.pooling.kernel" in before.keys() - still


def test_frames_of_a_history_are_pooled_one_by_one() -> None:
    shape = {"front": (2, 16, 16, 3)}
    algorithm = make(shape, history="sequence")
    network = algorithm.network(torch_generator(0, "weights"))
    assert network.get_parameter("branches.0.dense.weight").shape == (32, 2 * 8 * 32)
    observations = {name: part[0] for name, part in batch(shape)["observations"].items()}
    assert algorithm.act(network, observations, torch.zeros(6)).shape == (6, 1, 1)


# ---- from data to a detector ----


@pytest.fixture(scope="module")
def trained(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of a classifier trained by the loop on the episodes that are not held out."""
    path = tmp_path_factory.mktemp("run")
    run = spec(store, training_steps=150, log_interval=50, augmentation="drq", random_shift=2)
    result = loops.get("offline")(run).run(path)
    assert result.metrics["validation/accuracy"] > 0.95
    return path


def spec(store: EpisodeStore, **settings: Any) -> Any:
    common = {"algo": "reward_classifier", "env_name": store.name, "data_dir": str(store.path.parent)}
    sizes = {**SMALL, "lr": 1e-3, "batch_size": 32, "loader_workers": 0, "validation_fraction": 0.25}
    return build_run({**common, **sizes, "tracking_uri": "none", "device": "cpu", **settings})


def test_held_out_episodes_are_told_right_and_nothing_is_rolled_out(trained: Path) -> None:
    rows = read_csv(trained / "eval.csv")
    assert rows[-1]["validation/accuracy"] > 0.95
    assert rows[-1]["validation/precision"] > 0.95
    assert rows[-1]["validation/recall"] > 0.9
    assert "return" not in rows[-1]
    assert {"accuracy", "precision", "recall"} <= set(read_csv(trained / "train.csv")[-1])


def test_a_detector_tells_frames_as_the_training_did(trained: Path, tmp_path: Path) -> None:
    policy = Policy.from_checkpoint(trained / "final_model.pt")
    detector = SuccessDetector.load(trained)
    pixels, success = frames(200, 99)
    observations = {"front": pixels, "state": np.zeros((200, 3), np.float32)}
    probability = detector.probability(observations)
    assert probability.shape == (200,)
    assert ((probability > 0.5) == success).mean() > 0.95
    network = policy.algorithm.network(torch_generator(0, "weights"))
    network.load_state_dict(policy.weights(), strict=False)
    given = {"front": torch.from_numpy(pixels), "state": torch.zeros(200, 3)}
    with torch.no_grad():  # what the loss sees: uint8 pictures, scaled by the network itself
        np.testing.assert_allclose(probability, network(given).sigmoid().numpy(), atol=1e-5)
    of_folder = SuccessDetector.load(policy.save(tmp_path / "policy"), success_threshold=0.9)
    np.testing.assert_array_equal(of_folder.probability(observations), probability)
    assert of_folder.config.success_threshold == 0.9
    single = {name: part[0] for name, part in observations.items()}
    np.testing.assert_allclose(detector.probability(single), probability[:1], atol=1e-5)


def test_the_page_of_the_method_uses_a_detector_as_it_is(trained: Path, repo_root: Path) -> None:
    lines = (repo_root / "docs" / "methods" / "reward_classifier.md").read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("    from understudy"))
    code = "\n".join(itertools.takewhile(lambda line: not line.strip() or line.startswith("    "), lines[begin:]))
    pixels, _ = frames(20, 97)
    names = {"RUN": str(trained), "frames": pixels, "states": np.zeros((20, 3), np.float32)}
    exec(textwrap.dedent(code), names)
    assert names["rewards"].shape == names["ends"].shape == (20,)


def test_a_detectors_rewards_and_ends_follow_its_settings(trained: Path) -> None:
    policy = Policy.from_checkpoint(trained / "final_model.pt")
    pixels, _ = frames(100, 98)
    observations = {"front": pixels, "state": np.zeros((100, 3), np.float32)}
    usual = SuccessDetector(policy)
    probability = usual.probability(observations)
    rewards, ends = usual.judge(observations)
    np.testing.assert_array_equal(rewards, (probability > 0.5).astype(np.float32))
    np.testing.assert_array_equal(ends, probability > 0.5)
    strict = SuccessDetector(policy, success_threshold=0.99, success_reward=10.0, terminate_on_success=False)
    rewards, ends = strict.judge(observations)
    np.testing.assert_array_equal(rewards, np.where(probability > 0.99, 10.0, 0.0))
    assert not ends.any()


def test_robomimics_rewards_of_minus_one_and_zero_are_labelled_by_their_threshold(tmp_path: Path) -> None:
    shifted = write(tmp_path / "shifted", low=-1.0)
    with pytest.raises(DatasetError, match=r"no reward .* reward_threshold=0; they are from -1 to 0"):
        loops.get("offline")(spec(shifted))
    loop = loops.get("offline")(spec(shifted, reward_threshold=-0.5))
    rewards = loop.data.windows(1).sample([0], 1, 32)["rewards"]
    assert (rewards == 0).sum() == 16


def test_a_classifier_is_no_policy_and_a_policy_no_classifier(trained: Path) -> None:
    policy = Policy.from_checkpoint(trained / "final_model.pt")
    with pytest.raises(UserError, match="reward_classifier gives no actions"):
        PolicyExpert(policy)
    algorithm = BC((3,), 2)
    weights = algorithm.network(torch_generator(0, "weights")).state_dict()
    with pytest.raises(UserError, match="a bc policy is no reward classifier"):
        SuccessDetector(Policy(algorithm, [weights], Normaliser.identity((3,))))


def test_a_sweep_of_classifiers_is_ranked_by_held_out_episodes() -> None:
    values = {"algo": "reward_classifier", "space": "reward_classifier"}
    assert build_sweep(values, {}).base.data.validation_fraction == 0.2
    with pytest.raises(SpecError, match="validation_fraction"):
        build_sweep({**values, "validation_fraction": 0.0}, {})


def test_a_trained_classifier_is_evaluated_on_its_held_out_episodes(trained: Path, store: EpisodeStore) -> None:
    policy = Policy.from_checkpoint(trained / "final_model.pt")
    run = build_run({**policy.spec, "data_dir": str(store.path.parent)})
    outcome = loops.get("offline").evaluate(policy, run)
    last = read_csv(trained / "eval.csv")[-1]
    assert outcome.summary["validation/accuracy"] == pytest.approx(last["validation/accuracy"])
    assert outcome.summary["validation/actor_loss"] == pytest.approx(last["validation/actor_loss"], rel=1e-5)
    with pytest.raises(UserError, match="validation_fraction"):
        loops.get("offline").evaluate(policy, with_changes(run, validation_fraction=0.0))


def test_chunks_of_actions_are_refused() -> None:
    with pytest.raises(SpecError, match="a classifier predicts no actions"):
        build_run({"algo": "reward_classifier", "action_chunking": True})
