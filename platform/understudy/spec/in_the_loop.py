"""Learning with a human, or an oracle, in the loop: takeovers, a classifier's rewards, actors of their own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from understudy.registry import controls
from understudy.spec.choices import OneOf
from understudy.spec.part import LOG, ModelPlace, Needs, OfThisMachine, OnlyWith
from understudy.spec.parts import Interaction


class InTheLoop(Interaction):
    """How a method is corrected and rewarded while it acts, and who acts."""

    title: ClassVar[str] = "learning with somebody in the loop"

    start_training: int = Field(default=100, ge=1, description="environment steps before the first update")
    utd_ratio: int = Field(default=2, ge=1, le=1000, description="updates a step of the environment")
    buffer_size: int = Field(default=200_000, ge=1, description="newest steps that batches are drawn from")
    offline_ratio: float = Field(
        default=0.5, ge=0, lt=1, description="share of each batch of demonstrations and corrections"
    )
    takeover: Annotated[str, OneOf(controls.names, "none")] = Field(
        default="none", description="what corrects the policy, as in `understudy record`; scripted is an oracle"
    )
    takeover_rate: Annotated[float, Needs("takeover=scripted")] = Field(
        default=0.5, ge=0, le=1, description="share of the episodes that an oracle corrects, at first"
    )
    takeover_after: Annotated[int, Needs("takeover=scripted")] = Field(
        default=15, ge=0, description="steps of these episodes that are left to the policy before"
    )
    takeover_steps: Annotated[int, Needs("takeover=scripted")] = Field(
        default=0, ge=0, description="steps of a correction; 0: to the episode's end"
    )
    takeover_until: Annotated[int, Needs("takeover=scripted")] = Field(
        default=0, ge=0, description="step at which takeover_rate has fallen to 0, in a line; 0: it stays"
    )
    reward_classifier: Annotated[ModelPlace | None, OfThisMachine()] = Field(
        default=None, description="a trained reward classifier (a run, a model) whose verdict is the reward"
    )
    success_threshold: Annotated[float, Needs("reward_classifier")] = Field(
        default=0.5, gt=0, lt=1, description="probability above which it says success"
    )
    success_reward: Annotated[float, Needs("reward_classifier")] = Field(
        default=1.0, description="reward of a success that it says"
    )
    terminate_on_success: Annotated[bool, Needs("reward_classifier")] = Field(
        default=True, description="end the episode with it"
    )
    num_actors: int = Field(
        default=0,
        ge=0,
        le=256,
        description="processes that act for each seed (Ray's) beside the one that learns, or that may come to"
        " actor_address; 0: none",
    )
    actor_address: str = Field(
        default="", description="HOST:PORT at which `understudy actor` finds the learner; '': no such actors"
    )
    publish_interval: Annotated[int, Needs("num_actors", "actor_address")] = Field(
        default=50, ge=1, json_schema_extra=LOG, description="updates between two versions of the actors' weights"
    )
    fragment_steps: Annotated[int, Needs("num_actors", "actor_address")] = Field(
        default=20, ge=1, description="steps that an actor sends at once, at least, if its episode goes on"
    )
    replay: Annotated[Literal["none", "ledger"], Needs("num_actors", "actor_address")] = Field(
        default="none", description="ledger: note what each update could draw, so that all can be done again"
    )
    gripper: Literal["continuous", "discrete"] = Field(
        default="continuous", description="discrete: a critic of its own chooses to open, hold or close (last number)"
    )
    gripper_penalty: Annotated[float, OnlyWith("gripper", "discrete"), Needs("gripper=discrete")] = Field(
        default=-0.02, le=0, description="reward of telling a closed gripper to close, or an open one to open"
    )

    @property
    def has_actors(self) -> bool:
        """Whether others act and this process learns."""
        return bool(self.num_actors or self.actor_address)

    @property
    def actors(self) -> int:
        """How many others act for each seed, or may come to do so."""
        return max(1, self.num_actors)
