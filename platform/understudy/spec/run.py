"""What a run is: validated, frozen, fingerprinted. Must not import torch-heavy plug-ins, ray, mlflow or optuna.

The command line is flat: `lr=1e-4` may be a field of the run, of one of its parts or of its algorithm.
`understudy.spec.keys.build_run` sorts the keys apart, checks every name, and validates every value before anything
starts; `flat` puts them together again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from understudy.errors import did_you_mean
from understudy.spec.augmentation import AugmentationConfig
from understudy.spec.data import DataSpec
from understudy.spec.evaluation import EvaluationSpec, HookSpec
from understudy.spec.learning import AlgorithmConfig, in_written_order
from understudy.spec.part import ADDRESS, ActsOnly, FolderName, GivesWayTo, IsPath, Part, Role, mark
from understudy.spec.parts import Noise, Prompt
from understudy.spec.placement import Placement
from understudy.spec.population import Population


def plain_name(env_name: str) -> str:
    """Return a dataset's name without the `:` and `/` of names like minari:D4RL/x-v1, for folders and MLflow."""
    return env_name.replace(":", "_").replace("/", "__")


MOST = 2**62
"""What files and databases can count to, with room to add an episode's number."""
Seed = Annotated[int, Field(ge=0, lt=MOST)]


class RunSpec(Part):
    """One configuration and its seeds. The order of fields and parts is that of `--cfg` and flags.json."""

    title: ClassVar[str] = "a run"

    algo: str = Field(default="flow_bc", description="algorithm, by its registered name")
    env_name: FolderName = Field(default="halfcheetah-medium-v2", description="dataset and environment, by name alone")
    seed: Annotated[int, GivesWayTo("seeds")] = Field(
        default=0, ge=0, lt=MOST, description="random seed of a single run"
    )
    seeds: tuple[Seed, ...] | None = Field(
        default=None, min_length=1, max_length=4096, description="several seeds, trained as one pack"
    )
    training_steps: int = Field(
        default=1_000_000, ge=1, lt=MOST, description="gradient updates (offline_steps is the same key)"
    )

    data: DataSpec = Field(default_factory=DataSpec)
    hooks: HookSpec = Field(default_factory=HookSpec)
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    placement: Placement = Field(default_factory=Placement)
    augment: AugmentationConfig = Field(default_factory=AugmentationConfig)
    population: Population = Field(default_factory=Population)
    config: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    former: Part = Field(default_factory=Part)
    """What earlier versions wrote for keys that the algorithm no longer takes; it only keeps the fingerprint."""

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} repeats a seed")
        size, workers = self.config.batch_size, self.placement.num_workers
        if size % workers:
            raise ValueError(f"batch_size={size} does not divide by num_workers={workers}")
        self._check_population(workers)
        self._check_grid()
        return self

    def _check_grid(self) -> None:
        kind = type(self.config)
        acting = [name for name, field in kind.model_fields.items() if mark(field, ActsOnly)]
        for key, values in (self.evaluation.eval_grid or {}).items():
            if key not in acting:
                raise ValueError(
                    f"eval_grid: {key} is no evaluation-time key of {self.algo}{did_you_mean(key, acting)}"
                )
            if not values:
                raise ValueError(f"eval_grid: {key} has no value")
            for value in values:
                kind(**{**self.config.model_dump(), key: value})

    def _check_population(self, workers: int) -> None:
        pbt, interval = self.population.pbt, self.population.pbt_interval
        if pbt is None:
            return
        if len(self.all_seeds) < 2:
            raise ValueError("pbt: one seed has nobody to take weights from; give several, like seeds=[0,1,2,3,4]")
        if workers > 1:
            raise ValueError(f"pbt: members are compared in one process, not in num_workers={workers}")
        if interval >= self.training_steps:
            raise ValueError(f"pbt_interval={interval} is not below training_steps={self.training_steps}: no exchange")
        if self.evaluation.eval_episodes == 0 and not self.data.holds_out:
            raise ValueError("pbt: nothing tells the members apart; give eval_episodes= or validation_fraction=")
        if "ema_rate" in pbt and self.config.ema_rate is None:
            raise ValueError("pbt: ema_rate without an average of the weights; give ema_rate= for there to be one")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of this configuration: `seeds`, else the one `seed`."""
        return self.seeds if self.seeds is not None else (self.seed,)

    @property
    def total_steps(self) -> int:
        """The run's last step: its `training_steps`, and after them those in an environment."""
        tuning = self.config.tuning
        return self.training_steps + (tuning.online_steps if tuning else 0)

    def longer(self, steps: int) -> dict[str, int]:
        """Return the key, with its value, of a run that is `steps` longer at its end."""
        tuning = self.config.tuning
        if tuning:
            return {"online_steps": tuning.online_steps + steps}
        return {"training_steps": self.training_steps + steps}

    @property
    def folder(self) -> Path:
        """The folder that the directories of runs like this one are made in."""
        place = self.placement
        return Path(place.save_dir) / place.project / place.run_group / plain_name(self.env_name)

    def paths(self) -> dict[str, str]:
        """Return the keys that name a file or folder, with their absolute paths; addresses of models are left out."""
        fields = {key: field for part, _ in self.parts() for key, field in type(part).flat_fields().items()}
        named = {key: value for key, value in self.flat().items() if value and mark(fields[key], IsPath)}
        return {key: value for key, value in named.items() if not ADDRESS.match(value)}

    def parts(self) -> Iterator[tuple[Part, dict[str, Any]]]:
        """Yield each part with its flat values as JSON, the run's own keys first and the algorithm's last."""
        yield self, self.model_dump(mode="json", exclude=set(PARTS))
        for part in (self.data, self.hooks, self.evaluation, self.placement, self.augment, self.population):
            values = part.model_dump(mode="json")
            yield part, self._with_acting(values) if part is self.evaluation else values
        learning = {**self.config.model_dump(mode="json"), **self.former.model_dump(mode="json")}
        acting = {*Noise.model_fields, *Prompt.model_fields}
        own = {key: value for key, value in learning.items() if key not in acting}
        yield self.config, in_written_order(own)

    def _with_acting(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return an evaluation's keys with the temperature, which the config holds, where flags.json always had it, and
        with the text of a policy that is told one.
        """
        later = ("eval_seed", "eval_grid", "video_episodes", "video_frame_skip")
        first = {key: value for key, value in values.items() if key not in later}
        language = self.config.language
        told = {"eval_language": language.eval_language} if language.language_encoder is not None else {}
        return {**first, "eval_temperature": self.config.eval_temperature, **values, **told}

    def flat(self, roles: Collection[Role] = ("what", "when", "where")) -> dict[str, Any]:
        """Return one flat mapping of every key, as flags.json and MLflow hold it, or of those with these roles."""
        return {key: value for part, values in self.parts() if part.role in roles for key, value in values.items()}

    def shared(self) -> dict[str, Any]:
        """Return the flat keys that a policy keeps: neither places nor paths of this machine."""
        local = {key for part, _ in self.parts() for key in part.local()}
        return {key: value for key, value in self.flat(("what", "when")).items() if key not in local}

    def fingerprint(self) -> str:
        """Return 16 hex digits over what is trained: never over when it is logged nor where it runs."""
        what = {key: value for key, value in self.flat(("what",)).items() if key not in ("seed", "seeds")}
        what["seeds"] = list(self.all_seeds)
        if self.population.pbt is not None:  # then evaluations decide what is trained
            what |= self.evaluation.model_dump(mode="json", exclude={"video_episodes", "video_frame_skip", "eval_grid"})
            what["eval_temperature"] = self.config.eval_temperature
            told = self.config.language.eval_language
            what |= {"eval_language": told} if told is not None else {}
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()


PARTS: dict[str, type[Part]] = {
    name: kind
    for name, field in RunSpec.model_fields.items()
    if isinstance(kind := field.annotation, type) and issubclass(kind, Part)
}
"""The parts of a run by their field; `config` and `former` are an algorithm's own."""
