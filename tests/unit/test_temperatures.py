"""The noise that a policy acts with is an evaluation-time setting, and every result says how much of it there was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from understudy.cli.train import read_run
from understudy.errors import SpecError
from understudy.randomness import torch_generator
from understudy.runs.directory import CsvLog, RunDir, read_csv
from understudy.runs.episodes import load_episodes
from understudy.runs.launch import launch
from understudy.spec.keys import build_run
from understudy.trainables.algorithms.bc import BC, BCConfig, MixturePolicy
from understudy.trainables.loops.logs import _columns

SMALL = ("env_name=hopper-medium-v2", "hidden_dims=[8]", "batch_size=8", "training_steps=2", "eval_episodes=2")
HERE = ("eval_max_steps=5", "launcher=inline", "tracking_uri=none", "device=cpu", "eval_interval=1")


def test_one_training_is_evaluated_at_each_temperature_and_the_first_one_counts(hopper_data: Path, tmp_path) -> None:
    spec = read_run([*SMALL, *HERE, f"data_dir={hopper_data}", f"save_dir={tmp_path}", "eval_temperature=1,0"])
    assert (spec.config.eval_temperature, spec.evaluation.eval_grid) == (1.0, {"eval_temperature": (1, 0)})
    result = launch(spec, RunDir.create(spec))
    rows = read_csv(result.path / "eval.csv")
    assert [row["temperature"] for row in rows] == [1.0, 1.0]
    grid = read_csv(result.path / "eval_grid.csv")[-1]
    assert grid["eval_temperature_1/return"] == rows[-1]["return"] == result.metrics["return"]
    assert grid["eval_temperature_0/return"] != rows[-1]["return"]
    assert result.parameters == {}  # nothing was chosen
    episodes = load_episodes(result.path).to_pylist()
    assert {(row["step"], row["temperature"]) for row in episodes} == {(1, 1.0), (2, 0.0), (2, 1.0)}


def test_a_temperature_changes_nothing_in_what_is_trained() -> None:
    prints = {build_run({"algo": "flow_bc", "eval_temperature": value}).fingerprint() for value in (None, 0, 1)}
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval_temperature=0,-1"], "greater than or equal to 0"),
        (["algo=bc", "policy=mse", "eval_temperature=0,1"], "a policy that draws noise"),
        (["eval_grid={lr:[1,2]}"], "lr is no evaluation-time key of flow_bc"),
        (["eval_grid={eval_temperature:[]}"], "eval_temperature has no value"),
        (["lr=1,2"], "understudy sweep"),
    ],
)
def test_values_that_cannot_be_tried_after_training_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_run([*SMALL, *words])


def test_a_run_that_an_earlier_version_began_goes_on_without_the_column(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "eval.csv")
    log.append(1, {"return": 1.0})
    log.append(2, _columns(log, {"return": 2.0, "temperature": 0.0}))
    assert read_csv(tmp_path / "eval.csv")[-1] == {"step": 2, "return": 2.0}


def test_a_mixture_acts_as_robomimics_does_at_one_and_a_small_deviation() -> None:
    settings = {"policy": "gmm", "modes": 3, "hidden_dims": (8,)}
    learnt, sharp = BC((2,), 1, BCConfig(**settings)), BC((2,), 1, BCConfig(**settings, eval_std=1e-4))
    network = learnt.network(torch_generator(0, "weights"))
    assert isinstance(network, MixturePolicy)
    observations = torch.ones(4000, 2)
    noise = torch.randn(4000, *learnt.noise_shape(), generator=torch_generator(0, "noise"))
    weights_BM, means_BMHA, _ = network(network.features(observations)[0])
    means, drawn = means_BMHA[0, :, 0, 0], sharp.act(network, observations, noise)[:, 0, 0]
    distance = (drawn[:, None] - means).abs()
    assert distance.min(1).values.max() < 1e-3  # at the means, each as often as its weight says
    shares = torch.bincount(distance.argmin(1), minlength=3) / 4000
    torch.testing.assert_close(shares, weights_BM[0].exp(), atol=0.03, rtol=0)
    assert (learnt.act(network, observations, noise)[:, 0, 0][:, None] - means).abs().min(1).values.max() > 0.1
