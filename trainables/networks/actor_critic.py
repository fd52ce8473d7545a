"""What actor-critic methods share: an ensemble of Q networks computed as one, and a squashed Gaussian actor.

Layers are dense, LayerNorm where asked (RLPD, arXiv 2302.02948), ReLU. Weights and biases are uniform in
+-1 / sqrt(inputs), torch's default, which SAC's published implementations in torch use. Nothing here knows of losses.
Shape suffixes: B samples, E members of the ensemble, I inputs, O outputs, A action dims.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.nodes import apply, at_once, stacking

LOG_TWO = math.log(2.0)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
GROUPED = 4
"""Widths of which torch can take products in groups are multiples of this many float32 numbers."""


def _uniform(shape: Sequence[int], inputs: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1.0 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))


class _Layers(torch.autograd.Function):
    """Dense layers with ReLU between them as one node of the graph.

    Weights are one network's [O, I] or an ensemble's [E, I, O]. What the layers gave is returned too, so that
    torch.func can stack it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        kept: list[torch.Tensor] = []
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            x = x.relu_() if kept else x
            x = functional.linear(x, weight, bias) if weight.dim() == 2 else _of_ensemble(x, weight, bias)
            kept.append(x)
        return (kept[-1], *kept[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1::2], inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        wanted, saved = ctx.needs_input_grad, ctx.saved_tensors
        count = len(saved) // 2
        gradients: list[torch.Tensor | None] = [None] * len(wanted)
        for index in reversed(range(count)):
            weight, before = saved[index], saved[count + index]
            alone = weight.dim() == 2
            if wanted[1 + 2 * index]:
                gradients[1 + 2 * index] = grad.t().mm(before) if alone else _of_weight(before, grad)
                gradients[2 + 2 * index] = grad.sum(0) if alone else grad.sum(1, keepdim=True)
            if index or wanted[0]:
                grad = grad.mm(weight) if alone else _back(grad, weight)
            if index:
                grad = torch.ops.aten.threshold_backward(grad, before, 0)
        gradients[0] = grad if wanted[0] else None
        return tuple(gradients)


def _of_ensemble(x_EBI: torch.Tensor, weight_EIO: torch.Tensor, bias_E1O: torch.Tensor) -> torch.Tensor:
    """Return the outputs [E, B, O] of an ensemble's layer; for a single one as sums, a sixth of the time on a CPU."""
    if weight_EIO.shape[-1] == 1 and x_EBI.device.type == "cpu":
        return (x_EBI * weight_EIO.transpose(1, 2)).sum(-1, keepdim=True).add_(bias_E1O)
    return torch.baddbmm(bias_E1O, x_EBI, weight_EIO)


def _back(grad_EBO: torch.Tensor, weight_EIO: torch.Tensor) -> torch.Tensor:
    """Return the gradient [E, B, I] of an ensemble's inputs; that of a single output takes no sum."""
    if grad_EBO.shape[-1] == 1:
        return grad_EBO * weight_EIO.transpose(1, 2)
    return grad_EBO.bmm(weight_EIO.transpose(1, 2))


def _of_weight(before_EBI: torch.Tensor, grad_EBO: torch.Tensor) -> torch.Tensor:
    """Return the gradient [E, I, O] of an ensemble's weight; for a single output in a quarter of the time."""
    if grad_EBO.shape[-1] == 1:
        return grad_EBO.transpose(1, 2).bmm(before_EBI).transpose(1, 2)
    return before_EBI.transpose(1, 2).bmm(grad_EBO)


def _through(layers: Sequence[EnsembleLinear | nn.Linear], x: torch.Tensor) -> torch.Tensor:
    """Return what dense layers with ReLU between them give."""
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return _Layers.forward(x, *parameters)[0] if not torch.is_grad_enabled() else apply(_Layers, x, *parameters)[0]


class _Least(torch.autograd.Function):
    """The least of an ensemble's values [B] as one node, for gradients with respect to its inputs alone.

    A sample's gradient goes through the member whose value is its least (one of them where they tie), as torch.min's
    does, so that of E products with a layer's weights one is left: samples are put in the order of their members.
    """

    @staticmethod
    def forward(x: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        values, *kept = _Layers.forward(x.expand(parameters[0].shape[0], *x.shape), *parameters)
        least, member = values.squeeze(-1).min(dim=0)
        return (least, member, *kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1::2], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        count = len(saved) // 2
        weights, member_B, kept = saved[:count], saved[count], saved[count + 1 :]
        samples, members = len(member_B), len(weights[0])
        sorted_B, order_B = member_B.sort(stable=True)
        rows_B = torch.add(order_B, sorted_B, alpha=samples)
        ends_E = torch.searchsorted(sorted_B, torch.arange(members), right=True, out_int32=True)
        grad_BI = grad[order_B].unsqueeze(-1) * weights[-1].squeeze(-1).index_select(0, sorted_B)
        for weight, before_EBI in zip(weights[-2::-1], kept[::-1], strict=True):
            before_BI = before_EBI.flatten(0, 1).index_select(0, rows_B)
            grad_BI = torch.ops.aten.threshold_backward(grad_BI, before_BI, 0)
            grad_BI = functional.grouped_mm(grad_BI, weight.transpose(1, 2), offs=ends_E)
        return torch.empty_like(grad_BI).index_copy_(0, order_B, grad_BI), *[None] * (2 * count)


class _Squashed(torch.autograd.Function):
    """Actions and their log density, of what an actor gives and of noise, as one node of the graph.

    u = mean + std noise, a = tanh(u), log p(a) = sum log N(u; mean, std) - log(1 - tanh(u)^2). The last is
    2 (log 2 - log(e^u + e^-u)), which does not cancel for large u, and its derivative is -2 tanh(u).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[override]
        out_BA: torch.Tensor, noise_BA: torch.Tensor, low: float, high: float
    ) -> tuple[torch.Tensor, ...]:
        mean_BA, free_BA = out_BA.chunk(2, dim=-1)
        log_std_BA = free_BA.clamp(low, high)
        spread_BA = log_std_BA.exp() * noise_BA
        before_BA = mean_BA + spread_BA
        density_BA = 2.0 * torch.logaddexp(before_BA, -before_BA) - log_std_BA - 0.5 * noise_BA.square()
        density_B = density_BA.sum(-1) - noise_BA.shape[-1] * (HALF_LOG_TWO_PI + 2.0 * LOG_TWO)
        return before_BA.tanh(), density_B, spread_BA, log_std_BA

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[0], *output[2:])

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, of_actions: torch.Tensor | None, of_density: torch.Tensor | None, *_: None
    ) -> tuple[torch.Tensor | None, ...]:
        out_BA, actions_BA, spread_BA, log_std_BA = ctx.saved_tensors
        inside = log_std_BA == out_BA.chunk(2, dim=-1)[1]
        of_actions = torch.zeros_like(actions_BA) if of_actions is None else of_actions
        of_before = torch.ops.aten.tanh_backward(of_actions, actions_BA)
        if of_density is not None:
            of_before = of_before + 2.0 * of_density.unsqueeze(-1) * actions_BA
        of_log_std = of_before * spread_BA
        if of_density is not None:
            of_log_std = of_log_std - of_density.unsqueeze(-1)
        return torch.cat((of_before, of_log_std * inside), dim=-1), None, None, None


class EnsembleLinear(nn.Module):
    """E dense layers at once: [E, B, inputs] to [E, B, outputs]."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _uniform((members, inputs, outputs), inputs, generator)
        self.bias = _uniform((members, 1, outputs), inputs, generator)

    def forward(self, x_EBI: torch.Tensor) -> torch.Tensor:
        """Return every member's output."""
        return torch.baddbmm(self.bias, x_EBI, self.weight)


class EnsembleNorm(nn.Module):
    """LayerNorm over the last axis, with a scale and a shift of each member's own."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x_EBI: torch.Tensor) -> torch.Tensor:
        """Return [E, B, width]."""
        return functional.layer_norm(x_EBI, (self.width,)) * self.weight + self.bias


class QEnsemble(nn.Module):
    """E values [E, B] of features and actions."""

    def __init__(
        self, members: int, inputs: int, hidden_dims: Sequence[int], generator: torch.Generator, *, layer_norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise([inputs, *hidden_dims]):
            norm = [EnsembleNorm(members, width)] if layer_norm else []
            layers += [EnsembleLinear(members, before, width, generator), *norm, nn.ReLU()]
        layers.append(EnsembleLinear(members, [inputs, *hidden_dims][-1], 1, generator))
        self.members, self.layers = members, nn.Sequential(*layers)
        self._dense = () if layer_norm else tuple(layer for layer in layers if isinstance(layer, EnsembleLinear))

    def forward(self, features_BF: torch.Tensor, actions_BA: torch.Tensor) -> torch.Tensor:
        """Return Q(s, a) of every member, [E, B]."""
        inputs_BI = torch.cat((features_BF, actions_BA), dim=-1)
        inputs_EBI = inputs_BI.expand(self.members, *inputs_BI.shape)
        if self._dense and at_once(inputs_BI):
            return _through(self._dense, inputs_EBI).squeeze(-1)
        return self.layers(inputs_EBI).squeeze(-1)

    def least(self, features_BF: torch.Tensor, actions_BA: torch.Tensor) -> torch.Tensor:
        """Return the least of the members' values, [B]."""
        if not self._grouped(features_BF):
            return self(features_BF, actions_BA).amin(dim=0)
        parameters = [parameter for layer in self._dense for parameter in (layer.weight, layer.bias)]
        return apply(_Least, torch.cat((features_BF, actions_BA), dim=-1), *parameters)[0]

    def _grouped(self, x: torch.Tensor) -> bool:
        """Whether `least` may take each sample's gradient through one member: on CPUs, where weights are constants."""
        alone = torch.is_grad_enabled() and at_once(x) and not stacking()
        if not self._dense or not alone or x.device.type != "cpu" or x.dtype != torch.float32:
            return False
        if not hasattr(functional, "grouped_mm"):  # older torch has none
            return False
        fits = all(layer.weight.shape[-1] % GROUPED == 0 for layer in self._dense[:-1])
        return fits and not any(parameter.requires_grad for parameter in self.parameters())


class SquashedGaussian(nn.Module):
    """The actor: a = tanh(mean + std noise), with mean and log std from one trunk."""

    def __init__(
        self,
        inputs: int,
        hidden_dims: Sequence[int],
        action_dim: int,
        log_std_range: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        widths = [inputs, *hidden_dims]
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise(widths):
            layers += [dense(before, width, generator), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = dense(widths[-1], 2 * action_dim, generator)
        self._dense = tuple(layer for layer in (*layers, self.head) if isinstance(layer, nn.Linear))

    def forward(self, features_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log std [B, A] before the squashing."""
        mean, log_std = self._out(features_BF).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def sample(self, features_BF: torch.Tensor, noise_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions [B, A] in (-1, 1) made of standard normal noise, and their log density [B]."""
        out_BA, node = self._out(features_BF), at_once(features_BF) and torch.is_grad_enabled()
        given = (out_BA, noise_BA, *self.log_std_range)
        found = apply(_Squashed, *given) if node else _Squashed.forward(*given)
        return found[0], found[1]

    def _out(self, features_BF: torch.Tensor) -> torch.Tensor:
        return _through(self._dense, features_BF) if at_once(features_BF) else self.head(self.trunk(features_BF))


def dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a dense layer, its weights drawn from `generator`."""
    layer = blank(nn.Linear, inputs, outputs)
    layer.weight = _uniform((outputs, inputs), inputs, generator)
    layer.bias = _uniform((outputs,), inputs, generator)
    return layer


def relu_layers(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Return dense layers of these widths, inputs first, with ReLU between them and none after the last."""
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        layers += [dense(before, width, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
