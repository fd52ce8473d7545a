"""Ctrl-C in a sweep: checkpoints, exit 130, a line that names it, no registration; a changed best has its own row."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState
from tests.integration.breaking import named, only
from tests.integration.commands import SMALL, run, start
from tests.integration.test_preemption import HANGING, press_ctrl_c, wait_until, write_rows

from understudy import checkpoints, models, tracking
from understudy.errors import Interrupted, Preempted
from understudy.runs import mirror
from understudy.runs.directory import RunDir, read_csv
from understudy.spec.compose import flat_values, parse, split_sweeps
from understudy.sweeping import run as driving
from understudy.sweeping.best import BEST_CSV, RECORD, BestPolicy, append_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.study import Study
from understudy.sweeping.sweep_spec import SweepSpec, build_sweep


def sweep(*words: str) -> SweepSpec:
    plain, sweeps = split_sweeps(parse(("env_name=hopper-medium-v2", "lr=interval(1e-5,1e-3)", *words)))
    return build_sweep(flat_values(plain), sweeps)


@pytest.mark.slow
def test_an_interrupted_sweep_registers_nothing_and_goes_on_to_its_end(hopper_data, tmp_path) -> None:
    trials = ("lr=1e-3,1e-4", "num_trials=2", "max_concurrent=1", "scheduler=none", "final_episodes=2", "save_dir=runs")
    process = start("sweep", *SMALL, *trials, "training_steps=1500", "log_interval=25", "eval_interval=0", cwd=tmp_path)
    wait_until(lambda: any((tmp_path / "runs").rglob("trials/0001/train.csv")), process)
    children = psutil.Process(process.pid).children()
    assert not [one for one in children if "monitor" in " ".join(one.cmdline())]  # of Ray's what is used
    driver = psutil.Process(process.pid)  # whose trial has a worker of its own
    wait_until(lambda: not any("ray::IDLE" in named(one) for one in driver.children(recursive=True)), process)
    ray = [one for one in children if one.name() in ("gcs_server", "raylet")]
    assert len({os.getsid(one.pid) for one in ray} - {os.getsid(process.pid)}) == 2  # it is the driver's group alone
    press_ctrl_c(process)
    _, said = process.communicate(timeout=600)
    folder = only(tmp_path / "runs", "sweep.json")
    assert process.returncode == 130, said
    assert f"understudy: interrupted; `understudy resume {folder}` goes on" in said
    assert "Traceback" not in said
    assert RunDir(folder).state()["status"] == "interrupted"
    states = [RunDir(folder / "trials" / name).state() for name in ("0000", "0001")]
    assert [state["status"] for state in states] == ["finished", "interrupted"]
    assert not (folder / RECORD).exists()
    uri = RunDir(folder / "trials" / "0000").spec().placement.tracking()
    assert models.list_models(uri) == []

    run("resume", str(folder), cwd=tmp_path)
    assert RunDir(folder).state()["status"] == "finished"
    assert len(read_csv(folder / BEST_CSV)) == 1
    assert RunDir(folder / "trials" / "default_sd000").state()["status"] == "finished", "no trial has the default's lr"
    assert [model["name"] for model in models.list_models(uri)] == ["flow_bc-hopper-medium-v2"]
    best = json.loads((folder / "best.json").read_text())
    assert best["loaded_metrics"] == best["seed_metrics"]
    assert {row["status"] for row in tracking.list_runs(uri)} == {"FINISHED"}


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_sweep_at_once_and_loses_nothing_that_is_written(tmp_path) -> None:
    hangs = HANGING.replace("if self.steps == 5:", 'if self.steps == 5 and __import__("os").path.exists("hang"):')
    (tmp_path / "hanging.py").write_text(hangs.replace('"hang")', f'"{tmp_path}/hang")').replace(
        'open("hanging"', f'open("{tmp_path}/hanging"'
    ))  # fmt: skip
    write_rows(tmp_path / "rows.pt")
    plugin = {"UNDERSTUDY_PLUGINS": "hanging", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    data = ("--name", "expert:Hanging-v0", "--data_dir", "datasets")
    run("data", "import", "expert_buffer", "rows.pt", *data, cwd=tmp_path, **plugin)
    words = ("algo=bc", "data_dir=datasets", "env_name=expert:Hanging-v0", "training_steps=20", "eval_interval=10",
             "log_interval=5", "checkpoint_seconds=0", "hidden_dims=[8]", "batch_size=4", "save_dir=runs",
             "lr=1e-3,1e-4", "max_concurrent=1", "scheduler=none", "final_episodes=2", "register_as=none",
             "with_default=false")  # fmt: skip
    (tmp_path / "hang").touch()
    process = start("sweep", *words, cwd=tmp_path, **plugin)
    wait_until((tmp_path / "hanging").exists, process)
    folder = only(tmp_path / "runs", "sweep.json")
    press_ctrl_c(process)
    wait_until((folder / ".stop").exists, process)  # two that come within an instant are one
    press_ctrl_c(process)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"ended at once; `understudy resume {folder}` goes on from the last checkpoint" in said
    assert RunDir(folder).state()["status"] == "interrupted"
    trial = folder / "trials" / "0000"
    assert [row["step"] for row in read_csv(trial / "train.csv")] == [5, 10]
    assert checkpoints.load_newest(trial / "resume")["step"] in (9, 10)
    before = (trial / "train.csv").read_bytes()

    (tmp_path / "hang").unlink()
    run("resume", str(folder), cwd=tmp_path, **plugin)
    assert RunDir(folder).state()["status"] == "finished"
    for name in ("0000", "0001"):
        rows = read_csv(folder / "trials" / name / "train.csv")
        assert [row["step"] for row in rows] == [5, 10, 15, 20]
        assert [row["step"] for row in read_csv(folder / "trials" / name / "eval.csv")] == [10, 20]
    assert (trial / "train.csv").read_bytes().startswith(before)


def test_ctrl_c_after_the_trials_names_the_sweep_too(tmp_path, monkeypatch) -> None:
    folder = SweepDir.at(tmp_path / "sweep", sweep("num_trials=1", "tracking_uri=none"))
    study = Study(folder.path, folder.spec())
    number, _ = study.ask()
    study.finish(number, TrialState.COMPLETE, 0.5, metrics={"success": 0.5}, best_parameters={})

    def pressed(*_words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driving, "evaluate_best", pressed)
    with pytest.raises(Interrupted, match=f"`understudy resume {folder.path}` goes on") as raised:
        driving.run_sweep(folder)
    assert raised.value.exit_code == 130
    assert folder.state()["status"] == "interrupted"


def test_a_signal_while_a_sweeps_own_files_are_copied_names_the_sweep_and_resume_copies_the_rest(
    tmp_path, monkeypatch
) -> None:
    folder = SweepDir.at(
        tmp_path / "runs" / "sweep", sweep("num_trials=1", "tracking_uri=none", f"checkpoint_storage={tmp_path}/store")
    )
    study = Study(folder.path, folder.spec())
    number, _ = study.ask()
    study.finish(number, TrialState.COMPLETE, 0.5, metrics={"success": 0.5}, best_parameters={})
    best = BestPolicy(0, 1, {}, {"success": 0.5}, 0, {}, str(folder.path / "best"), None)
    monkeypatch.setattr(driving, "_do", lambda *_: driving._Done(study.trials(), best, [], None))
    put, sent = mirror.put, []

    def terminated(*given: object) -> bool:
        sent.append(given)
        os.kill(os.getpid(), signal.SIGTERM)
        return put(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(mirror, "put", terminated)
        with pytest.raises(Preempted, match=f"stopped by SIGTERM; `understudy resume {folder.path}` goes on"):
            driving.run_sweep(folder)
    assert len(sent) == 1
    assert folder.state()["status"] == "interrupted"
    driving.run_sweep(folder)
    assert folder.state()["status"] == "finished"
    (copied,) = (tmp_path / "store").rglob("run.json")
    assert json.loads(copied.read_text()) == folder.state()


def test_a_changed_best_has_a_row_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / BEST_CSV
    append_best(path, 100, {"success": 0.5, "return": 1.0})
    append_best(path, 100, {"success": 0.5, "return": 1.0})  # written before a crash, and once more after it
    append_best(path, 100, {"success": 0.75, "return": 1.0})
    append_best(path, 100, {"success": 0.75, "return": 2.0})
    append_best(path, 300, {"success": 1.0, "return": 2.0})
    rows = [(row["step"], row["success"]) for row in read_csv(path)]
    assert rows == [(100, 0.5), (101, 0.75), (102, 0.75), (300, 1.0)]
