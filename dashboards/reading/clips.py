"""Filmed episodes as pages show them, and the command that films others."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.dashboards.reading.episodes import Evaluation
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.runs import plain, read_run
from understudy.runs.clips import Clip, arrays_of, read_clips

DIMS = 24
"""Dimensions of a column that are drawn."""
ORDER = ("actions", "rewards", "observations", "terminals")


def clips_of(folder: Path, evaluation: Evaluation) -> dict[tuple[int, int], Clip]:
    """Return the clips of an evaluation's episodes by seed and start state; a sweep's lie with its trials too."""
    own = [
        clip
        for clip in _clips_of_trial(folder, evaluation.trial)
        if (clip.step, clip.setting) == (evaluation.step, evaluation.setting)
    ]
    return {(clip.seed, clip.reset_seed): clip for clip in own}


def first_filmed(folder: Path, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Return the first of evaluations that has a filmed episode."""
    filmed: dict[int | None, set[tuple[int, str]]] = {}
    for trial in {item.trial for item in evaluations}:
        filmed[trial] = {(clip.step, clip.setting) for clip in _clips_of_trial(folder, trial)}
    return next((item for item in evaluations if (item.step, item.setting) in filmed[item.trial]), None)


def _clips_of_trial(folder: Path, trial: int | None) -> list[Clip]:
    """Return a run's clips; of a sweep, its own and those of a trial's packs of seeds."""
    places = [folder, *(packs(folder, trial) if (folder / "trials").is_dir() else [])]
    return [clip for place in places for clip in read_clips(place)]


def packs(sweep: Path, trial: int | None) -> list[Path]:
    """Return the run directories of a trial: its first pack of seeds and further ones; None is the default's."""
    stem = "default" if trial is None else f"{trial:04d}"
    return sorted(path for path in (sweep / "trials").glob(f"{stem}*") if path.is_dir())


def model_of(files: Files, folder: Path, evaluation: Evaluation, seed: int) -> Path | None:
    """Return what `understudy evaluate` takes to play a seed's episodes again; None where its policy was not kept."""
    if (folder / "sweep.json").is_file():
        runs = [path for path in packs(folder, evaluation.trial) if seed in read_run(files, path).seeds]
    else:
        runs = [folder]
    for path in runs:
        run = read_run(files, path)
        member = run.member(seed)
        kept = member / f"checkpoint_{evaluation.step}.pt"
        if (member / "final_model.pt").is_file() and run.state.get("step") == evaluation.step:
            return run.path
        if kept.is_file():
            return kept
    return None


def film_command(files: Files, folder: Path, evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the command that films episodes of an evaluation, all of one model's; "" where no policy was kept."""
    if not rows:
        return ""
    first = rows[0]
    model = model_of(files, folder, evaluation, first["seed"])
    if model is None:
        return ""
    own = [row for row in rows if model_of(files, folder, evaluation, row["seed"]) == model]
    alone = model.suffix == ".pt"  # a checkpoint is one seed's
    names = [str(row["episode"]) if alone else f"{row['seed']}:{row['episode']}" for row in own]
    words = [word.replace(" ", "") for word in filter(None, evaluation.setting.split(", "))]
    start = first["reset_seed"] - first["episode"]
    if start != read_run(files, model if model.is_dir() else folder).keys.get("eval_seed", start):
        words.append(f"eval_seed={start}")
    return f"understudy evaluate --video --episodes {','.join(names)} {shlex.join([str(model), *words])}"


def numbers_beside(clip: Clip) -> dict[str, Any]:
    """Return what is drawn beside a video: its clock, and a list of values for each dimension of each column."""
    arrays = arrays_of(clip)
    curves = {
        name: [plain(arrays[name][:, place].astype(float)) for place in range(min(DIMS, arrays[name].shape[1]))]
        for name in sorted(arrays, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
        if len(arrays[name]) and np.isfinite(arrays[name]).any()
    }
    dims = {name: arrays[name].shape[1] for name in curves}
    return {"fps": clip.fps, "skip": clip.frame_skip, "length": clip.length, "curves": curves, "dims": dims}


def described(clip: Clip, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what a clip shows, and whether it is the recorded episode."""
    outcome = {None: "", True: "success, ", False: "failure, "}[None if clip.success is None else clip.success >= 1]
    what = f"{outcome}return {clip.returns:.4g}, {clip.length} steps"
    row = next((row for row in rows if (row["seed"], row["reset_seed"]) == (clip.seed, clip.reset_seed)), None)
    if row is None:
        return what
    if clip.is_of(row["return"], row["length"]):
        return f"{what}: the recorded episode"
    return f"{what}: not the recorded one (return {row['return']:.4g}, {row['length']} steps)"
