"""A method outside of the repository: the page's file as it stands, its checks, its training, its saved policy."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.integration.breaking import only
from tests.integration.test_bad_input import refused

import understudy
from understudy.loading import load_policy
from understudy.registry import algorithms

ROOT = Path(__file__).resolve().parents[2]
FITTED = """
import torch
from torch import nn
from understudy.algorithm import Algorithm
from understudy.registry import algorithms


class Nearest(nn.Module):
    def __init__(self, centres, observation_dim):
        super().__init__()
        self.scores = nn.Linear(observation_dim, len(centres))
        self.register_buffer("centres", centres)


@algorithms.register("centres_bc")
class CentresBC(Algorithm):
    fits = ("centres",)

    def fit(self, data):
        return {"centres": data.actions()[:7].clone()}

    def network(self, generator):
        return Nearest(self.constants.get("centres", torch.zeros(7, self.action_dim)), self.observation_shape[0])

    def draw(self, batch_size, generator):
        return {}

    def loss(self, network, target, batch, draws):
        actions = network.scores(batch["observations"]).softmax(-1) @ network.centres
        return (actions - batch["actions"][:, 0]).square().mean(), {}

    def noise_shape(self):
        return ()

    def act(self, network, observations, noise):
        return (network.scores(observations).softmax(-1) @ network.centres).unsqueeze(1)
"""


@pytest.fixture
def methods(tmp_path, monkeypatch) -> Iterator[Path]:
    """Write the page's file, one with `fit` and one that breaks the rules; name them by their paths."""
    page = (ROOT / "docs/your-method.md").read_text()
    (code,) = re.findall(r"```python\n# my_method.py\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) < 50
    (tmp_path / "my_method.py").write_text(code)
    (tmp_path / "my_fitted.py").write_text(FITTED)
    counts = "self.n = getattr(self, 'n', 0) + 1\n        actions, wanted = self.n * network"
    broken = code.replace("huber_bc", "broken_bc").replace("actions, wanted = network", counts)
    (tmp_path / "my_broken.py").write_text(broken)
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", "my_method.py,my_fitted.py,my_broken.py")
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name, module in (("huber_bc", "my_method"), ("centres_bc", "my_fitted"), ("broken_bc", "my_broken")):
        sys.modules.pop(module, None)
        algorithms._items.pop(name, None)
        algorithms._origins.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Write a dataset; return its folder as a key."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    episodes = [{"observations": rng.normal(size=(21, 3)), "actions": rng.uniform(-1, 1, (20, 2))} for _ in range(6)]
    understudy.write_dataset("mine", episodes, data_dir=folder)
    return f"data_dir={folder}"


SMALL = ("env_name=mine", "training_steps=6", "log_interval=2", "batch_size=16", "tracking_uri=none", "save_dir=runs")


def test_a_loss_without_metrics_is_said_once(methods, say) -> None:
    code = (methods / "my_method.py").read_text()
    (methods / "my_broken.py").write_text(
        re.sub(r"return loss, .*", "return loss", code).replace("huber_bc", "broken_bc")
    )
    refused = say("check", "algo=broken_bc")
    assert refused.code == 1
    assert "the loss of actor must return (loss, dict of metrics)" in refused.out
    assert refused.out.count("FAILED") == 1


def test_the_pages_method_passes_the_checks_and_one_that_keeps_state_does_not(methods, done, say) -> None:
    said = done("check", "algo=huber_bc", "lr=0.003")
    assert said.count("ok ") == 8
    assert "huber_bc does what every algorithm must" in said
    broken = say("check", "algo=broken_bc")
    assert broken.code == 1
    assert "FAILED  a member of a pack equals its seed" in broken.out
    refused(say("check", "algo=huber_bd"), "did you mean 'huber_bc'")


def test_the_same_seed_gives_the_same_weights_with_torchs_own_layers(methods, done, data) -> None:
    weights = []
    for folder, seeds in (("one", "[3]"), ("two", "[2,3]")):
        torch.manual_seed(len(seeds))
        done("train", "algo=huber_bc", *SMALL, data, f"seeds={seeds}", f"save_dir={folder}")
        policy = load_policy(only(methods / folder))
        weights.append(policy.weights(len(policy) - 1))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_constants_of_the_whole_data_are_saved_with_the_weights(methods, done, data) -> None:
    done("train", "algo=centres_bc", *SMALL, data, "normalize_actions=zscore")
    policy = load_policy(only(methods / "runs"))
    store = understudy.load_dataset("mine", data.partition("=")[2])
    actions = store.column("actions")
    expected = (actions - actions.mean(axis=0)) / actions.std(axis=0)
    np.testing.assert_allclose(policy.weights(0)["centres"].numpy(), expected[:7], atol=1e-3)


def test_a_policy_says_which_module_its_method_is_of_where_that_is_not_loaded(
    methods, done, say, data, monkeypatch
) -> None:
    done("train", "algo=huber_bc", *SMALL, data)
    run = only(methods / "runs")
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", "")
    algorithms._items.pop("huber_bc")
    refused(say("evaluate", str(run), data), "is of my_method, which is not loaded here")


def test_a_path_that_is_not_there_is_one_line(say, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", str(tmp_path / "nowhere.py"))
    refused(say("train", "algo=bc"), "no such file or folder")


def test_a_method_that_learns_from_what_followed_a_chunk_is_checked(done) -> None:
    said = done("check", "algo=flow_bc", "use_critic=true", "hidden_dims=[8]")
    assert said.count("ok ") == 8
