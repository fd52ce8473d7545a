"""Go on beyond a run's end, or from another run's checkpoint with other settings.

Both write a rolling checkpoint that the loop then resumes from: batches and random draws are functions of the step,
so a run that is extended equals one that had the longer training from the start (with more rows in eval.csv).
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from understudy import checkpoints
from understudy.errors import SpecError, UserError
from understudy.files import write_json
from understudy.registry import algorithms
from understudy.runs.directory import RunDir
from understudy.runs.ended import check_ended
from understudy.runs.on_ray import check_launcher
from understudy.runs.rows import ACCEPT
from understudy.spec.effects import check_effects
from understudy.spec.keys import algo_of, build_run, check_keys, with_changes
from understudy.spec.parts import Interaction
from understudy.spec.placement import Placement
from understudy.spec.run import RunSpec

logger = logging.getLogger("understudy")


def add_steps(run: RunDir, steps: int) -> RunSpec:
    """Make a run's training `steps` longer and ready to be resumed; returns its new spec."""
    if steps < 1:
        raise UserError(f"--add-steps {steps}: must be at least 1")
    spec = run.spec()
    longer = with_changes(spec, **spec.longer(steps))
    train_on(run, longer)
    return longer


def train_on(run: RunDir, longer: RunSpec) -> None:
    """Extend a run to the training steps of `longer`; a run that has as many already is left alone.

    flags.json is written last: a process that dies in here can do it again.
    """
    spec = run.spec()
    if spec.total_steps >= longer.total_steps:
        return
    check_ended(run)
    state = _rolling_state(run)
    if state is None and run.state().get("status") == "finished":
        state = _state_of_models(_models(run.path), spec)
    if state is not None:  # else it has not come to its first checkpoint
        _begin_at(run, longer, state)
        run.update_state(status="interrupted", step=int(state["step"]))
    write_json(run.flags, longer.flat())


def accept(run: RunDir, new_data: bool, lost_rows: bool) -> None:
    """Have the next start go on with other data, or without rows that are gone; run.json keeps that it did."""
    state = run.state()
    if new_data and state.get("dataset_hash"):
        held: list[str] = state.get("earlier_datasets") or []
        run.update_state(dataset_hash=None, earlier_datasets=sorted({*held, state["dataset_hash"]}))
    if lost_rows:
        run.update_state(**{ACCEPT: True})


def fork(source: Path, changes: dict[str, Any]) -> RunDir:
    """Make a run that goes on from `source`, a run directory or one seed's .pt file, with changed settings.

    Its first step is the checkpoint's next; run.json names where it came from. What belongs to the weights (algorithm,
    network, seeds, normaliser) cannot be changed; SpecError when a change would have no steps left to train.
    """
    files = _models(source)
    saved = checkpoints.load(files[0])
    if not _has_flags(files[0]):  # a file alone may be somebody else's: where this runs is for the caller to say
        saved["spec"] = {key: value for key, value in saved["spec"].items() if key not in Placement.model_fields}
    if "training" not in saved:
        raise UserError(f"{files[0]} holds no training state: give a run directory, checkpoint_N.pt or final_model.pt")
    seeds = [int(checkpoints.load(file)["seed"]) for file in files]
    given = {key: value for key, value in changes.items() if key not in ("seed", "seeds")}
    if len(given) != len(changes):
        raise SpecError("a fork keeps its seeds: leave seed and seeds out")
    algo = algo_of({**saved["spec"], **given})
    check_keys(given, algo)
    begun = algorithms.get(algo).Config.forked(saved["spec"], given)
    spec = build_run({**saved["spec"], **begun, "seeds": seeds, **given})
    for note in check_effects(spec, given):
        logger.warning("note: %s", note)
    step = int(saved["step"])
    if spec.total_steps <= step:
        raise SpecError(f"training_steps={spec.training_steps}: the fork begins at step {step}; give more")
    state = _state_of_models(files, spec)
    if spec.config.tuning and spec.training_steps < step:
        raise SpecError(
            f"training_steps={spec.training_steps} precede the fork, which begins at step {step}; give more"
        )
    check_launcher(spec)
    parent = RunDir(files[0].parent if len(files) == 1 else files[0].parent.parent)
    run = RunDir.create(spec)
    _begin_at(run, spec, state)
    origin = {"forked_from": str(source.absolute()), "forked_at_step": step}
    run.update_state(step=step, lineage={**origin, "forked_from_run": parent.state().get("run_id")})
    return run


def _models(source: Path) -> list[Path]:
    """Return the newest .pt file of each seed of a run directory, or the one file that was given."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such run directory or checkpoint")
    folders = [source] if list(source.glob("*.pt")) else sorted(source.glob("sd*"))
    newest = [_newest(folder) for folder in folders]
    files = [file for file in newest if file is not None]
    if not files or len(files) != len(newest):
        raise UserError(f"{source} holds no final_model.pt or checkpoint_N.pt of every seed to go on from")
    return files


def _has_flags(file: Path) -> bool:
    """Return whether a model lies in the directory of its run."""
    return any((folder / "flags.json").is_file() for folder in file.absolute().parents[:2])


def _newest(folder: Path) -> Path | None:
    final = folder / "final_model.pt"
    if final.is_file():
        return final
    kept = sorted(folder.glob("checkpoint_*.pt"), key=lambda file: int(file.stem.removeprefix("checkpoint_")))
    return kept[-1] if kept else None


def _rolling_state(run: RunDir) -> dict[str, Any] | None:
    state = checkpoints.load_newest(run.resume)
    return None if state is None else {key: value for key, value in state.items() if key != "format"}


def _state_of_models(files: list[Path], spec: RunSpec) -> dict[str, Any]:
    """Return what a rolling checkpoint would have held when these files were written, one a seed.

    SpecError for models that learned from what they did: their replay buffer is beside rolling checkpoints only.
    """
    models = [checkpoints.load(file) for file in files]
    steps = {int(model["step"]) for model in models}
    if len(steps) != 1:
        raise UserError(f"{files[0].parent.parent}: its seeds' newest checkpoints are of steps {sorted(steps)}")
    step, begun = steps.pop(), build_run(models[0]["spec"])
    if isinstance(spec.config, Interaction) or (begun.config.tuning and step > begun.training_steps):
        raise SpecError(
            f"{files[0]}: {spec.algo} learns from a replay buffer, which is not in a model, so none can go on from it;"
            " `understudy resume RUN --add-steps N` goes on with a run's own buffer, where keep_buffer kept it"
        )
    return {
        "step": step,
        "data": None,  # the loop checks it where it is known
        "normaliser": models[0]["policy"]["normaliser"],
        "metrics": {},
        "best_parameters": {},
        "best_scores": [-math.inf] * len(spec.all_seeds),
        "members": [model["training"] for model in models],
    }


def _begin_at(run: RunDir, spec: RunSpec, state: dict[str, Any]) -> None:
    checkpoints.save_rolling(run.resume, int(state["step"]), {**state, "fingerprint": spec.fingerprint()})
