"""Encoder weights move by name between files, cameras and algorithms, and the report says what moved."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from understudy import checkpoints
from understudy.algorithm import Algorithm
from understudy.errors import CheckpointError, SpecError
from understudy.normaliser import Normaliser
from understudy.observations import ObservationShape
from understudy.policy import Policy
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.spec.parts import Vision
from understudy.trainables.networks.encoders.resnet import RESNETS, ResNet
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.transfer import load_encoder, read_weights

PICTURE = (32, 32, 3)


def algorithm(name: str, shape: ObservationShape, encoder: str = "resnet10", **settings: Any) -> Algorithm:
    kind = algorithms.get(name)
    return kind(shape, 2, kind.Config(hidden_dims=(8, 8), encoder=encoder, **settings))


def network(name: str, shape: ObservationShape, encoder: str = "resnet10", seed: int = 0, **settings: Any) -> nn.Module:
    return algorithm(name, shape, encoder, **settings).network(torch_generator(seed, "test transfer"))


def torchvision_weights(name: str = "resnet18") -> dict[str, torch.Tensor]:
    """Return tensors named and shaped as torchvision saves a ResNet, with the last layer and the counters."""
    tensors = ResNet(PICTURE, RESNETS[name], torch_generator(9, "test transfer")).state_dict()
    for index, (key, value) in enumerate(tensors.items()):
        if "conv" not in key and "downsample.0" not in key:
            value += 0.2 * torch.rand(value.shape, generator=torch_generator(index, "test transfer"))
    counters = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(1) for key in tensors if "running_var" in key
    }
    return {**tensors, **counters, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}


@pytest.mark.parametrize("nest", [None, "state_dict", "safetensors"])
def test_torchvisions_resnet18_fills_every_tensor_of_every_camera(tmp_path: Path, nest: str | None) -> None:
    weights = torchvision_weights()
    path = tmp_path / f"resnet18.{'safetensors' if nest == 'safetensors' else 'pth'}"
    if nest == "safetensors":
        save_file(weights, path)
    else:
        torch.save({nest: weights} if nest else weights, path)
    target = network("bc", {"front": PICTURE, "wrist": PICTURE, "state": (3,)}, "resnet18")
    report = load_encoder(target, read_weights(path))
    tensors = target.state_dict()
    assert sorted(report.loaded) == sorted(name for name in tensors if name.startswith("encoder."))
    assert len(report.loaded) == 2 * 100  # 20 convolutions, and 20 norms of four tensors
    assert not report.skipped
    assert set(report.unused) == {name for name in weights if "fc" in name or "num_batches" in name}
    for camera in ("front", "wrist"):
        for name in ("conv1.weight", "bn1.running_var", "layer4.1.bn2.bias"):
            assert torch.equal(tensors[f"encoder.{camera}.{name}"], weights[name])


def test_a_tensor_of_another_shape_is_skipped_by_name_and_the_rest_is_loaded() -> None:
    target = network("bc", {"front": (32, 32, 6)}, "resnet18")
    before = target.get_parameter("encoder.front.conv1.weight").clone()
    report = load_encoder(target, torchvision_weights())
    assert report.skipped == {"encoder.front.conv1.weight": "shape (64, 3, 7, 7) in the file, (64, 6, 7, 7) here"}
    assert torch.equal(target.get_parameter("encoder.front.conv1.weight"), before)
    assert len(report.loaded) == 99
    assert report.line().startswith(
        "99 encoder tensors loaded, 1 kept as drawn (encoder.front.conv1.weight: shape (64, 3, 7, 7) in the file"
    )
    assert json.loads(json.dumps(report.to_dict()))["skipped"] == report.skipped


def test_a_file_under_a_prefix_fills_only_what_has_its_names_and_shapes() -> None:
    weights = {f"module.{name}": value for name, value in torchvision_weights("resnet18").items()}
    target = network("bc", PICTURE, "resnetv1-50-bridge")
    report = load_encoder(target, weights)
    assert report.loaded
    for name in report.loaded:
        assert torch.equal(target.state_dict()[name], weights[f"module.{name.removeprefix('encoder.pixels.')}"])


def test_a_batch_norms_numbers_do_not_become_a_group_norms() -> None:
    target = network("bc", PICTURE, "resnetv1-18-bridge")
    report = load_encoder(target, torchvision_weights())
    assert len(report.loaded) == 20
    assert set(report.skipped.values()) == {"of another kind of normalisation"}
    assert torch.equal(target.state_dict()["encoder.pixels.bn1.weight"], torch.ones(64))
    backwards = load_encoder(network("bc", PICTURE, "resnet18"), target.state_dict())
    assert backwards.skipped["encoder.pixels.bn1.weight"] == "of another kind of normalisation"


SHAPE = {"front": PICTURE, "state": (3,), "wrist": PICTURE}


@pytest.mark.parametrize("kind", ["checkpoint", "policy"])
@pytest.mark.parametrize("encoder", ["impala_small", "resnet10", "resnetv1-18-bridge"])
def test_an_encoder_moves_from_one_algorithm_to_another(tmp_path: Path, kind: str, encoder: str) -> None:
    source = algorithm("bc", SHAPE, encoder)
    weights = source.network(torch_generator(1, "test transfer")).state_dict()
    if kind == "policy":
        path = Policy(source, [weights], Normaliser.identity(SHAPE)).save(tmp_path / "policy")
    else:
        path = tmp_path / "final_model.pt"
        checkpoints.save(path, {"weights": weights, "step": 3})
    target = network("ddpm_bc", SHAPE, encoder, seed=2)
    head = target.get_parameter("last.weight").clone()
    report = load_encoder(target, read_weights(path))
    moved = {name for name in weights if name.startswith("encoder.")}
    assert set(report.loaded) == moved
    assert not report.skipped
    assert all(torch.equal(target.state_dict()[name], weights[name]) for name in moved)
    assert torch.equal(target.get_parameter("last.weight"), head)
    assert set(report.unused) == weights.keys() - moved


def test_a_run_directory_gives_the_encoder_of_its_first_seed(tmp_path: Path) -> None:
    source = algorithm("bc", SHAPE, "impala_small")
    weights = [source.network(torch_generator(seed, "test transfer")).state_dict() for seed in range(2)]
    document = {**Policy(source, weights, Normaliser.identity(SHAPE)).document(), "members": []}
    for seed, state in enumerate(weights):
        (tmp_path / "run" / f"sd00{seed}").mkdir(parents=True)
        known = {"policy": document, "weights": state, "seed": seed}
        checkpoints.save(tmp_path / "run" / f"sd00{seed}" / "final_model.pt", known)
    found = read_weights(tmp_path / "run")
    assert found.keys() == weights[0].keys()
    assert all(torch.equal(found[name], weights[0][name]) for name in found)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_loaded_tensors_are_trained_kept_in_checkpoints_and_part_of_the_policy(mode: Any) -> None:
    weights = torchvision_weights("resnet10")
    one, two = (Pack(algorithm("bc", PICTURE), [0, 1], mode=mode) for _ in range(2))
    for member in one.members:
        assert not load_encoder(member, weights).skipped
    for index in range(2):
        two.load_member_state(index, one.member_state(index))
    pixels = torch.randint(0, 256, (2, 4, *PICTURE), dtype=torch.uint8, generator=torch_generator(0, "test transfer"))
    batch = {"observations": pixels, "actions": torch.full((2, 4, 1, 2), 0.5), "valid": torch.ones(2, 4, 1)}
    two.update(batch, 1)
    for index in range(2):
        held = two.weights(index)
        assert torch.equal(held["encoder.pixels.bn1.running_mean"], weights["bn1.running_mean"])
        moved = (held["encoder.pixels.conv1.weight"] - weights["conv1.weight"]).abs().max()
        assert 0 < moved < 1e-3  # one step of Adam from the loaded weights
    policy = Policy(two.algorithm, [two.weights(k) for k in range(2)], Normaliser.identity(PICTURE))
    acts = two.act(pixels, torch.zeros(2, 4, *two.algorithm.noise_shape()))
    expected = policy.act_members(pixels, torch.zeros(2, 4, *two.algorithm.noise_shape()))
    torch.testing.assert_close(torch.as_tensor(acts), torch.as_tensor(expected), rtol=1e-3, atol=1e-4)


def loaded_from(target: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return, for each encoder of `target`, whose first weight in the file it has after loading."""
    load_encoder(target, weights)
    firsts = {name: value for name, value in target.state_dict().items() if name.endswith("stacks.0.first.weight")}
    return {
        name.split(".")[1]: next(other for other, given in weights.items() if torch.equal(given, value)).split(".")[-5]
        for name, value in firsts.items()
    }


def test_cameras_are_found_by_name_else_the_shared_one_else_the_only_one() -> None:
    def encoder_weights(prefix: str, shape: ObservationShape, **settings: Any) -> dict[str, torch.Tensor]:
        config = Vision(encoder="impala_small", **settings)
        tensors = ObservationEncoder(shape, config, torch_generator(3, "test transfer")).state_dict()
        return {prefix + name: value for name, value in tensors.items()}

    target = network("bc", SHAPE, "impala_small")
    both = encoder_weights("critic.encoder.", {"wrist": PICTURE, "front": PICTURE})
    assert loaded_from(target, both) == {"front": "front", "wrist": "wrist"}
    shared = encoder_weights("actor.", {"a": PICTURE, "b": PICTURE}, shared_camera_encoder=True)
    assert loaded_from(target, shared) == {"front": "shared", "wrist": "shared"}
    single = encoder_weights("encoder.", PICTURE)
    assert loaded_from(target, single) == {"front": "pixels", "wrist": "pixels"}

    others = encoder_weights("encoder.", {"front": PICTURE, "top": PICTURE})
    report = load_encoder(target, others)
    assert {name.split(".")[1] for name in report.loaded} == {"front"}
    reason = report.skipped["encoder.wrist.stacks.0.first.weight"]
    assert reason == "the file has several encoders (encoder.front., encoder.top.) and none for wrist"


def test_that_nothing_fits_is_an_error_that_says_why_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"no tensor of a\.pt fits the encoder \(encoder\.pixels\.conv1") as caught:
        load_encoder(network("bc", PICTURE), {"layers.0.weight": torch.ones(3, 3)}, "a.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match="no picture encoder"):
        load_encoder(nn.Linear(3, 3), torchvision_weights())


class Touch:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_file_that_cannot_be_read_is_refused_in_one_line_and_nothing_in_it_runs(tmp_path: Path) -> None:
    files = {"pickle.pt": pickle.dumps(Touch(tmp_path / "made"), 2), "noise.safetensors": b"abc", "noise.pt": b"abc"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    torch.save({"step": 3}, tmp_path / "empty.pt")
    for name in ("list.pt", "empty.pt"):
        with pytest.raises(SpecError, match="holds no named tensors"):
            read_weights(tmp_path / name)
    for missing, said in {"none.pt": "no such file or folder", ".": "has the run finished"}.items():
        with pytest.raises(SpecError, match=f"^encoder_weights=.*{said}"):
            read_weights(tmp_path / missing)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "final_model.pt", {"weights": torchvision_weights("resnet10")})
    with (tmp_path / "final_model.pt").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256"):
        read_weights(tmp_path / "final_model.pt")


def flax_weights(name: str) -> dict[str, torch.Tensor]:
    """Return a ResNetV1's tensors as flax names and lays them out, from those of a network of ours."""
    ours = ResNet(PICTURE, RESNETS[name], torch_generator(9, "test transfer")).state_dict()
    blocks = sorted({key.rpartition(".")[0][:8] for key in ours if key.startswith("layer")})
    found: dict[str, torch.Tensor] = {}
    for key, value in ours.items():
        drawn = torch.rand(value.shape, generator=torch_generator(len(found), "test transfer"))
        field = "kernel" if value.ndim == 4 else "scale" if key.endswith("weight") else "bias"
        if key.startswith("layer"):
            part = key[9:].rpartition(".")[0]
            named = {"downsample.0": "conv_proj", "downsample.1": "norm_proj"}
            number = int(part[-1]) - 1
            module = named.get(part) or (f"Conv_{number}" if part.startswith("conv") else f"MyGroupNorm_{number}")
            place = f"ResNetBlock_{blocks.index(key[:8])}/{module}"
        else:
            place = "conv_init" if key.startswith("conv1") else "norm_init"
        found[f"{place}/{field}"] = (drawn.permute(2, 3, 1, 0) if value.ndim == 4 else drawn).contiguous()
    return found


@pytest.mark.parametrize("name", ["resnetv1-10", "resnetv1-18-bridge"])
def test_a_resnet_of_flax_loads_whole_by_its_own_names(tmp_path: Path, name: str) -> None:
    weights = flax_weights(name)
    save_file(weights, tmp_path / "encoder.safetensors")
    target = network("bc", PICTURE, name)
    report = load_encoder(target, read_weights(tmp_path / "encoder.safetensors"))
    assert (report.skipped, report.unused) == ({}, [])
    assert len(report.loaded) == len(weights)
    held = {key.rpartition("pixels.")[2]: value for key, value in target.state_dict().items()}
    kernel = held["layer2.0.downsample.0.weight"]
    block = 1 if name == "resnetv1-10" else 2
    torch.testing.assert_close(kernel, weights[f"ResNetBlock_{block}/conv_proj/kernel"].permute(3, 2, 0, 1))
