"""The keys that only `understudy sweep` has: what it wants, how it searches, what it may cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from understudy.spec.part import Needs, Secret
from understudy.sweeping.objective import Direction
from understudy.sweeping.racing import Rule

STORAGE_VARIABLE = "UNDERSTUDY_STUDY_STORAGE"
OF_ASHA = Needs("scheduler=asha")


def _several(value: Any) -> Any:
    """Return one text as a list of it, and commas as several; brackets around `latency<=20` come here as text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [part.strip() for part in text.split(",")]


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]


class SweepOptions(BaseModel):
    """The keys that only `understudy sweep` has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(20, ge=1, le=1_000_000, description="configurations to train (each across all seeds)")
    sampler: Literal["auto", "tpe", "random", "qmc", "grid", "gp", "cmaes", "nsga2"] = Field(
        "auto", description="how Optuna proposes configurations; auto: tpe, or nsga2 for several objectives"
    )
    objective: Texts = Field(
        ("auto",),
        min_length=1,
        description="metric to sweep for, or several: success, return, normalized_return, length, latency (ms a"
        " decision), validation/NAME; auto: success, else the score, else the return, else held-out episodes",
    )
    direction: Annotated[tuple[Direction, ...], BeforeValidator(_several)] = Field(
        ("auto",), min_length=1, description="maximize or minimize; auto: by the metric's name"
    )
    constraints: Texts = Field((), description="bounds that the best must keep, like latency<=20")
    points: tuple[dict[str, Any], ...] = Field((), description="your own configurations, tried first: [{lr:1e-4}]")
    with_default: bool = Field(True, description="try the default values first, where they lie in the space")
    warm_start: str = Field("", description="an earlier sweep of the same space, whose trials the sampler knows")
    max_hours: float | None = Field(None, gt=0, description="begin no trial after this time")
    max_seed_runs: int | None = Field(None, ge=1, description="begin no trial beyond so many seeds trained in all")
    patience: int | None = Field(None, ge=1, description="begin no trial after so many in a row were no better")
    sweep_seed: int = Field(0, ge=0, description="seed of the proposals")
    scheduler: Literal["asha", "none"] = Field("asha", description="stop poor trials early, or let all finish")
    grace_steps: Annotated[int | None, OF_ASHA] = Field(
        None, ge=1, description="steps no trial is stopped before; default eval_interval"
    )
    reduction_factor: Annotated[int, OF_ASHA] = Field(
        3, ge=2, description="ASHA keeps the best 1/reduction_factor at each rung"
    )
    asha_slack: Annotated[float, OF_ASHA] = Field(
        0.1, ge=0, description="ASHA stops a trial this far below the cut-off: in success, else a share of the spread"
    )
    racing: Rule = Field(
        "none", description="seeds raced: few for all, more for the promising; halving (1 > 3 > all) or guaranteed"
    )
    confirm_seeds: int = Field(
        0, ge=0, description="fresh seeds trained of each configuration that is confirmed; 0: the seeds as trained"
    )
    confirm_rivals: int = Field(
        3, ge=0, description="configurations that cannot be told from the best, confirmed beside it and the default"
    )
    trials_together: int | None = Field(
        None,
        ge=1,
        le=256,
        description="trials that are trained at once as one pack, where all that is swept may differ in one; default 16"
        " with gpus=, where that is faster, else 1",
    )
    max_concurrent: int | None = Field(
        None, ge=1, le=100_000, description="trials at once; default as many as the CPUs hold"
    )
    final_episodes: int = Field(50, ge=1, description="episodes per seed of the best configuration's last evaluation")
    trial_videos: bool = Field(
        False,
        description="film video_episodes episodes of every trial that ends its training, not of the best alone",
    )
    register_as: str | None = Field(None, description="registered model's name; default <algo>-<env_name>; 'none'")
    study_storage: Annotated[str, Secret("sweep.json", f"set {STORAGE_VARIABLE} in the environment")] = Field(
        "", description="SQLAlchemy address of the study; default $UNDERSTUDY_STUDY_STORAGE, else study.db in the sweep"
    )
