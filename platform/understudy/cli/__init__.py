"""The `understudy` command: the kernel's commands here, all others found by the registry `commands`.

Commands import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from functools import cache
from typing import Any

import typer
from typer.main import get_command_name

from understudy import __version__
from understudy.cli import (
    actors,
    check,
    compare,
    evaluate,
    expert,
    models,
    reproduce,
    resume,
    runs,
    sweep_command,
    sync,
    train_command,
    ui,
)
from understudy.cli.output import HELP_WIDTH, console, print_on_any_terminal
from understudy.errors import UnderstudyError, UserError, visible
from understudy.files import give_a_home
from understudy.registry import commands
from understudy.runs import torchrun
from understudy.secrecy import shown

NEW_OBJECTS = 20_000
"""New objects after which Python looks for garbage; its own 700 cost a sixth of a start with MLflow and torch."""


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"understudy {__version__}")
        raise typer.Exit


def _options(
    _version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Learn from demonstrations: train, sweep across seeds, track, resume, register."""


@cache
def command_line() -> typer.Typer:
    """Return the command line with the commands of every floor; UserError for two of one name."""
    app = typer.Typer(
        name="understudy",
        epilog="Start with `understudy quickstart`, or `understudy train --help` for every key of a run.",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=HELP_WIDTH,
    )
    app.callback()(_options)
    for module in (
        train_command,
        actors,
        evaluate,
        check,
        resume,
        sweep_command,
        compare,
        reproduce,
        expert,
        runs,
        sync,
        models,
        ui,
    ):
        module.add_to(app)
    for name, add_to in commands.items():
        add_to(app)
        names = _names(app)
        for command in names:
            if names.count(command) > 1:
                origin = commands.origin(name)
                raise UserError(f"command group {name!r} ({origin}) adds a command {command!r}, and there is one")
    return app


def _names(app: typer.Typer) -> list[str]:
    """Return the names of all commands and groups."""
    alone = [item.name or get_command_name(item.callback.__name__) for item in app.registered_commands if item.callback]
    return [*alone, *(str(item.name) for item in app.registered_groups)]


TOGETHER = ("train", "resume")
"""Commands that torchrun's workers do together."""


def main() -> None:
    """Run the command line; errors of ours are one line and their exit code, never a traceback."""
    gc.set_threshold(NEW_OBJECTS)
    print_on_any_terminal()
    _log_plainly()
    give_a_home()
    logging.getLogger("understudy").setLevel(logging.INFO)
    # Third parties' deprecation notes are no use to someone who trains a policy.
    warnings.filterwarnings("ignore")
    try:
        worker = torchrun.this_worker()
        code = _run() if worker is None else _run_as(worker)
    except UnderstudyError as error:
        print(f"understudy: {_line(error)}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    else:
        if code == 130:
            print("understudy: interrupted", file=sys.stderr)
    finally:
        # Renderers must be closed before the interpreter takes OpenGL down; nothing to do where none was loaded.
        slots = sys.modules.get("understudy.envs.rollouts.pools")
        if slots is not None:
            slots.close_pools()
    waiting = sys.modules.get("understudy.runs.ray_processes")
    if waiting is not None:
        waiting.leave(code)
    raise SystemExit(code)


def _line(message: object) -> str:
    """Return what an error says to a terminal: one line, without secrets, with control characters escaped."""
    return visible(shown(str(message))).replace("\n", "\\n")


class _Plain(logging.Formatter):
    """Show control characters of names and files instead of obeying them, and no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(shown(super().format(record)))


def _log_plainly() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _run_as(worker: torchrun.TorchrunWorker) -> int:
    """Run the command as one of torchrun's workers: one of them prints, and an error is said once."""
    if worker.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
        logging.getLogger("understudy").setLevel(logging.ERROR)
    with torchrun.joined(worker) as group:
        code, error = 0, None
        try:
            command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
            if command and command not in TOGETHER:
                raise UserError(
                    f"`understudy {command}` is no work to share: start it without torchrun, which is for"
                    f" {' and '.join(TOGETHER)}"
                )
            code = _run()
        except UnderstudyError as raised:
            error = raised
        error, say = group.end(error)
        if say:
            print(f"understudy: {_line(error)}", file=sys.stderr, flush=True)
        group.wait()
        if error is not None:
            return error.exit_code
    return code


def _refusal(error: Any) -> str:
    """Return what is wrong with a word that typer cannot read: of an option, the value and what is allowed."""
    if type(error.__cause__).__name__ != "ValidationError":
        return str(error.format_message())
    from understudy.spec.keys import explain

    name = error.param.opts[0] if error.param is not None else "value"
    return "; ".join(f"{name}={item['input']}: {explain(item)}" for item in error.__cause__.errors())


def _run() -> int:
    """Run the command and return its exit code; a word that typer cannot read is one line, not its usage text."""
    try:
        code: Any = command_line()(prog_name="understudy", standalone_mode=False)
    except Exception as error:
        # typer's own errors: their class has moved between click and typer, what they hold has not.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        refused: Any = error
        message = _refusal(refused)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message, file=sys.stderr)
        else:
            command = getattr(getattr(error, "ctx", None), "command_path", "understudy")
            print(f"understudy: {_line(message.rstrip('.'))}; see `{command} --help`", file=sys.stderr)
        return int(refused.exit_code)
    return code if isinstance(code, int) else 0
