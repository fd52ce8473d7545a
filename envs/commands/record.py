"""`understudy record`: episodes that a person, an oracle or a policy plays, as a LeRobot dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.output import OVERRIDES, console, show_table
from understudy.envs.commands.options import interruptible
from understudy.registry import commands

if TYPE_CHECKING:
    from understudy.envs.recording.session import Stage
    from understudy.envs.recording.settings import RecordSettings

EXAMPLES = """\
Record episodes in an environment as a LeRobot dataset, or replay one of them.

  understudy record --config_path env_config.json
  understudy record env_name=gym_hil/PandaPickCube-v0 repo_id=me/cubes num_episodes=20 control=keyboard view=terminal
  understudy record env_name=lift-mh-low_dim repo_id=me/lifts control=scripted num_episodes=50
  understudy record env_name=Pendulum-v1 repo_id=me/swings control=keyboard
  understudy record env_name=gym_hil/PandaPickCube-state-v0 repo_id=me/corrected policy=RUN control=scripted
  understudy record --config_path env_config.json mode=replay replay_episode=3

Keys are written key=value or --key=value, and go over those of the file. Every episode is on disk when it has ended:
the same command goes on with a recording that was killed. `env_name=lerobot:USER/NAME` trains on it."""


@commands.register("record")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings=OVERRIDES, short_help="Record episodes by keyboard, gamepad or an oracle.")(record)


def record(context: typer.Context, help_: bool = typer.Option(False, "--help", help="show every key")) -> None:
    """Record episodes by keyboard, gamepad or an oracle, as a LeRobot dataset."""
    from understudy.envs.recording.settings import read_words

    if help_:
        return _show_keys()
    read = read_words(context.args)
    for key, why in read.ignored.items():
        print(f"note: {key} is ignored: {why}", file=sys.stderr)
    run = {"record": _record, "replay": _replay, "none": _drive}[read.settings.mode]
    run(read.settings)
    return None


def _record(settings: RecordSettings) -> None:
    from understudy.envs.recording.control import Event
    from understudy.envs.recording.dataset import keep, writer_of

    root = settings.folder(_home())
    stage = _stage(settings)
    made_by = f"understudy record: {settings.env_name}, {settings.control}" + (
        f" over {settings.policy}" if settings.policy else ""
    )
    attempt = 0
    with interruptible("every episode that had ended"), stage.control, writer_of(stage, root, made_by) as writer:
        if writer.num_episodes:
            console.print(f"{root} has {writer.num_episodes} episodes; going on", soft_wrap=True)
        _say_help(stage)
        number = writer.num_episodes
        while writer.num_episodes < settings.num_episodes:
            played = stage.play(number, attempt, _status())
            if played.event is Event.STOP:
                break
            attempt = attempt + 1 if played.event is Event.AGAIN else 0
            if played.event is not Event.AGAIN:
                kept = keep(writer, played, settings)
                number += 1
                _say(writer.num_episodes, settings, played, kept)
            stage.rest()
        count = writer.num_episodes
    stage.close()
    name = f"lerobot:{settings.repo_id}" if settings.repo_id and not settings.root else f"lerobot:{root}"
    console.print(f"{count} episodes in {root}; train on them with env_name={name}", soft_wrap=True)


def _replay(settings: RecordSettings) -> None:
    from understudy.envs.recording.dataset import recorded_actions
    from understudy.envs.recording.session import check_actions

    root = settings.folder(_home())
    actions, seed = recorded_actions(root, settings.replay_episode)
    stage = _stage(settings)
    check_actions(actions, stage.driven, str(root))
    total, success = stage.play_again(settings.replay_episode, seed, actions)
    stage.close()
    told = f", success {success}" if stage.task.has_success else ""
    console.print(f"episode {settings.replay_episode}: {len(actions)} actions, return {total:g}{told}")


def _drive(settings: RecordSettings) -> None:
    from understudy.envs.recording.control import Event

    stage = _stage(settings)
    with interruptible("nothing"), stage.control:
        _say_help(stage)
        for number in range(settings.num_episodes):
            played = stage.play(number, 0, _status())
            if played.event is Event.STOP:
                break
            _say(number + 1, settings, played, False)
            stage.rest()
    stage.close()


def _stage(settings: RecordSettings) -> Stage:
    from understudy.envs.recording.session import Stage

    policy: Any = None
    if settings.policy:
        from understudy.envs.experts.policy_expert import PolicyExpert
        from understudy.loading import load_policy

        policy = PolicyExpert(load_policy(settings.policy))
    return Stage(settings, policy)


def _say_help(stage: Stage) -> None:
    if stage.control.help():
        console.print(stage.control.help(), soft_wrap=True)


def _status() -> Callable[[str], None] | None:
    """Return what shows a line of the episode that goes on, over the last one."""
    if not sys.stdout.isatty():
        return None

    def show(line: str) -> None:
        sys.stdout.write(f"\r{line}\x1b[K")
        sys.stdout.flush()

    return show


def _say(count: int, settings: RecordSettings, played: Any, kept: bool) -> None:
    ends = "\r\x1b[K" if sys.stdout.isatty() else ""
    outcome = "success" if played.success else "failure"
    taken = f", taken over {played.interventions} times" if settings.policy else ""
    left = "" if kept or settings.mode != "record" else " (not kept)"
    total = float(played.columns["rewards"].sum())
    line = (
        f"episode {count} of {settings.num_episodes}: {outcome}, {played.length} steps, return {total:g}{taken}{left}"
    )
    console.print(f"{ends}{line}", soft_wrap=True)


def _home() -> Path:
    from understudy.files import home

    return home()


def _show_keys() -> None:
    from understudy.cli.showing import key_rows
    from understudy.envs.recording.settings import RecordSettings

    console.print(f"{EXAMPLES}\n", markup=False, soft_wrap=True)
    rows = key_rows(RecordSettings.model_fields)
    show_table(("key", "default", "meaning"), rows, title="keys of a recording")
