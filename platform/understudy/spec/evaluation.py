"""When a run is logged, evaluated and kept, and what an evaluation is. None of it changes what is trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from understudy.spec.part import Needs, OnlyWith, Part, Role


class HookSpec(Part):
    """What a run does between its steps, and how often."""

    role: ClassVar[Role] = "when"
    title: ClassVar[str] = "logs, evaluations and checkpoints on the way"

    log_interval: int = Field(default=1000, ge=1, description="steps between rows of train.csv, or of online_agent.csv")
    eval_interval: Annotated[int, Needs("eval_episodes>=1", "held_out", note=True)] = Field(
        default=50_000, ge=0, description="steps between evaluations; 0: only at the end"
    )
    save_interval: int = Field(
        default=100_000, ge=-1, description="steps between kept checkpoints; -1: only the final model"
    )
    save_total_limit: Annotated[int, Needs("save_interval>=1")] = Field(
        default=0, ge=0, description="kept checkpoint_N.pt files, the newest; 0: all of them"
    )
    save_best: Annotated[
        bool,
        Needs("eval_episodes>=1", "judges", says="eval_episodes of at least 1"),
        Needs("acts", "held_out", says="validation_fraction"),
    ] = Field(default=False, description="keep best_model.pt, of the best evaluation of each seed")
    checkpoint_seconds: float = Field(
        default=30.0, ge=0, description="seconds between the rolling checkpoints that resume uses"
    )
    keep_buffer: Annotated[bool, OnlyWith("keep_buffer", False), Needs("online")] = Field(
        default=True, description="keep the replay buffer of a finished run, so that it can be given more steps"
    )


class EvaluationSpec(Part):
    """The episodes of one evaluation, and which of them are filmed."""

    role: ClassVar[Role] = "when"
    title: ClassVar[str] = "an evaluation"

    eval_episodes: Annotated[int, Needs("acts", note=True)] = Field(
        default=10, ge=0, le=1_000_000, description="episodes per seed and evaluation; 0: no evaluation"
    )
    eval_max_steps: Annotated[int, Needs("eval_episodes>=1", "online", note=True)] = Field(
        default=0,
        ge=0,
        description="steps after which an episode ends, of evaluations and of a method that acts while it learns; 0:"
        " the environment's own limit",
    )
    eval_seed: Annotated[int, Needs("eval_episodes>=1", note=True)] = Field(
        default=1_000_000, ge=0, lt=2**32 - 2**20, description="seed of the first evaluation episode"
    )
    eval_grid: Annotated[
        dict[str, tuple[Any, ...]] | None, OnlyWith("eval_grid"), Needs("eval_episodes>=1", note=True)
    ] = Field(
        default=None,
        description="evaluation-time keys with several values, like {eval_temperature:[0,1]}: the last evaluation is"
        " made at each of them too; eval_temperature=0,1 says the same, and that the first counts",
    )
    video_episodes: Annotated[int, Needs("eval_episodes>=1")] = Field(
        default=0, ge=0, description="episodes of the last evaluation to record"
    )
    video_frame_skip: Annotated[int, Needs("video_episodes>=1", note=True)] = Field(
        default=3, ge=1, description="environment steps per video frame"
    )
