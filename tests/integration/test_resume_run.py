"""Kill -9 a training run, resume it: the same weights and rows as a run that was never stopped."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
import torch
from tests.integration.breaking import only, weights
from tests.integration.commands import SMALL, kill_when, run, start

from understudy import load_episodes

STEPS = ("training_steps=600", "log_interval=20", "eval_interval=300", "save_interval=200", "checkpoint_seconds=0.05")


def metrics(store: Path) -> list[tuple]:
    with sqlite3.connect(store) as connection:
        return connection.execute("select key, step, value, run_uuid from metrics order by key, step").fetchall()


@pytest.mark.parametrize("seeds", ["[0]", "[0,1]"])
def test_a_killed_run_resumes_to_the_same_weights_rows_and_mlflow_run(hopper_data, done, tmp_path, seeds) -> None:
    words = ("train", *SMALL, *STEPS, f"seeds={seeds}", "action_chunking=true", "horizon_length=3")
    done(*words, "save_dir=whole")
    process = start(*words, "save_dir=broken", cwd=tmp_path)
    kill_when(process, lambda: any((tmp_path / "broken").rglob("resume/step_*.pt")))
    broken = only(tmp_path / "broken")
    killed_at = json.loads((broken / "run.json").read_text()).get("step", 0)
    assert killed_at < 600
    done("resume", str(broken))

    whole = only(tmp_path / "whole")
    names = [path.relative_to(whole) for path in whole.rglob("*.csv") if path.name != "timing.csv"]
    assert len(names) >= 2
    for name in names:
        assert (broken / name).read_text() == (whole / name).read_text()
    assert (broken / "episodes.arrow").read_bytes() == (whole / "episodes.arrow").read_bytes()
    assert load_episodes(whole).num_rows == 2 * 2 * len(json.loads(seeds))
    models = [path.relative_to(whole) for path in whole.rglob("*.pt")]
    assert len([name for name in models if name.name == "final_model.pt"]) == len(json.loads(seeds))
    assert any(name.name == "checkpoint_200.pt" for name in models)
    for name in models:
        mine, other = weights(broken / name), weights(whole / name)
        assert all(torch.equal(mine[key], other[key]) for key in other)
    assert not (broken / "resume").exists()

    ours, theirs = metrics(tmp_path / "broken" / "mlflow.db"), metrics(tmp_path / "whole" / "mlflow.db")
    assert len({row[3] for row in ours}) == 1
    timing = "timing/"
    assert [row[:3] for row in ours if not row[0].startswith(timing)] == [
        row[:3] for row in theirs if not row[0].startswith(timing)
    ]


def test_a_finished_run_is_not_trained_again(hopper_data, done, tmp_path) -> None:
    done("train", *SMALL, "training_steps=20", "log_interval=10")
    folder = only(tmp_path)
    before = (folder / "final_model.pt").stat().st_mtime_ns
    assert "finished already" in done("resume", folder.name)
    assert (folder / "final_model.pt").stat().st_mtime_ns == before


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(hopper_data, done, tmp_path) -> None:
    words = ("train", *SMALL, *STEPS)
    done(*words, "save_dir=whole")
    process = start(*words, "save_dir=broken", cwd=tmp_path)
    kill_when(process, lambda: len(list((tmp_path / "broken").rglob("resume/step_*.pt"))) >= 2)
    broken = only(tmp_path / "broken")
    newest = max((broken / "resume").glob("step_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert "falling back" in run("resume", str(broken), cwd=tmp_path)
    mine, other = weights(broken / "final_model.pt"), weights(only(tmp_path / "whole") / "final_model.pt")
    assert all(torch.equal(mine[key], other[key]) for key in other)


def test_a_second_resume_of_a_running_run_is_refused_naming_the_first(hopper_data, done, tmp_path) -> None:
    process = start(
        "train", *SMALL, "training_steps=100000000", "eval_interval=0", "checkpoint_seconds=0.1", cwd=tmp_path
    )
    try:
        while not any(tmp_path.rglob("resume/step_*.pt")):
            assert process.poll() is None
            time.sleep(0.05)
        said = done("resume", str(only(tmp_path)), code=2)
        assert f"process {process.pid}" in said
        assert len(said.strip().splitlines()) == 1
    finally:
        process.kill()
        process.communicate()
