"""Where a run is done and where its files go: machine, workers, folders, addresses. Never part of the fingerprint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from understudy.files import home
from understudy.spec.part import FolderName, LocalPath, Needs, OnlyWith, Part, Role, Secret, absolute

PLACES_OF_AN_EVALUATION = ("eval_envs", "eval_processes", "eval_timeout", "data_dir", "device", "cpus")
"""The keys about where a run is done that `understudy evaluate` takes."""


class Placement(Part):
    """Machine, workers, folders and addresses of a run."""

    role: ClassVar[Role] = "where"
    title: ClassVar[str] = "the placement"

    device: str = Field(default="auto", examples=["auto", "cpu", "cuda"], description="auto, cpu, cuda, cuda:N")
    launcher: Literal["inline", "ray"] = Field(default="inline", description="this process, or Ray Train workers")
    num_workers: int = Field(default=1, ge=1, le=4096, description="data-parallel workers (launcher=ray)")
    cpus: int = Field(default=1, ge=1, le=1024, description="CPUs, and so torch threads, of each worker")
    gpus: Annotated[float, Needs("launcher=ray", hint="device=cuda chooses a GPU here")] = Field(
        default=0.0, ge=0, description="GPUs of each worker"
    )
    loader_workers: Annotated[int, Needs("fixed_data")] = Field(
        default=-1,
        ge=-1,
        le=256,
        description="processes that prepare batches; 0: none; -1: none for states, cpus - 1 for pictures",
    )
    data_on_device: Annotated[bool, Needs("fixed_data")] = Field(
        default=False, description="keep all samples on the device, and gather batches there (states, without goals)"
    )
    cuda_graphs: bool = Field(default=False, description="replay losses and gradients as CUDA graphs: device=cuda")
    eval_envs: int = Field(default=4, ge=1, le=4096, description="environments stepped side by side in an evaluation")
    eval_processes: Annotated[bool, Needs("eval_episodes>=1", note=True)] = Field(
        default=False, description="step them in `cpus` processes of their own"
    )
    eval_timeout: Annotated[float, Needs("eval_episodes>=1", note=True)] = Field(
        default=0.0,
        ge=0,
        description="seconds an environment may take for a chunk; 0: for ever. Steps them in processes",
    )
    save_dir: LocalPath = Field(default="runs/fbc/", min_length=1, description="root of the run directories")
    layout: Annotated[Literal["fbc", "qc"], OnlyWith("layout", "qc")] = Field(
        default="fbc",
        description="names of a run's files: train.csv, tracking_url.txt; qc: offline_agent.csv, token.tk",
    )
    project: FolderName = Field(default="bc_training", description="MLflow experiment, and folder below save_dir")
    run_group: FolderName = Field(default="BC", description="group of runs, and folder below the project")
    checkpoint_storage: Annotated[str, Secret("flags.json", "fsspec reads them from the environment")] = Field(
        default="", description="fsspec address that resumable copies of runs go to, like s3://bucket/runs; '': none"
    )
    data_dir: LocalPath = Field(default="", description="folder of episode stores; default $UNDERSTUDY_HOME/datasets")
    data_path: LocalPath = Field(
        default="", description="folder with files of datasets, such as BridgeData's TASK/train/out.npy, to import from"
    )
    download: bool = Field(default=False, description="fetch and import the dataset first where it is not here")
    tracking_uri: Annotated[str, Secret("flags.json", "set MLFLOW_TRACKING_URI in the environment")] = Field(
        default="", description="MLflow tracking URI; default $MLFLOW_TRACKING_URI, else SQLite in save_dir; 'none'"
    )

    log_model: Annotated[bool, OnlyWith("log_model", False)] = Field(
        default=True, description="log the trained policy, with all its seeds, as an MLflow model: runs:/RUN_ID/model"
    )

    @field_validator("checkpoint_storage")
    @classmethod
    def _whole_address(cls, value: str) -> str:
        """Workers start in other folders than the command did."""
        return value if "://" in value or not value else Path(absolute(value)).as_uri()

    @model_validator(mode="after")
    def _workers_have_a_launcher(self) -> Placement:
        if self.num_workers > 1 and self.launcher != "ray":
            raise ValueError(f"num_workers={self.num_workers} needs launcher=ray")
        return self

    @property
    def datasets(self) -> Path:
        """The folder that episode stores are looked up in."""
        return Path(self.data_dir) if self.data_dir else home() / "datasets"

    def tracking(self) -> str:
        """Return the tracking URI: the key, else the environment, else SQLite beside the runs."""
        from understudy.tracking.addresses import default_tracking_uri

        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(self.save_dir)
