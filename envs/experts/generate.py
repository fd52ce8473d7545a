"""Make demonstrations in a simulator with a scripted expert or a trained policy: parallel, and resumed when killed.

An attempt is a pure function of the task and its number (`attempts.py`), and the episodes are those of the first
attempts that are to be kept. Each finished attempt is a file at once, and so are its pictures where those are rendered
afterwards; all are removed when the dataset is whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from understudy import __version__
from understudy.envs.experts.attempt_pool import AttemptPool, OnAttempt
from understudy.envs.experts.attempts import Task, read_attempt
from understudy.envs.sources.names import POLICY, SCRIPTED, made_name
from understudy.envs.sources.source import Source, task_of
from understudy.envs.sources.task import Task as SourceTask
from understudy.errors import UserError, did_you_mean
from understudy.files import held, storage_errors, user_path, write_json
from understudy.registry import sources

SCRIPTED_NOISE = 0.2
SETTINGS, LOCK, REHEARSAL = "settings.json", "lock", "rehearsal"
Keep = Literal["successful", "all"]
Outputs = Mapping[Path, Source]


@dataclass(frozen=True)
class Generated:
    """What `generate` did; `extra` are the files of the other formats that were asked for."""

    path: Path
    env_name: str
    episodes: int
    transitions: int
    attempts: int
    made_by: str
    extra: tuple[Path, ...] = ()

    @property
    def failures(self) -> int:
        """Attempts that are not in the file."""
        return self.attempts - self.episodes


def supported_names() -> list[str]:
    """Return the dataset names that a scripted expert can make."""
    known = [name for _, source in sources.items() for name in source.known_names()]
    return [name for name in known if SCRIPTED in re.split(r"[-/]", name)]


def generate(
    env_name: str,
    episodes: int,
    *,
    out_path: str | Path,
    policy: str = SCRIPTED,
    member: int = 0,
    seed: int = 0,
    noise: float | None = None,
    keep: Keep | None = None,
    workers: int = 1,
    formats: Sequence[str] = (),
    rendering: Mapping[str, str] | None = None,
    attempts_dir: str | Path | None = None,
    overwrite: bool = False,
    tracking_uri: str | None = None,
    progress: OnAttempt | None = None,
    on_pictures: OnAttempt | None = None,
) -> Generated:
    """Write `episodes` episodes of an expert as a file of the environment's own source, and of other `formats`.

    `policy` is `scripted` or what `load_policy` takes. `noise` is the standard deviation of what is added to the
    executed action (default 0.2 scripted, 0 for a policy). `keep` says which attempts become episodes; default the
    successful ones, where the task tells success. `rendering` are options of the pictures (`Task.rendering`), which
    become the dataset's; a policy's are those of its own dataset. A killed call goes on from `attempts_dir` when it is
    made again; without one it uses a folder beside `out_path`, which it removes. `overwrite` drops attempts of other
    settings.
    `progress` is told (episodes kept, attempts made), `on_pictures` (episodes with pictures, episodes).
    """
    env_name = made_name(env_name, SCRIPTED if policy == SCRIPTED else POLICY)
    of = task_of(env_name)
    noise = (SCRIPTED_NOISE if policy == SCRIPTED else 0.0) if noise is None else noise
    keep = _checked_keep(of, keep)
    _check({"episodes": (episodes, 1), "workers": (workers, 1), "noise": (noise, 0)}, of, policy)
    settings = _settings(of, policy, rendering or {})
    outputs = _outputs(of.source, user_path(out_path), formats)
    target = next(iter(outputs))
    folder = Path(attempts_dir) if attempts_dir else target.parent / ".generating" / target.stem
    with _claimed(folder, env_name):
        task, who = _prepared(Task(env_name, policy, settings, seed, noise), member, folder, tracking_uri)
        _check_settings(folder, {**asdict(task), "policy": who, "keep": keep}, overwrite)
        pool = AttemptPool(
            task,
            folder,
            keep_all=keep == "all",
            progress=progress,
            on_first=lambda number: _rehearse(task, folder, outputs, number),
            on_pictures=on_pictures,
        )
        kept = pool.run(episodes, workers)
        made_by = _made_by(task, who, len(kept), pool.attempts)
        transitions = [0]
        for path, writer in outputs.items():
            writer.write(path, _episodes(folder, kept, transitions), env_name, _provenance(task, made_by))
    if attempts_dir is None:
        remove_attempts(folder)
    total = transitions[0] // len(outputs)
    return Generated(target, env_name, len(kept), total, pool.attempts, made_by, tuple(outputs)[1:])


def remove_attempts(folder: Path) -> None:
    """Remove what a finished generation has made on its way."""
    shutil.rmtree(folder)
    with suppress(OSError):  # other generations may be under way beside it
        folder.parent.rmdir()


def _check(numbers: Mapping[str, tuple[float, int]], task: SourceTask, policy: str) -> None:
    """Refuse numbers (value, least) that are too small, and tasks without an expert."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise UserError(f"{name}={value}: must be at least {least}")
    if policy == SCRIPTED and task.expert() is None:
        known = did_you_mean(task.env_name, supported_names(), limit=6)
        raise UserError(f"no scripted expert for {task.env_name!r}: give --policy a model{known}")


def _checked_keep(task: SourceTask, keep: Keep | None) -> Keep:
    if keep not in (None, "successful", "all"):
        raise UserError(f"keep={keep!r}: allowed are successful and all")
    if keep == "successful" and not task.has_success:
        raise UserError(f"{task.env_name}: its environment tells no success; use --keep all")
    return keep or ("successful" if task.has_success else "all")


def _settings(task: SourceTask, policy: str, rendering: Mapping[str, str]) -> str:
    """Return the environment's settings as JSON, empty where it takes none; a policy brings its own."""
    settings = task.rendering(rendering)
    if policy != SCRIPTED and rendering:
        raise UserError("a policy sees pictures like those that it was trained on: leave the rendering options out")
    return json.dumps(settings, sort_keys=True) if settings and policy == SCRIPTED else ""


def _outputs(source: Source, target: Path, formats: Sequence[str]) -> dict[Path, Source]:
    """Return each file to be written and whose format it has; the environment's own source comes first."""
    others = [sources.get(name) for name in formats if name != source.name]
    return {target: source, **{target.with_name(f"{target.stem}.{o.name}{o.suffix}"): o for o in others}}


@contextmanager
def _claimed(folder: Path, env_name: str) -> Iterator[None]:
    """Hold the folder against a second process; the system lets go of it when this one dies."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, f"{env_name}: another process is generating it ({{holder}}; {folder})"):
        try:
            yield
        finally:
            if not (folder / SETTINGS).exists():
                shutil.rmtree(folder, ignore_errors=True)  # refused before anything was made


def _prepared(task: Task, member: int, folder: Path, tracking_uri: str | None) -> tuple[Task, str]:
    """Return the task as workers play it, and who plays: a model is copied, since an alias may move meanwhile."""
    if task.policy == SCRIPTED:
        return task, SCRIPTED
    from understudy.loading import load_policy
    from understudy.policy import content_hash

    policy = load_policy(task.policy, tracking_uri).member(member)
    copy = policy.save(folder / POLICY)
    settings = json.dumps(policy.environment, sort_keys=True) if policy.environment else ""
    return replace(task, policy=str(copy), settings=settings), f"{policy.algorithm.name} {content_hash(copy)}"


def _check_settings(folder: Path, wanted: Mapping[str, Any], overwrite: bool) -> None:
    """Go on with what a killed call left only if it was asked for the same; `overwrite` starts afresh otherwise."""
    wanted = {"understudy": __version__, **wanted}
    file = folder / SETTINGS
    made = list(folder.glob("*.npz"))
    if made and file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError:
            found = {}
        odd = [name for name in wanted if found.get(name) != wanted[name]]
        if odd and not overwrite:
            was = f"was begun with {odd[0]}={found.get(odd[0])!r}, not {wanted[odd[0]]!r}"
            raise UserError(f"{wanted['env_name']}: {was}; --overwrite drops what was made ({folder})")
        if odd:
            for attempt in made:
                attempt.unlink()
    write_json(file, wanted)


def _rehearse(task: Task, folder: Path, outputs: Outputs, number: int) -> None:
    """Write one episode in every format, so that what cannot be written is known before the work is done."""
    try:
        for path, writer in outputs.items():
            writer.write(
                folder / REHEARSAL / path.name, _episodes(folder, [number]), task.env_name, _provenance(task, "")
            )
    finally:
        shutil.rmtree(folder / REHEARSAL, ignore_errors=True)


def _episodes(folder: Path, numbers: Sequence[int], count: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield kept attempts one at a time; `count[0]` grows by their transitions."""
    for number in numbers:
        episode = read_attempt(folder, number)
        if count is not None:
            count[0] += len(episode["actions"])
        yield episode


def _provenance(task: Task, made_by: str) -> dict[str, Any]:
    environment = json.loads(task.settings) if task.settings else None
    rate = task_of(task.env_name).control_hz
    known = {"fps": rate} if rate else {}
    return {"made_by": made_by, "environment": environment, "env_name": task.env_name, **known}


def _made_by(task: Task, who: str, episodes: int, attempts: int) -> str:
    """Return one sentence that says how the data can be made again."""
    noise = f"noise {task.noise:g} on executed actions, clean actions recorded" if task.noise else "no noise"
    expert = "scripted expert" if who == SCRIPTED else f"policy ({who})"
    return f"understudy {expert}: {task.env_name}, {episodes} of {attempts} attempts, seed {task.seed}, {noise}"
