"""Keys with dots, as the published BridgeData training nests them, mean our keys."""

from __future__ import annotations

import pytest
from tests.unit.command_line import understudy

from understudy.errors import SpecError
from understudy.spec.compose import flat_values, parse
from understudy.spec.keys import run_fields
from understudy.spec.nested import NESTED, translated


def meant(*words: str) -> dict[str, object]:
    return flat_values(parse(words))


def test_every_nested_key_is_one_of_a_run() -> None:
    known = {key for algo in ("bc", "gc_bc", "ddpm_bc", "gc_ddpm_bc") for key in run_fields(algo)}
    assert set(NESTED.values()) <= known


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["saliency.enabled=true", "saliency.weight=5"], {"saliency_weight": 5}),
        (["saliency.weight=5", "saliency.enabled=true"], {"saliency_weight": 5}),
        (["saliency.enabled=false", "saliency.weight=5", "saliency.beta=2"], {}),
        (["agent_kwargs.policy_kwargs.saliency.enabled=true"], {"saliency_weight": 1.0}),
        (["amp.enabled=true"], {"precision": "bf16"}),
        (["amp.enabled=true", "amp.dtype=fp16"], {"precision": "fp16"}),
        (["amp.enabled=false", "amp.dtype=fp16"], {"precision": "float32"}),
        (["scheduler.type=warmup_cosine"], {"lr_schedule": "cosine"}),
        (["encoder_kwargs.arch=resnet50"], {"encoder": "resnetv1-50-bridge"}),
        (["data.act_pred_horizon=1"], {}),
        (["dataset_kwargs.act_pred_horizon=4"], {"horizon_length": 4, "action_chunking": True}),
        (["data.augment=true"], {"augmentation": "bridge"}),
        (["data.augment_kwargs.random_hue=[0.1]"], {"random_hue": [-0.1, 0.1]}),
        (["data.augment_kwargs.random_contrast=[0.8,1.2]"], {"random_contrast": [0.8, 1.2]}),
        (["agent_kwargs.early_goal_concat=false"], {"goal_fusion": "late"}),
        (["model={hidden_dims: [8, 8], dropout_rate: 0.2}"], {"hidden_dims": [8, 8], "dropout": 0.2}),
        (["optimizer.lr=1e-3", "model.use_proprio=true"], {"lr": 1e-3, "use_proprio": True}),
        (["--agent=agents/acfql_bc_distill.py"], {"algo": "flow_bc"}),
        (["agent=agents/acfql.py"], {"algo": "flow_bc", "use_critic": True}),
    ],
)
def test_nested_keys_mean_ours(words, wanted) -> None:
    assert meant(*words) == wanted


def test_what_is_given_by_our_own_name_goes_first() -> None:
    assert translated({"optimizer.lr": 1.0, "lr": 2.0})[0] == {"lr": 2.0}


def test_keys_that_ask_for_nothing_are_named(caplog) -> None:
    assert meant("wandb.enabled=false", "ddp.enabled=true", "encoder_kwargs.act=swish") == {}
    assert "wandb.enabled, ddp.enabled, encoder_kwargs.act" in caplog.text


@pytest.mark.parametrize("word", ["scheduler.type=stepwise", "encoder_kwargs.arch=vit", "agent=agents/iql.py"])
def test_a_value_that_nothing_stands_for_is_refused(word) -> None:
    with pytest.raises(SpecError, match=word.partition("=")[2].rpartition("/")[2]):
        meant(word)


def test_a_task_of_bridgedata_brings_its_settings_by_method() -> None:
    bc = meant("algo=bc", "bridgedata=lift_carrot_100")
    assert (bc["hidden_dims"], bc["activation"], bc["dropout"]) == ([256, 256, 256], "swish", 0.1)
    assert (bc["grad_clip"], bc["warmup_steps"], bc["normalize_actions"]) == (1.0, 2000, "zscore")
    other = meant("algo=gc_ddpm_bc", "bridgedata=put_it_there", "warmup_steps=5")
    assert other["env_name"] == "bridge:put_it_there"
    assert "hidden_dims" not in other
    assert other["warmup_steps"] == 5
    assert meant("preset=bridge", "algo=gc_bc")["dropout"] == 0.1


def test_names_of_ogbench_without_an_environment_are_answered(monkeypatch, capsys) -> None:
    said = understudy(monkeypatch, capsys, "train", "env_name=visual-singletask-task0-v0", "--cfg")
    assert said.code == 2
    assert "visual-cube-single-play-singletask-task1-v0" in said.err
    said = understudy(monkeypatch, capsys, "train", "env_name=cube-double-play-singletask-task7-v0", "--cfg")
    assert "cube-double-play-singletask-task5-v0" in said.err
