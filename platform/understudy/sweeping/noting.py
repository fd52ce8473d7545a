"""What MLflow is told of a sweep: its run, the parent of its trials'; how it came out; which trials were pruned.

The parent has the confirmed score of the best configuration under the names that runs have (`eval/success` with its
interval) at that policy's own step, what is one number for the whole sweep as tags, and as its description the table of
results. All of it is read from the sweep's folder, so that `understudy sync` tells it later where MLflow was away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from understudy import tracking
from understudy.errors import TrackingError
from understudy.files import write_atomic
from understudy.registry import reports
from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.runs.ended import RESULT, as_ended, note_ended
from understudy.runs.episodes import FILE
from understudy.runs.launch import sent_state
from understudy.runs.results import objective_text
from understudy.sweeping.best import BEST_CSV, RECORD, BestPolicy
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.format import markdown_table, number, settings_of
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.race import RECORD as RACE
from understudy.sweeping.race import ranking
from understudy.sweeping.report import REPORT, confirmation_lines
from understudy.sweeping.study import Study, failed, state_name
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.together import trials_together
from understudy.sweeping.trial import trial_folder, trial_name
from understudy.tracking import Tracked
from understudy.tracking.recording import NOTE_TAG
from understudy.tracking.shipping import points_of
from understudy.tracking.tailing import Extent, Row
from understudy.tracking.tracked import run_name

log = logging.getLogger("understudy")
SUMMARY = "summary.md"
FILES = ("sweep.json", "summary.csv", SUMMARY, BEST_CSV, RECORD, FILE, RACE, REPORT, "best")
"""What the sweep's run in MLflow holds."""
COUNTS = "counts"
"""Key of a sweep's run.json: how many trials ended how, and how many seeds were trained."""
LONGEST = 4800
"""Characters of a description: what every MLflow server takes of a tag is 5000."""


def track_sweep(spec: SweepSpec, path: Path, run_id: str | None, parent_run_id: str | None = None) -> Tracked:
    """Open the sweep's run in MLflow, the parent of its trials'; it may be a child of a matrix's."""
    base, together = spec.base, trials_together(spec)
    return tracking.track(
        base.placement.tracking(),
        path,
        experiment=base.placement.project,
        name=run_name(base.algo, path),
        run_id=run_id,
        parent_run_id=parent_run_id,
        params={
            **spec.run,
            **spec.options.model_dump(),
            **{key: str(item) for key, item in spec.dimensions.items()},
            **spec.grid,
        },
        tags={
            "kind": "sweep",
            "sweep": path.name,
            "algo": base.algo,
            "algorithm": base.algo,
            "env_name": base.env_name,
            "environment": base.env_name,
            "run_group": base.placement.run_group,
            "seeds": ",".join(map(str, base.all_seeds)),
            **({"trials_together": together} if together > 1 else {}),
            "run_dir": path.absolute(),
        },
    )


def note_sweep(
    sweep: SweepDir,
    spec: SweepSpec,
    trials: Sequence[FrozenTrial],
    outcomes: Mapping[int, TrialOutcome],
    policy: BestPolicy,
    report: Sequence[str],
) -> None:
    """Write down what the sweep's run in MLflow shows: its table of results and its counts."""
    names = [state_name(trial) for trial in trials]
    counts = {
        "trials": len(trials),
        "trials_complete": names.count("complete"),
        "trials_pruned": names.count("pruned"),
        "trials_failed": names.count("fail"),
        "seed_runs": sum(len(outcome.seeds) for outcome in outcomes.values()),
    }
    sweep.update_state(**{COUNTS: counts})
    text = description(spec, trials, outcomes, policy, report)
    write_atomic(sweep.path / SUMMARY, lambda file: file.write(text.encode()))


def description(
    spec: SweepSpec,
    trials: Sequence[FrozenTrial],
    outcomes: Mapping[int, TrialOutcome],
    policy: BestPolicy,
    report: Sequence[str],
) -> str:
    """Return the result of a sweep in Markdown: the best configuration, then a row for each, best first."""
    best = f"**best: trial {policy.trial}** {settings_of(policy.parameters)}"
    lines = [best, *confirmation_lines(policy, spec), *report]
    text = "  \n".join(line.strip() for line in lines) + "\n\n"
    order = {outcome.number: place for place, outcome in enumerate(ranking(spec, outcomes))}
    rows = sorted(trials, key=lambda trial: (order.get(trial.number, len(order)), trial.number))
    name = spec.goal.first.named(policy.metrics)
    table = markdown_table(
        ("trial", "state", *spec.dimensions, *spec.grid, f"{name} [95 %]", "seeds"),
        (_row(spec, trial, outcomes.get(trial.number), name) for trial in rows),
    )
    kept = len(table)
    while kept > 2 and len(text) + sum(len(line) + 1 for line in table[:kept]) > LONGEST:
        kept -= 1
    more = [] if kept == len(table) else ["", f"and {len(table) - kept} more in summary.csv, among the artifacts"]
    return text + "\n".join([*table[:kept], *more]) + "\n"


def _row(spec: SweepSpec, trial: FrozenTrial, outcome: TrialOutcome | None, name: str) -> list[str]:
    state = "failed" if failed(trial) else state_name(trial)
    chosen = outcome.chosen if outcome else {}
    error = str(trial.user_attrs.get("error", ""))[:80]
    return [
        str(trial.number),
        state,
        *(number(trial.params.get(key, "-")) for key in spec.dimensions),
        *(number(chosen.get(key, "-")) for key in spec.grid),
        objective_text(outcome.metrics, name) if outcome else error or "-",
        str(len(outcome.seeds)) if outcome else "-",
    ]


def send_best(sweep: SweepDir, spec: SweepSpec, policy: BestPolicy, tracked: Tracked) -> int:
    """Have the sweep's run name the best configuration, its score and its data, and hold the sweep's files.

    Returns how many files these are. What is sent again is what it was: its time is that of the row on disk.
    """
    path, state = sweep.path, sweep.state()
    row = path / BEST_CSV
    time_ms = int(1000 * row.stat().st_mtime) if row.is_file() else 0
    measured = Row(policy.training_steps, policy.metrics, Extent(offset=0, rows=0, header=""))
    tracked.log_points(points_of(measured, "eval/", time_ms))
    tags = {f"best.{key}": value for key, value in policy.parameters.items()}
    tags |= {"best.trial": policy.trial, "best.ranked": policy.ranked, **state.get(COUNTS, {})}
    summary = path / SUMMARY
    if summary.is_file():
        tags[NOTE_TAG] = summary.read_text(encoding="utf-8")
    tracked.set_tags({key: value for key, value in tags.items() if value is not None})
    trained_on = RunDir(trial_folder(path, policy.trial)).state().get("dataset_hash")
    tracked.log_dataset(spec.base.env_name, str(trained_on or ""), str(spec.base.placement.datasets))
    names = (*FILES, *reports.names())
    return tracked.log_files(*(path / name for name in names if (path / name).exists()))


def attach_reports(sweep: SweepDir, tracked: Tracked) -> None:
    """Write the sweep's reports into its folder and have its run hold them; one that fails is a warning, no more."""
    for name, write in reports.items():
        try:
            write(sweep.path, sweep.path / name)
        except Exception as error:  # noqa: BLE001  (the sweep is done: a page of it must not make it fail)
            log.warning("%s: no %s (%s: %s)", sweep.path.name, name, type(error).__name__, error)
        else:
            tracked.log_files(sweep.path / name)


def close_stopped(sweep: SweepDir, study: Study, parent_run_id: str | None) -> None:
    """Close the runs of trials that ASHA stopped, as pruned: their processes may have had no time to.

    What the files of these are, and of those that failed, is noted: nothing is written there any more.
    """
    spec = study.spec
    for trial in study.trials(TrialState.PRUNED, TrialState.FAIL):
        run = RunDir(trial_folder(sweep.path, trial.number))
        state = run.state()
        if failed(trial):
            if state.get("status") == "failed" and not state.get(RESULT):
                note_ended(run)
            continue
        if state.get("status") == "stopped" or not run.flags.is_file():
            continue
        name = trial_name(spec.base.algo, trial.number, trial.params)
        try:
            tracked = tracking.track_run(
                run.spec(), run.path, name=name, run_id=state.get("run_id"), parent_run_id=parent_run_id
            )
        except TrackingError as error:
            run.update_state(status="stopped", shipped=False, **{TRACKING_ERROR: str(error)}, **as_ended(run))
            continue
        tracked.set_tags({"stopped_by": "asha"})
        tracked.log_folder(run.path)
        sent = sent_state(run, tracked, tracked.close("KILLED", state="pruned"))
        run.update_state(status="stopped", **sent, **as_ended(run))
