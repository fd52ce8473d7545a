"""IPMD, and cloning beside it: what is known to be wrong in published code is right here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from understudy.algorithm import EXPERT, Batch
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.bc import BC, BCConfig
from understudy.trainables.algorithms.ipmd import IPMD, IPMDConfig, WithReward
from understudy.trainables.algorithms.sac import SAC, SACConfig
from understudy.trainables.packs.pack import Pack

OBSERVATION, ACTION, SAMPLES = 4, 2, 32


def make(**settings: Any) -> IPMD:
    small = {"hidden_dims": (16,), "reward_hidden_dims": (16,), "reward_gradient_penalty": 0.0}
    return IPMD((OBSERVATION,), ACTION, IPMDConfig(**{**small, **settings}))


def transitions(name: str, count: int, step: int = 0) -> Batch:
    random = torch_generator(0, name, step)
    return {
        "observations": torch.randn(1, count, OBSERVATION, generator=random),
        "next_observations": torch.randn(1, count, OBSERVATION, generator=random),
        "actions": torch.rand(1, count, 1, ACTION, generator=random) * 2 - 1,
        "rewards": torch.randn(1, count, 1, generator=random),
        "discounts": torch.full((1, count, 1), 0.99),
        "valid": torch.ones(1, count, 1),
    }


def batch(step: int, own: int = SAMPLES, shown: int = SAMPLES) -> Batch:
    demonstrated = transitions("shown", shown, step)
    return {**transitions("own", own, step), **{f"{EXPERT}{name}": value for name, value in demonstrated.items()}}


@pytest.mark.parametrize("change", [lambda rewards: rewards + 100.0, lambda rewards: -rewards, torch.zeros_like])
def test_the_environments_reward_changes_nothing_bit_for_bit(change: Any) -> None:
    one, other = Pack(make(), [0]), Pack(make(), [0])
    for step in range(1, 6):
        one.update(batch(step), step)
        changed = batch(step)
        changed["rewards"] = change(changed["rewards"])
        changed[f"{EXPERT}rewards"] = change(changed[f"{EXPERT}rewards"])
        other.update(changed, step)
    assert torch.equal(one.parameters, other.parameters)


def loss_of(algorithm: IPMD, network: WithReward, data: Batch) -> tuple[float, float]:
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    loss, metrics = algorithm.reward_loss(network, {}, {name: value[0] for name, value in data.items()}, draws)
    return loss.item(), metrics["reward_gap"].item()


def test_the_size_of_the_demonstrated_batch_does_not_move_the_reward() -> None:
    algorithm = make()
    network = algorithm.network(torch_generator(0, "x"))
    once = batch(1)
    thrice = {
        name: value.repeat(1, 3, *[1] * (value.ndim - 2)) if name.startswith(EXPERT) else value
        for name, value in once.items()
    }
    assert loss_of(algorithm, network, once) == pytest.approx(loss_of(algorithm, network, thrice), abs=1e-6)


def test_the_gap_is_nought_where_the_policy_does_what_was_demonstrated() -> None:
    algorithm = make()
    network = algorithm.network(torch_generator(0, "x"))
    own = transitions("own", SAMPLES)
    data = {**own, **{f"{EXPERT}{name}": value for name, value in own.items()}}
    assert loss_of(algorithm, network, data)[1] == pytest.approx(0.0, abs=1e-6)


def test_the_reward_learns_to_rate_demonstrations_above_what_the_policy_does() -> None:
    pack = Pack(make(reward_lr=1e-3), [0])
    gaps = [pack.update(batch(1), step)["reward_gap"].item() for step in range(1, 60)]
    assert gaps[-1] > gaps[0] + 0.1


def test_a_step_of_policy_and_critics_leaves_the_reward_as_it_is() -> None:
    pack = Pack(make(reward_interval=3), [0])
    before = pack.weights(0)
    pack.update(batch(2), 2)
    after = pack.weights(0)
    for name in before:
        assert torch.equal(before[name], after[name]) is name.startswith("reward."), name


def test_a_reward_of_actions_does_not_look_at_what_follows() -> None:
    algorithm = make(reward_of="action")
    network = algorithm.network(torch_generator(0, "x"))
    one = batch(1)
    moved = {"next_observations": one["next_observations"] + 1, f"{EXPERT}next_observations": one["observations"]}
    other = {**one, **moved}
    assert loss_of(algorithm, network, one) == loss_of(algorithm, network, other)


def test_the_gradient_penalty_is_that_of_its_definition() -> None:
    algorithm = make(reward_gradient_penalty=1.0, reward_output_penalty=0.0, reward_parameter_penalty=0.0)
    network = algorithm.network(torch_generator(0, "x"))
    data = {name: value[0] for name, value in batch(1).items()}
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    own, shown = (
        torch.cat((data[f"{p}observations"], data[f"{p}actions"][:, 0], data[f"{p}next_observations"]), -1)
        for p in ("", EXPERT)
    )
    points = own + draws["between"] * (shown - own)
    norms = [
        torch.autograd.functional.jacobian(lambda x: network.reward(x[None])[0], point).norm().item()
        for point in points
    ]
    expected = sum((norm - 1) ** 2 for norm in norms) / len(norms)
    _, metrics = algorithm.reward_loss(network, {}, data, draws)
    assert metrics["gradient_penalty"].item() == pytest.approx(expected, rel=1e-4)


def test_with_the_environments_reward_it_is_sac_bit_for_bit() -> None:
    ipmd = Pack(make(policy_reward="environment"), [0, 1])
    sac = Pack(SAC((OBSERVATION,), ACTION, SACConfig(hidden_dims=(16,))), [0, 1])
    for step in range(1, 8):
        both = {name: value.expand(2, *value.shape[1:]) for name, value in batch(step).items()}
        ipmd.update(both, step)
        sac.update({name: value for name, value in both.items() if not name.startswith(EXPERT)}, step)
    for member in range(2):
        mine, theirs = ipmd.weights(member), sac.weights(member)
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def steered(gain: float, step: int) -> Batch:
    """Return transitions of a point that is pushed to the origin, s' = s + a, a = -gain s + noise, as s meets them."""
    random = torch_generator(0, "steered", step, round(1000 * gain))
    seen = torch.randn(1, 4 * SAMPLES, OBSERVATION, generator=random)
    actions = torch.zeros(1, 4 * SAMPLES, 1, ACTION)
    for _ in range(4):  # the policy's own states, not the starts alone
        noise = 0.05 * torch.randn(1, 4 * SAMPLES, ACTION, generator=random)
        actions = (-gain * seen[..., :ACTION] + noise).clamp(-1, 1)
        before, seen = seen, torch.cat((seen[..., :ACTION] + actions, seen[..., ACTION:]), -1)
    rewards = -seen[..., :ACTION].norm(dim=-1, keepdim=True)
    return {
        **{"observations": before, "next_observations": seen, "actions": actions[:, :, None], "rewards": rewards},
        **{"discounts": torch.full_like(rewards, 0.99), "valid": torch.ones_like(rewards)},
    }


def beside(own: Batch, shown: Batch) -> Batch:
    return {**own, **{f"{EXPERT}{name}": value for name, value in shown.items()}}


def test_the_gap_stays_about_nought_where_the_expert_itself_is_the_policy_and_opens_for_a_worse_one() -> None:
    gaps: dict[float, float] = {}
    for gain in (0.9, 0.1):
        pack = Pack(make(reward_lr=1e-2), [0])
        found = [
            pack.update(beside(steered(gain, 2 * step), steered(0.9, 2 * step + 1)), step)["reward_gap"].item()
            for step in range(1, 120)
        ]
        gaps[gain] = sum(found[-60:]) / 60
    assert abs(gaps[0.9]) < 0.05 * gaps[0.1]


def test_the_learned_and_the_true_returns_of_a_spread_of_policies_rank_alike() -> None:
    gains = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)
    pack = Pack(make(reward_lr=1e-2), [0])
    for step in range(1, 120):  # the buffer holds what all of them did
        mixed = [steered(gain, 2 * step) for gain in gains]
        own = {name: torch.cat([one[name] for one in mixed], 1) for name in mixed[0]}
        pack.update(beside(own, steered(0.9, 2 * step + 1)), step)
    network = pack.members[0]
    assert isinstance(network, WithReward)
    tested = [{name: value[0] for name, value in steered(gain, 1).items()} for gain in gains]
    learned = [network.reward(make()._inputs(network, one, "")).mean().item() for one in tested]
    true = [one["rewards"].mean().item() for one in tested]
    assert true == sorted(true)  # the more it is pushed, the more it earns
    assert spearmanr(learned, true).statistic > 0.8


def test_cloning_ample_clean_demonstrations_earns_what_the_expert_does() -> None:
    pack = Pack(BC((OBSERVATION,), ACTION, BCConfig(policy="mse", hidden_dims=(64,), lr=3e-3)), [0])
    gain, begin = 0.5, torch.randn(512, OBSERVATION, generator=torch_generator(0, "begin"))
    for step in range(1, 300):
        seen = 1.5 * torch.randn(1, 256, OBSERVATION, generator=torch_generator(0, "seen", step))
        actions = (-gain * seen[..., :ACTION]).clamp(-1, 1)
        pack.update({"observations": seen, "actions": actions[:, :, None], "valid": torch.ones(1, 256, 1)}, step)

    def earned(act: Callable[[torch.Tensor], torch.Tensor]) -> float:
        place, total = begin.clone(), 0.0
        for _ in range(10):
            place[:, :ACTION] += act(place)
            total -= place[:, :ACTION].square().sum(-1).mean().item()
        return total

    expert = earned(lambda place: (-gain * place[:, :ACTION]).clamp(-1, 1))
    none = torch.zeros(1, len(begin), *pack.algorithm.noise_shape())
    cloned = earned(lambda place: torch.as_tensor(pack.act(place[None].numpy(), none))[0, :, 0])
    chance = earned(lambda place: torch.zeros(len(place), ACTION))
    assert (cloned - chance) / (expert - chance) == pytest.approx(1.0, abs=0.03)
