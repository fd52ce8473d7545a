"""One member of a policy as a function of tensors alone: what a file of an exported policy computes.

Observations go in as an environment gives them and actions come out in the environment's units: the normaliser, the
picture encoder, the sampler's loop and the chunk's shape are inside. Shape suffixes: B observations, H actions of the
chunk, A action dims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.errors import UserError
from understudy.language import Told
from understudy.observations import LANGUAGE, dtype_of, parts_of, told_text
from understudy.policy import Policy
from understudy.randomness import numpy_generator

NOISE, ACTIONS, BATCH = "noise", "actions", "batch"


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, the type of its numbers, and its shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with the batch in front."""
        return {"name": self.name, "dtype": self.dtype, "shape": [BATCH, *self.shape]}

    def sample(self, rows: int, key: int) -> torch.Tensor:
        """Return made-up values [rows, *shape]: any level for pictures, standard normal otherwise."""
        random = numpy_generator(0, f"export/{self.name}", key)
        if self.dtype == "uint8":
            return torch.as_tensor(random.integers(0, 256, (rows, *self.shape), np.uint8))
        return torch.as_tensor(random.standard_normal((rows, *self.shape), np.float32))


class PolicyFunction(nn.Module):
    """Actions [B, H, A] float32 of raw observations, a tensor for each part, and of noise where the policy takes any.

    The noise is standard normal; the temperature is inside. At temperature 0 there is none, and the same observations
    give the same actions. A task's text is an input, its vector; where `eval_language` sets one it is inside instead.
    """

    text: torch.Tensor | None
    """The vector [D] of the text that is inside, a buffer."""

    def __init__(self, policy: Policy, member: int = 0, temperature: float | None = None) -> None:
        """Take one member; UserError where there is no such member, or nothing that acts."""
        super().__init__()
        algorithm = policy.algorithm
        if not algorithm.acts:
            raise UserError(f"{algorithm.name} gives no actions: it only judges")
        scale = algorithm.config.default_temperature if temperature is None else temperature
        self.network = policy.network(member)
        self.temperature = float(scale)
        self.noise_shape = tuple(algorithm.noise_shape())
        self._act, self._scaling = algorithm.act, policy.scaling
        self._single = not isinstance(algorithm.observation_shape, dict)
        vector = _set_text(policy)
        self.register_buffer("text", vector)
        shapes = parts_of(algorithm.observation_shape)
        ports = [
            Port(name, np.dtype(dtype_of(name)).name, shape)
            for name, shape in shapes.items()
            if vector is None or name != LANGUAGE
        ]
        takes_noise = self.temperature != 0.0 and algorithm.config.acts_at_random
        self.inputs = [*ports, Port(NOISE, "float32", self.noise_shape)] if takes_noise else ports
        self.output = Port(ACTIONS, "float32", (algorithm.chunk_length, algorithm.action_dim))

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the actions of tensors in the order of `inputs`, each [B, *shape]."""
        given = {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}
        noise = given.pop(NOISE, None)
        if noise is None:
            noise = torch.zeros(tensors[0].shape[0], *self.noise_shape)
        else:
            noise = noise * self.temperature
        if self.text is not None:
            given[LANGUAGE] = self.text.expand(tensors[0].shape[0], -1)
        seen = self._scaling.observations(next(iter(given.values())) if self._single else given)
        return self._scaling.actions_back(self._act(self.network, seen, noise))


def _set_text(policy: Policy) -> torch.Tensor | None:
    """Return the vector [D] of the text that a policy's settings name; None where they name none."""
    told = Told.of(policy.algorithm.config.language)
    if told is None or told.text is None or not told_text(policy.algorithm.observation_shape):
        return None
    return torch.as_tensor(told.vector(None))
