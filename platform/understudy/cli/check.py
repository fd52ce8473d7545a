"""`understudy check`: whether an algorithm, a plug-in's among them, does what every algorithm must."""

from __future__ import annotations

import typer

from understudy.cli.output import OVERRIDES, console, examples


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        context_settings={**OVERRIDES, "help_option_names": ["--help"]},
        short_help="Check that an algorithm does what every algorithm must.",
        options_metavar="algo=NAME [KEY=VALUE]...",
        epilog=examples(
            "understudy check algo=bc hidden_dims=[32,32]",
            "UNDERSTUDY_PLUGINS=my_method.py understudy check algo=my_method",
        ),
    )(check)


def check(context: typer.Context) -> None:
    """Check an algorithm on made-up data, with its defaults or the keys that are given; exit 1 where one fails.

    The same seed gives the same network and losses, a member of a pack equals its seed alone, what is saved goes on as
    if it had not been stopped, eight samples are learned. No dataset is needed.
    """
    from understudy.cli.train import run_values
    from understudy.errors import SpecError
    from understudy.registry import algorithms, loops
    from understudy.spec.keys import algo_of, build_run, check_keys

    values = run_values(context.args, takes="check takes one")
    if "algo" not in values:
        raise SpecError("give algo=NAME; see `understudy check --help`")
    check_keys(values, algo_of(values))
    spec = build_run(values)
    kind, failed = algorithms.get(spec.algo), 0
    for said, wrong in loops.get(kind.loop_for(spec.config)).contract(kind, spec.config):
        failed += bool(wrong)
        console.print(f"{'FAILED' if wrong else 'ok    '}  {said}{f': {wrong}' if wrong else ''}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
    console.print(f"{spec.algo} does what every algorithm must")
