"""The `understudy` command. Sub-commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from understudy.cli import data, models, runs, sweep, system, train
from understudy.errors import UnderstudyError

app = typer.Typer(
    name="understudy",
    help="Learn from demonstrations: train, sweep across seeds, track, resume, register.",
    epilog="Start with `understudy quickstart`, or `understudy train --help` for every key of a run.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
train.add_to(app)
sweep.add_to(app)
data.add_to(app)
runs.add_to(app)
models.add_to(app)
system.add_to(app)


def main() -> None:
    """Run the command line; errors of ours are one line and their exit code, never a traceback."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("understudy").setLevel(logging.INFO)
    # Third parties' deprecation notes are no use to someone who trains a policy.
    warnings.filterwarnings("ignore")
    try:
        app()
    except UnderstudyError as error:
        print(f"understudy: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("understudy: interrupted; `understudy resume` goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
