"""Published results: every file names tasks, words and numbers that hold here, and cells follow the user's words."""

from __future__ import annotations

import pytest

from understudy.cli.train import read_run
from understudy.errors import UserError
from understudy.matrix.published import PHASES, cells_of_study, studies, study_of

STUDIES = studies().values()


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_run_of_a_study_can_be_read(study) -> None:
    assert {"what", "source", "counts", "differs"} <= set(study.about)
    for cell in cells_of_study(study, (), ()):
        spec = read_run(list(cell.words))
        assert spec.env_name == cell.task
        assert spec.all_seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_published_numbers_are_percents_with_their_mean_inside_the_interval(study) -> None:
    for group in study.groups:
        assert set(group.published) <= set(PHASES)
        for mean, *ends in group.published.values():
            assert 0 <= mean <= 100
            assert not ends or ends[0] <= mean <= ends[1]


def test_a_users_words_go_before_a_studys() -> None:
    (cell,) = cells_of_study(study_of("qc"), ["lift"], ["seed=3", "training_steps=10", "sparse=true"])
    spec = read_run(list(cell.words))
    assert (spec.all_seeds, spec.training_steps, spec.data.sparse) == ((3,), 10, True)
    cells = cells_of_study(study_of("qc"), ["puzzle-3x3"], ["sparse=false"])
    assert [read_run(list(cell.words)).data.sparse for cell in cells] == [False] * 5


def test_unknown_studies_and_tasks_are_named_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"no published results are called 'qq'.*allowed: qc"):
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
