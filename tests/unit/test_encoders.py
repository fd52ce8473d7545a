"""Observation encoders: cameras, frames, goals and states joined, refusals, and encoders as parts of packs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from understudy.errors import SpecError
from understudy.observations import ObservationShape
from understudy.randomness import torch_generator
from understudy.registry import encoders
from understudy.spec.keys import build_run
from understudy.spec.parts import Vision
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.pooling import POOLINGS

Tensors = dict[str, torch.Tensor]


def generator(*key: int) -> torch.Generator:
    return torch_generator(0, "test encoders", *key)


def make(shape: ObservationShape, encoder: str | None = "impala_small", **settings: Any) -> ObservationEncoder:
    return ObservationEncoder(shape, Vision(encoder=encoder, **settings), generator())


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(*shape))


def states(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(*shape))


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
    front, wrist = (network.encoder_of(item) for item in network.inputs)
    assert torch.equal(features, torch.cat((front(parts["front"]), wrist(parts["wrist"]), parts["state"]), dim=1))
    assert network.features == 2 * 512 + 4
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == network.map_shapes
    assert torch.equal(maps["front"], front.map(parts["front"]))


def test_tensors_are_named_for_their_camera() -> None:
    single = {name.partition(".")[0] for name in make((16, 16, 3)).state_dict()}
    several = make({"observation.front": (16, 16, 3), "half": (16, 16, 3), "features": (16, 16, 3)}).state_dict()
    shared = make({"a": (16, 16, 3), "b": (16, 16, 3)}, shared_camera_encoder=True).state_dict()
    assert single == {"pixels"}
    assert {name.partition(".")[0] for name in several} == {
        *("observation_front", "half_", "features_")  # half() is torch's
    }
    assert {name.partition(".")[0] for name in shared} == {"shared"}
    assert "pixels.layer1.0.conv1.weight" in make((16, 16, 3), "resnet10").state_dict()


def test_a_shared_camera_encoder_sees_every_camera() -> None:
    network = make({"a": (16, 16, 3), "b": (16, 16, 3)}, shared_camera_encoder=True)
    parts = {"a": pictures(2, 16, 16, 3), "b": pictures(2, 16, 16, 3).flip(1)}
    shared = network.get_submodule("shared")
    assert torch.equal(network(parts), torch.cat((shared(parts["a"]), shared(parts["b"])), dim=1))


def test_a_sequence_of_frames_goes_frame_by_frame_through_one_encoder() -> None:
    network = make({"front": (3, 16, 16, 3), "state": (3, 4)}, history="sequence")
    parts = {"front": pictures(2, 3, 16, 16, 3), "state": states(2, 3, 4)}
    features, maps = network.maps(parts)
    front = network.encoder_of(network.inputs[0])
    frames = [front(parts["front"][:, index]) for index in range(3)]
    torch.testing.assert_close(features, torch.cat((*frames, parts["state"].flatten(1)), dim=1))
    torch.testing.assert_close(maps["front"], front.map(parts["front"][:, -1]))
    assert network.features == 3 * 512 + 12
    alone = make((3, 16, 16, 3), history="sequence")
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
    network = make({"front": (2, 16, 16, 3), "goal/front": (16, 16, 3)}, history="sequence")
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
        (
            (8, 8, 3),
            {"encoder": None},
            r"shape \(8, 8, 3\) and encoder is None: pictures need encoder=impala, or one of impala_large,",
        ),
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
    with pytest.raises(SpecError, match=f"encoder='{name}': no such choice .did you mean '{nearest}'"):
        build_run({"encoder": name})


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
    assert with_encoder.flat().keys() - build_run({}).flat().keys() == set(Vision.model_fields) - {"encoder"}


def test_an_unknown_pooling_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'spatial_softmax'"):
        build_run({"encoder": "impala", "pooling": "spatial-softmax"})


# ---- as a part of packs ----


@pytest.mark.parametrize("name", encoders.names())
def test_weights_are_of_the_seed_alone(name: str) -> None:
    config = Vision(encoder=name)
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
        *[(name, None) for name in encoders.names() if name != "impala_large"],
        *[("resnet10", pooling) for pooling in POOLINGS if pooling != "avg"],
    ],
)
def test_an_encoder_and_its_gradients_stack_under_vmap(name: str, pooling: Any) -> None:
    shape, config = {"front": (16, 16, 3), "goal/front": (16, 16, 3)}, Vision(encoder=name, pooling=pooling)
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
