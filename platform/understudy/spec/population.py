"""Population-based training: the members of one pack exchange weights and settings on the way (arXiv 1711.09846)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from understudy.errors import did_you_mean
from understudy.spec.part import OnlyWith, Part

OWN = ("lr", "weight_decay", "ema_rate")
"""Settings that members of one pack may each have their own value of."""
LARGEST = {"lr": 10.0, "weight_decay": 1e3, "ema_rate": 1.0}
IDLE = OnlyWith("pbt")


class Population(Part):
    """Which settings a run's members search while they train, and how."""

    title: ClassVar[str] = "population-based training"

    pbt: Annotated[dict[str, tuple[float, float]] | None, IDLE] = Field(
        default=None,
        description="settings that the seeds search while they train, with bounds: pbt={lr:[1e-4,1e-2]};"
        f" of {', '.join(OWN)}",
    )
    pbt_interval: Annotated[int, IDLE] = Field(
        default=10_000, ge=1, description="steps between evaluations after which the worst take the best one's weights"
    )
    pbt_share: Annotated[float, IDLE] = Field(
        default=0.2,
        gt=0,
        le=0.5,
        description="share of the seeds that counts as the worst, and as the best; one at least",
    )
    pbt_resample: Annotated[float, IDLE] = Field(
        default=0.25, ge=0, le=1, description="chance that a setting is drawn anew, and not multiplied by 0.8 or 1.2"
    )

    @model_validator(mode="after")
    def _bounds_hold(self) -> Population:
        if self.pbt is not None and not self.pbt:
            raise ValueError("pbt={} names no setting: pbt={lr:[1e-4,1e-2]}")
        for name, (low, high) in (self.pbt or {}).items():
            if name not in OWN:
                raise ValueError(f"pbt: members of a pack cannot differ in {name!r}{did_you_mean(name, OWN)}")
            if not 0 < low < high <= LARGEST[name]:
                raise ValueError(f"pbt: {name}:[{low:g},{high:g}] must rise, from above 0 to {LARGEST[name]:g} at most")
        return self

    def due(self, step: int) -> bool:
        """Return whether members exchange weights after this step, if it is not the run's last."""
        return self.pbt is not None and step % self.pbt_interval == 0
