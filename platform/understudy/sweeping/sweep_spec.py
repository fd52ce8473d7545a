"""What a sweep is: a base run, a search space, and how it is searched."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Sweep
from pydantic import BaseModel, ConfigDict

from understudy.errors import SpecError, did_you_mean
from understudy.registry import algorithms, search_spaces
from understudy.spec.choices import choices_of
from understudy.spec.compose import listed
from understudy.spec.effects import check_effects, check_searched
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.keys import algo_of, build_run, keys_that_train, resolve_key, run_fields, validate, with_changes
from understudy.spec.model_names import check_model_name, default_model_name
from understudy.spec.part import Needs, mark
from understudy.spec.run import RunSpec
from understudy.spec.space import Choice, Dimension, Interval, checked, is_ordered, size
from understudy.spec.words import canonical
from understudy.sweeping.objective import AUTO, HELD_OUT, LATENCY, PLAYED, Goal, read_goal
from understudy.sweeping.options import SweepOptions
from understudy.sweeping.racing import looks

logger = logging.getLogger("understudy")


class SweepSpec(BaseModel):
    """A validated sweep. `dimensions` need training; `grid` holds evaluation-time parameters, which need none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: dict[str, Any]
    """Flat keys of the base run."""
    dimensions: dict[str, Dimension]
    grid: dict[str, tuple[Any, ...]]
    options: SweepOptions
    study: str = ""
    """Name of the study since the trials were given more steps; '' for the one that the sweep began with."""
    ordered: bool = False
    """Whether lists of numbers are ordered for the sampler; not so in sweeps of earlier versions."""
    startup: int = 0
    """Trials that are proposed by chance before the sampler learns from them; 0: a quarter of num_trials."""

    @property
    def base(self) -> RunSpec:
        """The run that every trial starts from."""
        return build_run(self.run)

    @property
    def goal(self) -> Goal:
        """What is wanted of a configuration."""
        options = self.options
        if options.objective == (AUTO,) and options.direction == (AUTO,) and self.held_out_only:
            return read_goal((AUTO,), ("minimize" if self.acts else "maximize",), options.constraints)
        return read_goal(options.objective, options.direction, options.constraints)

    @property
    def acts(self) -> bool:
        """Whether the algorithm gives actions."""
        return algorithms.get(self.run["algo"]).acts

    @property
    def held_out_only(self) -> bool:
        """Whether trials are scored on held-out episodes alone: there is no simulator, or the algorithm gives no
        actions."""
        return not self.acts or self.run["eval_episodes"] == 0

    @property
    def sampler(self) -> str:
        """The name of the sampler, with `auto` replaced by the one that it stands for."""
        named = self.options.sampler
        return named if named != "auto" else "tpe" if len(self.options.objective) == 1 else "nsga2"

    @property
    def model_name(self) -> str | None:
        """Name of the registered model, or None."""
        name = self.options.register_as
        return None if name == "none" else name or default_model_name(self.run["algo"], self.run["env_name"])


def build_sweep(values: dict[str, Any], sweeps: Mapping[str, Sweep]) -> SweepSpec:
    """Build a SweepSpec from plain keys and swept keys; everything that could be tried is validated now."""
    values, dimensions = dict(values), {}
    space_name = values.pop("space", None)
    fixed: Mapping[str, Any] = {}
    if space_name is not None:
        space = search_spaces.get(str(space_name))
        if values.get("algo", space.algo) != space.algo:
            raise SpecError(f"space={space_name} is for algo={space.algo}, not algo={values['algo']}")
        dimensions = {key: item for key, item in space.dimensions.items() if key not in values}
        values, fixed = {"algo": space.algo, **values}, space.fixed
    algo = algo_of(values)
    options = {key: values.pop(key) for key in list(values) if _is_option(algo, key, values[key])}
    values = {**fixed, **values}
    if values.get("launcher") == "ray":
        raise SpecError("launcher=ray changes nothing in a sweep, whose trials Ray Tune starts: leave it out")
    for key in ("objective", "direction", "constraints"):
        if key in sweeps:  # objective=success,latency
            options[key] = listed(key, sweeps[key])
    sweeps = {key: item for key, item in sweeps.items() if key not in options}
    fields = run_fields(algo)
    allowed = fields.keys() | SweepOptions.model_fields.keys() | {"space"}
    for key in (*values, *sweeps):
        resolve_key(key, allowed)
    swept = {resolve_key(key, fields): dimension_of(algo, key, sweep) for key, sweep in sweeps.items()}
    if "seed" in swept:
        values["seeds"] = _choices("seed", swept.pop("seed"))
    dimensions.update(swept)
    if not dimensions:
        known = ", ".join(search_spaces.names())
        raise SpecError(f"nothing to sweep: give space=NAME ({known}) or values like lr=interval(1e-5,1e-3)")
    not_swept = sorted(dimensions.keys() - keys_that_train(algo))
    if not_swept:
        raise SpecError(f"{not_swept[0]} cannot be swept inside one study: start one sweep for each value")
    if "horizon_length" in dimensions:
        if values.get("action_chunking") is False:
            raise SpecError("horizon_length changes nothing with action_chunking=false; leave one of them out")
        values["action_chunking"] = True
    return _checked(algo, values, dimensions, validate(SweepOptions, options))


def _is_option(algo: str, key: str, value: Any) -> bool:
    """Return whether a key belongs to the sweep; one that runs have too (ddpm_bc's sampler) is theirs with their
    values."""
    own = run_fields(algo).get(key)
    return key in SweepOptions.model_fields and (own is None or value not in choices_of(own))


def check_given(spec: SweepSpec, given: Collection[str]) -> list[str]:
    """Return a note for each given key that changes nothing in the sweep; SpecError for one that is refused."""
    for key in given:
        field = SweepOptions.model_fields.get(key)
        if field is None or mark(field, Needs) is None or spec.options.scheduler == "asha":
            continue
        if getattr(spec.options, key) != field.default:
            raise SpecError(f"{key} changes nothing {_why_not_stopped(spec, given)}")
    if spec.options.trial_videos and not spec.base.evaluation.video_episodes:
        raise SpecError("trial_videos=true changes nothing without video_episodes, the number of episodes to film")
    rule, seeds = spec.options.racing, len(spec.base.all_seeds)
    if rule != "none" and len(looks(rule, seeds)) == 1:
        raise SpecError(
            f"racing={rule} changes nothing with {seeds} seed{'s' * (seeds > 1)}: give more, or leave it out"
        )
    if spec.base.population.pbt is not None:
        if rule != "none":
            raise SpecError(f"racing={rule}: the seeds of a population (pbt) train together; leave one of the two out")
        if spec.options.confirm_seeds == 1:
            raise SpecError("confirm_seeds=1: a population (pbt) is several seeds; give more, or 0")
    searched = [*spec.dimensions, *spec.grid]
    of_the_run = [key for key in given if key not in SweepOptions.model_fields and key not in ("space", "gpus")]
    return check_effects(spec.base, [key for key in of_the_run if key not in searched], searched)


def _why_not_stopped(spec: SweepSpec, given: Collection[str]) -> str:
    """Return why the sweep's trials are not stopped early, to follow `changes nothing`."""
    if "scheduler" in given:
        return "without scheduler=asha"
    if len(spec.options.objective) > 1:
        return "with several objectives, whose trials are not stopped early: leave it out"
    return f"with objective={spec.goal.first.name}, whose trials are not stopped early: leave it out"


def _checked(algo: str, values: dict[str, Any], dimensions: dict[str, Dimension], options: SweepOptions) -> SweepSpec:
    first = build_run({**values, **_first(dimensions)})
    dimensions = checked(dimensions, lambda key, value: value_of(first, key, value))
    evaluation = set(algorithms.get(algo).evaluation_parameters)
    grid = {key: _choices(key, dimension) for key, dimension in dimensions.items() if key in evaluation}
    training = {key: dimension for key, dimension in dimensions.items() if key not in evaluation}
    base = build_run({**values, **{key: options_[0] for key, options_ in grid.items()}, **_first(training)})
    for values_ in itertools.product(*grid.values()):
        with_changes(base, **dict(zip(grid, values_, strict=True)))
    goal = read_goal(options.objective, options.direction, options.constraints)
    options = _check_goal(goal, base, options)
    if options.sampler == "cmaes":
        _check_numbers(training)
    if options.register_as not in (None, "none"):
        check_model_name(options.register_as, "register_as")
        if base.placement.tracking() == "none":
            raise SpecError(
                f"register_as={options.register_as}: tracking_uri=none keeps no models; give one of the two"
            )
    if (workers := base.placement.num_workers) > 1:
        raise SpecError(f"num_workers={workers}: a trial of a sweep is one worker; use cpus= or gpus=")
    if isinstance(base.config, InTheLoop) and (
        base.config.has_actors or {"num_actors", "actor_address"} & {*dimensions}
    ):
        raise SpecError("num_actors, actor_address: a trial of a sweep acts by itself; leave them out")
    most = max(1.0, largest_number(options, training))
    if most < options.num_trials:
        logger.info("the space holds %d configurations: num_trials=%d, not %d", most, most, options.num_trials)
        options = options.model_copy(update={"num_trials": int(most)})
    check_searched(base, [*dimensions])
    run = {**base.flat(), "seeds": list(base.all_seeds), "launcher": "inline"}
    startup = max(4, options.num_trials // 4)
    spec = SweepSpec(run=run, dimensions=training, grid=grid, options=options, ordered=True, startup=startup)
    for point in options.points:
        check_point(spec, point)
    return spec


def _check_goal(goal: Goal, base: RunSpec, options: SweepOptions) -> SweepOptions:
    """Return the options that the goal asks for; SpecError for what the runs would not measure."""
    acts, episodes = algorithms.get(base.algo).acts, base.evaluation.eval_episodes
    if not acts and not base.data.holds_out:
        raise SpecError(f"a sweep of {base.algo} is ranked by held-out episodes; give validation_fraction=0.1, say")
    if not goal.names and not episodes and not base.data.holds_out:
        raise SpecError(
            "eval_episodes=0: a sweep ranks its trials by evaluation; give at least 1, or hold episodes out with"
            " validation_fraction=0.1, say"
        )
    for name in goal.names:
        if name.startswith(HELD_OUT) and not base.data.holds_out:
            raise SpecError(f"objective={name}: no episodes are held out; give validation_fraction=0.1, say")
        if name in PLAYED and not (acts and episodes):
            raise SpecError(f"objective={name}: no episode is played; give eval_episodes of at least 1")
        if name == LATENCY and not acts:
            raise SpecError(f"objective={name}: {base.algo} gives no actions")
    several = len(goal.objectives) > 1
    if several and options.sampler in ("gp", "cmaes"):
        raise SpecError(f"sampler={options.sampler} takes one objective; for several: nsga2, tpe, random, qmc, grid")
    if options.scheduler == "asha" and (several or LATENCY in goal.objectives[0].name):
        if "scheduler" in options.model_fields_set:
            raise SpecError("scheduler=asha stops by one objective that every evaluation has: give scheduler=none")
        return options.model_copy(update={"scheduler": "none"})
    return options


def _check_numbers(dimensions: Mapping[str, Dimension]) -> None:
    """Raise SpecError for what CMA-ES does not search: a list without an order, and one key alone."""
    for key, item in dimensions.items():
        if isinstance(item, Choice) and not is_ordered(item):
            raise SpecError(f"sampler=cmaes searches numbers, and {key} is a list without an order: tpe takes it")
    if len(dimensions) < 2:
        raise SpecError("sampler=cmaes searches two keys or more together; for one: tpe, gp, qmc, random")


def check_point(spec: SweepSpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of the space with its values as a run holds them; SpecError where it lies outside."""
    found: dict[str, Any] = {}
    for key, value in point.items():
        if key not in spec.dimensions:
            raise SpecError(f"points: {key} is not swept{did_you_mean(key, spec.dimensions)}")
        held, item = value_of(spec.base, key, value), spec.dimensions[key]
        if not item.holds(held):
            raise SpecError(f"points: {key}={value} lies outside {item}")
        found[key] = held
    return found


def default_point(spec: SweepSpec) -> dict[str, Any] | None:
    """Return the default values of what is swept; None where they do not lie in the space."""
    defaults = build_run({key: value for key, value in spec.run.items() if key not in spec.dimensions}).flat()
    try:
        return check_point(spec, {key: defaults[key] for key in spec.dimensions})
    except (SpecError, KeyError):
        return None


def largest_number(options: SweepOptions, training: Mapping[str, Dimension]) -> float:
    """Return how many trials make sense: as many as the space has configurations (infinite with an interval)."""
    span = size(training.values())
    if options.sampler == "grid" and span == float("inf"):
        raise SpecError("sampler=grid needs every swept key to be a list of values, not an interval")
    return span


def value_of(base: RunSpec, key: str, value: Any) -> Any:
    """Return a key's value as a run holds it (128 of 128.0); SpecError when it is not allowed."""
    return with_changes(base, **{key: value}).flat().get(key, value)


def _first(dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    def first(item: Dimension) -> Any:
        if isinstance(item, Choice):
            return item.values[0]
        return int(item.low) if item.integer else item.low

    return {key: first(item) for key, item in dimensions.items()}


def _choices(key: str, dimension: Dimension) -> tuple[Any, ...]:
    if isinstance(dimension, Interval):
        raise SpecError(
            f"{key}=interval({dimension.low:g},{dimension.high:g}): give a list of values, like {key}=5,10,20"
        )
    return dimension.values


def dimension_of(algo: str, key: str, sweep: Sweep) -> Dimension:
    """Turn Hydra's sweep value into a Dimension; fields marked with a log scale get one unless tag(linear, ...)."""
    if not isinstance(sweep, IntervalSweep):
        return Choice(values=tuple(listed(key, sweep)))
    assert sweep.start is not None
    assert sweep.end is not None
    fields = run_fields(algo)
    item = fields[canonical(key, fields)]
    number: tuple[Any, ...] = (int, float, float | None)
    if item.annotation not in number:
        raise SpecError(f"{key} is no number: give a list of values instead of interval(...)")
    integer = item.annotation is int  # Hydra makes floats of both ends
    if integer and not (sweep.start.is_integer() and sweep.end.is_integer()):
        raise SpecError(f"{key}=interval({sweep.start:g},{sweep.end:g}): {key} is a whole number, so are the ends")
    extra = item.json_schema_extra
    marked = extra is not None and not callable(extra) and extra.get("scale") == "log"
    tags = set(sweep.tags)
    log = ("log" in tags or (marked and float(sweep.start) > 0)) and "linear" not in tags
    try:
        return validate(Interval, {"low": sweep.start, "high": sweep.end, "log": log, "integer": integer})
    except SpecError as error:
        raise SpecError(f"{key}={error}") from None
