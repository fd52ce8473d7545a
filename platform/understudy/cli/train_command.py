"""`understudy train`: one configuration, a fork, or with -m what `understudy compare` makes of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.compare import start_matrix
from understudy.cli.completion import KeyCommand
from understudy.cli.evaluate import folder_of
from understudy.cli.output import OVERRIDES
from understudy.cli.showing import show_keys, show_notes, show_run
from understudy.cli.train import read_run, run_training, run_values, start_training
from understudy.errors import UserError
from understudy.files import typed, user_path

if TYPE_CHECKING:
    from understudy.runs.loop import Trains

EXAMPLES = """\
Train one configuration on one or several seeds.

  understudy train env_name=halfcheetah-medium-v2 training_steps=100000 eval_interval=10000
  understudy train --env_name=lift-mh-low_dim --action_chunking=True --horizon_length=10 --lr=1e-4
  understudy train algo=ddpm_bc env_name=cube-single-play-singletask-task1-v0 seeds=[0,1,2]
  understudy train algo=bc env_name=hopper-medium-v2 seeds=[0,1,2,3,4] 'pbt={lr:[1e-4,1e-2]}' pbt_interval=10000
  understudy train env_name=hopper-medium-v2 launcher=ray num_workers=2 cpus=4 gpus=1
  understudy train -m algo=bc,gc_bc bridgedata=lift_carrot_100,pull_pot_100 seed=1,2,3    # as `understudy compare`
  understudy train --from sweep_20260101_120000 seeds=[3..9]                    # the best configuration, more seeds
  understudy train --config_path train_config_act_bc.json batch_size=16
  understudy train --fork runs/fbc/.../sd000_20260101_120000 lr=1e-5 training_steps=200000

Keys are written key=value or --key=value. --cfg prints the resolved specification, checks it (without a simulator)
and stops.
--config_path FILE.json takes keys from a file, ours or LeRobot's (policy.type act, reward_classifier, sac); words go
over it.
--config-dir DIR adds your own Hydra groups (DIR/GROUP/NAME.yaml is chosen with GROUP=NAME)."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=KeyCommand, context_settings=OVERRIDES, short_help="Train one configuration.")(train)


def train(
    context: typer.Context,
    cfg: bool = typer.Option(False, "--cfg", help="print and check the resolved specification, and stop"),
    config_dir: str | None = typer.Option(None, "--config-dir", help="folder with your own Hydra groups"),
    multirun: bool = typer.Option(False, "--multirun", "-m", help="train several methods and tasks, and compare them"),
    fork: str = typer.Option("", "--fork", help="go on from this run's (folder, name, MLflow id) or file's step"),
    like: str = typer.Option("", "--from", help="this run's settings, or a sweep's best, with the keys that are given"),
    help_: bool = typer.Option(False, "--help", help="show every key"),
) -> None:
    """Train one configuration on one or several seeds."""
    if help_:
        return show_keys(EXAMPLES, context.args)
    if fork:
        if multirun:
            raise UserError("--fork goes on from one run: -m trains several from the start")
        return start_fork(source_of(fork), run_values(context.args, config_dir))
    if like:
        return start_like(source_of(like), context.args, config_dir)
    if multirun and several(context.args, config_dir, cfg=cfg):
        return None
    spec = read_run(context.args, config_dir)
    if cfg:
        from understudy.runs.loop import check_new

        show_run(spec.flat(), spec)
        return check_new(spec)
    start_training(spec)
    return None


def source_of(name: str) -> Path:
    """Return the folder or file that is meant by a folder, a file, a folder's name, an MLflow run id or models:/..."""
    from understudy.runs.find import find

    return find(name) if name.startswith(("models:/", "runs:/")) else user_path(folder_of(name))


def best_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the run of a sweep's best configuration, and its settings; a run's folder as it is."""
    from understudy.sweeping.best import read_best

    if not (folder / "sweep.json").is_file():
        return folder, {}
    best = read_best(folder)
    if best is None:
        raise UserError(
            f"{folder} is a sweep that has no best configuration yet:"
            f" `understudy resume {typed(folder)}` goes on with it"
        )
    return folder / "trials" / f"{best.trial:04d}", best.parameters


def start_like(source: Path, words: list[str], config_dir: str | None) -> None:
    """Train a new run with another one's settings (of a sweep, its best configuration's) but for the given keys."""
    from understudy.runs.directory import RunDir
    from understudy.spec.compose import given_keys
    from understudy.spec.effects import check_effects
    from understudy.spec.keys import build_run, check_keys
    from understudy.spec.words import canonical

    folder, chosen = best_run(source)
    changes = {canonical(key): value for key, value in run_values(words, config_dir).items()}
    flat = {**RunDir.existing(folder).spec().flat(), **chosen}
    if folder != source:  # a trial is no model, for its sweep's best is
        flat.pop("log_model", None)
    if {"seed", "seeds"} & changes.keys():
        flat = {key: value for key, value in flat.items() if key not in ("seed", "seeds")}
    check_keys(changes, str(changes.get("algo", flat["algo"])))
    spec = build_run({**flat, **changes})
    show_notes(check_effects(spec, given_keys(words)))
    start_training(spec)


def several(words: list[str], config_dir: str | None, *, cfg: bool) -> bool:
    """Do what `understudy compare` does, where words name several methods or tasks; return whether they do."""
    from understudy.matrix.cells import is_matrix

    matrix = is_matrix(words, config_dir)
    if matrix:
        start_matrix(words, "compare", config_dir, cfg=cfg)
    return matrix


def start_fork(source: Path, changes: dict[str, Any]) -> None:
    """Train a new run that begins where `source` was saved; its other settings are the parent's."""
    from understudy import tracking
    from understudy.runs import extend, torchrun
    from understudy.runs.directory import RunDir

    group, source = torchrun.group(), best_run(source)[0]
    if group is None:
        run = extend.fork(source, changes)
    else:
        run = RunDir(group.from_first(lambda: extend.fork(source, changes).path))
    spec = run.spec()

    def lead(loop: Trains | None) -> None:
        tracking.prepare(spec.placement.tracking())
        run_training(spec, run, loop)

    if group is None:
        lead(None)
    else:
        group.train(spec, lead)
