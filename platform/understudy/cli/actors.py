"""`understudy learner` and `understudy actor`: one run in two terminals, or on two machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from understudy.cli.output import OVERRIDES, console

if TYPE_CHECKING:
    from understudy.spec.run import RunSpec

ADDRESS = "127.0.0.1:50051"
"""Where learners listen unless they are told otherwise; LeRobot's."""
WAIT_SECONDS = 300.0
EXAMPLES = """\
Learn from what actors do, in another terminal or on another machine; give both commands the same words.

  understudy learner --config_path train_config_hilserl.json
  understudy actor --config_path train_config_hilserl.json

  understudy learner algo=hilserl env_name=lerobot:me/cubes frames=20000 takeover=keyboard actor_address=0.0.0.0:50051
  understudy actor algo=hilserl env_name=lerobot:me/cubes frames=20000 takeover=keyboard actor_address=10.0.0.1:50051

Keys are those of `understudy train`; `understudy resume RUN` goes on with a learner that was stopped, and its actors
wait for it."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(context_settings=OVERRIDES, short_help="Learn from what actors do.")(learner)
    app.command(context_settings=OVERRIDES, short_help="Act for a learner.")(actor)


def learner(
    context: typer.Context,
    replay: Path | None = typer.Option(None, "--replay", help="do the updates of this run, of replay=ledger, again"),
    help_: bool = typer.Option(False, "--help", help="show every key"),
) -> None:
    """Learn from what actors do."""
    from understudy.cli.showing import show_keys
    from understudy.cli.train import start_training

    if help_:
        return show_keys(EXAMPLES, ["algo=hilserl", *context.args])
    if replay is not None:
        return _replay(replay)
    start_training(_spec(context.args))
    return None


def _replay(path: Path) -> None:
    """Do the updates of a run's ledger again, and say whether the weights are the same."""
    from understudy.registry import algorithms, loops
    from understudy.runs.directory import RunDir

    run = RunDir.existing(path)
    spec = run.spec()
    with run.locked():
        count, off = loops.get(algorithms.get(spec.algo).loop_for(spec.config)).replay(spec, run.path)
    same = "the same weights" if off == 0 else f"weights up to {off:g} off"
    console.print(f"{count} updates were done again: {same}", soft_wrap=True)


def actor(
    context: typer.Context,
    wait: float = typer.Option(WAIT_SECONDS, "--wait", help="seconds to wait for a learner that is not there"),
    help_: bool = typer.Option(False, "--help", help="show every key"),
) -> None:
    """Act for a learner until it has finished."""
    from understudy.cli.showing import show_keys
    from understudy.registry import algorithms, loops
    from understudy.runs.stop import noted_signals

    if help_:
        return show_keys(EXAMPLES, ["algo=hilserl", *context.args])
    spec = _spec(context.args)
    loop = loops.get(algorithms.get(spec.algo).loop_for(spec.config))
    with noted_signals("the learner goes on without this actor") as poll:
        steps = loop.act(spec, patience=wait, say=lambda line: console.print(line, soft_wrap=True), poll=poll)
    console.print(f"the learner has finished; {steps} steps were taken here", soft_wrap=True)
    return None


def _spec(words: list[str]) -> RunSpec:
    """Return the run that the words describe, with an algorithm and an address where they give none."""
    from understudy.cli.train import read_run
    from understudy.config_files import config_words
    from understudy.errors import UserError
    from understudy.registry import algorithms
    from understudy.spec.compose import given_keys
    from understudy.spec.in_the_loop import InTheLoop
    from understudy.spec.lerobot_config import read_training

    path, rest = config_words(words)
    in_file = read_training(path).values if path else {}
    given = {*given_keys(rest), *in_file}
    named = [word.partition("=")[2] for word in rest if word.lstrip("-").startswith("algo=")]
    algo = named[-1] if named else str(in_file.get("algo", "hilserl"))
    if algo in algorithms.names() and not issubclass(algorithms.get(algo).Config, InTheLoop):
        raise UserError(f"algo={algo} has no actors of its own; algo=hilserl has")
    more = [f"{key}={value}" for key, value in (("algo", algo), ("actor_address", ADDRESS)) if key not in given]
    return read_run([*words, *more])
