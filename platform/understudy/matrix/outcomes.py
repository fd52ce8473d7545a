"""What the methods of a pipeline came to on the same episodes, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.matrix.comparison import Result, lines_of
from understudy.matrix.normalised import normalised
from understudy.matrix.pipeline import PipelineDir
from understudy.runs.episodes import put_evaluation, read_episodes, scores
from understudy.runs.registering import final_evaluation
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.statistics import return_interval

if TYPE_CHECKING:
    from understudy.trainables.loops.evaluation import Outcome

RANDOM, EXPERT = "random", "expert"
STAGE = "comparison"
SCORE = "expert_normalised"
"""(R - R_random) / (R_expert - R_random)."""


def compared_by(spec: RunSpec, base: RunSpec, episodes: int) -> RunSpec:
    """Return a method's evaluation on the episodes that all are compared on; nothing was chosen by them.

    The first fresh episodes chose the expert, these are the second.
    """
    found = base.evaluation
    same = {"eval_seed": found.eval_seed, "eval_max_steps": found.eval_max_steps, "eval_episodes": episodes}
    return final_evaluation(with_changes(spec, **same), episodes, 2)


def final_scores(pipeline: PipelineDir, name: str, spec: RunSpec, play: Callable[[], Outcome]) -> np.ndarray:
    """Return the returns [K, E] of a method's last evaluation, playing it where that has not been done."""
    file = pipeline.evaluation(name, spec)
    if not file.is_file():
        outcome = play()
        seeds = spec.all_seeds if len(outcome.rows) > 1 else (spec.all_seeds[0],)
        played = [replace(item, seed=seeds[item.seed]) for item in outcome.episodes]
        file.parent.mkdir(parents=True, exist_ok=True)
        put_evaluation(file, STAGE, None, outcome.setting, spec.training_steps, played)
    return scores(read_episodes(file), "return")


def results_of(task: str, found: Mapping[str, np.ndarray], expert_among: str = "sac") -> list[Result]:
    """Return each method's result, with its normalised score where chance and expert can be told apart."""
    results: list[Result] = []
    for method, scores_KE in found.items():
        metrics = return_interval(scores_KE).as_metrics("return")
        score = None if method in (RANDOM, EXPERT) else normalised(scores_KE, found[RANDOM], found[EXPERT])
        if score is not None:
            metrics |= {SCORE: score.mean, f"{SCORE}_low": score.low, f"{SCORE}_high": score.high}
        among = expert_among if method == EXPERT else ""
        results.append(Result(method, task, "return", metrics, {}, scores_KE, among))
    return results


def report_lines(
    pipeline: PipelineDir, results: Sequence[Result], found: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[str]:
    """Return results.txt, a line each; `facts` are the demonstrations'."""
    seeds, episodes = max(len(item.scores) for item in results if item.scores is not None), _episodes(results)
    lines = [
        f"{results[0].task}: mean return over {episodes} episodes of each seed, the same for all methods [95 %]",
        "",
        *_table(results),
        "",
        *lines_of(found),
        "",
        *_notes(pipeline, facts, seeds, scored=any(SCORE in item.metrics for item in results)),
    ]
    return lines


def _episodes(results: Sequence[Result]) -> int:
    return next(item.scores.shape[1] for item in results if item.scores is not None)


def _table(results: Sequence[Result]) -> Iterator[str]:
    rows = [("method", "seeds", "return", "[95 %]", "normalised", "[95 %]")]
    for item in results:
        metrics = item.metrics
        score, ends = {RANDOM: ("0", "by definition"), EXPERT: ("1", "by definition")}.get(item.method, ("-", ""))
        if SCORE in metrics:
            score, ends = f"{metrics[SCORE]:.3f}", _ends(metrics, SCORE, 3)
        rows.append(
            (item.method, str(int(metrics["return_seeds"])), f"{metrics['return']:.2f}", _ends(metrics, "return", 2),
             score, ends)
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) if column in (0, 3, 5) else text.rjust(width)
                 for column, (text, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        yield "  ".join(cells).rstrip()


def _ends(metrics: Mapping[str, float], name: str, digits: int) -> str:
    if f"{name}_low" not in metrics:
        return "no interval"
    return f"[{metrics[f'{name}_low']:.{digits}f}, {metrics[f'{name}_high']:.{digits}f}]"


def _notes(pipeline: PipelineDir, facts: Mapping[str, Any], seeds: int, *, scored: bool) -> Iterator[str]:
    options = pipeline.options
    trained = f"expert run {options.expert_run}" if options.expert_run else f"sac {options.expert_frames} frames"
    yield f"trained: {trained}, ipmd {options.ipmd_frames} frames, bc {options.bc_epochs:g} epochs; {seeds} seeds"
    how = "deterministic" if facts["deterministic"] else "sampled"
    yield (
        f"demonstrations: {facts['num_expert_episodes']} episodes, {facts['num_transitions']} transitions of the expert"
        f" (sac seed {facts['seed']}, {how} actions), mean return {facts['expert_avg_reward']:.2f}"
    )
    if len(facts["seeds_trained"]) > 1:
        yield "the expert is the seed of sac that did best on other episodes, which nothing here is computed from"
    if scored:
        yield "normalised: (R - R_random) / (R_expert - R_random); its interval has what is uncertain of all three"
    else:
        yield "no normalised score: the expert cannot be told from random actions on these episodes"
    yield "intervals: over seeds and start states, crossed; of one seed over its episodes, for that policy alone"
