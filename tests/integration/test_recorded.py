"""Runs and specs recorded by an earlier version are read as they were: same fingerprints, same end after a resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.integration.commands import run

from understudy.spec.keys import build_run

RECORDED = Path(__file__).parents[1] / "recorded"
"""Two runs killed after step 200 of 400 (`stopped`), the same never stopped (`whole`); specs of all methods."""
SPECS = json.loads((RECORDED / "specs.json").read_text())


@pytest.mark.parametrize("recorded", SPECS, ids=[f"{i}-{spec['values']['algo']}" for i, spec in enumerate(SPECS)])
def test_flat_keys_and_fingerprints_are_those_of_an_earlier_version(recorded) -> None:
    spec = build_run(recorded["values"])
    flags = json.loads(json.dumps(spec.flat()))
    assert {key: flags[key] for key in recorded["flags"]} == recorded["flags"]
    assert list(flags)[:3] == ["algo", "env_name", "seed"]
    assert spec.fingerprint() == recorded["fingerprint"]
    assert build_run(recorded["flags"]).fingerprint() == recorded["fingerprint"]


@pytest.mark.parametrize("recorded", SPECS, ids=[f"{i}-{spec['values']['algo']}" for i, spec in enumerate(SPECS)])
def test_flat_keys_are_written_in_the_order_of_an_earlier_version(recorded) -> None:
    written = build_run(recorded["values"]).flat()
    assert [key for key in written if key in recorded["flags"]] == list(recorded["flags"])


@pytest.mark.parametrize("name", ["flow_bc", "bc"])
def test_a_run_that_an_earlier_version_left_goes_on_to_the_same_end(name, tmp_path) -> None:
    folder = tmp_path / "runs" / name
    shutil.copytree(RECORDED / name / "stopped", folder)
    flags = json.loads((folder / "flags.json").read_text())
    moved = {"save_dir": str(tmp_path / "runs"), "data_dir": str(RECORDED / "datasets")}
    (folder / "flags.json").write_text(json.dumps({**flags, **moved}))
    run("resume", str(folder), cwd=tmp_path)

    whole = RECORDED / name / "whole"
    for file in whole.rglob("*.csv"):
        assert_close((folder / file.relative_to(whole)).read_text(), file.read_text())
    for file in whole.rglob("*.pt"):
        mine, other = (
            torch.load(path, weights_only=True)["weights"] for path in (folder / file.relative_to(whole), file)
        )
        assert mine.keys() == other.keys()
        for key in other:
            torch.testing.assert_close(mine[key], other[key], rtol=1e-3, atol=1e-4)  # another CPU rounds otherwise


def assert_close(mine: str, other: str) -> None:
    """Check that two csv files have the same header and steps, and the same numbers but for rounding."""
    rows, others = ([line.split(",") for line in text.splitlines()] for text in (mine, other))
    assert rows[0] == others[0]
    assert len(rows) == len(others)
    for row, expected in zip(rows[1:], others[1:], strict=True):
        assert row[0] == expected[0]
        numbers, wanted = ([float(cell or "nan") for cell in cells] for cells in (row, expected))
        assert numbers == pytest.approx(wanted, rel=1e-2, abs=1e-3, nan_ok=True)
