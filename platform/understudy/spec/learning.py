"""How an algorithm learns: its settings, made of parts, and what it asks of its batches.

Every algorithm's settings derive from AlgorithmConfig; those that predict chunks of actions also take Chunks, those
with dense layers take Dense, those that see pictures take Vision, those that can be told a task's text Language:

    class MyConfig(Chunks, Dense, Vision, Language, AlgorithmConfig): ...

A key that belongs to a part which a method does not take is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import model_validator

from understudy.spec.part import Part, PerMember, Role, mark
from understudy.spec.parts import ONE_ACTION, Chunks, FineTuning, Interaction, Language, Noise, Optimisation, Vision


@dataclass(frozen=True)
class Sampling:
    """What an algorithm asks of its batches beside observations and actions."""

    horizon: int = 1
    """Actions of a sample, from the step of its observation on, or from `before` steps earlier on."""
    before: int = 0
    """Steps before its newest observation at which a sample's actions begin: with an `obs_horizon` of before + 1 each
    observation has its action. Those of steps before the episode's start have `valid` 0."""
    longer: bool = False
    """Whether the horizon may be longer than every episode; what is past an end has `valid` 0, as always."""
    columns: tuple[str, ...] = ()
    """Columns of the store, such as `rewards`, or RETURNS: [B, ...]."""
    transitions: bool = False
    """Whether a batch also holds what followed: `rewards` and `discounts` [B, H], a discount being 0 where the
    episode terminated (not where it was cut off), and `next_observations` [B, *O], seen after the last valid action.
    With a horizon above 1 also `n_step_rewards` and `n_step_discounts` [B]: the discounted sum of the rewards, and the
    discount of what comes after them."""
    executed: bool = False
    """Whether `actions` are those that were executed, where the data tell them from the ones to imitate: what followed
    is of these."""
    executed_beside: bool = False
    """Whether a batch holds these too, as `executed_actions` [B, H, A], beside the ones to imitate."""
    demonstrations: int = 0
    """Samples of the run's dataset that a batch of a method that acts while it learns holds beside its own, as arrays
    named `expert/...`."""
    balanced_above: float | None = None
    """Reward above which a sample counts as positive, when half of each batch shall be positive; None: no balancing."""
    after: bool = False
    """Whether a sample's observation is what followed its action, not what the action was decided on."""
    saliency_alpha: float | None = None
    """Weight of earlier frames in the saliency maps that a batch holds; None: it holds none."""


class AlgorithmConfig(Optimisation, Noise):
    """Settings that every algorithm has; a config adds its own and the parts of `understudy.spec.parts` it takes."""

    role: ClassVar[Role] = "what"
    former: ClassVar[type[Part]] = Part
    """Keys that earlier versions wrote for this method and that it no longer takes: recorded runs keep them."""

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings that a policy was saved with, by this or an earlier version."""
        return cls(**{key: value for key, value in values.items() if key not in cls.former.model_fields})

    @classmethod
    def forked(cls, parent: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a fork begins with in place of its parent's settings, where neither says what is meant."""
        return {}

    @classmethod
    def may_differ(cls) -> set[str]:
        """Return the settings that members of one pack may each have a value of their own of."""
        parts = [base for base in cls.__mro__ if issubclass(base, Part)]  # a redefined default has lost the mark
        return {name for part in parts for name, field in part.model_fields.items() if mark(field, PerMember)}

    @property
    def chunks(self) -> Chunks:
        """How actions are predicted and executed: one at a time, unless the method takes Chunks."""
        return self if isinstance(self, Chunks) else ONE_ACTION

    @property
    def vision(self) -> Vision:
        """How pictures become features: there is no encoder, unless the method takes Vision."""
        return self if isinstance(self, Vision) else Vision()

    @property
    def language(self) -> Language:
        """How a task's text becomes features: it is told none, unless the method takes Language."""
        return self if isinstance(self, Language) else Language()

    @property
    def tuning(self) -> FineTuning | None:
        """How the run goes on in an environment after its `training_steps` updates on fixed data, if it does."""
        return self if isinstance(self, FineTuning) and self.use_critic and self.online_steps else None

    @property
    def acts_online(self) -> bool:
        """Whether a run acts in an environment while it learns, and so has a replay buffer."""
        return isinstance(self, Interaction) or self.tuning is not None

    @property
    def default_temperature(self) -> float:
        """Scale of the noise that a policy acts with where none is asked for; 0 is deterministic."""
        return 0.0

    @property
    def acting_temperature(self) -> float:
        """Scale of the noise that a policy acts with: the one that was asked for, else the method's own."""
        return self.default_temperature if self.eval_temperature is None else self.eval_temperature

    @property
    def acts_at_random(self) -> bool:
        """Whether a temperature changes how a policy acts."""
        return True

    @property
    def sampling(self) -> Sampling:
        """What the loss asks of its batches."""
        return Sampling(horizon=self.chunks.chunk_length)

    @model_validator(mode="after")
    def _texts_are_of_fixed_data(self) -> AlgorithmConfig:
        if self.language.language_encoder is not None and self.acts_online:
            raise ValueError(
                f"language_encoder={self.language.language_encoder} is for learning from a dataset alone, without"
                " online_steps"
            )
        return self


_FIRST = ("lr", "weight_decay", "batch_size", "horizon_length", "action_chunking", "hidden_dims")
_PARTS = {**Chunks.model_fields, **Vision.model_fields, **Optimisation.model_fields}
_WRITTEN = dict.fromkeys((*_FIRST, *(key for key in _PARTS if key != "action_clip"), "action_clip"))


def in_written_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an algorithm's settings in the order of flags.json, which is older than the parts are."""
    first = {key: values[key] for key in _WRITTEN if key in values}
    return {**first, **values}
