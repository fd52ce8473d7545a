"""Likelihoods of demonstrated actions: Gaussians and mixtures of them, their losses, and how a mixture acts.

Shape suffixes: B samples, M modes, H steps of a chunk, A action dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from understudy.algorithm import LossAndMetrics

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_probability(
    actions: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor, *, tanh_squash: bool = False
) -> torch.Tensor:
    """Return log p(actions), summed over the last dim, of N(mean, std^2), squashed by tanh where asked.

    A squashed action must lie inside (-1, 1): demonstrated ones are clipped to +-(1 - 1e-5) before.
    """
    before = torch.atanh(actions) if tanh_squash else actions
    scaled = (before - mean) * torch.exp(-log_std)
    density = -0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI
    if tanh_squash:
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not cancel for large u.
        density = density - 2.0 * (math.log(2.0) - before - functional.softplus(-2.0 * before))
    return density.sum(-1)


class Mixture(NamedTuple):
    """A mixture of Gaussians over chunks of actions."""

    log_weights_BM: torch.Tensor
    means_BMHA: torch.Tensor
    stds_BMHA: torch.Tensor

    @classmethod
    def of(
        cls,
        logits_BM: torch.Tensor,
        means: torch.Tensor,
        scales: torch.Tensor,
        shape: Sequence[int],
        min_std: float,
    ) -> Mixture:
        """Return the mixture of a network's outputs [B, M * H * A], the means squashed into (-1, 1) by tanh.

        `shape` is (M, H, A); deviations are softplus(scales) + min_std, as robomimic's.
        """
        stds = functional.softplus(scales).unflatten(1, shape) + min_std
        return cls(logits_BM.log_softmax(-1), means.tanh().unflatten(1, shape), stds)


def of_modes(chosen_B: torch.Tensor, values_BMHA: torch.Tensor) -> torch.Tensor:
    """Return the values [B, H, A] of the chosen modes."""
    index = chosen_B[:, None, None, None].expand(-1, 1, *values_BMHA.shape[2:])
    return values_BMHA.gather(1, index).squeeze(1)


def squared_error(
    predicted_BHA: torch.Tensor, actions_BHA: torch.Tensor, valid_BH: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean squared error over all entries, and the mean over steps of its sum over action dims.

    Steps that are not valid count zero, and the means still divide by them.
    """
    error_BHA = (predicted_BHA - actions_BHA).square() * valid_BH.unsqueeze(-1)
    return error_BHA.mean(), error_BHA.sum(-1).mean()


def likelihood(log_prob: torch.Tensor, mse: torch.Tensor, std: torch.Tensor) -> LossAndMetrics:
    """Return -log p as a loss, with the metrics of a likelihood."""
    metrics = {"log_probs": log_prob, "mean_std": std.mean(), "max_std": std.amax()}
    return -log_prob, {"actor_loss": -log_prob, "mse": mse, **metrics}


def mixture_loss(mixture: Mixture, actions_BHA: torch.Tensor, valid_BH: torch.Tensor) -> LossAndMetrics:
    """Return the mean of -log p by steps. A chunk belongs to one mode: log p = logsumexp(log weight + sum of steps).

    A chunk without a valid step counts zero, and the mean still divides by it.
    """
    log_weights_BM, means_BMHA, stds_BMHA = mixture
    log_prob_BMH = log_probability(actions_BHA.unsqueeze(1), means_BMHA, stds_BMHA.log()) * valid_BH.unsqueeze(1)
    log_prob_B = (log_weights_BM + log_prob_BMH.sum(-1)).logsumexp(-1)
    best_BHA = of_modes(log_weights_BM.argmax(-1), means_BMHA)
    mse = ((best_BHA - actions_BHA).square().sum(-1) * valid_BH).mean()
    return likelihood(log_prob_B.mean() / actions_BHA.shape[1], mse, stds_BMHA)


def drawn(log_weights_BM: torch.Tensor, noise_BM: torch.Tensor) -> torch.Tensor:
    """Return a choice [B] for each row: the likeliest where the noise is zero, else one drawn by its weight."""
    # Gumbel noise made from normal noise by the two distribution functions; equal for all choices where it is zero.
    uniform_BM = torch.special.ndtr(noise_BM).clamp(1e-6, 1 - 1e-6)
    return (log_weights_BM - (-uniform_BM.log()).log()).argmax(-1)


def act_by_mode(mixture: Mixture, noise: torch.Tensor, eval_std: float | None) -> torch.Tensor:
    """Return actions [B, H, A] of one mode each: its mean, and its deviation (or `eval_std`) times noise.

    `noise` is [B, M + H * A]: what the mode is drawn by, then what is added.
    """
    log_weights_BM, means_BMHA, stds_BMHA = mixture
    modes = log_weights_BM.shape[-1]
    for_mode_BM, rest = noise.split((modes, noise.shape[-1] - modes), dim=-1)
    chosen_B = drawn(log_weights_BM, for_mode_BM)
    if eval_std is not None:
        stds_BMHA = torch.full_like(stds_BMHA, eval_std)
    mean_BHA, std_BHA = of_modes(chosen_B, means_BMHA), of_modes(chosen_B, stds_BMHA)
    return mean_BHA + std_BHA * rest.unflatten(-1, mean_BHA.shape[1:])
