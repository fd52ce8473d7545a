"""Keys that a user gives and that change nothing beside the others: refused, or said in a note. Nothing goes unsaid.

Only what was typed is looked at: flags.json holds every key, and an old run must load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.errors import SpecError
from understudy.spec.augmentation import AugmentationConfig
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.spec.words import canonical


@dataclass(frozen=True)
class Idle:
    """Keys that say nothing where `idle` holds, and what they need to say something."""

    keys: tuple[str, ...]
    idle: Callable[[RunSpec], bool]
    needs: str
    refused: bool = True
    """Whether they are refused; a key that the field's usual commands give all the same is a note."""


TABLE = (
    Idle(("video_episodes",), lambda spec: not spec.evaluation.eval_episodes, "eval_episodes of at least 1"),
    Idle(
        ("eval_seed", "eval_temperature"),
        lambda spec: not spec.evaluation.eval_episodes,
        "eval_episodes of at least 1",
        refused=False,
    ),
    Idle(("video_frame_skip",), lambda spec: not spec.evaluation.video_episodes, "video_episodes", refused=False),
    Idle(("goal_delta",), lambda spec: spec.data.goal_relabelling != "delta_goals", "goal_relabelling=delta_goals"),
    Idle(("proportion_order",), lambda spec: spec.data.dataset_proportion == 1, "dataset_proportion below 1"),
    Idle(("save_total_limit",), lambda spec: spec.hooks.save_interval < 1, "save_interval of at least 1"),
    Idle(
        ("dataset_replace_interval",),
        lambda spec: spec.data.ogbench_dataset_dir is None,
        "ogbench_dataset_dir",
        refused=False,
    ),
    Idle(
        ("horizon_length",),
        lambda spec: spec.config.chunks.chunk_length == 1 and spec.config.chunks.horizon_length > 1,
        "action_chunking=true",
        refused=False,
    ),
    Idle(
        tuple(name for name in AugmentationConfig.model_fields if name.startswith("augment_")),
        lambda spec: not spec.augment.order,
        "augmentation",
    ),
    Idle(("gpus",), lambda spec: spec.placement.launcher == "inline", "launcher=ray (device=cuda chooses a GPU here)"),
)


def check_effects(spec: RunSpec, given: Mapping[str, Any]) -> list[str]:
    """Return a note for each given key that changes nothing; SpecError for one that is refused.

    A key given with its default value asks for nothing, and passes.
    """
    held, notes = _held(spec), []
    defaults = _held(build_run({"algo": spec.algo}))
    typed = {canonical(key, held) for key in given}
    for item in TABLE:
        for key in item.keys:
            if key not in typed or held.get(key) == defaults.get(key) or not item.idle(spec):
                continue
            line = f"{key}={held[key]} changes nothing without {item.needs}"
            if item.refused:
                raise SpecError(line)
            notes.append(line)
    for operation in spec.augment.parameters:
        values, usual = operation.model_dump(), type(operation)().model_dump()
        for key in typed & values.keys():
            if operation.name not in spec.augment.order and values[key] != usual[key]:
                raise SpecError(f"{key} changes nothing without {operation.name} in augmentation= or augment_order=")
    return notes


def _held(spec: RunSpec) -> dict[str, Any]:
    """Return every flat key with its value, those of an augmentation that does nothing too."""
    names = AugmentationConfig.model_fields.keys()
    return {**{name: getattr(spec.augment, name) for name in names}, **spec.augment.flat_parameters(), **spec.flat()}
