"""The page of methods x tasks x seeds, from the files that a comparison writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.dashboards.folders import data_in

from understudy.matrix.cells import Cell, MatrixDir
from understudy.matrix.comparison import Result, write_comparison

Open = Callable[[Path], TestClient]


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """Write a comparison of two methods on two tasks, of which one method has not ended on the second."""
    cells = [Cell(method, task, f"{method}-{task}", ()) for task in ("near", "far") for method in ("bc", "flow_bc")]
    folder = MatrixDir.create(tmp_path / "matrix_1", "compare", cells)
    rng, results = np.random.default_rng(0), []
    for method, task, rate in (("bc", "near", 0.2), ("flow_bc", "near", 0.9), ("bc", "far", 0.5)):
        scores_KE = (rng.uniform(size=(3, 40)) < rate).astype(float)
        found = {"success": scores_KE.mean(), "success_low": rate - 0.1, "success_high": rate + 0.05}
        counts = {"success_seeds": 3.0, "success_episodes": 40.0}
        results.append(Result(method, task, "success", found | counts, {"lr": 3e-4}, scores_KE))
    write_comparison(folder, results)
    run = folder.folder(cells[0])
    run.mkdir(parents=True)
    (run / "flags.json").write_text(json.dumps({"algo": "bc"}))
    return folder.path


def test_a_comparison_is_listed_and_its_page_has_tables_pairs_and_links(opened: Open, matrix: Path) -> None:
    pages = opened(matrix.parent)
    assert 'href="/comparison/matrix_1"' in pages.get("/?kind=comparison").text
    page = pages.get("/comparison/matrix_1")
    assert page.status_code == 200
    text = " ".join(page.text.split())
    assert 'href="/run/matrix_1/cells/bc-near"' in text
    assert "[0.80, 0.95]" in text
    assert "bc − flow_bc" in text
    assert "not finished" in text  # flow_bc on the second task
    assert text.index(">flow_bc<br>") < text.index(">bc</a>")  # the better one first
    assert "<td>distinguishable</td>" in text


def test_performance_profiles_over_tasks_are_drawn_as_rliable_defines_them(opened: Open, matrix: Path) -> None:
    assert "Performance profiles" not in opened(matrix.parent).get("/comparison/matrix_1").text, "a cell is missing"
    results, random = [], np.random.default_rng(1)
    for task in ("near", "far"):
        for method, rate in (("bc", 0.3), ("flow_bc", 0.8)):
            scores_KE = (random.uniform(size=(3, 40)) < rate).astype(float)
            results.append(Result(method, task, "success", {"success": scores_KE.mean()}, {}, scores_KE))
    write_comparison(MatrixDir(matrix), results)
    page = opened(matrix.parent).get("/comparison/matrix_1").text
    curves = data_in(page)["overlay"]
    assert "Performance profiles" in page
    runs = np.concatenate([item.scores.mean(axis=1) for item in results if item.method == "bc"])
    steps = np.array(curves["bc"]["step"])
    np.testing.assert_allclose(curves["bc"]["mean"], [(runs > step).mean() for step in steps])
    low, mean, high = (np.array(curves["bc"][key]) for key in ("low", "mean", "high"))
    assert bool(((low <= mean) & (mean <= high)).all())


DAMAGED = (
    "",
    "[]",
    '{"cells": 3, "pairs": [7], "over_tasks": "x"}',
    '{"cells": [{"task": {}}]}',
    '{"over_tasks": {"profiles": {"thresholds": [1], "methods": {"bc": {"share": [{}]}}}}}',
)


@pytest.mark.parametrize("name", ["matrix.json", "comparison.json"])
@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files_of_a_comparison_leave_a_page(opened: Open, matrix: Path, name: str, content: str) -> None:
    (matrix / name).write_text(content)
    for place in ("/", "/comparison/matrix_1"):
        assert opened(matrix.parent).get(place).status_code == 200


def test_names_are_text_on_a_comparisons_page(opened: Open, matrix: Path) -> None:
    record = json.loads((matrix / "comparison.json").read_text())
    record["cells"][0]["method"] = "<script>alert(1)</script>"
    record["pairs"][0]["first"] = "<img src=x onerror=alert(1)>"
    (matrix / "comparison.json").write_text(json.dumps(record))
    page = opened(matrix.parent).get("/comparison/matrix_1").text
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_what_is_no_comparison_has_no_such_page(opened: Open, matrix: Path) -> None:
    pages = opened(matrix.parent)
    assert pages.get("/comparison/matrix_1/cells/bc-near").status_code == 404
    assert pages.get("/comparison/../x").status_code in (400, 404)
