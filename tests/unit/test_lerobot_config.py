"""LeRobot's training configurations, as the tutorial has them, become runs here; what means nothing is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.cli.train import read_run
from understudy.errors import SpecError
from understudy.spec.lerobot_config import translate

ACT = """{
  "dataset": {"repo_id": "your_username/dataset_name", "root": "/path/to/dataset"},
  "policy": {
    "type": "act", "n_obs_steps": 1, "chunk_size": 100, "n_action_steps": 100,
    "vision_backbone": "resnet18",
    "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
    "input_features": {
      "observation.images.webcam_1": {"type": "VISUAL", "shape": [3, 128, 128]},
      "observation.state": {"type": "STATE", "shape": [15]}
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
    "device": "cuda", "use_amp": true
  },
  "batch_size": 8, "num_workers": 4, "steps": 50000, "eval_freq": 5000, "save_freq": 10000,
  "save_checkpoint": true, "output_dir": null, "job_name": "act_bc_pretrain",
  "wandb": {"enable": true, "project": "bc_pretrain"}  // tracked
}"""
HILSERL = {
    "policy": {
        "type": "sac",
        "vision_encoder_name": "helper2424/resnet10",
        "bc_pretrain": {"pretrained_path": "/path/to/act", "policy_type": "act"},
        "freeze_vision_encoder": True,
        "num_discrete_actions": 3,
        "policy_kwargs": {"std_min": -5, "std_max": 2},
        "actor_learner_config": {"learner_host": "10.0.0.1", "learner_port": 50099},
        "online_steps": 5000,
        "utd_ratio": 2,
        "concurrency": {"actor": "threads"},
    },
    "online_ratio": 0.4,
    "dataset": {"repo_id": "me/cubes", "root": None},
    "env": {
        "task": "PandaPickCubeGamepad-v0",
        "processor": {
            "control_mode": "gamepad",
            "gripper": {"use_gripper": True, "gripper_penalty": -0.05},
            "reward_classifier": {
                "pretrained_path": "/path/to/classifier",
                "success_threshold": 0.7,
                "success_reward": 2.0,
            },
        },
    },
}


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "train_config.json"
    path.write_text(text)
    return str(path)


def test_the_tutorials_act_file_is_a_run_and_words_go_over_it(tmp_path: Path, capsys) -> None:
    path = _file(tmp_path, ACT)
    spec = read_run(["--config_path", path, "batch_size=4", "--num_steps=20", "eval_episodes=0"])
    assert (spec.algo, spec.env_name, spec.training_steps) == ("act", "lerobot:/path/to/dataset", 20)
    assert (spec.config.batch_size, spec.config.chunk_length, spec.config.vision.encoder) == (4, 100, "resnet18")
    assert (spec.placement.project, spec.placement.run_group, spec.hooks.save_interval) == (
        *("bc_pretrain", "act_bc_pretrain"),
        10000,
    )
    assert spec.config.vision.shared_camera_encoder
    said = capsys.readouterr().err
    for named in ("policy.pretrained_backbone_weights", "policy.output_features", "policy.input_features"):
        assert f"note: {named}" in said


def test_newer_and_older_files_of_hilserl_mean_the_same() -> None:
    newer = {**HILSERL, "policy": {**HILSERL["policy"], "type": "gaussian_actor"}, "algorithm": {"utd_ratio": 2}}
    del newer["policy"]["utd_ratio"]
    one, other = translate(HILSERL), translate(newer)
    assert one.values == other.values
    assert one.values == {
        "algo": "hilserl",
        "env_name": "lerobot:me/cubes",
        "encoder": "resnet10",
        "encoder_weights": "/path/to/act",
        "freeze_vision_encoder": True,
        "gripper": "discrete",
        "gripper_penalty": -0.05,
        "log_std_max": pytest.approx(0.6931, abs=1e-3),
        "actor_address": "10.0.0.1:50099",
        "training_steps": 5000,
        "utd_ratio": 2,
        "offline_ratio": 0.6,
        "takeover": "gamepad",
        "reward_classifier": "/path/to/classifier",
        "success_threshold": 0.7,
        "success_reward": 2.0,
    }
    assert set(one.ignored) == {
        *("policy.policy_kwargs.std_min", "policy.concurrency.actor", "env.task"),
        "env.processor.gripper.use_gripper",
    }


def test_a_file_of_our_own_keys_is_a_run_too(tmp_path: Path) -> None:
    spec = read_run([f"--config_path={_file(tmp_path, json.dumps({'algo': 'bc', 'lr': 0.5}))}", "lr=0.25"])
    assert (spec.algo, spec.config.lr) == ("bc", 0.25)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"policy": {"type": "pi0"}, "dataset": {"repo_id": "a/b"}}, "policy.type='pi0'"),
        ({"policy": {"type": "act"}, "steps": 3}, "dataset.repo_id or dataset.root"),
        ({"dataset": {"repo_id": "a/b"}}, "says no policy.type"),
        (
            {"policy": {"type": "sac", "bc_pretrain": {"policy_type": "dp"}}, "dataset": {"repo_id": "a/b"}},
            "policy_type='dp'",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(config: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        translate(config)
