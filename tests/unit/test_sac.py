"""SAC against torch.distributions, plain loops and Stable-Baselines3's order of steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.nn import functional

from understudy.algorithm import Batch
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.sac import SAC, ActorCritic, SACConfig
from understudy.trainables.networks.actor_critic import QEnsemble, _Layers, _Least, _Squashed
from understudy.trainables.packs.pack import Pack

OBSERVATION, ACTION, SAMPLES = 5, 2, 64


def make(**settings: Any) -> SAC:
    return SAC((OBSERVATION,), ACTION, SACConfig(**{"hidden_dims": (16, 16), **settings}))


def batch(step: int, members: int = 1) -> Batch:
    random = torch_generator(0, "sac test", step)
    arrays = {
        "observations": torch.randn(SAMPLES, OBSERVATION, generator=random),
        "next_observations": torch.randn(SAMPLES, OBSERVATION, generator=random),
        "actions": torch.rand(SAMPLES, 1, ACTION, generator=random) * 2 - 1,
        "rewards": torch.randn(SAMPLES, 1, generator=random),
        "discounts": 0.99 * (torch.rand(SAMPLES, 1, generator=random) > 0.2).float(),
        "valid": torch.ones(SAMPLES, 1),
    }
    return {name: value.expand(members, *value.shape) for name, value in arrays.items()}


def test_the_log_density_of_an_action_is_that_of_torch_distributions() -> None:
    network = make().network(torch_generator(0, "x")).double()
    random = torch_generator(0, "density")
    features = torch.randn(SAMPLES, OBSERVATION, generator=random, dtype=torch.float64)
    noise = torch.randn(SAMPLES, ACTION, generator=random, dtype=torch.float64)
    actions, log_prob = network.actor.sample(features, noise)
    mean, log_std = network.actor(features)
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), TanhTransform(cache_size=1))
    before = mean + log_std.exp() * noise
    torch.testing.assert_close(actions, before.tanh())
    torch.testing.assert_close(log_prob, squashed.log_prob(squashed.transforms[0](before)))


def test_an_ensemble_is_its_members_one_after_the_other() -> None:
    ensemble = QEnsemble(3, OBSERVATION + ACTION, (8, 8), torch_generator(0, "x"), layer_norm=True)
    for parameter in ensemble.parameters():  # the norms' too, which start as nothing
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch_generator(0, "norms")))
    features, actions = (
        torch.randn(SAMPLES, size, generator=torch_generator(size, "ensemble")) for size in (OBSERVATION, ACTION)
    )
    values = ensemble(features, actions)
    assert values.shape == (3, SAMPLES)
    for member in range(3):
        x = torch.cat((features, actions), -1)
        for layer in ensemble.layers:
            if hasattr(layer, "width"):
                x = torch.nn.functional.layer_norm(x, (8,), layer.weight[member, 0], layer.bias[member, 0])  # type: ignore[index, arg-type]
            elif hasattr(layer, "weight"):
                x = x @ layer.weight[member] + layer.bias[member]  # type: ignore[index]
            else:
                x = x.relu()
        torch.testing.assert_close(values[member], x.squeeze(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_layers_as_one_node_give_the_values_and_gradients_of_layers_one_by_one(mode: str) -> None:
    ensemble = QEnsemble(2, OBSERVATION + ACTION, (8, 8), torch_generator(0, "x"), layer_norm=False)
    features, actions = (
        torch.randn(SAMPLES, size, generator=torch_generator(size, "node")).requires_grad_()
        for size in (OBSERVATION, ACTION)
    )

    def one_by_one(features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat((features, actions), -1)
        return ensemble.layers(inputs.expand(2, *inputs.shape)).squeeze(-1)

    inputs = [features, actions, *ensemble.parameters()]
    found = []
    for compute in (ensemble, one_by_one):
        compute = torch.vmap(compute) if mode == "vmap" else compute
        of = [part[None].expand(3, *part.shape) if mode == "vmap" else part for part in (features, actions)]
        values = compute(*of)
        found.append((values, *torch.autograd.grad(values.square().sum(), inputs)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_critics_that_are_held_pass_gradients_on_and_take_none() -> None:
    ensemble = QEnsemble(2, OBSERVATION + ACTION, (8,), torch_generator(0, "x"), layer_norm=False)
    features = torch.randn(SAMPLES, OBSERVATION, generator=torch_generator(0, "f"))
    actions = torch.zeros(SAMPLES, ACTION, requires_grad=True)
    passed = []
    for learns in (True, False):
        value = ensemble.requires_grad_(learns)(features, actions).sum()
        passed.append(torch.autograd.grad(value, actions)[0])
    assert torch.equal(*passed)


def test_a_phase_differentiates_by_what_it_moves_alone(monkeypatch) -> None:
    wanted: list[tuple[bool, ...]] = []

    def note(node: Any) -> None:
        backward = node.backward

        def noted(ctx: Any, *gradients: Any) -> Any:
            wanted.append(ctx.needs_input_grad)
            return backward(ctx, *gradients)

        monkeypatch.setattr(node, "backward", staticmethod(noted))

    note(_Layers)
    note(_Least)
    pack = Pack(make(), [0])
    pack.update(batch(1), 1)
    critics, judged, actor = wanted
    assert critics == (False, *[True] * 6)
    assert judged == (True, *[False] * 6)
    assert actor == (False, *[True] * 6)
    assert all(parameter.requires_grad for parameter in pack.members[0].parameters())


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("widths", [(16, 8), (12,), (6, 8)])
def test_the_least_value_and_its_gradient_are_those_of_all_members_values(
    members: int, widths: tuple[int, ...]
) -> None:
    ensemble = QEnsemble(members, OBSERVATION + ACTION, widths, torch_generator(0, "x"), layer_norm=False)
    ensemble.requires_grad_(False)
    features, actions = (
        torch.randn(SAMPLES, size, generator=torch_generator(size, "least")).requires_grad_()
        for size in (OBSERVATION, ACTION)
    )
    weights = torch.randn(SAMPLES, generator=torch_generator(0, "weights"))
    found = []
    for least in (ensemble.least(features, actions), ensemble(features, actions).amin(dim=0)):
        found.append((least, *torch.autograd.grad((least * weights).sum(), (features, actions))))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_torch_without_grouped_products_takes_the_same_steps_within_rounding(monkeypatch) -> None:
    found: list[torch.Tensor] = []
    for _ in range(2):
        pack = Pack(make(), [0])
        for step in range(1, 4):
            pack.update(batch(step), step)
        found.append(pack.parameters)
        monkeypatch.delattr(functional, "grouped_mm", raising=False)
    torch.testing.assert_close(*found)


def test_the_least_value_of_members_that_tie_has_the_gradient_of_one_of_them() -> None:
    ensemble = QEnsemble(2, OBSERVATION + ACTION, (8,), torch_generator(0, "x"), layer_norm=False)
    for parameter in ensemble.requires_grad_(False).parameters():
        parameter[1] = parameter[0]
    features = torch.randn(SAMPLES, OBSERVATION, generator=torch_generator(0, "f"))
    actions = torch.zeros(SAMPLES, ACTION, requires_grad=True)
    mine = torch.autograd.grad(ensemble.least(features, actions).sum(), actions)[0]
    torch.testing.assert_close(mine, torch.autograd.grad(ensemble(features, actions)[0].sum(), actions)[0])


def test_the_least_value_of_critics_that_learn_reaches_their_weights() -> None:
    ensemble = QEnsemble(2, OBSERVATION + ACTION, (8,), torch_generator(0, "x"), layer_norm=False)
    features, actions = torch.ones(SAMPLES, OBSERVATION), torch.ones(SAMPLES, ACTION)
    parameters = list(ensemble.parameters())
    mine = torch.autograd.grad(ensemble.least(features, actions).sum(), parameters)
    theirs = torch.autograd.grad(ensemble(features, actions).amin(dim=0).sum(), parameters)
    assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("asked", [(0,), (1,), (0, 1)])
def test_sampling_as_one_node_gives_the_gradients_of_its_operations(asked: tuple[int, ...]) -> None:
    random = torch_generator(0, "squashed")
    out = (3 * torch.randn(SAMPLES, 2 * ACTION, generator=random, dtype=torch.float64)).requires_grad_()
    noise = torch.randn(SAMPLES, ACTION, generator=random, dtype=torch.float64)
    weights = [torch.randn(SAMPLES, ACTION, generator=random), torch.randn(SAMPLES, generator=random)]
    found = []
    for sample in (_Squashed.apply, _Squashed.forward):
        given = sample(out, noise, -1.0, 1.0)
        total = torch.stack([(given[place] * weights[place]).sum() for place in asked]).sum()
        found.append((*given[:2], *torch.autograd.grad(total, out)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_critics_target_is_the_least_target_value_less_the_entropys_price() -> None:
    algorithm = make(init_temperature=0.3)
    network, slow = (algorithm.network(torch_generator(seed, "x")) for seed in (0, 1))
    data = {name: value[0] for name, value in batch(1).items()}
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    loss, metrics = algorithm.critic_loss(network, {"critic": slow.critic}, data, draws)
    with torch.no_grad():
        actions, log_prob = network.actor.sample(data["next_observations"], draws["next_noise"])
        after = torch.min(*slow.critic(data["next_observations"], actions)) - 0.3 * log_prob
        wanted = data["rewards"][:, 0] + data["discounts"][:, 0] * after
        values = network.critic(data["observations"], data["actions"][:, 0])
    expected = 0.5 * sum(torch.nn.functional.mse_loss(one, wanted) for one in values)
    torch.testing.assert_close(loss, torch.as_tensor(expected))
    torch.testing.assert_close(metrics["q_target"], wanted.mean())


def test_the_temperature_rises_when_the_policy_is_surer_than_wanted_and_falls_otherwise() -> None:
    for target, rises in ((50.0, True), (-50.0, False)):
        pack = Pack(make(target_entropy=target, temperature_lr=1e-2), [0])
        before = pack.weights(0)["log_temperature"]
        for step in range(1, 6):
            pack.update(batch(step), step)
        assert bool(pack.weights(0)["log_temperature"] > before) is rises


def test_the_actors_gradient_reaches_neither_critics_nor_temperature_and_back() -> None:
    algorithm = make()
    network = algorithm.network(torch_generator(0, "x"))
    data = {name: value[0] for name, value in batch(1).items()}
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    with_zero = draws | {"noise": draws["noise"]}
    loss, metrics = algorithm.loss(network, {}, data, with_zero)
    own = torch.autograd.grad(metrics["policy_loss"], network.log_temperature, allow_unused=True, retain_graph=True)
    assert own == (None,)
    of_actor = torch.autograd.grad(
        metrics["temperature_loss"], list(network.actor.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in of_actor)
    torch.testing.assert_close(loss, metrics["policy_loss"] + metrics["temperature_loss"])


def test_a_subset_of_target_critics_is_drawn_for_each_sample() -> None:
    algorithm = make(num_critics=4, num_subsample_critics=2)
    values = torch.arange(4.0)[:, None].expand(4, SAMPLES)
    draws = algorithm.draw(SAMPLES, torch_generator(0, "draws"))
    least = algorithm._least(values, draws)
    assert set(least.tolist()) == {0.0, 1.0, 2.0}  # 3 is never the least of two
    expected = draws["critics"].topk(2, dim=1).indices.amin(dim=1).float()
    assert torch.equal(least, expected)


def test_actions_without_noise_are_the_squashed_mean() -> None:
    algorithm = make()
    network = algorithm.network(torch_generator(0, "x"))
    seen = torch.randn(3, OBSERVATION, generator=torch_generator(0, "seen"))
    acted = algorithm.act(network, seen, torch.zeros(3, 1, ACTION))
    assert isinstance(network, ActorCritic)
    torch.testing.assert_close(acted[:, 0], network.actor(seen)[0].tanh())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log_std_min": 3.0}, "log_std_min=3 must be below log_std_max=2"),
        ({"num_subsample_critics": 3}, "num_subsample_critics=3 exceeds num_critics=2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SACConfig(**settings)


def test_pictures_train_the_encoder_by_the_critics_alone() -> None:
    algorithm = SAC((16, 16, 3), ACTION, SACConfig(hidden_dims=(16,), encoder="impala_small"))
    pack = Pack(algorithm, [0])
    pictures = torch.randint(0, 256, (1, 4, 16, 16, 3), dtype=torch.uint8, generator=torch_generator(0, "pictures"))
    data = {name: value[:, :4] for name, value in batch(1).items()} | {
        "observations": pictures,
        "next_observations": pictures.flip(2),
    }
    before = pack.weights(0)
    pack.update(data, 1, only=["actor"])
    middle = pack.weights(0)
    pack.update(data, 2, only=["critic"])
    after = pack.weights(0)
    encoder = [name for name in before if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(before[name], middle[name]) for name in encoder)
    assert not all(torch.equal(middle[name], after[name]) for name in encoder)
    assert all(torch.equal(middle[name], after[name]) for name in before if name.startswith("actor."))
