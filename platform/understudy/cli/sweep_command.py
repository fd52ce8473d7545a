"""`understudy sweep`: one sweep, a matrix of them, or a racing rule replayed on one that has finished."""

from __future__ import annotations

import typer

from understudy.cli.compare import start_matrix
from understudy.cli.completion import KeyCommand
from understudy.cli.output import OVERRIDES, console
from understudy.cli.showing import show_keys
from understudy.cli.sweep import read_sweep, show_sweep, start_sweep

EXAMPLES = """\
Search over configurations, each trained across all seeds.

  understudy sweep space=flow_bc env_name=lift-mh-low_dim seeds=[0,1,2] num_trials=30
  understudy sweep env_name=halfcheetah-medium-v2 'lr=interval(1e-5,1e-3)' horizon_length=1,5,10 flow_steps=5,10,20
  understudy sweep algo=bc env_name=hopper-medium-v2 lr=1e-4,3e-4,1e-3 sampler=grid scheduler=none
  understudy sweep algo=bc,flow_bc env_name=A,B num_trials=20        # each pair a sweep of its own, then compared

A list (1,5,10), range(start,stop,step) or interval(low,high) makes a key a dimension; write parentheses in quotes.
Intervals of lr and weight_decay are logarithmic, unless written tag(linear,interval(...)). Keys that only change how a
policy acts, like flow_steps, need no training of their own: every trained policy is evaluated at each of their values.
--cfg prints the resolved specification, checks it without a simulator and stops."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        cls=KeyCommand, context_settings=OVERRIDES, short_help="Search over configurations, each across all seeds."
    )(sweep)


def sweep(
    context: typer.Context,
    cfg: bool = typer.Option(False, "--cfg", help="print and check the resolved specification, and stop"),
    config_dir: str | None = typer.Option(None, "--config-dir", help="folder with your own Hydra groups"),
    help_: bool = typer.Option(False, "--help", help="show every key"),
    replay: str | None = typer.Option(None, "--replay", help="halving or guaranteed: replay it on the SWEEP given"),
) -> None:
    """Search over configurations, each trained across all seeds."""
    if replay is not None:
        return show_replay(replay, context.args)
    if help_:
        from understudy.sweeping.options import SweepOptions

        return show_keys(EXAMPLES, context.args, SweepOptions)
    from understudy.matrix.cells import is_matrix

    if is_matrix(context.args, config_dir):
        start_matrix(context.args, "sweep", config_dir, cfg=cfg)
        return None
    spec = read_sweep(context.args, config_dir)
    if cfg:
        from understudy.sweeping.run import check_trials

        show_sweep(spec)
        return check_trials(spec)
    start_sweep(spec)
    return None


def show_replay(rule: str, words: list[str]) -> None:
    """Print what a racing rule would have done on a finished sweep's recorded episodes: cost, pick, regret."""
    from understudy.errors import SpecError, did_you_mean
    from understudy.runs.find import find
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.race import replayed
    from understudy.sweeping.racing import LOOKS
    from understudy.sweeping.study import Study

    if rule not in LOOKS or not LOOKS[rule]:
        rules = [known for known in LOOKS if LOOKS[known]]
        raise SpecError(f"--replay {rule}: no such rule{did_you_mean(rule, rules)}")
    if len(words) != 1:
        raise SpecError("--replay RULE SWEEP: give one sweep, its folder or name")
    folder = SweepDir.existing(find(words[0]))
    spec = folder.spec()
    trials = Study(folder.path, spec).trials()
    result, numbers = replayed(folder.path, spec, trials, rule)
    stages = " > ".join(f"{len(alive)} x {seeds} seeds" for seeds, alive in result.rounds)
    console.print(f"{rule} on {len(numbers)} configurations: {stages}")
    console.print(
        f"cost {result.cost:.2f} of all seeds for all ({result.seed_runs} of {result.all_seed_runs} seeds trained)"
    )
    console.print(
        f"picked trial {numbers[result.picked]}, the best of all seeds is trial {numbers[result.best]}:"
        f" regret {result.regret:.3f} (both by all their seeds on these episodes)"
    )
