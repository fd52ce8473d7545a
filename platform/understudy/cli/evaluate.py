"""`understudy evaluate`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.completion import KeyCommand
from understudy.cli.output import OVERRIDES, console, examples, progress_bar, show_table
from understudy.cli.showing import show_notes, show_result
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.policy import Policy
    from understudy.spec.run import RunSpec
    from understudy.trainables.loops.evaluation import Outcome


NO_FILE = "-"
"""What --video is given where no file follows it."""


class EvaluateCommand(KeyCommand):
    """`evaluate`, whose --video may stand without a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; a --video that an option, a key or a folder follows, or nothing, has no file."""
        words: list[str] = []
        for place, word in enumerate(args):
            words.append(word)
            following = args[place + 1] if place + 1 < len(args) else ""
            if word == "--video" and (not following or following[0] == "-" or _is_no_file(following)):
                words.append(NO_FILE)
        return super().parse_args(ctx, words)


def _is_no_file(word: str) -> bool:
    return "=" in word or ":/" in word or Path(word).is_dir()


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        cls=EvaluateCommand,
        context_settings={**OVERRIDES, "help_option_names": ["--help"]},
        short_help="Evaluate a run or a model in its environment.",
        options_metavar="[OPTIONS] [KEY=VALUE]...",
        epilog=examples(
            "understudy evaluate runs/fbc/.../sd000_20260101_120000 eval_episodes=100",
            "understudy evaluate models:/flow_bc-lift-mh-low_dim@best --video lift.mp4 flow_steps=20",
            "understudy evaluate --video --episodes 3,7 runs/fbc/.../sd000_20260101_120000",
        ),
    )(evaluate)


def evaluate(
    context: typer.Context,
    model: str = typer.Argument("", help="run or sweep (folder, name, MLflow id), policy folder, models:/NAME@ALIAS"),
    save_dir: str = typer.Option("", "--save_dir", help="the run's folder, in the place of MODEL"),
    video: str = typer.Option("", "--video", help="write an mp4 here; with --episodes it may stand alone"),
    episodes: str = typer.Option("", "--episodes", help="film these (3,7 or SEED:EPISODE) again, evaluate no others"),
    tracking_uri: str = typer.Option("", "--tracking_uri", help="where models:/ and runs:/ are looked up"),
) -> None:
    """Evaluate a run or a model in its environment.

    Keys are those of `understudy train` that say how to evaluate (eval_episodes, eval_temperature, eval_envs, ...)
    and the algorithm's evaluation-time keys (flow_steps, sampling_steps), which may have several values
    (eval_temperature=0,1 flow_steps=5,10): each combination is evaluated. 50 episodes per seed, unless said. Where the
    data name no environment (or with eval_episodes=0) policies are measured on the episodes that were held out: the
    losses of training, and the error of their actions by dimension and by task. `--video --episodes 3,7 RUN` renders
    episodes of the run's evaluation into its folder videos/, where `understudy dashboard` shows them.
    """
    words = list(context.args)
    if "=" in model and save_dir:  # a key came first
        model, words = "", [model, *words]
    if bool(model) == bool(save_dir):
        raise UserError(
            "give one thing to evaluate: a run, a sweep or a model, as MODEL or --save_dir RUN;"
            " see `understudy evaluate --help`"
        )
    if video == NO_FILE and not episodes:
        raise UserError("--video: give a file to write, or --episodes, which the run's own folder videos/ then has")
    file = Path(video) if video not in ("", NO_FILE) else None
    evaluate_model(model or save_dir, words, tracking_uri, file, episodes)


def evaluate_model(
    model: str, words: list[str], tracking_uri: str = "", video: Path | None = None, episodes: str = ""
) -> Mapping[str, float]:
    """Evaluate a run, a sweep's best or a model with the keys that the words give; print and return its means.

    With `episodes` only these are played, and filmed; there are no means then.
    """
    from understudy.cli.film import film_episodes
    from understudy.devices import resolve_device
    from understudy.errors import SpecError
    from understudy.models import load_policy
    from understudy.registry import loops
    from understudy.runs.registering import FINAL_EPISODES
    from understudy.spec.compose import flat_values, given_keys, listed, parse, split_sweeps
    from understudy.spec.effects import check_acting, check_effects
    from understudy.spec.keys import build_run, with_changes
    from understudy.spec.words import canonical

    plain, sweeps = split_sweeps(parse(words))
    given = {**flat_values(plain), **{key: listed(key, sweep)[0] for key, sweep in sweeps.items()}}
    changes = {"eval_episodes": FINAL_EPISODES, **given}
    device = resolve_device(str(changes.get("device", "auto")))
    source = folder_of(model)
    policy = load_policy(source, tracking_uri=tracking_uri or None, device=device)
    _check_evaluation_keys(policy, changes)
    if video is not None or episodes:
        changes.setdefault("video_episodes", 1)
    elif changes.get("video_episodes"):
        raise SpecError(f"video_episodes={changes['video_episodes']} changes nothing without --video FILE")
    spec = build_run({**policy.spec, **changes})
    show_notes(check_effects(spec, given_keys(words)))
    check_acting(spec, given_keys(words))
    acting = policy.algorithm.evaluation_parameters
    settings = _settings(spec, {canonical(key, acting): listed(key, sweep) for key, sweep in sweeps.items()})
    loop = loops.get(policy.algorithm.loop)
    recorded = policy.environment if spec.env_name == policy.env_name else None
    if episodes:
        if not loop.plays(spec, recorded):
            raise UserError(f"{spec.env_name} names no environment to film episodes in")
        film_episodes(policy.with_config(**settings[0]), spec, source, episodes, video)
        return {}
    if not any(canonical(key) == "eval_episodes" for key in given) and not loop.plays(spec, recorded):
        spec = with_changes(spec, eval_episodes=0)
    first: Mapping[str, float] = {}
    for setting in settings:
        acting_policy = policy.with_config(**setting)
        with progress_bar("evaluate", "episodes") as bar:
            outcome = loop.evaluate(acting_policy, spec, on_step=lambda done, total: bar(done, total, ""))
        if sweeps:
            console.print(", ".join(f"{canonical(key, acting)}={setting[canonical(key, acting)]}" for key in sweeps))
        show_result(outcome.summary)
        show_measures(outcome)
        show_texts(outcome)
        first = first or outcome.summary
    if video is not None:
        loop.record(policy.with_config(**settings[0]), spec, video)
        if video.is_file():
            console.print(f"video: {video}")
    return first


def _settings(spec: RunSpec, several: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the evaluation-time keys that have several values, with the other keys' one value."""
    from understudy.errors import SpecError
    from understudy.registry import algorithms
    from understudy.spec.keys import with_changes

    acting = algorithms.get(spec.algo).evaluation_parameters
    for key in several:
        if key not in acting:
            raise SpecError(f"{key} takes one value here; several are for {', '.join(acting)}")
    combined = [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]
    configs = [with_changes(spec, **values).config for values in combined]
    return [{key: getattr(config, key) for key in acting} for config in configs]


def show_measures(outcome: Outcome) -> None:
    """Print what was measured on held-out episodes, a line for each measure, and by seed where there are several."""
    if "return" in outcome.summary:
        return
    seeds = [f"seed {number}" for number in range(len(outcome.rows))] if len(outcome.rows) > 1 else []
    rows = [
        (key.removeprefix("validation/"), f"{value:.5g}", *(f"{row[key]:.5g}" for row in outcome.rows if seeds))
        for key, value in outcome.summary.items()
        if key.startswith("validation/")
    ]
    show_table(("on held-out episodes", "mean", *seeds), rows)


def show_texts(outcome: Outcome) -> None:
    """Print what came of the episodes of each task text, where a policy was told several."""
    from understudy.runs.episodes import by_text

    rows = by_text(outcome.episodes)
    if len(rows) > 1:
        what = "return" if outcome.episodes[0].success is None else "success"
        show_table(("text", "episodes", what), [(text, count, f"{mean:.4g}") for text, count, mean in rows])


def folder_of(model: str) -> str:
    """Return the folder of a run or sweep that is given by its name or its MLflow run id; anything else as it is."""
    from understudy.errors import UnknownName
    from understudy.files import user_path
    from understudy.runs.find import find

    if ":/" in model or user_path(model).exists():
        return model
    try:
        return str(find(model))
    except UnknownName:
        return model


def _check_evaluation_keys(policy: Policy, changes: dict[str, Any]) -> None:
    """Raise SpecError for a key that would change nothing, or another policy than the one given."""
    from understudy.spec.evaluation import EvaluationSpec
    from understudy.spec.placement import PLACES_OF_AN_EVALUATION
    from understudy.spec.words import canonical, unknown_key

    of_the_run = ("env_name", *EvaluationSpec.model_fields, *PLACES_OF_AN_EVALUATION)
    allowed = {*of_the_run, *policy.algorithm.evaluation_parameters}
    for key in changes:
        if canonical(key, allowed) not in allowed:
            raise unknown_key(key, allowed, f"{key} is no key of an evaluation", limit=len(allowed))
