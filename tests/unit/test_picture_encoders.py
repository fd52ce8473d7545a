"""Picture encoders alone: the arithmetic and the sizes of the published networks, poolings and coordinates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from understudy.randomness import torch_generator
from understudy.spec.parts import Vision
from understudy.trainables.networks.encoders.impala import IMPALAS, ImpalaEncoder, ResidualStack
from understudy.trainables.networks.encoders.resnet import RESNETS, FrozenBatchNorm, ResNet
from understudy.trainables.networks.observation import picture_encoder
from understudy.trainables.networks.pooling import POOLINGS, SpatialLearnedEmbeddings, coordinates

Tensors = dict[str, torch.Tensor]


def generator(*key: int) -> torch.Generator:
    return torch_generator(0, "test picture encoders", *key)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(*shape))


def shake(module: torch.nn.Module) -> None:
    """Give every tensor of a module another value, so that none is at a neutral one; variances stay positive."""
    for index, (name, value) in enumerate(module.state_dict().items()):
        noise = torch.randn(value.shape, generator=generator(index))
        if "conv" in name or "downsample.0" in name:
            continue  # as drawn, so that the activations keep their size
        value.copy_(value + 0.2 * noise if "var" not in name else value * noise.mul(0.3).exp())


# ---- the ResNets, against plain functions of their tensors ----


def xla_same(x: torch.Tensor, kernel: int, stride: int, value: float) -> torch.Tensor:
    """Pad by XLA's rule for SAME: as much as ceil(n / stride) windows need, the odd one at the end."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value)


def group_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    groups = x.reshape(len(x), 4, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    scaled = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return scaled * weight[:, None, None] + bias[:, None, None]


def bridge_map(tensors: Tensors, x: torch.Tensor, blocks: tuple[int, ...], depth: int) -> torch.Tensor:
    """Return the last map of BridgeData's ResNetV1 on pictures [B, C, H, W] in [-1, 1]."""

    def layer(conv: str, norm: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        x = functional.conv2d(xla_same(x, weight.shape[-1], stride, 0.0), weight, stride=stride)
        return group_norm(x, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"])

    x = functional.conv2d(functional.pad(x, (3, 3, 3, 3)), tensors["conv1.weight"], stride=2)
    x = functional.silu(group_norm(x, tensors["bn1.weight"], tensors["bn1.bias"]))
    x = functional.max_pool2d(xla_same(x, 3, 2, -math.inf), 3, stride=2)
    for stage, count in enumerate(blocks):
        for index in range(count):
            name, stride, y = f"layer{stage + 1}.{index}.", 2 if stage and not index else 1, x
            for step in range(1, depth + 1):
                y = layer(f"{name}conv{step}", f"{name}bn{step}", y, stride if step == depth - 1 else 1)
                y = functional.silu(y) if step < depth else y
            if y.shape != x.shape:
                x = layer(f"{name}downsample.0", f"{name}downsample.1", x, stride)
            x = functional.silu(x + y)
    return x


def imagenet_map(tensors: Tensors, x: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
    """Return the last map of torchvision's ResNet, in evaluation mode, on normalised pictures [B, 3, H, W]."""

    def layer(conv: str, norm: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        values = [tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *values, training=False, eps=1e-5)

    x = functional.max_pool2d(functional.relu(layer("conv1", "bn1", x, 2)), 3, stride=2, padding=1)
    for stage, count in enumerate(blocks):
        for index in range(count):
            name, stride = f"layer{stage + 1}.{index}.", 2 if stage and not index else 1
            y = functional.relu(layer(f"{name}conv1", f"{name}bn1", x, stride))
            y = layer(f"{name}conv2", f"{name}bn2", y)
            if stage and not index:
                x = layer(f"{name}downsample.0", f"{name}downsample.1", x, stride)
            x = functional.relu(x + y)
    return x


def close(measured: torch.Tensor, exact: torch.Tensor) -> None:
    assert measured.shape == exact.shape
    assert (measured.double() - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnetv1-18-bridge", 64), ("resnetv1-18-bridge", 49), ("resnetv1-34-bridge", 40), ("resnetv1-50-bridge", 33)],
)
def test_the_bridge_networks_compute_what_flax_would(name: str, side: int) -> None:
    form, pixels = RESNETS[name], pictures(3, side, side + 6, 3)
    network = ResNet((side, side + 6, 3), form, generator())
    shake(network)
    exact = {key: value.double() for key, value in network.state_dict().items()}
    expected = bridge_map(exact, pixels.movedim(-1, 1).double() / 127.5 - 1, form.blocks, 3 if form.bottleneck else 2)
    with torch.no_grad():
        close(network.map(pixels), expected)
        close(network(pixels), expected.mean((2, 3)))


def test_a_bottleneck_starts_with_its_last_norm_at_zero_so_that_blocks_pass_their_input_on() -> None:
    network = ResNet((32, 32, 3), RESNETS["resnetv1-50-bridge"], generator())
    named = {name: value for name, value in network.named_parameters() if ".bn3.weight" in name}
    assert len(named) == 16
    assert not any(value.any() for value in named.values())


@pytest.mark.parametrize("side", [64, 51])
def test_resnet18_computes_what_torchvisions_does_with_frozen_batch_norm(side: int) -> None:
    form, pixels = RESNETS["resnet18"], pictures(2, side, 48, 3)
    network = ResNet((side, 48, 3), form, generator())
    shake(network)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    x = (pixels.movedim(-1, 1).double() / 255 - mean) / deviation
    expected = imagenet_map({key: value.double() for key, value in network.state_dict().items()}, x, form.blocks)
    with torch.no_grad():
        close(network.map(pixels), expected)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("resnet18", 11_689_512 - 513_000),  # torchvision's count, less its last layer's
        ("resnetv1-18-bridge", 11_689_512 - 513_000),
        ("resnetv1-34-bridge", 21_797_672 - 513_000),
        ("resnetv1-50-bridge", 25_557_032 - 2_049_000),
    ],
)
def test_the_resnets_have_their_published_size(name: str, numbers: int) -> None:
    network = ResNet((64, 64, 3), RESNETS[name], generator())
    affine = [value for key, value in network.named_buffers() if key.endswith((".weight", ".bias"))]
    assert sum(value.numel() for value in [*network.parameters(), *affine]) == numbers
    assert network.features == network.map_shape[0] == (2048 if "50" in name else 512)


def test_frozen_batch_norm_is_no_parameter_and_stays_while_convolutions_learn() -> None:
    network = ResNet((32, 32, 3), RESNETS["resnet10"], generator())
    assert not [name for name, _ in network.named_parameters() if ".bn" in name or "downsample.1" in name]
    frozen = [module for module in network.modules() if isinstance(module, FrozenBatchNorm)]
    assert len(frozen) == 12
    network(pictures(2, 32, 32, 3)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_imagenets_means_repeat_by_frame_and_average_for_pictures_of_other_channels() -> None:
    form = RESNETS["resnet10"]
    frames, depth = ResNet((32, 32, 6), form, generator()), ResNet((32, 32, 1), form, generator())
    ones = torch.full((1, 6, 1, 1), 255.0)
    scaled = frames.scale(ones)[0, :, 0, 0]
    torch.testing.assert_close(
        scaled[:3], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    assert torch.equal(scaled[:3], scaled[3:])
    assert depth.scale(ones[:, :1]).item() == pytest.approx((1 - 0.449) / 0.226)


# ---- IMPALA ----


@pytest.mark.parametrize(("name", "convolutions"), [("impala_small", 9), ("impala", 15), ("impala_large", 15)])
def test_an_impala_encoder_has_its_published_size(name: str, convolutions: int) -> None:
    encoder = ImpalaEncoder((20, 17, 3), IMPALAS[name], generator())
    found = [module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(found) == convolutions
    channels = IMPALAS[name].stacks[-1]
    dense = encoder.dense.layers[0]
    assert isinstance(dense, torch.nn.Linear)
    assert dense.in_features == 3 * 3 * channels  # 20 -> 10 -> 5 -> 3 and 17 -> 9 -> 5 -> 3
    assert encoder.map_shape == (channels, 3, 3)
    assert encoder(pictures(2, 20, 17, 3)).shape == (2, IMPALAS[name].width)


@pytest.mark.parametrize("side", [5, 6])
def test_max_pooling_pads_as_xla_does(side: int) -> None:
    stack = ResidualStack(1, 1, 0, generator())
    torch.nn.init.zeros_(stack.first.weight)
    stack.first.weight.data[0, 0, 1, 1] = 1.0  # the identity
    image = -torch.arange(float(side * (side + 1))).view(1, 1, side, side + 1) - 1
    expected = functional.max_pool2d(xla_same(image, 3, 2, -math.inf), 3, stride=2)
    assert torch.equal(stack(image), expected)


# ---- poolings and coordinates ----


def test_each_pooling_is_its_formula() -> None:
    shape = (3, 4, 5)
    x = torch.randn(2, *shape, generator=generator())
    array = x.numpy().astype(np.float64)
    layers = {name: kind(shape, generator()) for name, kind in POOLINGS.items()}
    weights = np.exp(array) / np.exp(array).sum((2, 3), keepdims=True)
    rows, columns = np.linspace(-1, 1, 4)[:, None], np.linspace(-1, 1, 5)
    places = [(weights * columns).sum((2, 3)), (weights * rows).sum((2, 3))]
    learned = layers["spatial_learned_embeddings"]
    assert isinstance(learned, SpatialLearnedEmbeddings)
    kernel = learned.kernel.detach().numpy()
    expected = {
        "avg": array.mean((2, 3)),
        "max": array.max((2, 3)),
        "none": array.reshape(2, -1),
        "spatial_softmax": np.concatenate(places, axis=1),
        "spatial_learned_embeddings": (array[..., None] * kernel).sum((2, 3)).reshape(2, -1),
    }
    assert expected.keys() == POOLINGS.keys()
    for name, layer in layers.items():
        measured = layer(x).detach().numpy()
        assert measured.shape == (2, layer.features)
        np.testing.assert_allclose(measured, expected[name], rtol=1e-5, atol=1e-6)


def test_spatial_softmax_finds_where_a_channel_is_active() -> None:
    x = torch.zeros(1, 2, 5, 9)
    x[0, 0, 4, 2] = x[0, 1, 1, 8] = 1000.0
    found = POOLINGS["spatial_softmax"]((2, 5, 9), generator())(x)[0]
    assert found.tolist() == [-0.5, 1.0, 1.0, -0.5]  # columns of both channels, then rows


def test_coordinates_are_rows_and_columns_from_minus_one_to_one() -> None:
    grid = coordinates(3, 5)
    assert grid[0].tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert grid[1].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3
    assert coordinates(1, 1).tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize("name", ["resnetv1-18-bridge", "resnet10", "impala_small"])
def test_added_coordinates_are_two_more_channels_that_are_not_scaled(name: str) -> None:
    config = Vision(encoder=name, add_spatial_coordinates=True)
    encoder = picture_encoder((16, 20, 3), config, generator())
    first = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 5
    seen: list[torch.Tensor] = []
    encoder.convolve = lambda x_BCHW: seen.append(x_BCHW) or x_BCHW
    pixels = pictures(2, 16, 20, 3)
    encoder.map(pixels)
    assert torch.equal(seen[0][1, 3:], coordinates(16, 20))
    assert torch.equal(seen[0][:, :3], encoder.scale(pixels.movedim(-1, 1).float()))
