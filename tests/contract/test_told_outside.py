"""Policies that are told task texts where others run them: MLflow's pyfunc, `understudy serve`, exported files.

The encoders are those that users have: a folder in Model2Vec's layout, and wordllama.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.task_texts import LEFT, RIGHT, write
from tests.unit.command_line import understudy as command_line
from tests.unit.served import SETTINGS, TOKEN, flow_policy, listening
from tests.unit.test_text_encoders import NEEDS_TOKENIZERS, NEEDS_WORDLLAMA, folder

import understudy
from understudy import models, tracking
from understudy.errors import UserError
from understudy.exporting.export import export_policy
from understudy.policy import Policy

PLACE = np.zeros((2, 1), np.float32)
SAYS_WHAT_IS_MISSING = "goes by its task's text and the request tells none: give `language`"
pytestmark = NEEDS_TOKENIZERS


@pytest.fixture(scope="module", params=["folder", pytest.param("wordllama", marks=NEEDS_WORDLLAMA)])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Return a policy that goes to the side that its text names."""
    base = tmp_path_factory.mktemp(request.param)
    encoder = str(folder(base / "encoder")) if request.param == "folder" else "wordllama"
    data = write(base / "data", env="tests.contract.task_texts:Sides")
    small = {"hidden_dims": [32], "batch_size": 32, "lr": 3e-3, "training_steps": 300, "eval_episodes": 4}
    here = {"launcher": "inline", "tracking_uri": "none", "device": "cpu", "quiet": True, "save_dir": str(base)}
    run = understudy.train(
        env_name="sides", data_dir=str(data), language_encoder=encoder, seeds=[0, 1], **small, **here
    )
    return run.policy()


def sides(actions: Any) -> list[float]:
    return np.sign(np.asarray(actions)[:, 0, 0]).tolist()


# ---- MLflow's pyfunc ----


def logged(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a policy as MLflow gives it back, a store's registered model."""
    import mlflow

    store = tracking.default_tracking_uri(tmp_path)
    tracking.prepare(store)
    run_id = tracking.start_run(store, "told", "told").run_id
    models.register(run_id, policy.save(tmp_path / "policy"), "told", tracking_uri=store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return mlflow.pyfunc.load_model("models:/told@best")


def test_pyfunc_takes_a_text_for_each_observation(policy: Policy, tmp_path: Path, monkeypatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.proto_json_utils import parse_tf_serving_input

    loaded = logged(policy, tmp_path, monkeypatch)
    assert "'language': Tensor('str', (-1,))" in str(loaded.metadata.signature)
    told = {"state": PLACE, "language": np.array([LEFT, RIGHT])}
    assert sides(loaded.predict(told)) == [-1, 1]
    np.testing.assert_array_equal(loaded.predict(told, {"member": 1}), policy.act(told, member=1))
    # As `mlflow models serve` reads a request.
    sent = {"inputs": {"state": PLACE.tolist(), "language": [RIGHT, LEFT]}}
    read = parse_tf_serving_input(json.loads(json.dumps(sent)), loaded.metadata.get_input_schema())
    assert sides(loaded.predict(read)) == [1, -1]
    with pytest.raises(MlflowException, match=r"Model is missing inputs \['language'\]"):
        loaded.predict({"state": PLACE})
    encoder = policy.algorithm.config.language.language_encoder
    needed = {line.partition("==")[0] for line in models.requirements(encoder)}
    assert needed - {line.partition("==")[0] for line in models.requirements()} == (
        {"tokenizers", "wordllama"} if encoder == "wordllama" else {"tokenizers"}
    )


def test_pyfunc_of_a_policy_with_a_set_text_takes_observations_alone(
    policy: Policy, tmp_path: Path, monkeypatch
) -> None:
    loaded = logged(policy.with_config(eval_language=RIGHT), tmp_path, monkeypatch)
    assert "language" not in str(loaded.metadata.signature.inputs)
    assert sides(loaded.predict(PLACE)) == [1, 1]


# ---- exported files ----


@pytest.mark.parametrize("format_", ["exported", "torchscript", "onnx"])
def test_an_exported_file_takes_the_vectors_that_its_json_holds(policy: Policy, tmp_path: Path, format_: str) -> None:
    pytest.importorskip("onnxruntime")
    said = export_policy(policy, tmp_path / "file", format_, texts=[LEFT, RIGHT])
    vectors = said["language"]["vectors"]
    assert list(vectors) == [LEFT, RIGHT]
    actions = run_file(tmp_path / "file", {"state": PLACE, "language": np.array([*vectors.values()], np.float32)})
    assert sides(actions) == [-1, 1]
    np.testing.assert_allclose(actions, policy.act({"state": PLACE, "language": [LEFT, RIGHT]}), atol=1e-5)


@pytest.mark.parametrize("format_", ["exported", "torchscript", "onnx"])
def test_a_set_text_is_inside_the_file(policy: Policy, tmp_path: Path, format_: str) -> None:
    pytest.importorskip("onnxruntime")
    said = export_policy(policy.with_config(eval_language=RIGHT), tmp_path / "file", format_)
    assert [port["name"] for port in said["inputs"]] == ["state"]
    assert said["language"]["inside"] == RIGHT
    assert sides(run_file(tmp_path / "file", {"state": PLACE})) == [1, 1]
    with pytest.raises(UserError, match=r"--text 'go': eval_language='go to the right' is inside, and no text goes in"):
        export_policy(policy.with_config(eval_language=RIGHT), tmp_path / "file", format_, texts=["go"])


def run_file(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Run an exported file by what its JSON says of it, without understudy."""
    import onnxruntime
    import torch

    about = json.loads((folder / "export.json").read_text())
    path = str(folder / about["file"])
    given = [inputs[port["name"]] for port in about["inputs"]]
    if about["format"] == "onnx":
        return onnxruntime.InferenceSession(path).run(None, inputs)[0]
    module = torch.jit.load(path) if about["format"] == "torchscript" else torch.export.load(path).module()
    return module(*map(torch.as_tensor, given)).detach().numpy()


# ---- a server ----


def asked(port: int, message: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request, an error's too."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/act", json.dumps(message).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def test_a_server_goes_by_the_text_of_each_request(policy: Policy) -> None:
    with listening(policy, replace(SETTINGS, temperature=0.0)) as port:

        def side(**message: Any) -> float:
            return float(np.sign(asked(port, message)["actions"][0][0]))

        assert side(observation=[0.0], language=RIGHT) == 1
        assert side(observation={"state": [0.0], "prompt": LEFT}) == -1
        assert side(state=[0.0], prompt=LEFT) == -1
        # Within an episode another text holds from its request on, and one that says none keeps it.
        assert side(session="arm", reset=True, observation=[0.0], language=LEFT) == -1
        assert side(session="arm", observation=[0.0], language=RIGHT) == 1
        assert side(session="arm", observation=[0.0]) == 1
        assert SAYS_WHAT_IS_MISSING in asked(port, {"observation": [0.0]})["error"]
        assert SAYS_WHAT_IS_MISSING in asked(port, {"session": "arm", "reset": True, "observation": [0.0]})["error"]
        assert asked(port, {"observation": [0.0], "language": 5})["error"] == (
            "the task's text of a request is a text, not int"
        )
        assert asked(port, {"state": [0.0], "prompt": ["go"]})["error"] == (
            "the task's text of a request is a text, not list"
        )
    with listening(policy.with_config(eval_language=RIGHT), replace(SETTINGS, temperature=0.0)) as port:
        assert side(observation=[0.0]) == 1


# ---- the command line ----


def test_the_rates_of_each_text_are_listed_and_its_vectors_exported(tmp_path: Path, monkeypatch, capsys) -> None:
    data = write(tmp_path / "data", env="tests.contract.task_texts:Sides")
    encoder = str(folder(tmp_path / "encoder"))
    small = {"hidden_dims": [8], "batch_size": 8, "training_steps": 4, "eval_episodes": 4, "eval_max_steps": 4}
    here = {"launcher": "inline", "tracking_uri": "none", "device": "cpu", "quiet": True, "save_dir": str(tmp_path)}
    run = understudy.train(
        env_name="sides", data_dir=str(data), language_encoder=encoder, seeds=[0, 1], **small, **here
    )
    said = command_line(monkeypatch, capsys, "runs", "episodes", str(run.path))
    assert said.code == 0, said.err
    rows = [line.split() for line in said.out.splitlines() if "go to the" in line]
    assert [row[row.index("success") - 2 : row.index("success")] for row in rows] == [["2", "2"], ["2", "2"]]
    words = ("models", "export", str(run.path), str(tmp_path / "file"), "--text", LEFT)
    said = command_line(monkeypatch, capsys, *words)
    assert said.code == 0, said.err
    about = json.loads((tmp_path / "file/export.json").read_text())["language"]
    np.testing.assert_allclose(about["vectors"][LEFT], run.policy().embed(LEFT), atol=1e-6)
    assert about["table"] == run.policy().algorithm.config.language.language_table


def test_texts_are_refused_for_a_policy_that_is_told_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--text 'go': this policy of flow_bc is told no task texts"):
        export_policy(flow_policy(), tmp_path / "file", texts=["go"])
