"""LeRobot's training configurations as our keys: ACT, the reward classifier, SAC for HIL-SERL, of two generations.

What a key means is said in the tables; those that mean nothing here are returned by name with the reason, and none is
passed over in silence. Nothing here opens a dataset or needs torch's devices but to see whether there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.config_files import flattened, read_config
from understudy.errors import SpecError, did_you_mean
from understudy.files import user_path

METHODS = {"act": "act", "reward_classifier": "reward_classifier", "sac": "hilserl", "gaussian_actor": "hilserl"}
"""Our methods by LeRobot's policy.type."""
SHARED = {
    "batch_size": "batch_size",
    "num_workers": "loader_workers",
    "steps": "training_steps",
    "seed": "seed",
    "log_freq": "log_interval",
    "eval_freq": "eval_interval",
    "save_freq": "save_interval",
    "output_dir": "save_dir",
    "job_name": "run_group",
    "wandb.project": "project",
    "eval.n_episodes": "eval_episodes",
    "policy.n_obs_steps": "obs_horizon",
    "policy.grad_clip_norm": "grad_clip",
    "policy.freeze_vision_encoder": "freeze_vision_encoder",
}
ACT = {
    **{f"policy.{key}": key for key in ("n_action_steps", "dim_model", "n_heads", "dim_feedforward", "dropout")},
    **{f"policy.{key}": key for key in ("n_encoder_layers", "n_decoder_layers", "n_vae_encoder_layers", "use_vae")},
    **{f"policy.{key}": key for key in ("latent_dim", "kl_weight", "temporal_ensemble_coeff")},
    "policy.chunk_size": "horizon_length",
    "policy.vision_backbone": "encoder",
    "policy.optimizer_lr": "lr",
    "policy.optimizer_weight_decay": "weight_decay",
    "policy.optimizer_lr_backbone": "encoder_lr",
}
CLASSIFIER = {
    "policy.hidden_dim": "hidden_dim",
    "policy.latent_dim": "latent_dim",
    "policy.dropout_rate": "dropout",
    "policy.learning_rate": "lr",
    "policy.weight_decay": "weight_decay",
}
OF_SAC = {
    "actor_lr": "lr",
    "critic_lr": "critic_lr",
    "temperature_lr": "temperature_lr",
    "discount": "discount",
    "temperature_init": "init_temperature",
    "target_entropy": "target_entropy",
    "num_critics": "num_critics",
    "num_subsample_critics": "num_subsample_critics",
    "critic_target_update_weight": "tau",
    "utd_ratio": "utd_ratio",
    "use_backup_entropy": "backup_entropy",
    "grad_clip_norm": "grad_clip",
}
PROCESSOR = "env.processor"
SAC = {
    **{f"policy.{key}": ours for key, ours in OF_SAC.items()},
    **{f"algorithm.{key}": ours for key, ours in OF_SAC.items()},
    "policy.online_steps": "training_steps",
    "policy.online_buffer_capacity": "buffer_size",
    "policy.online_step_before_learning": "start_training",
    "policy.bc_pretrain.pretrained_path": "encoder_weights",
    **{f"{PROCESSOR}.reward_classifier.{key}": key for key in ("success_threshold", "success_reward")},
    f"{PROCESSOR}.reward_classifier.pretrained_path": "reward_classifier",
    f"{PROCESSOR}.reset.terminate_on_success": "terminate_on_success",
}
OWN = {"act": ACT, "reward_classifier": CLASSIFIER, "hilserl": SAC}
REASONS = {
    "policy.input_features": "what the dataset holds is seen",
    "policy.output_features": "actions are the dataset's",
    "policy.pretrained_backbone_weights": "nothing is fetched; encoder_weights=FILE begins with weights of your own",
    "policy.dataset_stats": "statistics are computed from the dataset",
    "policy.normalization_mapping": "states are scaled to mean 0 and deviation 1 (normalize=)",
    "policy.actor_learner_config.policy_parameters_push_frequency": "weights are published every publish_interval"
    " updates, not every few seconds",
    "policy.offline_buffer_capacity": "the demonstrations stay in their file, all of them",
    "policy.shared_encoder": "actor and critics share one encoder",
    "policy.concurrency": "actors are processes",
    "policy.storage_device": "buffers are files, mapped into memory",
    "policy.num_cameras": "what the dataset holds is seen",
    "policy.num_classes": "success or none",
    "policy.device": "device= says where; this machine has no such device",
    "policy.use_amp": "precision=bf16 is for GPUs",
    "wandb": "runs are tracked by MLflow (tracking_uri=)",
    "env": "the environment is the one that the dataset was recorded in",
    "eval": "evaluations are said by eval_episodes and eval_envs",
    "dataset": "the whole dataset is read as its files are",
}
"""Why keys that begin so mean nothing here."""


@dataclass
class Translated:
    """Our keys, and what of the file has none."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    ignored: dict[str, str] = field(default_factory=dict[str, str])


def read_training(path: str) -> Translated:
    """Return our keys of a file: ours as they are where it has any, or LeRobot's; SpecError for unknown policies."""
    return translate(read_config(path), path)


def translate(config: Mapping[str, Any], path: str = "the file") -> Translated:
    """Return our keys of a configuration."""
    flat = flattened(config)
    kind = flat.get("policy.type")
    if kind is None:
        if any("." in key for key in flat):
            raise SpecError(f"--config_path {path}: says no policy.type{did_you_mean('', METHODS)}")
        return Translated(dict(flat))
    if kind not in METHODS:
        raise SpecError(f"--config_path {path}: policy.type={kind!r}{did_you_mean(str(kind), METHODS)}")
    pretrained = flat.get("policy.bc_pretrain.policy_type")
    if pretrained not in (None, "act"):
        raise SpecError(f"--config_path {path}: policy.bc_pretrain.policy_type={pretrained!r}: act is what there is")
    algo = METHODS[kind]
    read = Translated({"algo": algo, **_dataset(flat, path)})
    read.values |= _usual(algo)
    known = {**SHARED, **OWN[algo]}
    for key, value in flat.items():
        if key in _TAKEN:
            continue
        if key in _SPECIAL:
            said = _SPECIAL[key](key, value, flat, algo)
            read.values |= said
            if not said and value not in (None, False):
                read.ignored[key] = _reason(key)
        elif key in known:
            if value is not None:
                read.values[known[key]] = value
        elif value is not None:
            read.ignored[key] = _reason(key)
    return read


def _dataset(flat: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the dataset's name: its folder where that is said, else its name."""
    root, name = flat.get("dataset.root"), flat.get("dataset.repo_id")
    if root:
        return {"env_name": f"lerobot:{user_path(str(root)).absolute()}"}
    if name:
        return {"env_name": f"lerobot:{name}"}
    raise SpecError(f"--config_path {path}: dataset.repo_id or dataset.root says what is learned from; it has neither")


def _usual(algo: str) -> dict[str, Any]:
    """Return what LeRobot's policy of that name does without being told."""
    return {"normalize_actions": "zscore", "shared_camera_encoder": True} if algo == "act" else {}


def _reason(key: str) -> str:
    starts = [start for start in REASONS if key == start or key.startswith(f"{start}.")]
    return REASONS[max(starts, key=len)] if starts else "no such thing here"


Takes = Callable[[str, Any, Mapping[str, Any], str], dict[str, Any]]


def _device(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    """A device that is not there gives way to one that is, as in LeRobot."""
    if value in (None, "cpu"):
        return {"device": "cpu"} if value else {}
    import torch

    return {"device": str(value)} if str(value).startswith("cuda") and torch.cuda.is_available() else {}


def _amp(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    return {"precision": "bf16"} if value and "device" in _device("", flat.get("policy.device"), flat, algo) else {}


def _encoder(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    """A name of the hub stands for our network of that name."""
    return {"encoder": str(value).rpartition("/")[2]} if value else {}


def _gripper(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    if value not in (None, 3):
        raise SpecError(f"{key}={value}: a gripper has three commands, close, stay and open")
    return {"gripper": "discrete"} if value else {}


def _learner(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    port = flat.get("policy.actor_learner_config.learner_port", 50051)
    return {"actor_address": f"{value}:{port}"} if value else {}


def _ratio(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    return {"offline_ratio": 1.0 - float(value)} if value is not None else {}


def _deviation(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    """LeRobot clamps the deviation itself, not its logarithm: one below 0 bounds nothing."""
    if value is None or float(value) <= 0:
        return {}
    return {f"log_std_{key.rpartition('_')[2]}": math.log(float(value))}


def _widths(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    return {"hidden_dims": value} if isinstance(value, list) else {}


def _penalty(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    return {"gripper_penalty": value} if value and flat.get("policy.num_discrete_actions") else {}


def _control(key: str, value: Any, flat: Mapping[str, Any], algo: str) -> dict[str, Any]:
    named = str(value).removesuffix("_ee")
    return {"takeover": named} if algo == "hilserl" and named in ("gamepad", "keyboard") else {}


_TAKEN = {
    *("policy.type", "dataset.repo_id", "dataset.root", "dataset.task", "policy.actor_learner_config.learner_port"),
    *(
        "policy.bc_pretrain.policy_type",
        "save_checkpoint",
        "wandb.enable",
        "resume",
        "policy.push_to_hub",
        "policy.repo_id",
    ),
}
"""Keys that are read elsewhere, or ask for what is so anyway."""
_SPECIAL: dict[str, Takes] = {
    "policy.device": _device,
    "policy.use_amp": _amp,
    "policy.vision_encoder_name": _encoder,
    "policy.model_name": _encoder,
    "policy.num_discrete_actions": _gripper,
    "policy.actor_learner_config.learner_host": _learner,
    "online_ratio": _ratio,
    f"{PROCESSOR}.control_mode": _control,
    "env.teleop.type": _control,
    "policy.policy_kwargs.std_min": _deviation,
    "policy.policy_kwargs.std_max": _deviation,
    "policy.actor_network_kwargs.hidden_dims": _widths,
    "policy.critic_network_kwargs.hidden_dims": _widths,
    f"{PROCESSOR}.gripper.gripper_penalty": _penalty,
}
