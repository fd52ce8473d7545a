"""VQ-BeT: a transformer over a window of observations that predicts codes of action chunks, and offsets to them.

After Lee et al. 2024 (arXiv 2403.03181): a chunk of actions has two codes, the second of the first one's residual. At
each step of the window a GPT gives each code's probability (focal loss) and an offset for each code (L1); the policy
acts by code and offset. Three things differ from the paper. The codes are those of residual k-means on the chunks,
computed once from all training data; the paper trains a residual VQ-VAE, also with two rounds of 16 codes. Offsets are
learned at the codes of the data, as in BeT (arXiv 2206.11251); the paper's are learned at codes that the policy draws.
And the noise: without it the likeliest codes act, with `eval_temperature=1` codes are drawn by their probabilities.
Actions before an episode's start are not learned. Goals are not supported. Shape suffixes: B samples, T steps of the
window, N = B * T, H steps of a chunk, A action dims, D = H * A, Q rounds of codes, C codes of a round, F features, W
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets, WholeData
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.learning import Sampling
from understudy.spec.part import LOG, PerMember, Redefines
from understudy.spec.parts import Chunks
from understudy.trainables.networks.gpt import GPT, GPTConfig, draw_gpt_masks, gpt_dropout
from understudy.trainables.networks.likelihoods import drawn
from understudy.trainables.networks.mlp import MLP
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.residual_codes import codes_of, fit_codebooks
from understudy.trainables.networks.steps import by_step, step_shape
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout

ROUNDS = 2
"""Codes of a chunk."""


class VQBeTConfig(Chunks, GPTConfig):
    """Settings of vq_bet."""

    lr: float = Field(default=1e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of AdamW")
    obs_horizon: Annotated[int, Redefines()] = Field(
        default=5, ge=2, le=1000, description="observations the policy sees: the newest and those before it"
    )
    action_chunking: bool = Field(default=True, description="predict horizon_length actions at once")
    codes: int = Field(default=16, ge=2, le=4096, description="codes of each of the two rounds")
    focal_gamma: float = Field(default=2.0, ge=0, description="how little codes count that are likely already; 0: all")
    primary_weight: Annotated[float, PerMember()] = Field(
        default=5.0, ge=0, description="weight of the first code's loss"
    )
    secondary_weight: Annotated[float, PerMember()] = Field(
        default=0.5, ge=0, description="weight of the second code's loss"
    )
    offset_weight: Annotated[float, PerMember()] = Field(default=100.0, ge=0, description="weight of the offsets' loss")

    @property
    def sampling(self) -> Sampling:
        """A chunk from each observation on."""
        before = self.obs_horizon - 1
        return Sampling(horizon=before + self.chunk_length, before=before)


class VQBeTNetwork(nn.Module):
    """Encoder of a step, GPT over the window, and heads of codes and offsets."""

    codebooks: torch.Tensor
    """Centres of chunks [Q, C, D]."""

    def __init__(
        self, shape: ObservationShape, config: VQBeTConfig, codebooks: torch.Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.count, width = config.obs_horizon, config.dim_model
        self.encoder = ObservationEncoder(step_shape(shape, self.count), config, generator)
        self.body = GPT(self.encoder.features, config, generator)
        self.register_buffer("codebooks", codebooks)
        rounds, codes, size = codebooks.shape
        self.logits = MLP(width, (width, rounds * codes), generator)
        self.offsets = MLP(width, (width, rounds * codes * size), generator)

    def features(self, observations: Observations, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return [B, T, W]."""
        features = self.encoder(by_step(observations, self.count))
        return self.body(features.unflatten(0, (-1, self.count)), dropout)

    def log_weights(self, hidden_NW: torch.Tensor) -> torch.Tensor:
        """Return the codes' log probabilities [N, Q, C]."""
        return self.logits(hidden_NW).unflatten(-1, self.codebooks.shape[:2]).log_softmax(-1)

    def chunks(self, hidden_NW: torch.Tensor, codes_NQ: torch.Tensor) -> torch.Tensor:
        """Return the chunks [N, D] of codes: their centres and the offsets there."""
        offsets_NQCD = self.offsets(hidden_NW).unflatten(-1, self.codebooks.shape)
        index = codes_NQ[..., None, None].expand(-1, -1, 1, offsets_NQCD.shape[-1])
        return (self.codebooks + offsets_NQCD).gather(2, index).squeeze(2).sum(1)


@algorithms.register("vq_bet")
class VQBeT(Algorithm):
    """Classify which chunks of the data come next, by residual codes, and regress how they differ from those."""

    Config = VQBeTConfig
    name = "vq_bet"
    example = (
        "understudy train algo=vq_bet env_name=cube-single-scripted-singletask-task1-v0 dim_model=64 n_heads=4"
        " n_layers=2 lr=1e-3 batch_size=64 training_steps=2000 eval_temperature=0,1 eval_episodes=50 eval_interval=0"
    )
    expected = (
        "Success 0.82 [0.69, 0.90] at temperature 0 and 0.80 [0.67, 0.89] at 1, the same policy of one seed on 50"
        " episodes, on 100 demonstrations of OGBench's oracle: a short training of a small network."
    )
    fits = ("codebooks",)
    config: VQBeTConfig

    def fit(self, data: WholeData) -> Mapping[str, torch.Tensor]:
        """Return the codebooks [Q, C, D] of all chunks; past an episode's end they repeat its last action."""
        newest = self.config.sampling.before
        chunks = [batch["actions"][:, newest:].flatten(1) for batch in data.batches()]
        return {"codebooks": fit_codebooks(torch.cat(chunks), ROUNDS, self.config.codes)}

    def network(self, generator: torch.Generator) -> VQBeTNetwork:
        """Build encoder, transformer and heads."""
        empty = torch.zeros(ROUNDS, self.config.codes, self.chunk_length * self.action_dim)
        codebooks = self.constants.get("codebooks", empty)
        return VQBeTNetwork(self.observation_shape, self.config, codebooks.clone(), generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the masks of dropout."""
        return draw_gpt_masks(batch_size, self.config, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the weighted focal losses of the codes and the offsets' L1; means divide by all, valid or not.

        Metrics: `mse` of the likeliest codes' chunks, summed over action dims, and how often the first code is right.
        """
        assert isinstance(network, VQBeTNetwork)
        config = self.config
        hidden_NW = network.features(batch["observations"], gpt_dropout(draws, config)).flatten(0, 1)
        actions_NHA, valid_NH = (self._chunks(batch[name]) for name in ("actions", "valid"))
        wanted_ND, valid_N = actions_NHA.flatten(1), valid_NH[:, 0]
        codes_NQ, log_weights_NQC = codes_of(wanted_ND, network.codebooks), network.log_weights(hidden_NW)
        log_prob_NQ = log_weights_NQC.gather(-1, codes_NQ.unsqueeze(-1)).squeeze(-1)
        focal_Q = (-((1 - log_prob_NQ.exp()).pow(config.focal_gamma)) * log_prob_NQ * valid_N[:, None]).mean(0)
        error_NHA = (network.chunks(hidden_NW, codes_NQ) - wanted_ND).unflatten(-1, actions_NHA.shape[1:])
        offset = (error_NHA.abs() * valid_NH.unsqueeze(-1)).mean()
        loss = config.primary_weight * focal_Q[0] + config.secondary_weight * focal_Q[1] + config.offset_weight * offset
        with torch.no_grad():
            likeliest_NQ = log_weights_NQC.argmax(-1)
            right = ((likeliest_NQ[:, 0] == codes_NQ[:, 0]) * valid_N).mean()
            said_NHA = network.chunks(hidden_NW, likeliest_NQ).unflatten(-1, actions_NHA.shape[1:])
            mse = ((said_NHA - actions_NHA).square().sum(-1) * valid_NH).mean()
        metrics = {"mse": mse, "code_loss": focal_Q[0], "offset_loss": offset, "first_code_right": right}
        return loss, {"actor_loss": loss, **metrics}

    def _chunks(self, of_steps: torch.Tensor) -> torch.Tensor:
        """Return the chunk from each step of the window on, [N, H, ...], of actions or masks [B, T + H - 1, ...]."""
        steps, length = self.config.obs_horizon, self.chunk_length
        return torch.stack([of_steps[:, step : step + length] for step in range(steps)], dim=1).flatten(0, 1)

    def noise_shape(self) -> tuple[int, ...]:
        """One decision draws a code of each round: [Q, C]."""
        return (ROUNDS, self.config.codes)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return the newest step's chunk [B, H, A], of drawn codes: of the likeliest ones where the noise is zero."""
        assert isinstance(network, VQBeTNetwork)
        hidden_BW = network.features(observations_BO)[:, -1]
        log_weights_BQC = network.log_weights(hidden_BW)
        chosen = [drawn(log_weights_BQC[:, place], noise[:, place]) for place in range(ROUNDS)]
        chunks_BD = network.chunks(hidden_BW, torch.stack(chosen, dim=-1))
        actions_BHA = chunks_BD.unflatten(-1, (self.chunk_length, self.action_dim))
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
