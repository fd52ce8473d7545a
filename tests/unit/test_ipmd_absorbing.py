"""IPMD where episodes terminate: what follows is an absorbing state, whose reward is learned as any other's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from understudy.algorithm import EXPERT, Batch
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.ipmd import IPMD, IPMDConfig, WithReward
from understudy.trainables.packs.pack import Pack

OBSERVATION, ACTION, SAMPLES, DISCOUNT = 2, 1, 64, 0.9


def make(**settings: Any) -> IPMD:
    small = {"hidden_dims": (16,), "reward_hidden_dims": (16,), "reward_gradient_penalty": 0.0}
    return IPMD((OBSERVATION,), ACTION, IPMDConfig(**{**small, **settings}))


def samples(step: int, whose: str, *, terminates: bool = False) -> Batch:
    """Return transitions of a walk on which an action below 0 is the end; demonstrated ones go on, elsewhere.

    No policy gets to where the demonstrations are (the second number seen), so that its learned rewards are negative.
    """
    random = torch_generator(0, f"walk {whose}", step)
    place = torch.randn(1, SAMPLES, 1, generator=random)
    actions = torch.rand(1, SAMPLES, 1, ACTION, generator=random) * 2 - 1
    where = torch.zeros_like(place)
    if whose:
        actions, where = 0.5 + 0.1 * actions, where + 3.0
    on = (actions[:, :, :, 0] > 0).float() if terminates else torch.ones(1, SAMPLES, 1)
    return {
        f"{whose}observations": torch.cat((place, where), -1),
        f"{whose}next_observations": torch.cat((place + actions[:, :, 0], where), -1),
        f"{whose}actions": actions,
        f"{whose}rewards": torch.zeros(1, SAMPLES, 1),
        f"{whose}discounts": DISCOUNT * on,
        f"{whose}valid": torch.ones(1, SAMPLES, 1),
    }


def batch(step: int, *, own: bool = False, shown: bool = False) -> Batch:
    """Return own samples and demonstrated ones, of which those that `own` and `shown` name may terminate."""
    return {**samples(step, "", terminates=own), **samples(step, EXPERT, terminates=shown)}


def rewards(pack: Pack) -> WithReward:
    network = pack.members[0]
    assert isinstance(network, WithReward)
    return network


def chosen(pack: Pack) -> torch.Tensor:
    """Return what the policy does at nine places."""
    seen = torch.stack((torch.linspace(-2, 2, 9), torch.zeros(9)), -1)
    return torch.as_tensor(pack.act(seen[None].numpy(), torch.zeros(1, 9, 1, ACTION)))


@pytest.mark.parametrize("absorbing", [True, False])
def test_a_policy_whose_learned_rewards_are_negative_ends_its_episodes_only_without_absorbing_states(
    absorbing: bool,
) -> None:
    pack = Pack(make(absorbing_states=absorbing, reward_gradient_penalty=1.0, lr=3e-3, tau=0.05), [0])
    for step in range(1, 280):
        metrics = pack.update(batch(step, own=True), step)
    assert metrics["learned_reward"].item() < -0.5
    assert bool((chosen(pack) > 0).all()) is absorbing
    assert bool((chosen(pack) < 0).all()) is not absorbing


def test_where_nothing_terminates_absorbing_states_change_nothing_bit_for_bit() -> None:
    on, off = Pack(make(), [0, 1]), Pack(make(absorbing_states=False), [0, 1])
    for step in range(1, 8):
        both = {name: value.expand(2, *value.shape[1:]) for name, value in batch(step).items()}
        on.update(both, step)
        off.update(both, step)
    for member in range(2):
        mine, theirs = on.weights(member), off.weights(member)
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())
        assert {name for name in mine if name not in theirs} == {"reward.absorbing"}
        assert not mine["reward.absorbing"].any()


@pytest.mark.parametrize(("own", "shown", "sign"), [(True, False, -1), (False, True, 1), (True, True, 0)])
def test_the_absorbing_states_reward_falls_where_the_policy_terminates_more_and_rises_where_demonstrations_do(
    own: bool, shown: bool, sign: int
) -> None:
    pack = Pack(make(), [0])
    for step in range(1, 20):
        data = batch(step, own=own, shown=shown)
        if shown:  # as often as the policy does
            data[f"{EXPERT}discounts"] = samples(step, "", terminates=True)["discounts"]
        pack.update(data, step)
    found = rewards(pack).reward.of_absorbing().item()
    assert (found > 0.01) - (found < -0.01) == sign


def test_rewards_count_from_the_absorbing_states_as_if_it_went_on_for_ever() -> None:
    algorithm = make(backup_entropy=False)
    network = algorithm.network(torch_generator(0, "x"))
    assert network.reward.absorbing is not None
    torch.nn.init.constant_(network.reward.absorbing, -0.25)
    data = {name: value[0] for name, value in batch(1, own=True).items()}
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    _, metrics = algorithm.critic_loss(network, {"critic": network.critic}, data, draws)
    rewarded = network.reward(algorithm._inputs(network, data, ""))
    per_step = network.reward.of_absorbing()
    assert per_step.item() == pytest.approx(-4.0)
    for_ever = per_step / (1 - DISCOUNT)
    following = data["next_observations"]
    action, _ = network.actor.sample(following, draws["next_noise"])
    after = network.critic(following, action).amin(0) + for_ever
    terminated = data["discounts"][:, 0] == 0
    full = rewarded + DISCOUNT * torch.where(terminated, for_ever, after)
    assert metrics["q_target"].item() == pytest.approx((full - for_ever).mean().item(), rel=1e-4)
    assert metrics["absorbing_reward"].item() == pytest.approx(-4.0)


def test_a_mean_counts_one_step_in_the_absorbing_state_for_each_sample_that_terminated() -> None:
    algorithm = make(reward_output_penalty=0.0, reward_parameter_penalty=0.0)
    network = algorithm.network(torch_generator(0, "x"))
    assert network.reward.absorbing is not None
    torch.nn.init.constant_(network.reward.absorbing, 0.5)
    data = {name: value[0] for name, value in batch(1, own=True).items()}
    own, shown = (network.reward(algorithm._inputs(network, data, whose)) for whose in ("", EXPERT))
    ends = int((data["discounts"] == 0).sum())
    assert 0 < ends < SAMPLES
    expected = torch.cat((own, torch.full((ends,), 8.0))).mean() - shown.mean()
    loss, _ = algorithm.reward_loss(network, {}, data, {})
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
