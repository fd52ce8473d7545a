"""`understudy evaluate --video --episodes 3,7 RUN`: render episodes of an evaluation, later and on demand.

They are played again from the checkpoint, from the same start states and with the same noise, and compared with the
table of episodes by return and length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.output import console
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.policy import Policy
    from understudy.runs.clips import Clip
    from understudy.spec.run import RunSpec

MOST = 200
"""Episodes that are rendered at once."""


def chosen_episodes(text: str, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Return the (member, episode) pairs that `3,7` (of every seed) or `1:3,0:7` (SEED:EPISODE) name, in order.

    UserError for what is neither, and for a seed that the policy has not.
    """
    found: dict[tuple[int, int], None] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,7})", word)
        if match is None:
            raise UserError(
                f"--episodes {word}: give numbers of episodes, 3,7 of every seed or SEED:EPISODE, by commas"
            )
        seed = None if match[1] is None else int(match[1])
        if seed is not None and seed not in seeds:
            raise UserError(f"--episodes {word}: there is no seed {seed}, only {', '.join(map(str, seeds))}")
        for member, own in enumerate(seeds):
            if seed in (None, own):
                found[member, int(match[2])] = None
    if not 1 <= len(found) <= MOST:
        raise UserError(f"--episodes {text!r} names {len(found)} episodes: allowed are 1 to {MOST} at once")
    return list(found)


def run_folder(model: str) -> Path | None:
    """Return the run or sweep that a model is of, by the folders that it lies in; None for one without."""
    if ":/" in model:
        return None
    path = Path(model).absolute()
    above = [path, *path.parents[:3]] if path.is_dir() else list(path.parents[:3])
    markers = ("sweep.json", "flags.json")
    return next((folder for folder in above if any((folder / name).is_file() for name in markers)), None)


def film_episodes(policy: Policy, spec: RunSpec, model: str, text: str, video: Path | None) -> None:
    """Render episodes, tell of each whether it is the recorded one, and where its video is.

    Without a file they become clips in the run's own folder `videos/`, where `understudy dashboard` shows them.
    """
    from understudy.registry import loops
    from understudy.runs.clips import FOLDER

    chosen, run = chosen_episodes(text, policy.seeds), run_folder(model)
    loop = loops.get(policy.algorithm.loop)
    if video is not None:
        members = {member for member, _ in chosen}
        if len(members) > 1:
            raise UserError(f"--video {video} is of one seed: --episodes SEED:EPISODE names it, or leave the file out")
        loop.record(policy, spec, video, members.pop(), episodes=[episode for _, episode in chosen])
        if video.is_file():
            console.print(f"video: {video}", soft_wrap=True)
        return
    if run is None:
        raise UserError(f"{model} has no run directory to keep videos in: give --video FILE.mp4")
    step = step_of(model, run)
    recorded = recorded_episodes(run, step)
    for clip in loop.film(policy, spec, run / FOLDER, chosen, step=step):
        console.print(f"{described(clip, recorded)}: {clip.file}", soft_wrap=True)


def step_of(model: str, run: Path) -> int:
    """Return the training step of a policy: a checkpoint's by its name, else the run's last."""
    from understudy.files import read_object

    name = re.fullmatch(r"checkpoint_(\d+)", Path(model).stem)
    if name is not None:
        return int(name[1])
    state = read_object(run / "run.json") if (run / "run.json").is_file() else {}
    best = read_object(run / "best.json") if (run / "best.json").is_file() else {}
    return int(best.get("training_steps") or state.get("step") or 0)


def recorded_episodes(run: Path, step: int) -> Mapping[tuple[int, int, str], tuple[float, int]]:
    """Return the return and length of each episode in the run's table, by seed, start state and setting.

    A trial's confirmation stands in its sweep's own table.
    """
    from understudy.runs.episodes import FILE, read_episodes

    folders = [run, *([run.parent.parent] if run.parent.name == "trials" else [])]
    rows = [row for folder in folders for row in read_episodes(folder / FILE).to_pylist() if row["step"] == step]
    number = run.name.partition("_")[0]
    own = [row for row in rows if row["trial"] is None or not number.isdecimal() or row["trial"] == int(number)]
    return {(row["seed"], row["reset_seed"], row["setting"]): (row["return"], row["length"]) for row in own}


def described(clip: Clip, recorded: Mapping[tuple[int, int, str], tuple[float, int]]) -> str:
    """Return what was rendered, and whether it is the episode that the table has."""
    known = recorded.get((clip.seed, clip.reset_seed, clip.setting))
    outcome = "" if clip.success is None else " success," if clip.success >= 1 else " failure,"
    what = f"seed {clip.seed}, episode {clip.episode}:{outcome} return {clip.returns:.6g}, length {clip.length}"
    if known is None:
        return f"{what} (no evaluation at step {clip.step} played it)"
    if clip.is_of(*known):
        return f"{what}, as recorded"
    return f"{what}, NOT the recorded episode (return {known[0]:.6g}, length {known[1]}): another machine or simulator?"
