"""What a run trains on: which episodes of its dataset, what the policy is shown of them, and how it is scaled."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from understudy.registry import goal_strategies
from understudy.spec.choices import OneOf
from understudy.spec.part import LocalPath, Needs, OnlyWith, Part

Scaling = Literal["none", "zscore", "bounds"]
Order = Literal["seeded", "first"]


class DataSpec(Part):
    """The episodes, views and goals of a dataset that `env_name` names."""

    title: ClassVar[str] = "the data"

    normalize: Annotated[Scaling, Needs("policy_data"), Needs("states")] = Field(
        default="zscore", description="scaling of state observations"
    )
    dataset_proportion: Annotated[float, Needs("dataset")] = Field(
        default=1.0, gt=0, le=1, description="share of the episodes to train on"
    )
    proportion_order: Annotated[Order, Needs("dataset_proportion<1")] = Field(
        default="seeded", description="which episodes that share is"
    )
    dataset_replace_interval: Annotated[int, Needs("ogbench_dataset_dir", note=True)] = Field(
        default=0, ge=0, description="steps per file of ogbench_dataset_dir; 0 keeps the first"
    )
    ogbench_dataset_dir: Annotated[LocalPath | None, Needs("dataset")] = Field(
        default=None, description="folder of OGBench .npz files to rotate through"
    )
    expert_data: Annotated[LocalPath | None, OnlyWith("expert_data"), Needs("dataset")] = Field(
        default=None,
        description="expert_buffer.pt (or its folder) to learn from; env_name is then the environment it is of",
    )
    filter_key: Annotated[str | None, Needs("dataset")] = Field(
        default=None, description="train on the episodes of this mask of the file (robomimic's)"
    )
    validation_fraction: Annotated[float, Needs("fixed_data")] = Field(
        default=0.0, ge=0, lt=1, description="share of the episodes held out; seeded, whole"
    )
    validation_filter_key: Annotated[str | None, Needs("fixed_data")] = Field(
        default=None, description="hold out the episodes of this mask instead"
    )
    sparse: Annotated[bool, Needs("dataset"), Needs("rewards", note=True)] = Field(
        default=False, description="rewards become -1 where they were not 0"
    )
    mask_after_done: Annotated[bool, OnlyWith("mask_after_done", True), Needs("dataset")] = Field(
        default=False,
        description="a chunk ends with the first done in it, as Q-chunking's: robomimic's demonstrations go on for some"
        " steps, each done; false: with the episode",
    )
    obs_horizon: int = Field(
        default=1, ge=1, le=1000, description="observations the policy sees: the newest and those before it"
    )
    cameras: Annotated[tuple[str, ...] | None, Needs("pictures_here")] = Field(
        default=None, description="cameras the policy sees; none for all there are"
    )
    use_proprio: Annotated[bool, Needs("pictures_here")] = Field(
        default=True, description="show the state beside pictures"
    )
    normalize_actions: Annotated[Scaling, Needs("fixed_data"), Needs("acts")] = Field(
        default="none", description="scaling of actions, undone by the policy itself; bounds is to [-1, 1]"
    )
    goal_relabelling: Annotated[str, OneOf(goal_strategies.names, "auto", "none"), Needs("dataset")] = Field(
        default="auto",
        description="later states shown as goals; auto: uniform where task or algorithm is goal-conditioned",
    )
    goal_delta: Annotated[tuple[int, int], Needs("goal_relabelling=delta_goals")] = Field(
        default=(1, 25), description="delta_goals: steps ahead, from the first to below the second"
    )
    reached_proportion: Annotated[float | None, Needs("goals")] = Field(
        default=None,
        ge=0,
        le=1,
        description="share of goals that are the next state; with it goals are drawn as BridgeData's",
    )
    discount: Annotated[float, Needs("goal_relabelling=geometric", "rewards")] = Field(
        default=0.99, gt=0, le=1, description="of the returns that critics learn, and of geometric goals"
    )

    @field_validator("goal_delta")
    @classmethod
    def _rises(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] < value[1]:
            raise ValueError("the first must be at least 1 and below the second")
        return value

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> DataSpec:
        if self.validation_fraction and self.validation_filter_key:
            raise ValueError("validation_fraction and validation_filter_key both hold episodes out: give one")
        return self

    @model_validator(mode="after")
    def _one_place_of_data(self) -> DataSpec:
        if self.expert_data and self.ogbench_dataset_dir:
            raise ValueError("expert_data and ogbench_dataset_dir both say where the data are: give one")
        return self

    @property
    def holds_out(self) -> bool:
        """Whether some episodes are held out of training."""
        return self.validation_fraction > 0 or self.validation_filter_key is not None
