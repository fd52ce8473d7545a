"""A matrix: words become cells, and what the cells came to is compared on the same start states and over tasks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.unit.command_line import understudy
from tests.unit.test_statistics import simulated

from understudy.errors import UserError
from understudy.matrix.cells import MatrixDir, cells_of, check_cells, is_matrix
from understudy.matrix.chart import draw_matrix
from understudy.matrix.comparison import Result, compare, lines_of, table_rows, write_comparison
from understudy.matrix.latex import write_latex

WORDS = ("algo=bc,flow_bc", "env_name=hopper-medium-v2,walker2d-medium-v2", "seeds=[0,1]", "flow_steps=5")


def test_several_methods_or_tasks_make_a_matrix() -> None:
    assert is_matrix(WORDS)
    assert is_matrix(["dataset=a,b"])
    assert not is_matrix(["algo=bc", "env_name=a", "lr=1e-3,1e-4"])


def test_each_pair_is_a_cell_with_the_keys_that_its_method_takes() -> None:
    cells = cells_of(WORDS, "compare")
    assert [(cell.method, cell.task) for cell in cells] == [
        ("bc", "hopper-medium-v2"),
        ("flow_bc", "hopper-medium-v2"),
        ("bc", "walker2d-medium-v2"),
        ("flow_bc", "walker2d-medium-v2"),
    ]
    assert cells[0].words == ("seeds=[0,1]", "algo=bc", "env_name=hopper-medium-v2")
    assert cells[1].words == ("seeds=[0,1]", "flow_steps=5", "algo=flow_bc", "env_name=hopper-medium-v2")


def test_a_method_without_values_to_search_takes_its_own_space() -> None:
    cells = cells_of(("algo=bc,flow_bc", "env_name=a", "num_trials=3"), "sweep")
    assert [cell.words for cell in cells] == [
        ("num_trials=3", "space=bc", "env_name=a"),
        ("num_trials=3", "space=flow_bc", "env_name=a"),
    ]
    cells = cells_of(("algo=bc,flow_bc", "env_name=a", "lr=1e-3,1e-4"), "sweep")
    assert [cell.words[1] for cell in cells] == ["algo=bc", "algo=flow_bc"]


TASKS = ("algo=bc,gc_bc", "bridgedata=lift_carrot_100,pull_pot_100", "seed=1,2,3")


def test_a_group_of_several_options_names_tasks() -> None:
    assert is_matrix(["bridgedata=lift_carrot_100,pull_pot_100"])
    assert not is_matrix(["bridgedata=lift_carrot_100"])
    cells = cells_of(TASKS, "compare")
    assert [(cell.method, cell.task) for cell in cells] == [
        ("bc", "lift_carrot_100"),
        ("gc_bc", "lift_carrot_100"),
        ("bc", "pull_pot_100"),
        ("gc_bc", "pull_pot_100"),
    ]
    assert cells[1].words == ("seed=1,2,3", "algo=gc_bc", "bridgedata=lift_carrot_100")


def test_a_group_of_one_option_names_the_task_of_several_methods() -> None:
    cells = cells_of(("algo=bc,gc_bc", "bridgedata=pull_pot_100"), "compare")
    assert [cell.task for cell in cells] == ["bridge:pull_pot_100"] * 2
    assert cells[0].words == ("bridgedata=pull_pot_100", "algo=bc", "env_name=bridge:pull_pot_100")


def test_the_users_own_groups_name_tasks_too(tmp_path) -> None:
    (tmp_path / "task").mkdir()
    for name in ("near", "far"):
        (tmp_path / "task" / f"{name}.yaml").write_text(f"# @package _global_\nenv_name: {name}-v0\n")
    cells = cells_of(("task=near,far", "lr=1e-3"), "compare", str(tmp_path))
    assert [cell.words for cell in cells] == [
        ("lr=1e-3", "algo=flow_bc", "task=near"),
        ("lr=1e-3", "algo=flow_bc", "task=far"),
    ]


def test_hydras_multirun_means_the_comparison_of_its_cells(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    compared = understudy(monkeypatch, capsys, "compare", *TASKS, "--cfg")
    for flag in ("-m", "--multirun"):
        assert understudy(monkeypatch, capsys, "train", flag, *TASKS, "--cfg").out == compared.out
    assert len(compared.out.splitlines()) == 4
    alone = understudy(monkeypatch, capsys, "train", "-m", "algo=bc", "env_name=hopper-medium-v2", "seed=1,2", "--cfg")
    assert "seeds: [1, 2]" in alone.out
    without = understudy(monkeypatch, capsys, "train", *TASKS)
    assert without.code == 2
    assert "algo has several values: `understudy compare`, or train -m, trains each" in without.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bridgedata=lift_carrot_100,pull_pot_100", "env_name=a"), "not both"),
        (("bridgedata=lift_carrot_100,pull_pot_100", "experiment=quickstart,b"), "one key's"),
        (("algo=bc,flow_bc", "env_name=a", "sampling_steps=5"), "none of bc, flow_bc takes it"),
        (("algo=bc,flow_bc",), "name the tasks"),
        (("algo=bc,bd", "env_name=a"), "unknown algorithm 'bd'"),
        (("algo=bc,bc", "env_name=a"), "named twice"),
        (("algo=bc", "env_name=a"), "no matrix"),
        (("algo=bc,flow_bc", "space=bc,flow_bc", "env_name=a"), "not both"),
    ],
)
def test_what_is_no_matrix_is_refused_in_one_line(words, said) -> None:
    with pytest.raises(UserError) as refused:
        check_cells(cells_of(words, "compare"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def results(gap: float = 0.0) -> list[Result]:
    """Return bc and flow_bc on two tasks, 5 seeds x 50 episodes; flow_bc is better by `gap`."""
    random = np.random.default_rng(0)
    found = []
    for task in ("a", "b"):
        both = simulated(random, 10, 50)
        for method, own in (("bc", both[:5]), ("flow_bc", np.maximum(both[5:], random.random((5, 50)) < gap))):
            metrics = {"success": float(own.mean()), "success_low": 0.1, "success_high": 0.9, "success_seeds": 5.0}
            found.append(Result(method, task, "success", metrics, {"lr": 1e-3}, own.astype(float)))
    return found


def test_methods_that_differ_are_told_apart_and_others_not(tmp_path) -> None:
    same = compare(results())
    assert [pair["distinguishable"] for pair in same["pairs"]] == [False, False]
    matrix = MatrixDir.create(tmp_path, "sweep", cells_of(WORDS, "sweep"))
    found = write_comparison(matrix, results(0.8))
    assert [pair["distinguishable"] for pair in found["pairs"]] == [True, True]
    assert all(pair["high"] < 0 for pair in found["pairs"])
    assert found["over_tasks"]["improvement"][0]["p"] < 0.1
    assert found["over_tasks"]["iqm"]["flow_bc"][0] > found["over_tasks"]["iqm"]["bc"][0]
    assert json.loads((tmp_path / "comparison.json").read_text()) == found
    assert (tmp_path / "comparison.csv").read_text().splitlines()[0].startswith("task,method,objective,value,low,high")
    lines = list(lines_of(found))
    assert lines[0] == "a: bc at its best: lr=0.001"
    assert any("a: bc minus flow_bc: -0." in line and "after Holm" in line for line in lines)
    headings, rows = table_rows(results())
    assert headings == ["task", "measure [95 %]", "bc", "flow_bc"]
    assert [row[0] for row in rows] == ["a", "b"]


def test_a_comparison_is_written_as_a_table_of_latex_with_the_best_in_bold(tmp_path) -> None:
    apart, same = results(0.8), results()
    write_latex(tmp_path / "apart.tex", apart, compare(apart), "2 seeds x 50 % of the_steps.")
    write_latex(tmp_path / "same.tex", same, compare(same), "")
    lines = (tmp_path / "apart.tex").read_text().splitlines()
    assert r"    task & measure & bc & flow\_bc \\" in lines
    rows = [line for line in lines if line.startswith("    a & success & ")]
    assert len(rows) == 1
    assert rows[0].count(r"\mathbf") == 1, "flow_bc is better"
    assert rows[0].endswith(r"}\;[0.10, 0.90]$ \\")
    assert any(r"50 \% of the\_steps." in line for line in lines)
    row = next(line for line in (tmp_path / "same.tex").read_text().splitlines() if line.startswith("    a & "))
    assert row.count(r"\mathbf") == 2, "neither can be told from the other"
    assert all(text.count("{") == text.count("}") for text in ((tmp_path / "apart.tex").read_text(), row))


def test_a_comparison_is_drawn_with_a_panel_for_each_task_the_same_every_time(tmp_path) -> None:
    found = results()
    found[0] = Result("bc", "a", "return", {"return": -5.0}, {}, None)
    for name in ("one.png", "two.png"):
        draw_matrix(tmp_path / name, found, "A line that says what was compared with what.\nAnother one. " * 4)
    picture = (tmp_path / "one.png").read_bytes()
    assert picture == (tmp_path / "two.png").read_bytes()
    width, height = np.frombuffer(picture[16:24], ">u4")
    assert width > height > 300


def test_methods_without_spread_are_shown_with_their_difference() -> None:
    def lines(objective: str, episodes: int) -> list[str]:
        metrics = {objective: 0.0}
        all_equal = [Result(str(n), "a", objective, metrics, {}, np.full((1, episodes), 1.0 - n)) for n in range(2)]
        found = compare(all_equal)
        json.dumps(found, allow_nan=False)
        return list(lines_of(found))

    assert lines("success", 2) == ["a: 0 minus 1: 1.00 [-1.00, 1.00]: not distinguishable"]
    assert lines("success", 50)[0].startswith("a: 0 minus 1: 1.00 [0.96, 1.00]: p ")
    assert lines("return", 2) == ["a: 0 minus 1: 1.00 no interval, without any spread: not distinguishable"]


def test_compare_says_that_it_takes_one_value_a_key_and_what_searches(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    said = understudy(monkeypatch, capsys, "compare", *WORDS, "lr=1e-3,1e-4", "--cfg")
    assert said.code == 2
    assert "lr has several values: `understudy sweep` tries them; compare takes one value a key" in said.err
    assert said.err.count("\n") == 1


def test_tasks_of_several_measures_are_not_averaged() -> None:
    mixed = results()
    mixed[0] = Result("bc", "a", "return", {"return": 5.0}, {}, mixed[0].scores)
    found = compare(mixed)
    assert found["over_tasks"] == {}
    assert [pair["task"] for pair in found["pairs"]] == ["b"]


def test_cfg_prints_the_cells_as_commands_and_makes_nothing(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    said = understudy(monkeypatch, capsys, "compare", *WORDS, "--cfg")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "understudy train 'seeds=[0,1]' algo=bc env_name=hopper-medium-v2"
    assert len(lines) == 4
    said = understudy(monkeypatch, capsys, "sweep", "algo=bc,flow_bc", "env_name=hopper-medium-v2", "--cfg")
    assert said.out.splitlines()[0] == "understudy sweep space=bc env_name=hopper-medium-v2"
    assert not list(tmp_path.iterdir())
