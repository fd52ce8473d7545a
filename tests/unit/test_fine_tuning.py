"""What fine-tuning is made of: draws from data and replay as one, networks that grow in a fork, judged actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.envs.replay.beside_data import DataAndReplay
from understudy.envs.replay.replay import Replay
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run
from understudy.spec.learning import Sampling
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig, QChunkingPolicy
from understudy.trainables.loops.fine_tuning import check_data
from understudy.trainables.packs.growing import begun_from
from understudy.trainables.packs.pack import Pack

ROWS, HORIZON = 12, 3
SMALL = {"hidden_dims": (8, 8), "action_chunking": True, "horizon_length": HORIZON}


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Return windows of two episodes whose observations are 0 to 11."""
    with StoreWriter(tmp_path / "s", name="s", source="d4rl", env_id="x") as writer:
        for first in (0, 6):
            seen = np.arange(first, first + 6, dtype=np.float32)[:, None]
            rest = {"actions": np.zeros((6, 1)), "rewards": np.ones(6), "terminals": np.zeros(6)}
            writer.add_episode({"observations": seen, **rest, "final_observation": seen[-1] + 0.5})
    return Windows(
        EpisodeStore.open(tmp_path / "s"), DataSpec(discount=0.9), Sampling(horizon=HORIZON, transitions=True)
    )


def buffer_of(folder: Path, steps: int, capacity: int = 100) -> Replay:
    """Return a buffer of one open episode whose observations are 100, 101, ..."""
    buffer = Replay(folder, (1,), 1, capacity)
    buffer.begin(np.array([100.0]))
    for step in range(steps):
        buffer.add(np.zeros(1), 1.0, np.array([101.0 + step]), terminated=False, ended=False)
    return buffer


def test_draws_are_uniform_over_the_data_and_every_row_of_the_buffer_with_a_whole_window(windows, tmp_path) -> None:
    mixture, buffer = DataAndReplay(windows, 0.9), buffer_of(tmp_path / "r", 9, capacity=8)
    rows = np.concatenate([mixture.rows(buffer, 0, step, 50) for step in range(400)])
    begun = mixture.gather(buffer, rows)
    seen, counts = np.unique(begun["observations"].numpy(), return_counts=True)
    assert seen.tolist() == [
        *range(ROWS),
        *range(101, 107),
    ]  # of 100 to 108 one is too old, and two have no whole window
    assert abs(counts - len(rows) / len(seen)).max() < 5 * np.sqrt(len(rows) / len(seen))
    assert np.array_equal(mixture.rows(buffer, 0, 7, 50), mixture.rows(buffer, 0, 7, 50))
    assert not np.array_equal(mixture.rows(buffer, 0, 7, 50), mixture.rows(buffer, 1, 7, 50))


def test_a_row_drawn_beside_others_is_the_window_that_it_is_alone(windows, tmp_path) -> None:
    mixture, buffer = DataAndReplay(windows, 0.9), buffer_of(tmp_path / "r", 9)
    rows = np.array([14, 0, 11, 18, 5, 12])
    together = mixture.gather(buffer, rows)
    assert together["observations"][:, 0].tolist() == [102, 0, 11, 106, 5, 100]
    for place, row in enumerate(rows):
        alone = mixture.gather(buffer, np.array([row]))
        assert all(torch.equal(together[name][place], value[0]) for name, value in alone.items())
    assert together["n_step_rewards"].tolist() == pytest.approx([2.71, 2.71, 1.0, 2.71, 1.0, 2.71])
    assert len(mixture.gather(buffer_of(tmp_path / "new", 2), np.array([3]))["observations"]) == 1
    assert mixture.rows(buffer_of(tmp_path / "newer", 2), 0, 1, 500).max() < ROWS


def test_the_critic_learns_of_the_actions_that_were_executed_and_the_flow_of_those_to_imitate(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", name="s", source="ogbench", env_id="x") as writer:
        wanted, executed = np.arange(8.0)[:, None] / 10, np.arange(8.0)[:, None] / 10 + 0.05
        rows = {"actions": wanted, "executed_actions": executed, "rewards": -np.ones(8), "terminals": np.zeros(8)}
        writer.add_episode({"observations": wanted, **rows, "final_observation": wanted[-1]})
    algorithm = FlowBC((1,), 1, FlowBCConfig(**SMALL, use_critic=True))
    windows = Windows(EpisodeStore.open(tmp_path / "s"), DataSpec(), algorithm.config.sampling)
    buffer = buffer_of(tmp_path / "r", 9)
    batch = DataAndReplay(windows, 0.9).gather(buffer, np.array([9, 1, 7, 8]))
    assert batch["actions"][1].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch["executed_actions"][1].flatten().tolist() == pytest.approx([0.15, 0.25, 0.35])
    assert batch["executed_actions"][2].flatten().tolist() == pytest.approx([0.75, 0.75, 0.75])  # its episode's end
    assert torch.equal(batch["executed_actions"][[0, 3]], batch["actions"][[0, 3]])  # online nothing else was wanted
    assert DataAndReplay(windows, 0.9).gather(buffer, np.array([9]))["executed_actions"].shape == (1, HORIZON, 1)

    network = algorithm.network(torch.Generator().manual_seed(0))
    draws = algorithm.draw(4, torch.Generator().manual_seed(0))
    assert isinstance(network, QChunkingPolicy)
    target = {"chunk_critic": network.chunk_critic}
    told = {name: value for name, value in batch.items() if name != "executed_actions"}
    for one, changed in ((algorithm.loss, False), (algorithm.critic_loss, True)):
        assert (one(network, target, batch, draws)[0] != one(network, target, told, draws)[0]) == changed


@pytest.mark.parametrize(("learns", "counted"), [(False, [1, 0, 0]), (True, [1, 1, 0])])
def test_a_chunk_that_a_termination_cuts_short_counts_where_asked_and_one_at_a_time_limit_never(
    learns: bool, counted: list[float], tmp_path: Path
) -> None:
    algorithm = FlowBC((1,), 1, FlowBCConfig(**SMALL, use_critic=True, learn_cut_chunks=learns))
    network = algorithm.network(torch.Generator().manual_seed(0))
    draws = algorithm.draw(1, torch.Generator().manual_seed(0))
    assert isinstance(network, QChunkingPolicy)
    for place, terminates in enumerate((True, True, False)):
        buffer = Replay(tmp_path / str(place), (1,), 1, 100)
        buffer.begin(np.zeros(1))
        for step in range(5):
            last = step == 4
            buffer.add(np.zeros(1), -1.0, np.zeros(1), terminated=last and terminates, ended=last)
        row = 2 if place == 0 else 3  # three steps before the end, or two
        drawn = buffer.gather(np.array([row]), HORIZON, 0.9)
        batch = {name: torch.as_tensor(value).float() for name, value in drawn.items()}
        loss, _ = algorithm.critic_loss(network, {"chunk_critic": network.chunk_critic}, batch, draws)
        returned = -1 - 0.9 - (0.81 if place == 0 else 0.0)
        values = network.chunk_critic(batch["observations"], batch["actions"].flatten(1))
        assert float(loss.detach()) == pytest.approx(
            counted[place] * float((values - returned).square().mean().detach()), rel=1e-5
        )


@pytest.mark.parametrize("actor", ["one_step", "best_of_n"])
def test_a_fork_with_a_critic_keeps_the_flow_and_draws_the_rest_with_its_target(actor: str) -> None:
    parent = Pack(FlowBC((4,), 2, FlowBCConfig(**SMALL)), [0])
    child = Pack(FlowBC((4,), 2, FlowBCConfig(**SMALL, use_critic=True, actor=actor)), [0])
    drawn = child.weights(0)
    begun = begun_from({**parent.member_state(0)}, child.member_state(0))
    child.load_member_state(0, begun.state)
    assert begun.drawn == [*(["one_step"] if actor == "one_step" else []), "chunk_critic"]
    assert "the optimiser begins anew" in begun.line()
    flow = parent.weights(0)
    for name, value in child.weights(0).items():
        assert torch.equal(value, flow.get(name, drawn[name])), name
    critic = {name: value for name, value in child.weights(0).items() if name.startswith("chunk_critic.")}
    target = child.member_state(0)["targets"]["chunk_critic"]
    assert all(torch.equal(target[name.removeprefix("chunk_critic.")], value) for name, value in critic.items())


def test_a_fork_to_the_same_parts_is_its_parents_state_and_a_lost_part_is_named() -> None:
    config = FlowBCConfig(**SMALL, use_critic=True)
    state = Pack(FlowBC((4,), 2, config), [0]).member_state(0)
    same = begun_from(state, Pack(FlowBC((4,), 2, config), [1]).member_state(0))
    assert same.state is state
    assert same.line() == ""
    plain = Pack(FlowBC((4,), 2, FlowBCConfig(**SMALL)), [0])
    fewer = begun_from(state, plain.member_state(0))
    assert fewer.left == ["one_step", "chunk_critic"]
    plain.load_member_state(0, fewer.state)


def test_what_the_actor_gains_by_the_critic_moves_no_critic() -> None:
    algorithm = FlowBC((4,), 2, FlowBCConfig(**SMALL, use_critic=True))
    network = algorithm.network(torch.Generator().manual_seed(0))
    assert isinstance(network, QChunkingPolicy)
    actions = torch.rand(5, 6, requires_grad=True)
    value = network.chunk_critic.judged(torch.rand(5, 4), actions).mean()
    value.backward()
    assert actions.grad is not None
    assert actions.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("actor", ["one_step", "best_of_n"])
def test_a_stacked_pack_learns_what_its_members_learn_one_after_the_other(actor: str) -> None:
    config = FlowBCConfig(**SMALL, use_critic=True, actor=actor, num_samples=3, flow_steps=2)
    packs = [Pack(FlowBC((4,), 2, config), [0, 1], mode=mode) for mode in ("loop", "vmap")]
    stream = np.random.default_rng(0)
    for step in range(1, 4):
        arrays = {name: stream.normal(size=(2, 5, 4)) for name in ("observations", "next_observations")}
        arrays |= {"actions": stream.uniform(-1, 1, (2, 5, HORIZON, 2)), "valid": np.ones((2, 5, HORIZON))}
        arrays |= {"n_step_rewards": stream.normal(size=(2, 5)), "n_step_discounts": np.full((2, 5), 0.7)}
        batch = {name: torch.tensor(values, dtype=torch.float32) for name, values in arrays.items()}
        one, other = (pack.update(batch, step) for pack in packs)
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
    for member in range(2):
        one, other = (pack.weights(member) for pack in packs)
        assert all(torch.allclose(other[name], value, atol=2e-5) for name, value in one.items())


def test_data_without_rewards_or_with_goals_are_refused_in_a_word(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", name="s", source="d4rl", env_id="x") as writer:
        rows = {name: np.zeros((6, 1)) for name in ("observations", "actions")}
        writer.add_episode({**rows, "rewards": np.zeros(6), "terminals": np.zeros(6), "final_observation": np.zeros(1)})
    store, spec = EpisodeStore.open(tmp_path / "s"), build_run({"use_critic": True})
    with pytest.raises(SpecError, match="every reward of 's' is 0"):
        check_data(spec, Windows(store, DataSpec(), Sampling(horizon=2, transitions=True)))
    with pytest.raises(SpecError, match="has goals"):
        check_data(spec, Windows(store, DataSpec(goal_relabelling="uniform"), Sampling(horizon=2, transitions=True)))
