"""Published results: every file names tasks, words and numbers that hold here, and cells follow the user's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from understudy.cli.train import read_run
from understudy.errors import UserError
from understudy.matrix.cells import Cell, MatrixDir
from understudy.matrix.published import (
    BEST,
    LAST,
    PHASES,
    cells_of_study,
    notes_of,
    rows_of,
    scores_that_count,
    studies,
    study_figures,
    study_of,
)
from understudy.registry import algorithms
from understudy.runs.directory import RunDir
from understudy.runs.episodes import EpisodeLog, Played, Setting, read_episodes

STUDIES = studies().values()


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_run_of_a_study_can_be_read(study) -> None:
    assert {"what", "source", "counts", "differs"} <= set(study.about)
    for cell in cells_of_study(study, (), ()):
        spec = read_run(list(cell.words))
        assert spec.env_name == cell.task
        assert spec.all_seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_published_numbers_are_scores_with_a_deviation_or_the_ends_of_an_interval(study) -> None:
    assert study.over in (LAST, BEST) or study.over > 1
    for group in study.groups:
        for method, phases in group.published.items():
            assert phases
            assert method in algorithms.names()
            assert set(phases) <= set(PHASES)
            for mean, *spread in phases.values():
                assert 0 <= mean <= (100 if study.measure == "success" else 120)
                assert len(spread) <= 2
                assert len(spread) < 2 or spread[0] <= mean <= spread[1]


def test_the_methods_of_a_study_are_cells_and_a_user_chooses_among_them() -> None:
    study = study_of("d4rl")
    cells = cells_of_study(study, ["hopper-medium-expert-v2"], ())
    assert [cell.method for cell in cells] == ["bc", "td3_bc", "iql"]
    beta = {cell.method: read_run(list(cell.words)).config.model_dump().get("beta") for cell in cells}
    assert beta == {"bc": None, "td3_bc": None, "iql": 6.0}
    (cell,) = cells_of_study(study, ["hopper-medium-expert-v2"], ["algo=td3_bc", "alpha=3"])
    assert read_run(list(cell.words)).config.model_dump()["alpha"] == 3.0
    assert not cells_of_study(study, ["hopper-medium-v2"], ["algo=iql"])
    with pytest.raises(UserError, match=r"algo=iqll: d4rl has no such method .did you mean 'iql'"):
        cells_of_study(study, (), ["algo=iqll"])


def episodes(folder: Path, success_SKE: np.ndarray, steps: Sequence[int]) -> pa.Table:
    """Return the table of episodes of evaluations at some steps."""
    log = EpisodeLog(folder / "episodes.arrow", None)
    for step, success_KE in zip(steps, success_SKE, strict=True):
        recorder = log.at(step)
        for (seed, episode), success in np.ndenumerate(success_KE):
            recorder.add(Setting(), Played(seed, episode, 7 + episode, 1.0, 3, float(success), None))
        recorder.finish()
    return read_episodes(folder / "episodes.arrow")


def test_what_counts_is_the_last_evaluation_the_last_ones_or_each_seeds_best(tmp_path: Path) -> None:
    success = np.array([[[1, 1], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [0, 0]]])  # [steps, seeds, episodes]
    table, study = episodes(tmp_path, success, (10, 20, 30)), study_of("qc")
    counted = {over: scores_that_count(replace(study, over=over), table, 30).tolist() for over in (LAST, 2, BEST)}
    assert counted == {LAST: [[1, 0], [0, 0]], 2: [[0.5, 0], [0.5, 0]], BEST: [[1.0], [0.5]]}
    assert scores_that_count(replace(study, over=LAST), table, 20).tolist() == [[0, 0], [1, 0]]


def finished(matrix: MatrixDir, cell: Cell, steps: Sequence[int], score: float) -> None:
    """Write the run of a cell as one that ended, each evaluation better by 1 than the one before."""
    run = RunDir.at(matrix.folder(cell), read_run(list(cell.words)))
    log = EpisodeLog(run.path / "episodes.arrow", None)
    for number, step in enumerate(steps):
        recorder = log.at(step)
        for seed, episode in np.ndindex(2, 2):
            success = float(episode <= number)
            recorder.add(Setting(), Played(seed, episode, 7 + episode, 1.0, 3, success, score + number))
        recorder.finish()
    run.update_state(status="finished")


@pytest.mark.parametrize(
    ("name", "tasks", "rows"),
    [
        (
            *("d4rl", ["hopper-medium-expert-v2", "walker2d-medium-v2"]),
            [
                ("hopper-medium-expert-v2", "bc", "6 updates", "52.3 ± 4.0", "3.0 [3.0, 3.0]", "2 x 2"),
                ("hopper-medium-expert-v2", "td3_bc", "6 updates", "101.2 ± 9.1", "4.0 [4.0, 4.0]", "2 x 2"),
                ("hopper-medium-expert-v2", "iql", "6 updates", "107.4 ± 7.8", "5.0 [5.0, 5.0]", "2 x 2"),
                ("walker2d-medium-v2", "bc", "6 updates", "63.2 ± 16.2", "6.0 [6.0, 6.0]", "2 x 2"),
                ("walker2d-medium-v2", "td3_bc", "6 updates", "82.7 ± 4.8", "7.0 [7.0, 7.0]", "2 x 2"),
                ("walker2d-medium-v2", "iql", "6 updates", "80.9 ± 3.2", "8.0 [8.0, 8.0]", "2 x 2"),
            ],
        ),
        (
            *("ogbench", ["cube-single-play"]),
            [("cube-single-play", "6 updates", "6 ± 2", "83 [-128, 295]", "2 x 2, mean of the last 3")],
        ),
        (
            *("robomimic-mh", ["square"]),
            [
                ("square", "bc", "6 updates", "53 ± 7", "100 [100, 100]", "2 x 2, the best of each seed"),
                ("square", "bc_rnn", "6 updates", "78 ± 4", "100 [100, 100]", "2 x 2, the best of each seed"),
            ],
        ),
        ("qc", ["lift"], [("lift", "6 updates", "97 [95, 99]", "100 [34, 100]", "2 x 2")]),
    ],
)
def test_a_matrix_of_finished_runs_has_a_row_for_each_method_and_task(
    name: str, tasks: list[str], rows: list[tuple[str, ...]], tmp_path: Path
) -> None:
    study = study_of(name)
    words = ["seeds=[0,1]", "training_steps=6", "eval_interval=2", "eval_episodes=2", "tracking_uri=none"]
    words += ["online_steps=0"] if name == "qc" else []
    cells = cells_of_study(study, tasks, words)
    matrix = MatrixDir.create(tmp_path, "compare", cells, name)
    for number, cell in enumerate(cells):
        finished(matrix, cell, (2, 4, 6), 1.0 + number)
    made = rows_of(study, matrix)
    assert made[: len(rows)] == rows
    assert all(len(row) == len(study.headings) for row in made)
    changed = [line for line in notes_of(study, matrix) if line.startswith("not as published, ")]
    assert len(changed) == len(cells)
    assert all("training_steps=6" in line for line in changed)


def test_figures_have_a_deviation_or_the_ends_of_an_interval() -> None:
    qc, d4rl = study_of("qc"), study_of("d4rl")
    assert [study_figures(qc, numbers) for numbers in ([97, 95, 99], [100], [6, 2])] == ["97 [95, 99]", "100", "6 ± 2"]
    assert study_figures(d4rl, [42.4, 0.19]) == "42.4 ± 0.2"
    assert study_figures(d4rl, [1.0, float("nan"), float("nan")]) == "1.0"


def test_a_users_words_go_before_a_studys() -> None:
    (cell,) = cells_of_study(study_of("qc"), ["lift"], ["seed=3", "training_steps=10", "sparse=true"])
    spec = read_run(list(cell.words))
    assert (spec.all_seeds, spec.training_steps, spec.data.sparse) == ((3,), 10, True)
    cells = cells_of_study(study_of("qc"), ["puzzle-3x3"], ["sparse=false"])
    assert [read_run(list(cell.words)).data.sparse for cell in cells] == [False] * 5


def test_unknown_studies_and_tasks_are_named_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"no published results are called 'qq'; allowed: d4rl, ogbench, qc, robomimic-mh"
    ):
        study_of("qq")
    with pytest.raises(UserError, match=r"--tasks lifd: qc has no such tasks .did you mean 'lift'"):
        cells_of_study(study_of("qc"), ["lifd"], ())


@pytest.mark.parametrize("word", ["env_name=can-mh-low_dim", "--env_name=can-mh-low_dim", "dataset=can-mh-low_dim"])
def test_a_word_that_names_a_task_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="the tasks are those of qc; --tasks chooses among them"):
        cells_of_study(study_of("qc"), ["lift"], [word])


def test_words_with_dashes_go_before_a_studys_too() -> None:
    cells = cells_of_study(study_of("qc"), ["puzzle-3x3"], ["--sparse=false", "--seed=2"])
    spec = read_run(list(cells[0].words))
    assert (spec.data.sparse, spec.all_seeds) == (False, (2,))
