"""What a pipeline came to: every method on the same episodes, in words, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from understudy.cli.output import console

if TYPE_CHECKING:
    import numpy as np

    from understudy.matrix.pipeline import PipelineDir
    from understudy.runs.stop import Notice
    from understudy.spec.run import RunSpec
    from understudy.tracking import Tracked


def show_results(
    pipeline: PipelineDir, base: RunSpec, facts: Mapping[str, Any], parent: Tracked, notice: Notice
) -> None:
    """Evaluate what is not evaluated, and print, write and track the comparison; `facts` are the demonstrations'.

    `base` says which episodes are played, by all methods.
    """
    from understudy.files import write_atomic
    from understudy.matrix.comparison import RECORD, TABLE, write_comparison
    from understudy.matrix.outcomes import EXPERT, RANDOM, compared_by, final_scores, report_lines, results_of
    from understudy.matrix.picture import draw
    from understudy.registry import algorithms, loops
    from understudy.runs.demonstrating import policies_of
    from understudy.runs.directory import RunDir
    from understudy.tracking.recording import NOTE_TAG

    scores: dict[str, np.ndarray] = {}
    final = compared_by(base, base, pipeline.options.final_episodes)
    chance = loops.get(algorithms.get(base.algo).loop).chance
    scores[RANDOM] = final_scores(pipeline, RANDOM, final, lambda: chance(final, poll=notice.poll))
    for cell in pipeline.cells():
        spec, policy = policies_of(RunDir(pipeline.folder(cell)))
        final = compared_by(spec, base, pipeline.options.final_episodes)
        evaluate = loops.get(policy.algorithm.loop).evaluate
        play = partial(evaluate, policy, final, poll=notice.poll)
        found_KE = final_scores(pipeline, cell.folder, final, play)
        scores.setdefault(EXPERT, found_KE[[spec.all_seeds.index(facts["seed"])]])  # the first cell's
        scores[cell.method] = found_KE
    results = results_of(base.env_name, scores)
    found = write_comparison(pipeline, results)
    lines = report_lines(pipeline, results, found, facts)
    write_atomic(pipeline.path / "results.txt", lambda file: file.write("".join(f"{x}\n" for x in lines).encode()))
    draw(pipeline.path / "comparison.png", results, facts)
    notice.check()
    console.print("\n".join(lines), soft_wrap=True)
    for name in ("results.txt", "comparison.png"):
        console.print(str(pipeline.path / name), soft_wrap=True)
    files = ("results.txt", "comparison.png", RECORD, TABLE, "matrix.json")
    parent.log_files(*(pipeline.path / name for name in files))
    parent.set_tags({NOTE_TAG: "\n".join(["```", *lines, "```"])})
    parent.close("FINISHED")
