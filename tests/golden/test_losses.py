"""Losses of the first 20 steps of each algorithm, float32 on the CPU, against a stored file.

They change only when an algorithm's mathematics or random numbers change. When that is meant, write them anew:
`PYTHONPATH=platform python tests/golden/test_losses.py`, and say in the change why the numbers moved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.algorithm import EXPERT
from understudy.normaliser import Normaliser
from understudy.randomness import numpy_generator
from understudy.registry import algorithms
from understudy.trainables.networks.residual_codes import fit_codebooks
from understudy.trainables.packs.pack import Pack

FILE = Path(__file__).with_name("losses.json")
STEPS, SAMPLES, OBSERVATION, ACTION, HORIZON = 20, 32, 5, 3, 4
CHUNK: dict[str, Any] = {"hidden_dims": (32, 32), "lr": 1e-3, "action_chunking": True, "horizon_length": HORIZON}
ACT: dict[str, Any] = {
    **{"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 4, "n_vae_encoder_layers": 2},
    **{"n_encoder_layers": 2, "lr": 1e-3, "horizon_length": HORIZON},
}
RLPD: dict[str, Any] = {
    **{"num_critics": 4, "num_subsample_critics": 2, "critic_layer_norm": True, "actor_q": "mean"},
    **{"backup_entropy": False, "critic_lr": 3e-3},
}
IPMD: dict[str, Any] = {
    "reward_gradient_penalty": 0.0,
    "hidden_dims": (32, 32),
    "reward_hidden_dims": (32,),
    "lr": 1e-3,
}
UNET: dict[str, Any] = {
    **{"down_dims": (16, 32), "step_embed_dim": 16, "n_groups": 4, "kernel_size": 3, "lr": 1e-3},
    "horizon_length": HORIZON,
}
BLOCKS: dict[str, Any] = {"dim_model": 16, "n_heads": 2, "n_layers": 2, "lr": 1e-3, "horizon_length": HORIZON}
TOKENS: dict[str, Any] = {"dim_model": 16, "n_heads": 2, "n_layers": 2, "lr": 1e-3}
STEPS_OF_A_WINDOW: dict[str, Any] = {"obs_horizon": 4, "modes": 3}
RNN: dict[str, Any] = {**STEPS_OF_A_WINDOW, "rnn_hidden_dim": 16, "lr": 1e-3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "flow_bc": ("flow_bc", CHUNK),
    "flow_bc single": ("flow_bc", {**CHUNK, "action_chunking": False}),
    "flow_bc fourier": ("flow_bc", {**CHUNK, "use_fourier_features": True}),
    "bc": ("bc", CHUNK),
    "bc global tanh": ("bc", {**CHUNK, "std": "global", "tanh_squash": True}),
    "bc state": ("bc", {**CHUNK, "std": "state", "weight_decay": 0.1}),
    "bc mse": ("bc", {**CHUNK, "policy": "mse"}),
    "bc gmm": ("bc", {**CHUNK, "policy": "gmm", "modes": 3}),
    "bc dropout": ("bc", {**CHUNK, "dropout": 0.1, "activation": "swish"}),
    "gc_bc": ("gc_bc", CHUNK),
    "flow_bc one step": ("flow_bc", {**CHUNK, "actor": "one_step", "flow_steps": 3}),
    "flow_bc best of n": ("flow_bc", {**CHUNK, "actor": "best_of_n"}),
    "flow_bc critic one step": ("flow_bc", {**CHUNK, "use_critic": True, "flow_steps": 3}),
    "flow_bc critic best of n": ("flow_bc", {**CHUNK, "use_critic": True, "actor": "best_of_n", "num_samples": 4}),
    "ddpm_bc": ("ddpm_bc", CHUNK),
    "gc_ddpm_bc": ("gc_ddpm_bc", CHUNK),
    "ddpm_bc linear": ("ddpm_bc", {**CHUNK, "beta_schedule": "linear", "dropout": 0.0, "grad_clip": None}),
    "act": ("act", ACT),
    "act no vae": ("act", {**ACT, "use_vae": False, "dropout": 0.0, "n_decoder_layers": 2}),
    "reward_classifier": ("reward_classifier", {"latent_dim": 16, "hidden_dim": 16, "lr": 1e-3}),
    "sac": ("sac", {"hidden_dims": (32, 32), "lr": 1e-3}),
    "sac rlpd": ("sac", {**RLPD, "hidden_dims": (32, 32), "lr": 1e-3}),
    "ipmd": ("ipmd", {**IPMD, "absorbing_states": False}),
    "ipmd absorbing": ("ipmd", IPMD),
    "hilserl": ("hilserl", {"hidden_dims": (32, 32), "lr": 1e-3}),
    "hilserl grasp": ("hilserl", {"hidden_dims": (32, 32), "lr": 1e-3, "gripper": "discrete"}),
    "diffusion_policy": ("diffusion_policy", UNET),
    "diffusion_policy transformer": ("diffusion_policy", {**BLOCKS, "denoiser": "transformer"}),
    "flow_transformer": ("flow_transformer", BLOCKS),
    "flow_transformer beta": ("flow_transformer", {**BLOCKS, "time_sampling": "beta"}),
    "iql": ("iql", {"hidden_dims": (32, 32), "lr": 1e-3}),
    "td3_bc": ("td3_bc", {"hidden_dims": (32, 32), "lr": 1e-3}),
    "bc_rnn": ("bc_rnn", RNN),
    "bc_rnn mse": ("bc_rnn", {**RNN, "policy": "mse"}),
    "bc_transformer": ("bc_transformer", {**STEPS_OF_A_WINDOW, **TOKENS}),
    "bc_transformer newest": ("bc_transformer", {**STEPS_OF_A_WINDOW, **TOKENS, "supervise_all_steps": False}),
    "vq_bet": ("vq_bet", {"obs_horizon": 4, "horizon_length": 1, "codes": 4, **TOKENS}),
    "ddpm_bc vp": ("ddpm_bc", {**CHUNK, "beta_schedule": "vp"}),
}


def losses(name: str, settings: dict[str, Any]) -> list[float]:
    """Train 20 steps on drawn data and return the loss of each, summed over its phases."""
    kind = algorithms.get(name)
    config = kind.Config(**settings)
    window = config.sampling.before + 1
    algorithm = kind((window * OBSERVATION,), ACTION, config)
    random = numpy_generator(0, "golden")
    observations = random.normal(1.0, 2.0, size=(STEPS, SAMPLES, OBSERVATION)).astype(np.float32)
    actions = random.uniform(-1, 1, size=(STEPS, SAMPLES, HORIZON, ACTION)).astype(np.float32)
    valid = (random.integers(1, HORIZON + 1, size=(STEPS, SAMPLES, 1)) > np.arange(HORIZON)).astype(np.float32)
    rewards = random.normal(size=(STEPS, SAMPLES)).astype(np.float32)
    if window > 1:  # other samples' observations stand for earlier ones, and what is valid ends with the newest
        observations = np.concatenate([np.roll(observations, k, axis=1) for k in range(window)], axis=-1)
        valid = valid[:, :, ::-1]
    if algorithm.fits:
        algorithm.constants = {"codebooks": fit_codebooks(torch.from_numpy(actions[0, :, 0]), 2, 4)}
    pack = Pack(algorithm, [0], normaliser=Normaliser.fit(observations[0], "zscore"))
    chunk = algorithm.config.sampling.horizon
    rows = []
    for step in range(STEPS):
        arrays = {"observations": observations, "actions": actions[:, :, :chunk], "valid": valid[:, :, :chunk]}
        arrays |= {name: rewards for name in algorithm.config.sampling.columns}
        if algorithm.config.sampling.transitions:
            following = {"rewards": rewards[..., None], "discounts": 0.99 * valid[:, :, 1:2]}
            following |= {"n_step_rewards": rewards, "n_step_discounts": 0.99 * valid[:, :, 1]}
            arrays |= {"next_observations": observations[:, ::-1], **following}
        if algorithm.config.sampling.demonstrations:
            names = ("observations", "next_observations", "actions")
            arrays |= {f"{EXPERT}{name}": arrays[name][:, ::-1] for name in names}
            arrays[f"{EXPERT}discounts"] = np.full_like(arrays["discounts"], 0.99)
        batch = {key: torch.from_numpy(value[step : step + 1].copy()) for key, value in arrays.items()}
        metrics = pack.update(batch, step + 1)
        rows.append(sum(metrics[f"{phase.name}_loss"].item() for phase in pack.phases))
    return rows


@pytest.mark.parametrize("case", CASES)
def test_the_first_losses_are_those_on_file(case: str) -> None:
    expected = json.loads(FILE.read_text())[case]
    np.testing.assert_allclose(losses(*CASES[case]), expected, rtol=2e-4)


def test_every_registered_algorithm_has_golden_losses() -> None:
    builtin = {name for name, kind in algorithms.items() if kind.__module__.startswith("understudy.trainables.")}
    assert builtin == {name for name, _ in CASES.values()}


if __name__ == "__main__":
    table = {case: [float(f"{loss:.7g}") for loss in losses(*settings)] for case, settings in CASES.items()}
    FILE.write_text(json.dumps(table, indent=1) + "\n")
