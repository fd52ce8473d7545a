"""What a run is: validated, frozen, fingerprinted. Must not import torch-heavy plug-ins, ray, mlflow or optuna.

The command line is flat: `lr=1e-4` may be a field of the run or of its algorithm. `build_run` sorts the keys
apart, checks every name against both, and validates every value before anything starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from understudy.algorithm import AlgorithmConfig
from understudy.errors import UserError
from understudy.registry import goal_strategies
from understudy.spec.augmentation import AugmentationConfig
from understudy.spec.choices import OneOf


def home() -> Path:
    """Return the folder of datasets and defaults: $UNDERSTUDY_HOME, else ~/.understudy."""
    try:
        return Path(os.environ.get("UNDERSTUDY_HOME", "~/.understudy")).expanduser()
    except RuntimeError:  # neither HOME nor an entry in /etc/passwd: containers run as any number
        raise UserError("this user has no home folder: set UNDERSTUDY_HOME (or HOME) to one") from None


def plain_name(env_name: str) -> str:
    """Return a dataset's name without the `:` and `/` of names like minari:D4RL/x-v1, for folders and MLflow."""
    return env_name.replace(":", "_").replace("/", "__")


def holds_password(address: str) -> bool:
    """Return whether an address has `user:password@` in it."""
    return re.search(r"://[^/@]*:[^/@]*@", address) is not None


class RunSpec(BaseModel):
    """One configuration and its seeds. Field order is the order of `--cfg` and flags.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    # What: these make the fingerprint.
    algo: str = Field("flow_bc", description="algorithm, by its registered name")
    env_name: str = Field("halfcheetah-medium-v2", description="dataset and environment, by name alone")
    seed: int = Field(0, ge=0, description="random seed of a single run")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="several seeds, trained as one pack")
    training_steps: int = Field(1_000_000, ge=1, description="gradient updates (offline_steps is the same key)")
    normalize: Literal["none", "zscore", "bounds"] = Field("zscore", description="scaling of state observations")
    dataset_proportion: float = Field(1.0, gt=0, le=1, description="share of the episodes to train on")
    proportion_order: Literal["seeded", "first"] = Field("seeded", description="which episodes that share is")
    dataset_replace_interval: int = Field(
        0, ge=0, description="steps per file of ogbench_dataset_dir; 0 keeps the first"
    )
    ogbench_dataset_dir: str | None = Field(None, description="folder of OGBench .npz files to rotate through")
    filter_key: str | None = Field(None, description="train on the episodes of this mask of the file (robomimic's)")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="share of the episodes held out; seeded, whole")
    validation_filter_key: str | None = Field(None, description="hold out the episodes of this mask instead")
    sparse: bool = Field(False, description="rewards become -1 where they were not 0")
    obs_horizon: int = Field(1, ge=1, description="observations the policy sees: the newest and those before it")
    cameras: tuple[str, ...] | None = Field(None, description="cameras the policy sees; none for all there are")
    use_proprio: bool = Field(True, description="show the state beside pictures")
    normalize_actions: Literal["none", "zscore", "bounds"] = Field(
        "none", description="scaling of actions, undone by the policy itself; bounds is to [-1, 1]"
    )
    goal_relabelling: Annotated[str, OneOf(goal_strategies.names, "auto", "none")] = Field(
        "auto", description="later states shown as goals; auto: uniform where task or algorithm is goal-conditioned"
    )
    goal_delta: tuple[int, int] = Field(
        (1, 25), description="delta_goals: steps ahead, from the first to below the second"
    )
    reached_proportion: float | None = Field(
        None, ge=0, le=1, description="share of goals that are the next state; with it goals are drawn as BridgeData's"
    )
    discount: float = Field(0.99, gt=0, le=1, description="of the returns that critics learn, and of geometric goals")
    augment: AugmentationConfig = Field(default_factory=AugmentationConfig, description="changes of training pictures")
    config: AlgorithmConfig = Field(default_factory=AlgorithmConfig, description="the algorithm's own settings")
    # When: what is logged, evaluated and kept on the way.
    log_interval: int = Field(1000, ge=1, description="steps between rows of train.csv")
    eval_interval: int = Field(50_000, ge=0, description="steps between evaluations; 0: only at the end")
    save_interval: int = Field(100_000, ge=-1, description="steps between kept checkpoints; -1: only the final model")
    save_total_limit: int = Field(0, ge=0, description="kept checkpoint_N.pt files, the newest; 0: all of them")
    save_best: bool = Field(False, description="keep best_model.pt, of the best evaluation of each seed")
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="seconds between the rolling checkpoints that resume uses"
    )
    eval_episodes: int = Field(10, ge=0, description="episodes per seed and evaluation; 0: no evaluation")
    eval_temperature: float | None = Field(
        None, ge=0, description="scale of the policy's noise; default 0, deterministic, or 1 for actor=best_of_n"
    )
    eval_seed: int = Field(1_000_000, ge=0, description="seed of the first evaluation episode")
    video_episodes: int = Field(0, ge=0, description="episodes of the last evaluation to record")
    video_frame_skip: int = Field(3, ge=1, description="environment steps per video frame")
    # Where: never part of the fingerprint.
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N")
    launcher: Literal["inline", "ray"] = Field("inline", description="this process, or Ray Train workers")
    num_workers: int = Field(1, ge=1, description="data-parallel workers (launcher=ray)")
    cpus: int = Field(1, ge=1, description="CPUs, and so torch threads, of each worker")
    gpus: float = Field(0.0, ge=0, description="GPUs of each worker")
    loader_workers: int = Field(
        -1, ge=-1, description="processes that prepare batches; 0: none; -1: none for states, cpus - 1 for pictures"
    )
    eval_envs: int = Field(4, ge=1, description="environments stepped side by side in an evaluation")
    eval_processes: bool = Field(False, description="step them in `cpus` processes of their own")
    eval_timeout: float = Field(
        0.0, ge=0, description="seconds an environment may take for a chunk; 0: for ever. Steps them in processes"
    )
    save_dir: str = Field("runs/fbc/", description="root of the run directories")
    project: str = Field("bc_training", description="MLflow experiment, and folder below save_dir")
    run_group: str = Field("BC", description="group of runs, and folder below the project")
    checkpoint_storage: str = Field(
        "", description="fsspec address that resumable copies of runs go to, like s3://bucket/runs; '': none"
    )
    data_dir: str = Field("", description="folder of episode stores; default $UNDERSTUDY_HOME/datasets")
    download: bool = Field(False, description="fetch and import the dataset first where it is not here")
    tracking_uri: str = Field(
        "", description="MLflow tracking URI; default $MLFLOW_TRACKING_URI, else SQLite in save_dir; 'none'"
    )

    WHEN: ClassVar[frozenset[str]] = frozenset(
        {"log_interval", "eval_interval", "save_interval", "save_total_limit", "save_best", "checkpoint_seconds"}
        | {"eval_episodes", "eval_temperature"}
        | {"eval_seed", "video_episodes", "video_frame_skip"}
    )
    WHERE: ClassVar[frozenset[str]] = frozenset(
        {"device", "launcher", "num_workers", "cpus", "gpus", "loader_workers", "save_dir"}
        | {"eval_envs", "eval_processes", "eval_timeout"}
        | {"project", "run_group", "checkpoint_storage", "data_dir", "download", "tracking_uri"}
    )

    @field_validator("save_dir", "data_dir", "ogbench_dataset_dir")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        """Workers start in other folders than the command did."""
        return str(Path(value).expanduser().absolute()) if value else value

    @field_validator("env_name", "project", "run_group")
    @classmethod
    def _below_save_dir(cls, value: str) -> str:
        """They name folders: one that leads elsewhere would write there."""
        if not value or Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError("must be a name: not empty, no path that leads elsewhere")
        return value

    @field_validator("goal_delta")
    @classmethod
    def _rises(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] < value[1]:
            raise ValueError("the first must be at least 1 and below the second")
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _no_password(cls, value: str) -> str:
        """flags.json and --cfg show every key."""
        if holds_password(value):
            raise ValueError(
                "holds a password, which flags.json would keep: set MLFLOW_TRACKING_URI in the environment"
            )
        return value

    @field_validator("checkpoint_storage")
    @classmethod
    def _plain_storage(cls, value: str) -> str:
        """The same; and workers start in other folders."""
        if holds_password(value):
            raise ValueError("holds a password, which flags.json would keep: fsspec reads them from the environment")
        return value if "://" in value or not value else Path(value).expanduser().absolute().as_uri()

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} repeats a seed")
        if self.num_workers > 1 and self.launcher != "ray":
            raise ValueError(f"num_workers={self.num_workers} needs launcher=ray")
        if self.validation_fraction and self.validation_filter_key:
            raise ValueError("validation_fraction and validation_filter_key both hold episodes out: give one")
        if self.config.batch_size % self.num_workers:
            raise ValueError(f"batch_size={self.config.batch_size} does not divide by num_workers={self.num_workers}")
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of this configuration: `seeds`, else the one `seed`."""
        return self.seeds if self.seeds is not None else (self.seed,)

    @property
    def datasets(self) -> Path:
        """The folder that episode stores are looked up in."""
        return Path(self.data_dir) if self.data_dir else home() / "datasets"

    def tracking(self) -> str:
        """Return the tracking URI: the key, else the environment, else SQLite beside the runs."""
        from understudy.tracking.addresses import default_tracking_uri

        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(self.save_dir)

    def flat(self) -> dict[str, Any]:
        """Return one flat mapping of every key, as flags.json and MLflow hold it."""
        data = self.model_dump(mode="json", exclude={"config", "augment"})
        augment = self.augment.model_dump(mode="json") if self.augment.operations else {}
        return {**data, **augment, **self.config.model_dump(mode="json")}

    def fingerprint(self) -> str:
        """Return 16 hex digits over what is trained: never over when it is logged nor where it runs."""
        what = {k: v for k, v in self.flat().items() if k not in self.WHEN | self.WHERE | {"seed", "seeds"}}
        what["seeds"] = list(self.all_seeds)
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
