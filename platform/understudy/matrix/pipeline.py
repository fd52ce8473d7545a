"""An expert and those who learn from it, in the words of seed scripts: SAC, its demonstrations, IPMD and BC from these.

A pipeline is a matrix of three runs in `<save_dir>/<environment>/`, whose later ones need the first one's
demonstrations. Every stage lies in a folder that is named by what it depends on, so that the same command goes on, and
other settings do only what they change.

    matrix.json  comparison.png  results.txt  comparison.json  comparison.csv
    cells/sac-1a2b3c4d/ ...           the runs
    demonstrations/5e6f7a8b/          expert_buffer.pt, metadata.pt, README.txt
    evaluations/                      the episodes that all are compared on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from understudy.errors import SpecError
from understudy.files import write_json
from understudy.matrix.cells import MARKER, Cell, MatrixDir, words_by_method, words_taken
from understudy.runs.demonstrating import Wanted
from understudy.spec.compose import flat_values, given_keys, parse, split_sweeps, to_overrides
from understudy.spec.keys import validate
from understudy.spec.part import Part
from understudy.spec.run import RunSpec
from understudy.spec.words import ALIASES

EXPERT, LEARNERS = "sac", ("ipmd", "bc")
METHODS = (EXPERT, *LEARNERS)
SEEDS = "seeds=[0,1,2]"
NAMES = {"expert": "expert_run"}
"""Other words for options."""


class PipelineOptions(Part):
    """What the words of a pipeline say beside the keys of its runs."""

    title: ClassVar[str] = "a pipeline"

    env_name: str = Field(default="Pendulum-v1", description="environment")
    save_dir: str = Field(default="comparison_results", description="root of everything it makes")
    expert_frames: int = Field(default=100_000, ge=1, description="steps of the environment that the expert learns in")
    ipmd_frames: int = Field(default=100_000, ge=1, description="steps of the environment that ipmd learns in")
    bc_epochs: float = Field(default=100, gt=0, description="passes of bc over the demonstrations")
    expert_run: str | None = Field(default=None, description="a finished run that the expert is taken from")
    expert_episodes: int = Field(default=50, ge=1, description="episodes that the expert shows")
    expert_transitions: int = Field(default=0, ge=0, description="transitions that it shows at least, instead; 0: none")
    expert_sampled: bool = Field(default=False, description="draw its actions; else it takes its most likely ones")
    final_episodes: int = Field(default=50, ge=2, description="episodes of each seed that all are compared on")

    @property
    def wanted(self) -> Wanted:
        """The demonstrations."""
        return Wanted(self.expert_episodes, self.expert_transitions, self.expert_sampled)


STARTS = ("expert_frames", "ipmd_frames", "bc_epochs", "expert_run", *NAMES)
"""Options that say that words are a pipeline's."""


def is_pipeline(words: Sequence[str]) -> bool:
    """Return whether words name stages of a pipeline."""
    return any(key in STARTS for key in given_keys(words))


@dataclass(frozen=True)
class Words:
    """The words of a pipeline, sorted."""

    options: PipelineOptions
    shared: list[str]
    """Keys of all runs that take them."""
    own: Mapping[str, list[str]]

    def of(self, method: str, expert_data: str = "") -> list[str]:
        """Return the words of a method's run; learners learn from `expert_data`."""
        options = self.options
        length = {
            "sac": f"training_steps={options.expert_frames}",
            "ipmd": f"training_steps={options.ipmd_frames}",
            "bc": f"epochs={options.bc_epochs:g}",
        }[method]
        words = words_taken(self.shared, self.own[method], method)
        usual = ["policy=mse"] if method == "bc" and "policy" not in given_keys(words) else []
        data = [] if method == EXPERT else [f"expert_data={expert_data}"]
        return [*usual, *words, f"algo={method}", f"env_name={options.env_name}", length, *data]


def read_words(words: Sequence[str]) -> Words:
    """Sort the words of a pipeline; SpecError for what it does not take."""
    plain, sweeps = split_sweeps(parse(words))
    for key in sweeps:
        raise SpecError(f"{key} has several values: a pipeline takes one value a key, and seeds=[0,1,2]")
    options: dict[str, Any] = {}
    shared: list[str] = []
    for word, key, item in zip(to_overrides(words), given_keys(words), plain, strict=True):
        name = NAMES.get(key, ALIASES.get(key, key))
        if name in PipelineOptions.model_fields:
            if name in options:
                raise SpecError(f"{word}: {name} is given twice")
            options[name] = flat_values([item])[key]
        elif name in ("algo", "space", "expert_data", "training_steps", "epochs") or key == "frames":
            raise SpecError(
                f"{word}: a pipeline trains {', '.join(METHODS)}, for expert_frames=, ipmd_frames= and bc_epochs=,"
                " from the expert's demonstrations; `understudy compare algo=A,B` compares others"
            )
        else:
            shared.append(word)
    shared, own = words_by_method(shared, METHODS)
    if not {"seed", "seeds"} & set(given_keys(shared)):
        shared.append(SEEDS)
    return Words(validate(PipelineOptions, options), shared, own)


def key_of(*facts: Any) -> str:
    """Return 8 hex digits over what a stage depends on."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=4).hexdigest()


class PipelineDir(MatrixDir):
    """A pipeline's folder: matrix.json also has its options and where the demonstrations lie."""

    @classmethod
    def write(cls, path: Path, options: PipelineOptions, cells: Sequence[Cell], demonstrations: str) -> PipelineDir:
        """Write matrix.json, in the place of an earlier one."""
        found = {"kind": "pipeline", "cells": [asdict(cell) for cell in cells], "demonstrations": demonstrations}
        write_json(path / MARKER, {**found, "options": options.model_dump(mode="json")})
        return cls(path)

    @property
    def options(self) -> PipelineOptions:
        """What was asked for."""
        return validate(PipelineOptions, self.read()["options"])

    @property
    def demonstrations(self) -> Path:
        """The folder of the expert buffer."""
        return self.path / self.read()["demonstrations"]

    def evaluation(self, name: str, spec: RunSpec) -> Path:
        """Return the file of the episodes that a cell (by its folder), or random actions, are compared by."""
        plain = name if Path(name).name == name else f"{Path(name).name}-{key_of(name)}"
        return self.path / "evaluations" / f"{plain}-{key_of(spec.evaluation.model_dump(mode='json'))}.arrow"
