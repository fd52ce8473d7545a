"""Make demonstrations in a simulator with a scripted expert or a trained policy: parallel, and resumed when killed.

An attempt is a pure function of the task and its number (`attempts.py`), and the episodes are those of the first
attempts that are to be kept. Each finished attempt is a file at once, and so are its pictures where those are rendered
afterwards; all are removed when the dataset is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.envs.experts.attempt_pool import AttemptPool, OnAttempt
from understudy.envs.experts.attempts import AttemptSpec, read_attempt
from understudy.envs.experts.demonstrations import Demonstrations
from understudy.envs.sources.names import POLICY, SCRIPTED, made_name
from understudy.envs.sources.source import Source, task_of
from understudy.errors import UserError
from understudy.files import held, made_folder, user_path, write_json
from understudy.registry import sources

SETTINGS, LOCK, REHEARSAL = "settings.json", "lock", "rehearsal"
Outputs = Mapping[Path, Source]
Keep = Callable[[Iterator[Mapping[str, Any]], Mapping[str, Any]], None]


@dataclass(frozen=True)
class OutputFiles:
    """Where demonstrations are written to."""

    path: str | Path
    """The file (or folder) in the format of the environment's own source."""
    formats: Sequence[str] = ()
    """Sources whose formats they are written in too, beside `path`."""
    attempts_dir: str | Path | None = None
    """Folder that finished attempts are kept in, and that a killed call goes on from when it is made again.

    It is left to the caller; without one a folder beside `path` is used, and removed.
    """
    overwrite: bool = False
    """Whether to drop attempts of other settings."""
    keep: Keep | None = None
    """Called with the episodes and what is said of how they were made, where the source has no file format."""

    @property
    def attempts(self) -> Path:
        """The folder of the attempts."""
        path = user_path(self.path)
        return Path(self.attempts_dir) if self.attempts_dir else path.parent / ".generating" / path.stem

    def by_source(self, source: Source) -> dict[Path, Source]:
        """Return each file to be written and whose format it has; the environment's own `source` comes first."""
        others = [sources.get(name) for name in self.formats if name != source.name]
        path = user_path(self.path)
        own = {path: source} if source.can_write else {}
        return {**own, **{path.with_name(f"{path.stem}.{o.name}{o.suffix}"): o for o in others}}


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


def generate(
    wanted: Demonstrations,
    files: OutputFiles,
    *,
    workers: int = 1,
    progress: OnAttempt | None = None,
    on_pictures: OnAttempt | None = None,
) -> Generated:
    """Make the demonstrations that are wanted and write them as files.

    `progress` is told (episodes kept, attempts made), `on_pictures` (episodes with pictures, episodes).
    """
    task = task_of(wanted.made_name)
    keep, attempt = wanted.kept(task), wanted.attempt(task)
    if workers < 1:
        raise UserError(f"workers={workers}: must be at least 1")
    outputs, folder = files.by_source(task.source), files.attempts
    with _claimed(folder, task.env_name):
        attempt, who = _prepared(attempt, wanted, folder)
        _check_settings(folder, {**asdict(attempt), "policy": who, "keep": keep}, files.overwrite)
        pool = AttemptPool(
            attempt,
            folder,
            keep_all=keep == "all",
            progress=progress,
            on_first=lambda number: _rehearse(attempt, folder, outputs, number),
            on_pictures=on_pictures,
        )
        kept = pool.run(wanted.episodes, workers)
        made_by = _made_by(attempt, who, len(kept), pool.attempts)
        transitions = [0]
        for path, writer in outputs.items():
            writer.write(path, _episodes(folder, kept, transitions), task.env_name, _provenance(attempt, made_by))
        if not task.source.can_write and files.keep is not None:
            files.keep(_episodes(folder, kept, transitions), _provenance(attempt, made_by))
    if files.attempts_dir is None:
        remove_attempts(folder)
    written = list(outputs)
    path, extra = (written[0], written[1:]) if task.source.can_write else (folder, written)
    total = transitions[0] // max(1, len(outputs) + (not task.source.can_write))
    return Generated(path, task.env_name, len(kept), total, pool.attempts, made_by, tuple(extra))


def remove_attempts(folder: Path) -> None:
    """Remove what a finished generation has made on its way."""
    shutil.rmtree(folder)
    with suppress(OSError):  # other generations may be under way beside it
        folder.parent.rmdir()


@contextmanager
def _claimed(folder: Path, env_name: str) -> Iterator[None]:
    """Hold the folder against a second process; the system lets go of it when this one dies."""
    taken = f"{env_name}: another process is generating it ({{holder}}; {folder})"
    with made_folder(folder), held(folder / LOCK, taken):
        try:
            yield
        finally:
            if not (folder / SETTINGS).exists():
                shutil.rmtree(folder, ignore_errors=True)  # refused before anything was made


def _prepared(attempt: AttemptSpec, wanted: Demonstrations, folder: Path) -> tuple[AttemptSpec, str]:
    """Return the attempt as workers play it, and who plays: a model is copied, since an alias may move meanwhile."""
    if attempt.policy == SCRIPTED:
        return attempt, SCRIPTED
    from understudy.loading import load_policy
    from understudy.policy_document import content_hash

    policy = load_policy(wanted.policy, wanted.tracking_uri).member(wanted.member)
    copy = policy.save(folder / POLICY)
    settings = _settings_of(policy.environment or {}, attempt.env_name)
    return replace(attempt, policy=str(copy), settings=settings), f"{policy.algorithm.name} {content_hash(copy)}"


def _settings_of(known: Mapping[str, Any], env_name: str) -> str:
    """Return as JSON the settings of what a policy was trained in, '' for those of another task than `env_name`."""
    settings = known.get("environment")
    return json.dumps(settings, sort_keys=True) if settings and made_name(known["env_name"], POLICY) == env_name else ""


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


def _rehearse(attempt: AttemptSpec, folder: Path, outputs: Outputs, number: int) -> None:
    """Write one episode in every format, so that what cannot be written is known before the work is done."""
    try:
        for path, writer in outputs.items():
            writer.write(
                folder / REHEARSAL / path.name, _episodes(folder, [number]), attempt.env_name, _provenance(attempt, "")
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


def _provenance(attempt: AttemptSpec, made_by: str) -> dict[str, Any]:
    environment = json.loads(attempt.settings) if attempt.settings else None
    rate = task_of(attempt.env_name).control_hz
    known = {"fps": rate} if rate else {}
    return {"made_by": made_by, "environment": environment, "env_name": attempt.env_name, **known}


def _made_by(attempt: AttemptSpec, who: str, episodes: int, attempts: int) -> str:
    """Return one sentence that says how the data can be made again."""
    noise = f"noise {attempt.noise:g} on executed actions, clean actions recorded" if attempt.noise else "no noise"
    expert = "scripted expert" if who == SCRIPTED else f"policy ({who})"
    return f"understudy {expert}: {attempt.env_name}, {episodes} of {attempts} attempts, seed {attempt.seed}, {noise}"
