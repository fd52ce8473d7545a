"""Policies as files of other formats: the same actions, shapes that are stated, and no pickle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.algorithm import Algorithm
from understudy.errors import UserError
from understudy.exporting.export import DOCUMENT, export_policy
from understudy.exporting.formats import FORMATS
from understudy.exporting.function import PolicyFunction
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import algorithms

SMALL: dict[str, Any] = {"hidden_dims": (32, 32)}
CHUNKED: dict[str, Any] = {"action_chunking": True, "horizon_length": 4}
ACT: dict[str, Any] = {
    **{"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 4, "n_encoder_layers": 1},
    **{"n_vae_encoder_layers": 1, "horizon_length": 4},
}
CAMERA: dict[str, Any] = {"state": (3,), "front": (32, 32, 3)}
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "bc": ("bc", (5,), SMALL),
    "flow_bc": ("flow_bc", (5,), {**SMALL, **CHUNKED, "flow_steps": 3}),
    "ddpm_bc": ("ddpm_bc", (5,), {**SMALL, **CHUNKED, "diffusion_steps": 4, "beta_schedule": "vp"}),
    "act": ("act", (5,), ACT),
    "impala": ("bc", CAMERA, {**SMALL, "encoder": "impala_small", "add_spatial_coordinates": True}),
    "resnet": ("bc", CAMERA, {**SMALL, "encoder": "resnet18"}),
}
SLOW = {"act", "ddpm_bc", "resnet"}


def policy_of(case: str, **more: Any) -> Policy:
    """Return an untrained policy whose observations and actions are scaled."""
    name, shape, settings = CASES[case]
    kind: type[Algorithm] = algorithms.get(name)
    algorithm = kind(shape, 2, kind.Config(**settings, **more))
    states = numpy_generator(0, "states").normal(3, 2, (50, shape["state"][0] if isinstance(shape, dict) else shape[0]))
    state = Normaliser.fit(states.astype(np.float32), "zscore")
    normaliser = Normaliser.of_parts({"state": state}) if isinstance(shape, dict) else state
    actions = numpy_generator(0, "actions").normal(0.2, 0.4, (50, 2)).astype(np.float32)
    network = algorithm.network(torch_generator(0, "export"))
    return Policy(algorithm, [network.state_dict()], normaliser.with_actions(Normaliser.fit(actions, "bounds")))


def observations(policy: Policy, rows: int) -> Any:
    """Return raw observations of a policy."""
    inputs = PolicyFunction(policy, temperature=0).inputs
    parts = {port.name: port.sample(rows, 9).numpy() for port in inputs}
    return parts if isinstance(policy.algorithm.observation_shape, dict) else parts["state"]


@pytest.mark.parametrize("case", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_onnxruntime_gives_the_actions_of_the_policy_itself(case: str, tmp_path: Path) -> None:
    for module in FORMATS["onnx"].needs:
        pytest.importorskip(module)
    policy = policy_of(case)
    document = export_policy(policy, tmp_path / "x", "onnx", temperature=0)
    run = FORMATS["onnx"].read(tmp_path / "x" / document["file"], [port["name"] for port in document["inputs"]])
    for rows in (1, 7):
        given = observations(policy, rows)
        tensors = [torch.from_numpy(part) for part in (given.values() if isinstance(given, dict) else [given])]
        np.testing.assert_allclose(run(tensors), policy.act(given, temperature=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["exported", "torchscript"])
@pytest.mark.parametrize("case", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_torchs_own_formats_give_the_actions_of_the_policy_itself(case: str, kind: str, tmp_path: Path) -> None:
    policy = policy_of(case)
    document = export_policy(policy, tmp_path / "x", kind, temperature=0)
    run = FORMATS[kind].read(tmp_path / "x" / document["file"], [])
    for rows in (1, 7):
        given = observations(policy, rows)
        tensors = [torch.from_numpy(part) for part in (given.values() if isinstance(given, dict) else [given])]
        np.testing.assert_allclose(run(tensors), policy.act(given, temperature=0), atol=1e-5, rtol=1e-5)


def test_noise_is_an_input_above_temperature_zero_and_is_scaled_inside(tmp_path: Path) -> None:
    policy = policy_of("flow_bc")
    document = export_policy(policy, tmp_path / "x", temperature=0.5)
    assert [port["name"] for port in document["inputs"]] == ["state", "noise"]
    assert document["inputs"][1]["shape"] == ["batch", 4, 2]
    noise = numpy_generator(0, "noise").standard_normal((3, 4, 2), np.float32)
    given = observations(policy, 3)
    run = FORMATS["exported"].read(tmp_path / "x" / "policy.pt2", [])
    own = policy.act_members(given[None], 0.5 * noise[None])[0]
    np.testing.assert_allclose(run([torch.from_numpy(given), torch.from_numpy(noise)]), own, atol=1e-5, rtol=1e-5)


def test_the_json_beside_the_file_states_shapes_types_and_how_chunks_are_executed(tmp_path: Path) -> None:
    export_policy(policy_of("flow_bc", n_action_steps=2), tmp_path / "x", source="models:/reach@best")
    document = json.loads((tmp_path / "x" / DOCUMENT).read_text())
    assert document["inputs"] == [{"name": "state", "dtype": "float32", "shape": ["batch", 5]}]
    assert document["outputs"] == [{"name": "actions", "dtype": "float32", "shape": ["batch", 4, 2]}]
    assert document["chunk"] == {"length": 4, "executed": 2, "temporal_ensemble_coeff": None}
    assert document["policy"]["source"] == "models:/reach@best"
    assert document["policy"]["settings"]["flow_steps"] == 3


def test_an_exported_program_holds_no_pickle(tmp_path: Path) -> None:
    export_policy(policy_of("bc"), tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x" / "policy.pt2") as archive:
        contents = {item.filename: archive.read(item) for item in archive.infolist()}
    assert any("weight" in name for name in contents)
    for name, content in contents.items():
        assert not name.endswith(".pkl")
        assert not content.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")), name


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than an exported policy"):
        export_policy(policy_of("bc"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_unknown_format_names_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        export_policy(policy_of("bc"), tmp_path / "x", "onx")
    assert not (tmp_path / "x").exists()
