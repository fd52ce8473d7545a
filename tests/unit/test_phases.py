"""Phases, parts and targets: each part learns by its own phase, at its own rate, and leaves the others bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit import small_actor_critic as small
from torch import nn

from understudy.algorithm import Phase
from understudy.errors import CheckpointError, SpecError, UserError
from understudy.randomness import torch_generator
from understudy.trainables.loops.agent import Agent
from understudy.trainables.packs.flat import FlatLayout
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.targets import TargetNetworks


def train(pack: Pack, first: int, last: int, **options: Any) -> dict[str, torch.Tensor]:
    """Take updates first..last; return the metrics of the last."""
    metrics: dict[str, torch.Tensor] = {}
    for step in range(first, last + 1):
        metrics = pack.update(small.batch(step, len(pack)), step, **options)
    return metrics


def of(state: dict[str, torch.Tensor], part: str) -> list[torch.Tensor]:
    return [value for name, value in state.items() if name.split(".")[0] == part]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_steps_of_the_critic_alone_move_neither_the_actor_nor_its_moments(mode: Any) -> None:
    pack = Pack(small.make(weight_decay=0.1), [0, 1], mode=mode)
    train(pack, 1, 5)  # so that the actor's Adam has momentum
    before = pack.member_state(1)
    train(pack, 6, 15, only=["critic"])
    after = pack.member_state(1)
    for part in ("actor", "log_scale"):
        assert equal(of(before["weights"], part), of(after["weights"], part))
    assert not equal(of(before["weights"], "critic"), of(after["weights"], "critic"))
    for name in ("exp_avg", "exp_avg_sq"):
        kept = [list(state["optimisers"]["actor"][name].values()) for state in (before, after)]
        assert equal(*kept)
        assert any(value.abs().max() > 0 for value in kept[0])
    assert after["optimisers"]["actor"]["step"] == 5
    assert after["optimisers"]["critic"]["step"] == 15


def test_an_update_equals_plain_torch_with_one_adam_a_part() -> None:
    pack, plain = Pack(small.make(), [3]), Pack(small.make(), [3])
    algorithm, network = plain.algorithm, plain.members[0]
    assert isinstance(algorithm, small.ActorCritic)
    assert isinstance(network, small.Networks)
    target = small.Networks(algorithm.config, torch.Generator()).critic
    target.load_state_dict(network.critic.state_dict())
    adams = {
        "critic": torch.optim.Adam(network.critic.parameters(), lr=1e-2),
        "scale": torch.optim.Adam([network.log_scale], lr=1e-3),
        "actor": torch.optim.Adam(network.actor.parameters(), lr=1e-3),
    }
    for step in range(1, 6):
        pack.update(small.batch(step), step)
        data = {name: value[0] for name, value in plain._inputs.prepare(small.batch(step)).items()}
        draws = plain._draw(small.SAMPLES, step)[0]
        for phase in algorithm.phases:
            network.zero_grad(set_to_none=False)
            phase.loss(network, {"critic": target}, data, draws)[0].backward()
            adams[phase.name].step()
            if phase.name == "critic":
                with torch.no_grad():
                    for slow, fast in zip(target.parameters(), network.critic.parameters(), strict=True):
                        slow.add_(algorithm.config.tau * (fast - slow))
    torch.testing.assert_close(pack.parameters, plain.parameters, rtol=1e-5, atol=1e-6)
    held = pack.member_state(0)["targets"]["critic"]
    for name, value in target.named_parameters():
        torch.testing.assert_close(held[name], value.detach(), rtol=1e-5, atol=1e-6)


def test_a_stacked_pack_equals_a_looped_one_within_tolerance() -> None:
    looped, stacked = (Pack(small.make(), [4, 5], mode=mode) for mode in ("loop", "vmap"))
    one, other = train(looped, 1, 5), train(stacked, 1, 5)
    assert one.keys() == other.keys()
    torch.testing.assert_close(looped.parameters, stacked.parameters, rtol=1e-4, atol=1e-5)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)
    for k in range(2):
        held = [pack.member_state(k)["targets"]["critic"] for pack in (looped, stacked)]
        torch.testing.assert_close(*held, rtol=1e-4, atol=1e-5)


def test_a_member_of_a_pack_equals_the_seed_alone_bit_for_bit() -> None:
    together, alone = Pack(small.make(grad_clip=0.5), [4, 5]), Pack(small.make(grad_clip=0.5), [5])
    train(together, 1, 5)
    metrics = train(alone, 1, 5)
    assert torch.equal(together.parameters[1], alone.parameters[0])
    assert {"critic/grad_norm", "actor/grad_norm", "scale/grad_norm", "critic_loss", "wanted_scale"} <= metrics.keys()


class SlowActor(small.ActorCritic):
    """The actor has a target too."""

    @property
    def targets(self) -> dict[str, float]:
        """Follow both networks."""
        return {"critic": 0.5, "actor": 0.5}


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_what_acts_is_the_trained_network_and_not_the_target(mode: Any) -> None:
    pack = Pack(SlowActor((small.OBSERVATION,), small.ACTION, small.Config(hidden_dims=(8,))), [0, 1], mode=mode)
    train(pack, 1, 3)
    seen = torch.randn(2, 6, small.OBSERVATION, generator=torch_generator(0, "seen"))
    acted = pack.act(seen, torch.zeros(2, 6, 1, small.ACTION))
    for k, network in enumerate(pack.members):
        assert isinstance(network, small.Networks)
        own, slow = network.actor(seen[k]).detach(), pack._networks.targets.members[k]["actor"](seen[k]).detach()
        assert not torch.allclose(own, slow, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(acted[k, :, 0]), own, rtol=1e-5, atol=1e-6)


def test_an_agent_learns_from_transitions() -> None:
    agent = Agent(small.make())
    arrays = {name: value[0].numpy() for name, value in small.batch(1).items() if name != "valid"}
    assert agent.update(arrays)["critic_loss"] > 0
    with pytest.raises(UserError, match="next_observations, rewards missing"):
        agent.update(
            {name: value for name, value in arrays.items() if name in ("observations", "actions", "discounts")}
        )


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_going_on_from_a_saved_state_equals_never_having_stopped(mode: Any) -> None:
    settings = {"actor_every": 3, "precision": "bf16"} if mode == "loop" else {"actor_every": 3}
    whole, first, second = (Pack(small.make(**settings), [1, 2], mode=mode) for _ in range(3))
    expected = train(whole, 1, 8)
    train(first, 1, 5)
    for k in range(2):
        second.load_member_state(k, first.member_state(k))
    resumed = train(second, 6, 8)
    assert torch.equal(whole.parameters, second.parameters)
    assert {name: value.tolist() for name, value in resumed.items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    held, again = whole._networks.targets.stacked(), second._networks.targets.stacked()
    assert equal(list(held.values()), list(again.values()))


def test_a_phase_with_every_3_is_taken_at_updates_1_and_4() -> None:
    pack = Pack(small.make(actor_every=3), [0])
    moved = []
    for step in range(1, 6):
        before = pack.member_state(0)["weights"]
        pack.update(small.batch(step), step)
        moved.append(not equal(of(before, "actor"), of(pack.member_state(0)["weights"], "actor")))
    assert moved == [True, False, False, True, False]


def test_held_out_losses_are_those_of_every_phase() -> None:
    losses = Pack(small.make(), [0, 1]).losses(small.batch(1, 2), 0)
    assert {"critic_loss", "scale_loss", "actor_loss", "q_mean", "wanted_scale"} == losses.keys()


class Overlapping(small.ActorCritic):
    """Two phases move the critic."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Name the critic twice."""
        return (*super().phases, Phase("again", self.critic_loss, ("critic",)))


class Incomplete(small.ActorCritic):
    """No phase moves the scale."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Leave the scale out."""
        return tuple(phase for phase in super().phases if phase.name != "scale")


class Misspelt(small.ActorCritic):
    """A phase moves a part that there is not."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Name another part."""
        return (Phase("critic", self.critic_loss, ("critics",)),)


class WrongTarget(small.ActorCritic):
    """A target follows a part that there is not."""

    @property
    def targets(self) -> dict[str, float]:
        """Name another part."""
        return {"critics": 0.1}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Overlapping, "the phases 'critic' and 'again' both move critic."),
        (Incomplete, "no phase moves log_scale"),
        (Misspelt, "phase 'critic' moves 'critics', and the network has no parameters of that name"),
        (WrongTarget, "targets: the network has no submodule 'critics'"),
    ],
)
def test_a_method_whose_parts_do_not_add_up_is_said_in_one_line(kind: type[small.ActorCritic], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        Pack(kind((small.OBSERVATION,), small.ACTION, small.Config(hidden_dims=(8,))), [0])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class SameName(small.ActorCritic):
    """The actor's phase has a metric of the critic's name."""

    def loss(self, *arguments: Any) -> Any:
        """Name it."""
        value, metrics = super().loss(*arguments)
        return value, {**metrics, "q_mean": value}


def test_two_phases_with_a_metric_of_one_name_are_refused_at_the_first_update() -> None:
    pack = Pack(SameName((small.OBSERVATION,), small.ACTION, small.Config(hidden_dims=(8,))), [0])
    with pytest.raises(SpecError, match="the phases 'critic' and 'actor' both have a metric 'q_mean'"):
        pack.update(small.batch(1), 1)


class Head(nn.Module):
    """A layer with a constant of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(()))


class TwoHeads(nn.Module):
    """Two parts, one of which has a layer of the other's name."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.ModuleDict({"q2": Head()})
        self.q2 = Head()


def test_a_target_takes_the_constants_of_its_own_part_alone() -> None:
    network = TwoHeads()
    layout = FlatLayout(network)
    targets = TargetNetworks({"q": 0.1}, [network], layout, torch.zeros(1, layout.size))
    targets.load_buffers(0, {"q.q2.scale": torch.tensor(3.0), "q2.scale": torch.tensor(5.0)})
    assert targets.members[0]["q"].state_dict()["q2.scale"] == 3.0


def test_a_state_of_other_phases_is_refused() -> None:
    pack = Pack(small.make(), [0])
    state = pack.member_state(0)
    del state["optimisers"]["scale"]
    with pytest.raises(CheckpointError, match="of the phases critic, actor, not critic, scale, actor"):
        pack.load_member_state(0, state)
