"""`understudy models`: the registered models, how a run or a sweep becomes one, and a policy as one file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from understudy.cli.output import console, examples, show_mapping, show_table
from understudy.cli.runs import SAVE_DIR, TRACKING_URI, clock_time, existing_address, tracking_address

if TYPE_CHECKING:
    from understudy.spec.run import RunSpec

models = typer.Typer(
    help="Registered models: list, show, register, best; and export, for a policy as one file.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(models, name="models")


@models.command("list")
def list_(tracking_uri: str = TRACKING_URI, save_dir: str = SAVE_DIR) -> None:
    """List the registered models and their aliases."""
    from understudy.models import list_models

    rows: list[tuple[str, ...]] = []
    for model in list_models(existing_address(tracking_uri, save_dir)):
        aliases = ", ".join(f"{alias} -> {version}" for alias, version in model["aliases"].items())
        rows.append((model["name"], model["newest"], aliases, clock_time(model["updated"])))
    if not rows:
        console.print("no registered models: `understudy sweep` registers its best policy", soft_wrap=True)
        return
    show_table(("name", "newest version", "aliases", "updated"), rows)


@models.command()
def show(
    name: str = typer.Argument(..., help="the model's name, as `understudy models list` shows it"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Show one registered model's versions."""
    from understudy.models import show_model

    model = show_model(existing_address(tracking_uri, save_dir), name)
    versions = [{**version, "created": clock_time(version["created"])} for version in model["versions"]]
    show_mapping({**model, "updated": clock_time(model["updated"]), "versions": versions})


@models.command(
    epilog=examples(
        "understudy models register sweep_20260101_120000 --as lift",
        "understudy models register runs/fbc/.../sd000_20260101_120000 --as lift --episodes 100",
    )
)
def register(
    run_or_sweep: str = typer.Argument(..., help="a finished one: its folder, its folder's name, or its MLflow run id"),
    name: str = typer.Option("", "--as", help="the model's name; default <algo>-<env_name>, a sweep's register_as"),
    seed: int | None = typer.Option(
        None, "--seed", help="a run: this seed's policy; default the best on fresh episodes"
    ),
    episodes: int = typer.Option(
        50, "--episodes", min=1, max=1_000_000, help="a run: fresh episodes of its evaluation"
    ),
    tracking_uri: str = typer.Option(
        "", "--tracking_uri", help="where to, for what was trained with tracking_uri=none"
    ),
) -> None:
    """Register the policy of a finished run or sweep: a new version, loaded back and evaluated.

    The alias `best` moves to it when it is better by the same evaluation (environment, episodes, objective) than the
    version it points at; `latest` is always the newest.
    """
    from understudy.errors import UserError
    from understudy.runs.directory import RunDir
    from understudy.runs.find import find
    from understudy.runs.registering import register_run, store_of
    from understudy.runs.stop import noted_signals
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.syncing import register_sweep

    path, then = find(run_or_sweep), "the same command registers what is not registered yet"
    if (path / "sweep.json").is_file():
        if seed is not None or episodes != 50:
            raise UserError("--seed and --episodes are for runs: a sweep's best was evaluated when it ended")
        with noted_signals(then) as poll:
            best = register_sweep(SweepDir.existing(path), name or None, tracking_uri=tracking_uri, poll=poll)
        spec = store_of(SweepDir.existing(path).spec().base, tracking_uri, path)
        show_registered(best.model, best.seed, best.loaded_metrics, best.is_best, best.why, spec)
        return
    run = RunDir.existing(path)
    with noted_signals(then) as poll:
        made, chosen = register_run(
            run, name or None, tracking_uri=tracking_uri, seed=seed, episodes=episodes, poll=poll
        )
    show_registered(made.uri, chosen, made.metrics, made.best, made.why, store_of(run.spec(), tracking_uri, path))


@models.command(
    epilog=examples(
        "understudy models export models:/lift@best lift_onnx --format onnx",
        "understudy models export runs/fbc/.../sd000_20260101_120000 lift_pt2 flow_steps=5",
        "understudy models export policy_folder lift_ts --format torchscript --temperature 1",
        "understudy models export policy_folder cups --text 'pick up the cup' --text 'push the cup'",
    )
)
def export(
    model: str = typer.Argument(
        ..., metavar="MODEL", help="models:/NAME@ALIAS, runs:/RUN_ID/model, a run, a sweep or a policy folder"
    ),
    folder: str = typer.Argument(..., metavar="FOLDER", help="where the file and its export.json go"),
    keys: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="evaluation-time settings of the method (flow_steps=5, sampler=ddim)"
    ),
    format_: str = typer.Option(
        "exported", "--format", help="exported (torch.export, .pt2), torchscript, or onnx (needs the extra `deploy`)"
    ),
    temperature: float | None = typer.Option(
        None, "--temperature", min=0, help="0: deterministic; above: noise is an input; default the method's own"
    ),
    seed: int | None = typer.Option(None, "--seed", help="of several seeds, the one to export; default the first"),
    text: list[str] = typer.Option(
        [], "--text", help="a task's text, whose vector export.json shall hold; once for each text"
    ),
    tracking_uri: str = TRACKING_URI,
) -> None:
    """Write a policy as one file that acts without understudy, and export.json that says what goes in and out.

    Observations go in as the environment gives them and actions come out in its units, whole chunks of them: the
    normaliser, the picture encoder and the sampler's loop are inside, and batches may have any size. The file is read
    back and compared with the policy before it is kept. Nothing in it is a Python pickle.
    """
    from understudy.cli.evaluate import folder_of
    from understudy.exporting.export import DOCUMENT, export_policy, format_named
    from understudy.loading import load_policy, with_settings

    format_named(format_)
    policy = load_policy(folder_of(model), tracking_uri or None)
    member = policy.member_of(seed)
    said = export_policy(
        with_settings(policy, keys or []),
        folder,
        format_,
        member=member,
        temperature=temperature,
        source=model,
        texts=text,
    )
    ports = [f"{port['name']} {port['dtype']} {port['shape']}" for port in (*said["inputs"], *said["outputs"])]
    console.print(f"{folder}/{said['file']}: {', '.join(ports[:-1])} -> {ports[-1]}", soft_wrap=True)
    opset = f", opset {said['opset']}" if "opset" in said else ""
    console.print(
        f"read back{opset}: its actions are the policy's to {said['difference']:.1g}; {DOCUMENT} describes it",
        soft_wrap=True,
    )


@models.command()
def best(
    name: str = typer.Argument(..., help="the model's name, as `understudy models list` shows it"),
    version: int = typer.Argument(..., help="one of its versions"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Point the alias `best` at a version, whatever it was compared with."""
    from understudy.models import set_best

    set_best(existing_address(tracking_uri, save_dir), name, version)
    console.print(f"models:/{name}@best is version {version}", soft_wrap=True)


def show_registered(
    uri: str | None, seed: int, metrics: Mapping[str, float], best: bool, why: str, spec: RunSpec
) -> None:
    """Print a registered version, what it reached when it was loaded back, and whether `best` points at it."""
    from understudy.runs.results import objective_name

    if uri is None:
        return
    objective = objective_name(metrics)
    reached = f": {objective} {metrics[objective]:.3f}, loaded back through MLflow" if objective else ""
    console.print(f"registered {uri} ({'alias best, ' if best else ''}seed {seed}){reached}", soft_wrap=True)
    show_alias(uri, best, why, spec)


def show_alias(uri: str, best: bool, why: str, spec: RunSpec) -> None:
    """Print whether the alias `best` points at a version now, and why."""
    name, version = uri.removeprefix("models:/").rsplit("/", 1)
    if why and best:
        console.print(f"@best is version {version}: {why}", soft_wrap=True)
    elif why:
        command = shlex.join(["understudy", "models", "best", name, version, *store_words(spec)])
        console.print(f"@best stays as it is: {why} (`{command}` moves it)", soft_wrap=True)


def store_words(spec: RunSpec) -> list[str]:
    """Return the options that name a run's store to a command; none where that is the default."""
    from understudy.secrecy import without_secrets

    place = spec.placement
    address = place.tracking()
    if address == tracking_address("", ""):
        return []
    return ["--tracking_uri", without_secrets(address)] if place.tracking_uri else ["--save_dir", place.save_dir]
