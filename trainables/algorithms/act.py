"""Action chunking with transformers: a chunk predicted at once from image tokens, a VAE for the demonstrator's style.

ACT (Zhao et al. 2023, arXiv 2304.13705) with the sizes, defaults and setting names of LeRobot's policy of that name,
whose `chunk_size` is `horizon_length` here. Executing a part of each chunk (`n_action_steps`) and temporal ensembling
are settings of every algorithm that predicts chunks. Shape suffixes: B samples, H steps of the chunk, A action dims,
L latent dims, N tokens of the observation, D their width, S state dims; a map is [c, h, w], of n frames.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import GOAL, LANGUAGE, STATE, Observations, ObservationShape, parts_of
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import LOG, Needs, Part, PerMember
from understudy.spec.parts import Chunks, Language, Vision
from understudy.trainables.networks.mlp import linear
from understudy.trainables.networks.observation import Input, ObservationEncoder
from understudy.trainables.networks.transformer import (
    NO_DROPOUT,
    Decoder,
    Dropout,
    Encoder,
    LayerSizes,
    check_heads,
    draw_masks,
    sine_positions,
    sine_positions_2d,
)

MASKS = "keep_"
"""What the names of dropout masks start with."""


class FormerKeys(Part):
    """What runs of earlier versions say of dense layers, which act has none of."""

    hidden_dims: tuple[()] = ()


class ACTConfig(Chunks, Vision, Language, AlgorithmConfig):
    """Settings of act."""

    former: ClassVar[type[Part]] = FormerKeys

    lr: float = Field(default=1e-5, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of AdamW")
    weight_decay: float = Field(default=1e-4, ge=0, json_schema_extra=LOG, description="AdamW's decay")
    batch_size: int = Field(default=8, ge=1, le=2**20, description="samples an update, over all workers")
    horizon_length: int = Field(
        default=100,
        ge=1,
        le=10_000,
        validation_alias=AliasChoices("horizon_length", "chunk_size"),
        description="actions in a chunk (chunk_size is the same key); may be more than an episode has",
    )
    action_chunking: bool = Field(default=True, description="predict horizon_length actions at once")
    dim_model: int = Field(default=512, ge=4, le=16_384, multiple_of=4, description="width of the transformer's tokens")
    n_heads: int = Field(default=8, ge=1, le=1024, description="heads of its attention")
    dim_feedforward: int = Field(default=3200, ge=1, le=65_536, description="width of its feed-forward parts")
    n_encoder_layers: int = Field(default=4, ge=1, le=256, description="layers over the observation's tokens")
    n_decoder_layers: int = Field(default=1, ge=1, le=256, description="layers from those to the actions")
    dropout: Annotated[float, PerMember()] = Field(
        default=0.1, ge=0, lt=1, description="dropout in attention and feed-forward parts"
    )
    use_vae: bool = Field(default=True, description="condition on a latent that the chunk is encoded into in training")
    latent_dim: Annotated[int, Needs("use_vae=true")] = Field(
        default=32, ge=1, le=16_384, description="size of that latent"
    )
    n_vae_encoder_layers: Annotated[int, Needs("use_vae=true")] = Field(
        default=4, ge=1, le=256, description="layers of the encoder that makes it"
    )
    kl_weight: Annotated[float, PerMember(), Needs("use_vae=true")] = Field(
        default=10.0, ge=0, json_schema_extra=LOG, description="weight of the latent's divergence"
    )

    @property
    def acts_at_random(self) -> bool:
        """Chunks of different styles are those of different latents."""
        return self.use_vae

    @model_validator(mode="after")
    def _consistent(self) -> ACTConfig:
        check_heads(self.dim_model, self.n_heads)
        if self.pooling is not None:
            raise ValueError(f"pooling={self.pooling}: act pools no maps, each place is a token")
        return self

    @property
    def layer_sizes(self) -> LayerSizes:
        """Sizes of every transformer layer."""
        return LayerSizes(self.dim_model, self.n_heads, self.dim_feedforward)

    @property
    def sampling(self) -> Sampling:
        """Chunks may be longer than episodes, as the published ones of 100 steps often are."""
        return replace(super().sampling, longer=True)


def kl_from_standard_normal(mean_BL: torch.Tensor, log_variance_BL: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) summed over dims, [B]."""
    return -0.5 * (1 + log_variance_BL - mean_BL.square() - log_variance_BL.exp()).sum(-1)


def masked_l1(predicted_BHA: torch.Tensor, actions_BHA: torch.Tensor, valid_BH: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error over the entries of steps inside the episode (over none: 0)."""
    error_BH = (predicted_BHA - actions_BHA).abs().mean(-1)
    return (error_BH * valid_BH).sum() / valid_BH.sum().clamp(min=1.0)


class Posterior(nn.Module):
    """q(latent | state, actions): a transformer encoder over [CLS, state, actions], read at CLS."""

    positions: torch.Tensor

    def __init__(self, states: int, chunk: tuple[int, int], config: ACTConfig, generator: torch.Generator) -> None:
        super().__init__()
        width, (steps, action_dim) = config.dim_model, chunk
        self.cls = _learned(1, width, generator)
        self.by_state = linear(states, width, generator) if states else None
        self.by_action = linear(action_dim, width, generator)
        self.layers = Encoder("vae", config.n_vae_encoder_layers, config.layer_sizes, generator)
        self.latent = linear(width, 2 * config.latent_dim, generator)
        self.extra = 2 if states else 1
        self.register_buffer("positions", sine_positions(self.extra + steps, width), persistent=False)

    def forward(
        self, state_BS: torch.Tensor | None, actions_BHA: torch.Tensor, valid_BH: torch.Tensor, dropout: Dropout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance, both [B, L]; steps that are not valid are not looked at."""
        count = len(actions_BHA)
        tokens = [self.cls.expand(count, -1, -1)]
        if self.by_state is not None and state_BS is not None:
            tokens.append(self.by_state(state_BS).unsqueeze(1))
        tokens.append(self.by_action(actions_BHA))
        padding = torch.cat((valid_BH.new_ones(count, self.extra), valid_BH), dim=1) == 0
        encoded = self.layers(torch.cat(tokens, dim=1), self.positions, padding, dropout)
        mean_BL, log_variance_BL = self.latent(encoded[:, 0]).chunk(2, dim=-1)
        return mean_BL, log_variance_BL


class ImageTokens(nn.Module):
    """The places of one input's maps as tokens: a 1x1 convolution, sine positions, and a learned one for each frame."""

    positions: torch.Tensor

    def __init__(self, item: Input, shape: tuple[int, int, int], width: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, across = shape
        self.project = linear(channels, width, generator)
        self.frames = _learned(item.frames, width, generator) if item.frames else None
        self.register_buffer("positions", sine_positions_2d(height, across, width), persistent=False)

    def forward(self, map_BnCHW: torch.Tensor) -> torch.Tensor:
        """Return tokens [B, n * h * w, D] of a map [B, n, c, h, w], frame by frame, row by row."""
        return self.project(map_BnCHW.flatten(3).movedim(2, 3)).flatten(1, 2)

    def placed(self) -> torch.Tensor:
        """Return the tokens' positions [n * h * w, D]."""
        return self.positions if self.frames is None else (self.frames[:, None] + self.positions).flatten(0, 1)


class ACTNetwork(nn.Module):
    """Tokens of latent, states, text and pictures; a transformer encoder over them; learned queries become actions."""

    def __init__(
        self, shape: ObservationShape, chunk: tuple[int, int], config: ACTConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        width, (steps, action_dim) = config.dim_model, chunk
        self.encoder = ObservationEncoder(shape, config, generator, pooled=False)
        sizes = {name: math.prod(parts_of(shape)[name]) for name in self.encoder.states}
        self.posterior = Posterior(sizes.get(STATE, 0), chunk, config, generator) if config.use_vae else None
        self.by_latent = linear(config.latent_dim, width, generator)
        self.by_state = nn.ModuleList(linear(size, width, generator) for size in sizes.values())
        text = self.encoder.text
        self.by_text = None if text is None else linear(text.out_features, width, generator)
        self.positions = _learned(1 + len(sizes) + (text is not None), width, generator)
        self._tokens_of: dict[str, int] = {}
        self.images = nn.ModuleList()
        for item in self.encoder.inputs:
            if _tokens_key(item) not in self._tokens_of:
                self._tokens_of[_tokens_key(item)] = len(self.images)
                self.images.append(ImageTokens(item, self.encoder.map_shapes[item.picture], width, generator))
        self.layers = Encoder("encoder", config.n_encoder_layers, config.layer_sizes, generator)
        self.decoder = Decoder("decoder", config.n_decoder_layers, config.layer_sizes, generator)
        self.queries = _learned(steps, width, generator)
        self.actions = linear(width, action_dim, generator)

    def forward(
        self, parts: dict[str, torch.Tensor], latent_BL: torch.Tensor, dropout: Dropout = NO_DROPOUT
    ) -> torch.Tensor:
        """Return actions [B, H, A] for named observations (`encoder.parts`) and a latent."""
        states = [parts[name].flatten(1) for name in self.encoder.states]
        first = [self.by_latent(latent_BL), *(by(x) for by, x in zip(self.by_state, states, strict=True))]
        if self.by_text is not None and self.encoder.text is not None:
            first.append(self.by_text(self.encoder.text(parts[LANGUAGE])))
        tokens = [torch.stack(first, dim=1)]
        positions: list[torch.Tensor] = [self.positions]
        maps = self.encoder.unpooled(parts)
        for item in self.encoder.inputs:
            image = self.images[self._tokens_of[_tokens_key(item)]]
            assert isinstance(image, ImageTokens)
            tokens.append(image(maps[item.picture]))
            positions.append(image.placed())
        placed_ND = torch.cat(positions)
        memory_BND = self.layers(torch.cat(tokens, dim=1), placed_ND, None, dropout)
        return self.actions(self.decoder(memory_BND, self.queries, placed_ND, dropout))

    def token_count(self) -> int:
        """Return N, the tokens of one observation and its latent."""
        maps = self.encoder.map_shapes
        places = [(item.frames or 1) * math.prod(maps[item.picture][1:]) for item in self.encoder.inputs]
        return len(self.positions) + sum(places)


def _learned(count: int, width: int, generator: torch.Generator) -> nn.Parameter:
    """Return learned tokens or positions [count, D], drawn from N(0, 1)."""
    return nn.Parameter(torch.empty(count, width).normal_(generator=generator))


def _tokens_key(item: Input) -> str:
    """Return what tells projections apart: the encoder, and whether it sees a goal, which looks like a picture."""
    return (GOAL if item.picture.startswith(GOAL) else "") + item.encoder


@algorithms.register("act")
class ACT(Algorithm):
    """Predict the whole chunk by regression, its style from a latent that is zero when acting.

    Published ACT's ResNet-18 begins with ImageNet's weights; here it begins as it is drawn, which is said at the start
    of a run, unless `encoder_weights=` names a file of them. Dropout is drawn for attention weights too. LeRobot's
    policy shares one ResNet between all cameras, which here is shared_camera_encoder=true; and it scales actions to
    mean 0 and deviation 1: normalize_actions=zscore.
    """

    Config = ACTConfig
    name = "act"
    example = (
        "understudy train algo=act env_name=lift-scripted-low_dim chunk_size=10 normalize_actions=zscore dim_model=64"
        " n_heads=4 dim_feedforward=128 n_encoder_layers=2 n_vae_encoder_layers=2 lr=1e-3 batch_size=64"
        " training_steps=2500 seeds=[0,1,2] eval_episodes=20"
    )
    expected = (
        "Success 0.95 [0.86, 0.98] over 3 seeds x 20 episodes, on 100 scripted demonstrations; 0.85 [0.63, 1.00] with"
        " n_action_steps=1 temporal_ensemble_coeff=0.01."
    )
    default_encoder = "resnet18"
    config: ACTConfig

    @property
    def chunk(self) -> tuple[int, int]:
        """Steps and dims of a chunk, (H, A)."""
        return (self.chunk_length, self.action_dim)

    def notes(self) -> list[str]:
        """Say that published ACT begins with weights that are not here."""
        if self.config.encoder is None or self.config.encoder_weights is not None:
            return []
        return [
            f"the {self.config.encoder} begins as it is drawn, published ACT's with ImageNet's weights:"
            " encoder_weights=FILE takes torchvision's or timm's (docs/pictures.md says how to fetch them)"
        ]

    def network(self, generator: torch.Generator) -> ACTNetwork:
        """Build the policy and, with use_vae, the encoder that only training needs."""
        return ACTNetwork(self.observation_shape, self.chunk, self.config, generator)

    @cached_property
    def mask_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each dropout mask, without B."""
        config, network = self.config, self.network(torch.Generator())
        tokens = network.token_count()
        shapes = config.layer_sizes.masks_of_encoder("encoder", config.n_encoder_layers, tokens)
        shapes |= config.layer_sizes.masks_of_decoder("decoder", config.n_decoder_layers, self.chunk_length, tokens)
        if network.posterior is not None:
            length = len(network.posterior.positions)
            shapes |= config.layer_sizes.masks_of_encoder("vae", config.n_vae_encoder_layers, length)
        return {MASKS + name: shape for name, shape in shapes.items()}

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the latent's noise [B, L], and the dropout masks of each layer (a byte a number)."""
        drawn = {}
        if self.config.use_vae:
            size = (batch_size, self.config.latent_dim)
            drawn["noise"] = torch.randn(size, generator=generator, device=generator.device)
        shapes = self.mask_shapes if self.config.dropout > 0 else {}
        return drawn | draw_masks(batch_size, shapes, self.config.dropout, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return L1 over the entries inside the episode + kl_weight * KL (summed over dims, mean over samples).

        The L1 is a mean over what a part of a batch holds: with grad_accumulation or several workers, parts that reach
        past an episode's end more often count for as much as others.
        """
        assert isinstance(network, ACTNetwork)
        actions_BHA, valid_BH = batch["actions"], batch["valid"]
        dropout = Dropout(draws, self.config.dropout, MASKS)
        parts = network.encoder.parts(batch["observations"])
        if network.posterior is None:
            latent_BL = actions_BHA.new_zeros(len(actions_BHA), self.config.latent_dim)
            loss = masked_l1(network(parts, latent_BL, dropout), actions_BHA, valid_BH)
            return loss, {"actor_loss": loss, "l1_loss": loss}
        state_BS = parts[STATE].flatten(1) if STATE in parts else None
        mean_BL, log_variance_BL = network.posterior(state_BS, actions_BHA, valid_BH, dropout)
        latent_BL = mean_BL + (0.5 * log_variance_BL).exp() * draws["noise"]
        l1 = masked_l1(network(parts, latent_BL, dropout), actions_BHA, valid_BH)
        kl = kl_from_standard_normal(mean_BL, log_variance_BL).mean()
        loss = l1 + self.config.kl_weight * kl
        return loss, {"actor_loss": loss, "l1_loss": l1, "kl_loss": kl}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision takes a latent [L]: zeros at temperature 0, else drawn from the prior."""
        return (self.config.latent_dim,)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return the chunk of the latent `noise`; of a zero one without the VAE."""
        assert isinstance(network, ACTNetwork)
        latent_BL = noise if self.config.use_vae else torch.zeros_like(noise)
        actions_BHA = network(network.encoder.parts(observations_BO), latent_BL)
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
