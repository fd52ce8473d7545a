"""With the same weights our recurrent and transformer policies are robomimic's own, asked of its own modules."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from tests.contract.robomimic_interop import make_importable
from torch import nn

from understudy.randomness import torch_generator
from understudy.trainables.algorithms.bc_rnn import BCRNN, BCRNNConfig
from understudy.trainables.algorithms.bc_transformer import BCTransformer, BCTransformerConfig
from understudy.trainables.networks.steps import StepPolicy

STEPS, OBSERVATION, ACTION, MODES, MIN_STD = 10, 5, 3, 5, 1e-4
STATES = {"core_class": None, "core_kwargs": {}, "obs_randomizer_class": None, "obs_randomizer_kwargs": {}}
SAID: dict[str, Any] = {
    **{"ac_dim": ACTION, "num_modes": MODES, "min_std": MIN_STD, "low_noise_eval": False},
    "encoder_kwargs": {"low_dim": STATES},
}


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return robomimic's policy networks, with one observation of states declared."""
    make_importable(monkeypatch)
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.models import policy_nets

    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"]}})
    return policy_nets


def same_head(ours: StepPolicy, theirs: Any) -> None:
    """Give our head the weights of theirs."""
    for name in ("logits", "mean", "scale"):
        ours.get_submodule(name).load_state_dict(theirs.nets["decoder"].nets[name].state_dict())


def assert_alike(algorithm: Any, network: StepPolicy, theirs: Any) -> None:
    """Assert that the likelihood of drawn actions, and its gradient by the observations, are theirs."""
    random = torch_generator(0, "windows")
    seen = torch.randn(8, STEPS, OBSERVATION, generator=random)
    actions = torch.rand(8, STEPS, ACTION, generator=random) * 2 - 1
    one, other = (seen.clone().requires_grad_() for _ in range(2))
    wanted = -theirs.forward_train(OrderedDict(state=other)).log_prob(actions).mean()
    batch = {"observations": one.flatten(1), "actions": actions, "valid": torch.ones(8, STEPS)}
    loss, _ = algorithm.loss(network, {}, batch, {})
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *torch.autograd.grad(loss, one), *torch.autograd.grad(wanted, other), rtol=1e-4, atol=1e-6
    )


def test_bc_rnn_gmm_is_robomimics(actors: Any) -> None:
    theirs = actors.RNNGMMActorNetwork(
        obs_shapes=OrderedDict(state=(OBSERVATION,)),
        mlp_layer_dims=(),
        rnn_hidden_dim=16,
        rnn_num_layers=2,
        rnn_kwargs={"bidirectional": False},
        **SAID,
    )
    algorithm = BCRNN((STEPS * OBSERVATION,), ACTION, BCRNNConfig(rnn_hidden_dim=16))
    network = algorithm.network(torch_generator(0, "weights"))
    network.body.load_state_dict(theirs.nets["rnn"].nets.state_dict())
    same_head(network, theirs)
    assert_alike(algorithm, network, theirs)
    # what it does at the end of a window is what theirs does after STEPS steps from a new state
    seen = torch.randn(4, STEPS, OBSERVATION, generator=torch_generator(1, "windows"))
    state: Any = None
    for step in range(STEPS):
        said, state = theirs.nets["rnn"].forward(seen[:, step : step + 1], rnn_init_state=state, return_state=True)
    act = algorithm.act(network, seen.flatten(1), torch.zeros(4, *algorithm.noise_shape()))
    likeliest = said["mean"][torch.arange(4), 0, said["logits"][:, 0].argmax(-1)].tanh()
    torch.testing.assert_close(act[:, 0], likeliest, rtol=0, atol=1e-6)


def same_blocks(body: Any, theirs: Any) -> None:
    """Give our transformer the weights of theirs, which has no biases of queries and values."""
    body.embed.load_state_dict(theirs.nets["embed_encoder"].state_dict())
    body.embed_norm.load_state_dict(theirs.nets["embed_ln"].state_dict())
    body.positions.data.copy_(theirs.params["embed_timestep"][0])
    body.norm.load_state_dict(theirs.nets["transformer"].nets["output_ln"].state_dict())
    for block, other in zip(body.blocks, theirs.nets["transformer"].nets["transformer"], strict=True):
        query, key, value = other.nets["attention"].nets["qkv"].weight.chunk(3)
        for layer, weight in zip(
            (block.attention.query, block.attention.key, block.attention.value), (query, key, value), strict=True
        ):
            layer.weight.data.copy_(weight)
        block.attention.out.load_state_dict(other.nets["attention"].nets["output"].state_dict())
        block.norm.load_state_dict(other.nets["ln1"].state_dict())
        block.forward_norm.load_state_dict(other.nets["ln2"].state_dict())
        block.feedforward.widen.load_state_dict(other.nets["mlp"][0].state_dict())
        block.feedforward.narrow.load_state_dict(other.nets["mlp"][2].state_dict())


def test_bc_transformer_gmm_is_robomimics(actors: Any) -> None:
    sizes = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "context_length": STEPS}
    theirs = actors.TransformerGMMActorNetwork(
        obs_shapes=OrderedDict(state=(OBSERVATION,)),
        transformer_nn_parameter_for_timesteps=True,
        **{f"transformer_{name}": value for name, value in sizes.items()},
        **SAID,
    ).eval()
    nn.init.normal_(theirs.params["embed_timestep"], std=0.1)
    config = BCTransformerConfig(dim_model=16, n_layers=2, n_heads=2)
    algorithm = BCTransformer((STEPS * OBSERVATION,), ACTION, config)
    network = algorithm.network(torch_generator(0, "weights"))
    same_blocks(network.body, theirs)
    same_head(network, theirs)
    assert_alike(algorithm, network, theirs)
