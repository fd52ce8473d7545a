"""Other tools' words for the keys of a run: those that mean exactly the same, and those that need a word of advice.

A word of ALIASES is accepted everywhere a key is. One of ADVICE is refused, with what to give instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from understudy.errors import SpecError, did_you_mean
from understudy.spec.nested import NESTED

ALIASES = {
    "offline_steps": "training_steps",
    "num_steps": "training_steps",
    "num_train_steps": "training_steps",
    "train_steps": "training_steps",
    "gradient_steps": "training_steps",
    "env": "env_name",
    "dataset": "env_name",
    "algorithm": "algo",
    "normalise": "normalize",
    "augment": "augmentation",
    "augment_goal_differently": "augment_next_obs_goal_differently",
    "target_update_rate": "ema_rate",
    "chunk_size": "horizon_length",
    "vision_backbone": "encoder",
    "learning_rate": "lr",
    "batch": "batch_size",
    "wd": "weight_decay",
    "gamma": "discount",
    "max_grad_norm": "grad_clip",
    "n_obs_steps": "obs_horizon",
    "frame_stack": "obs_horizon",
    "log_freq": "log_interval",
    "eval_freq": "eval_interval",
    "save_freq": "save_interval",
    "n_eval_episodes": "eval_episodes",
    "num_eval_episodes": "eval_episodes",
    "actor_type": "actor",
    "actor_num_samples": "num_samples",
    "actor_hidden_dims": "hidden_dims",
    "num_qs": "num_critics",
    "layer_norm": "critic_layer_norm",
    "name": "run_group",
    "exp_name": "run_group",
    **NESTED,
}
"""Other tools' names for our keys, with the same values."""
OF_STEPS = ("frames", "online_steps", "total_timesteps", "total_frames")
"""Names for `training_steps` of methods that act while they learn: elsewhere they mean other things."""


@dataclass(frozen=True)
class Advice:
    """What to say to other tools' `words`, where one of `keys` is allowed."""

    words: tuple[str, ...]
    keys: tuple[str, ...]
    text: str


def _advice(words: str, keys: str, text: str) -> Advice:
    return Advice(tuple(words.split()), tuple(keys.split()), text)


ADVICE = (
    _advice(
        "epoch epochs",
        "training_steps",
        "training is counted in updates, training_steps, or by epochs=N in passes over the data",
    ),
    _advice(
        "step steps timesteps iters iterations updates train_iters",
        "training_steps",
        "training_steps is the number of gradient updates",
    ),
    _advice(
        "frame frames history context context_length obs_steps",
        "obs_horizon",
        "obs_horizon is how many observations the policy sees",
    ),
    _advice(
        "envs vec_envs parallel_envs",
        "eval_envs",
        "eval_envs is how many environments an evaluation steps side by side",
    ),
    _advice(
        "tau polyak target_tau",
        "ema_rate",
        "ema_rate is the share of the newest weights in the average that acts",
    ),
    _advice(
        "ema ema_decay decay",
        "ema_rate",
        "ema_rate is the share of the newest weights in the average that acts: 1 - decay",
    ),
    _advice(
        "hidden hidden_size hidden_sizes hidden_dim hidden_units hidden_layers width layers net_arch",
        "hidden_dims",
        "hidden_dims has the width of each layer: hidden_dims=[256,256]",
    ),
    _advice(
        "horizon chunk chunks chunk_len chunk_length action_horizon pred_horizon prediction_horizon",
        "horizon_length",
        "horizon_length is the number of actions in a chunk, with action_chunking=true",
    ),
    _advice(
        "environment env_id gym_id task task_name",
        "env_name",
        "env_name is the dataset's name, which says its environment too",
    ),
    _advice(
        "data dataset_path dataset_dir dataset_root datasets root",
        "data_dir",
        "env_name is a dataset's name and data_dir the folder of imported ones; `understudy data import` takes files",
    ),
    _advice(
        "workers dataloader_workers data_workers",
        "loader_workers",
        "loader_workers is the number of processes that prepare batches",
    ),
    _advice("gpu cuda accelerator use_gpu", "device", "device is auto, cpu, cuda or cuda:N"),
    _advice("optim optimizer optimiser", "weight_decay", "the optimiser is Adam, or AdamW with weight_decay above 0"),
    _advice("scheduler lr_scheduler schedule lr_decay", "lr_schedule", "lr_schedule is constant or cosine"),
    _advice(
        "warmup warm_up lr_warmup_steps",
        "warmup_steps",
        "warmup_steps is the number of updates in which lr grows to its value",
    ),
    _advice(
        "logdir log_dir output_dir output out_dir outdir work_dir workdir run_dir exp_dir results_dir",
        "save_dir",
        "save_dir is the folder of all runs",
    ),
    _advice(
        "run_name experiment_name exp group",
        "run_group",
        "run_group and project are the folders of a run below save_dir",
    ),
    _advice(
        "wandb wandb_project use_wandb logger tensorboard",
        "tracking_uri",
        "runs are tracked by MLflow: tracking_uri says where, project is the experiment",
    ),
    _advice(
        "resume checkpoint ckpt ckpt_path load load_from pretrained",
        "encoder_weights",
        "`understudy resume RUN` goes on with a run; encoder_weights takes an encoder from a file or a run",
    ),
    _advice(
        "normalize_q_loss",
        "q_agg",
        "the actor's loss takes Q as the critics of q_agg give it: the published code never reads that key either",
    ),
    _advice(
        "actor_layer_norm",
        "critic_layer_norm",
        "critic_layer_norm is for critics: the actor's layers have no LayerNorm",
    ),
    _advice("fourier_feature_dim", "use_fourier_features", "use_fourier_features gives 64 of them"),
    _advice("num_seeds n_seeds random_seeds", "seeds", "seeds lists them: seeds=[0,1,2]"),
    _advice(
        "eval evaluate do_eval",
        "eval_interval eval_episodes",
        "eval_interval is the number of steps between evaluations, eval_episodes how long one is",
    ),
    _advice(
        "val_split validation_split val_ratio val_fraction test_split train_split",
        "validation_fraction",
        "validation_fraction is the share of the episodes that is held out",
    ),
    _advice("amp mixed_precision dtype fp16 bf16 half", "precision", "precision is float32, bf16 or fp16"),
    _advice("aug augs augmentations data_aug", "augmentation", "augmentation is bridge, drq or operations by name"),
    _advice(
        "norm normalization normalisation normalize_obs normalise_obs obs_norm",
        "normalize",
        "normalize is the scaling of states (none, zscore, bounds), normalize_actions that of actions",
    ),
)
_COUNTED = re.compile(r"^(n|num|nb|max|total|number_of)_")


def canonical(key: str, allowed: Collection[str] = ()) -> str:
    """Return our name of a key; one that is `allowed` (a plug-in's, say) is never taken for another tool's word."""
    if key in allowed:
        return key
    if key in OF_STEPS and "start_training" in allowed and "online_steps" not in allowed:
        return "training_steps"
    return ALIASES.get(key, key)


def unknown_key(key: str, allowed: Collection[str], said: str = "", limit: int = 12) -> SpecError:
    """Return the error of a key that is not `allowed`: advice where the word is known, else the nearest key.

    `said` begins the message in the place of "unknown key ...", and `limit` is how many keys it may list.
    """
    said = said or f"unknown key {key!r}"
    plain = key.lower().replace("-", "_")
    for word in (plain, _COUNTED.sub("", plain)):
        for advice in ADVICE:
            if word in advice.words and not set(advice.keys).isdisjoint(allowed):
                return SpecError(f"{said}: {advice.text}")
    same = {word for word, name in ALIASES.items() if name in allowed} | {"epochs", "expert_data"}
    return SpecError(f"{said}{did_you_mean(key, allowed, limit, also=same)}")
