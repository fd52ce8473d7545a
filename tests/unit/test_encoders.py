"""Picture encoders and what joins them: sizes, published arithmetic, fusion of cameras, frames, goals and states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from understudy.algorithm import AlgorithmConfig
from understudy.errors import SpecError, UnknownName
from understudy.observations import ObservationShape
from understudy.randomness import torch_generator
from understudy.spec import build_run
from understudy.trainables.encoders import ENCODERS, ObservationEncoder
from understudy.trainables.impala import IMPALAS, ImpalaEncoder, ResidualStack
from understudy.trainables.pooling import POOLINGS, coordinates
from understudy.trainables.resnet import RESNETS, FrozenBatchNorm, ResNet

Tensors = dict[str, torch.Tensor]


def generator(*key: int) -> torch.Generator:
    return torch_generator(0, "test encoders", *key)


def make(shape: ObservationShape, encoder: str | None = "impala_small", **settings: Any) -> ObservationEncoder:
    return ObservationEncoder(shape, AlgorithmConfig(encoder=encoder, **settings), generator())


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(*shape))


def states(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(*shape))


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
    x = states(2, *shape)
    array = x.numpy().astype(np.float64)
    layers = {name: kind(shape, generator()) for name, kind in POOLINGS.items()}
    weights = np.exp(array) / np.exp(array).sum((2, 3), keepdims=True)
    rows, columns = np.linspace(-1, 1, 4)[:, None], np.linspace(-1, 1, 5)
    places = [(weights * columns).sum((2, 3)), (weights * rows).sum((2, 3))]
    kernel = layers["spatial_learned_embeddings"].kernel.detach().numpy()
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


@pytest.mark.parametrize("encoder", ["impala_small", "resnetv1-18-bridge", "resnet10"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_encoder_takes_every_pooling(encoder: str, pooling: Any) -> None:
    network = make((33, 40, 3), encoder, pooling=pooling)
    features, maps = network.maps(pictures(2, 33, 40, 3))
    channels, height, width = network.map_shapes["pixels"]
    assert maps["pixels"].shape == (2, channels, height, width)
    sizes = {"none": channels * height * width, "spatial_softmax": 2 * channels}
    pooled = {**sizes, "spatial_learned_embeddings": 8 * channels}.get(pooling, channels)
    assert features.shape == (2, network.features) == (2, 512 if "impala" in encoder else pooled)


def test_coordinates_are_rows_and_columns_from_minus_one_to_one() -> None:
    grid = coordinates(3, 5)
    assert grid[0].tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert grid[1].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3
    assert coordinates(1, 1).tolist() == [[[0.0]], [[0.0]]]


def test_added_coordinates_are_two_more_channels_that_are_not_scaled() -> None:
    network = make((16, 20, 3), "resnet10", add_spatial_coordinates=True)
    seen: list[torch.Tensor] = []
    encoder = network.encoder_of(network.inputs[0])
    encoder.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    bridge = make((16, 20, 3), "resnetv1-18-bridge", add_spatial_coordinates=True)
    inner = bridge.encoder_of(bridge.inputs[0])
    inner.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert encoder.conv1.weight.shape[1] == inner.conv1.weight.shape[1] == 5
    bridge(pictures(2, 16, 20, 3))
    assert torch.equal(seen[-1][1, 3:], coordinates(16, 20))
    assert seen[-1][:, :3].abs().max() <= 1


# ---- cameras, frames, goals and states ----


def test_states_pass_as_they_are() -> None:
    one, many = make((5,), None), make({"goal/state": (2,), "state": (2, 3)}, None)
    assert torch.equal(one(states(4, 5)), states(4, 5))
    parts = {"goal/state": states(4, 2), "state": states(4, 2, 3)}
    assert torch.equal(many(parts), torch.cat((parts["state"].flatten(1), parts["goal/state"]), dim=1))
    assert many.features == 8
    assert not list(many.parameters())


def test_features_are_the_cameras_by_name_and_then_the_state_whatever_the_order_of_the_parts() -> None:
    shape = {"wrist": (16, 16, 3), "state": (4,), "front": (24, 16, 1)}
    network, other = make(shape), make(dict(sorted(shape.items())))
    parts = {"wrist": pictures(2, 16, 16, 3), "state": states(2, 4), "front": pictures(2, 24, 16, 1)}
    features, maps = network.maps(parts)
    assert torch.equal(features, other(parts))
    front, wrist = (network.get_submodule(name) for name in ("front", "wrist"))
    assert torch.equal(features, torch.cat((front(parts["front"]), wrist(parts["wrist"]), parts["state"]), dim=1))
    assert network.features == 2 * 512 + 4
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == network.map_shapes
    assert torch.equal(maps["front"], front.map(parts["front"]))


def test_tensors_are_named_for_their_camera() -> None:
    single = {name.partition(".")[0] for name in make((16, 16, 3)).state_dict()}
    several = make({"observation.front": (16, 16, 3), "half": (16, 16, 3)}).state_dict()
    shared = make({"a": (16, 16, 3), "b": (16, 16, 3)}, shared_camera_encoder=True).state_dict()
    assert single == {"pixels"}
    assert {name.partition(".")[0] for name in several} == {"observation_front", "half_"}  # half() is torch's
    assert {name.partition(".")[0] for name in shared} == {"shared"}
    assert "pixels.layer1.0.conv1.weight" in make((16, 16, 3), "resnet10").state_dict()


def test_a_shared_camera_encoder_sees_every_camera() -> None:
    network = make({"a": (16, 16, 3), "b": (16, 16, 3)}, shared_camera_encoder=True)
    parts = {"a": pictures(2, 16, 16, 3), "b": pictures(2, 16, 16, 3).flip(1)}
    shared = network.get_submodule("shared")
    assert torch.equal(network(parts), torch.cat((shared(parts["a"]), shared(parts["b"])), dim=1))


def test_a_sequence_of_frames_goes_frame_by_frame_through_one_encoder() -> None:
    network = make({"front": (3, 16, 16, 3), "state": (3, 4)})
    parts = {"front": pictures(2, 3, 16, 16, 3), "state": states(2, 3, 4)}
    features, maps = network.maps(parts)
    front = network.get_submodule("front")
    frames = [front(parts["front"][:, index]) for index in range(3)]
    torch.testing.assert_close(features, torch.cat((*frames, parts["state"].flatten(1)), dim=1))
    torch.testing.assert_close(maps["front"], front.map(parts["front"][:, -1]))
    assert network.features == 3 * 512 + 12
    alone = make((3, 16, 16, 3))
    assert alone(parts["front"]).shape == (2, alone.features) == (2, 3 * 512)


@pytest.mark.parametrize(("shared", "channels"), [(True, 12), (False, 9)])
def test_early_fusion_joins_the_goal_on_the_channels(shared: bool, channels: int) -> None:
    network = make({"front": (16, 16, 6), "goal/front": (16, 16, 3)}, shared_goal_encoder=shared)
    parts = {"front": pictures(2, 16, 16, 6), "goal/front": pictures(2, 16, 16, 3)}
    front = network.get_submodule("front")
    joined = torch.cat((parts["front"], *[parts["goal/front"]] * (2 if shared else 1)), dim=-1)
    assert joined.shape[-1] == front.channels == channels
    assert torch.equal(network(parts), front(joined))
    assert list(network.maps(parts)[1]) == ["front"]


def test_early_fusion_puts_the_goal_beside_every_frame_of_a_sequence() -> None:
    network = make({"front": (2, 16, 16, 3), "goal/front": (16, 16, 3)})
    parts = {"front": pictures(4, 2, 16, 16, 3), "goal/front": pictures(4, 16, 16, 3)}
    front = network.get_submodule("front")
    frames = [front(torch.cat((parts["front"][:, index], parts["goal/front"]), dim=-1)) for index in range(2)]
    torch.testing.assert_close(network(parts), torch.cat(frames, dim=1))


def test_late_fusion_encodes_goals_apart_by_the_same_encoder_or_by_another() -> None:
    shape = {"front": (16, 16, 6), "goal/front": (16, 16, 3), "goal/state": (2,), "state": (4,)}
    parts = {
        **{"front": pictures(2, 16, 16, 6), "goal/front": pictures(2, 16, 16, 3)},
        **{"goal/state": states(2, 2), "state": states(2, 4)},
    }
    one = make(shape, goal_fusion="late")
    front, goal = one.get_submodule("front"), torch.cat([parts["goal/front"]] * 2, dim=-1)
    both = (front(parts["front"]), front(goal), parts["state"], parts["goal/state"])
    assert torch.equal(one(parts), torch.cat(both, dim=1))
    two = make(shape, goal_fusion="late", shared_goal_encoder=False)
    apart = (two.get_submodule("front")(parts["front"]), two.get_submodule("goal_front")(parts["goal/front"]))
    assert torch.equal(two(parts)[:, :1024], torch.cat(apart, dim=1))
    assert list(two.maps(parts)[1]) == ["front"]
    assert one.features == two.features == 1024 + 6


def test_a_goal_of_another_size_has_an_encoder_of_its_own() -> None:
    shape = {"front": (16, 16, 3), "goal/front": (24, 24, 3)}
    network = make(shape, goal_fusion="late", shared_goal_encoder=False)
    parts = {"front": pictures(2, 16, 16, 3), "goal/front": pictures(2, 24, 24, 3)}
    assert network(parts).shape == (2, 1024)


# ---- refusals ----

FRONT = {"front": (16, 16, 3)}


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((17,), {}, r"observations have shape \(17,\) and encoder is impala_small: encoder= is for pixels"),
        ((8, 8, 3), {"encoder": None}, r"shape \(8, 8, 3\) and encoder is None: pictures need encoder=impala_small"),
        ({**FRONT, "state": (2,)}, {"encoder": None}, "front .16, 16, 3., state .2,. and encoder is None"),
        (
            {**FRONT, "goal/front": (24, 24, 3)},
            {},
            r"goal of camera front has shape \(24, 24, 3\).*goal_fusion=late and",
        ),
        ({**FRONT, "goal/front": (24, 24, 3)}, {"goal_fusion": "late"}, "sizes need shared_goal_encoder=false"),
        ({"front": (16, 16, 4), "goal/front": (16, 16, 3)}, {}, "goal of camera front has shape"),
        ({**FRONT, "goal/wrist": (16, 16, 3)}, {}, "goal/wrist and no camera wrist: only goal_fusion=late"),
        ({**FRONT, "wrist": (24, 24, 3)}, {"shared_camera_encoder": True}, r"one encoder cannot take .*\(wrist\)"),
    ],
)
def test_observations_that_do_not_fit_are_refused_in_one_line(shape: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        make(shape, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("impala_smal", "impala_small"), ("resnetv1_34_bridge", "resnetv1-34-bridge"), ("resnet-18", "resnet18")],
)
def test_an_unknown_encoder_names_the_closest_one(name: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown encoder '{name}' .did you mean '{nearest}'"):
        make((64, 64, 3), name)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "max"},
        {"add_spatial_coordinates": True},
        {"goal_fusion": "late"},
        {"shared_goal_encoder": False},
        {"shared_camera_encoder": True},
        {"encoder_weights": "/weights.pt"},
    ],
)
def test_a_setting_of_pictures_needs_an_encoder_and_is_part_of_the_fingerprint(settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"{next(iter(settings))}=.* is for pictures, which need encoder="):
        build_run(settings)
    with_encoder = build_run({"encoder": "impala", **settings})
    assert with_encoder.fingerprint() != build_run({"encoder": "impala"}).fingerprint()
    assert build_run(with_encoder.flat()) == with_encoder
    assert with_encoder.flat().keys() - build_run({}).flat().keys() == {
        *("pooling", "add_spatial_coordinates", "goal_fusion", "shared_goal_encoder", "shared_camera_encoder"),
        "encoder_weights",
    }


def test_an_unknown_pooling_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'spatial_softmax'"):
        build_run({"encoder": "impala", "pooling": "spatial-softmax"})


# ---- as a part of packs ----


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_are_of_the_seed_alone(name: str) -> None:
    config = AlgorithmConfig(encoder=name)
    before = torch.get_rng_state()
    one, two, other = (
        ObservationEncoder((16, 16, 3), config, torch_generator(seed, "weights")).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one[next(iter(one))], other[next(iter(other))])


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        *[(name, None) for name in ENCODERS if name != "impala_large"],
        *[("resnet10", pooling) for pooling in POOLINGS if pooling != "avg"],
    ],
)
def test_an_encoder_and_its_gradients_stack_under_vmap(name: str, pooling: Any) -> None:
    shape, config = {"front": (16, 16, 3), "goal/front": (16, 16, 3)}, AlgorithmConfig(encoder=name, pooling=pooling)
    members = [ObservationEncoder(shape, config, torch_generator(seed, "weights")) for seed in range(2)]
    parts = {"front": pictures(2, 2, 16, 16, 3), "goal/front": pictures(2, 2, 16, 16, 3).flip(-2)}
    parameters, buffers = torch.func.stack_module_state([*members])

    def loss(parameters: Tensors, buffers: Tensors, parts: Tensors) -> torch.Tensor:
        return torch.func.functional_call(members[0], (parameters, buffers), (parts,)).square().mean()

    measured = torch.func.vmap(torch.func.grad(loss))(parameters, buffers, parts)
    for index, member in enumerate(members):
        own = member({key: value[index] for key, value in parts.items()}).square().mean()
        for value, expected in zip(measured.values(), torch.autograd.grad(own, list(member.parameters())), strict=True):
            assert (value[index] - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-7
