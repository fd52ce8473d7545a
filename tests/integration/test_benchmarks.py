"""The benchmarks run with small arguments and print what they say they print."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch


def output(repo_root, script: str, *words: str) -> str:
    command = [sys.executable, str(repo_root / "benchmarks" / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_sampling_prints_ratios_for_one_member_and_for_eight(repo_root) -> None:
    said = output(repo_root, "sampling.py", "--transitions", "3000", "--batches", "8", "--repeats", "2")
    assert said.count("windows/reference") == said.count("windows/lean numpy") == 2


@pytest.mark.slow
def test_opening_prints_the_ratio_to_both_kinds_of_hdf5(repo_root) -> None:
    said = output(repo_root, "store_open.py", "--transitions", "3000", "--repeats", "1")
    assert "h5py/store" in said
    assert "h5py, gzip/store" in said


@pytest.mark.slow
def test_memory_prints_what_processes_share_and_that_a_small_heap_is_enough(repo_root) -> None:
    words = ("--transitions", "20000", "--processes", "2", "--megabytes", "150", "--limit", "130")
    said = output(repo_root, "memory.py", *words).splitlines()
    told = {line[:10].strip(): line[10:] for line in said[-9:]}
    assert "out of memory" in told.pop("h5py")
    assert {"write", "store", "write raw", "write jpeg", "pictures"} <= set(told)
    assert all("done" in told[task] for task in ("write", "store", "write raw", "write jpeg", "pictures"))


@pytest.mark.slow
def test_two_ways_prints_a_row_for_each_method_and_temperature(repo_root, tmp_path) -> None:
    methods = ("bc_mse", "vq_bet", "bc_rnn", "flow_transformer", "diffusion_policy")
    small = ("--seeds", "2", "--updates", "3", "--episodes", "2", "--demonstrations", "8")
    said = output(repo_root, "two_ways.py", str(tmp_path), "--methods", *methods, *small)
    rows = [
        line.removeprefix("| ").split(" | ")
        for line in said.splitlines()
        if line.startswith(tuple(f"| {name}" for name in methods))
    ]
    assert [tuple(row[:2]) for row in rows] == [("bc_mse", "0"), *((name, t) for name in methods[1:] for t in "01")]
    assert all(re.fullmatch(r"[01]\.\d\d \[[01]\.\d\d, [01]\.\d\d\]", row[place]) for row in rows for place in (2, 3))


@pytest.mark.slow
def test_told_ways_prints_what_came_of_texts_of_training_and_of_others(repo_root, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", str(repo_root / "tests/contract/task_texts.py"))
    words = ("--methods", "bc_mse", "--trained", "none", "one", "--encoder", "letters", "--updates", "3")
    small = ("--episodes", "1", "--demonstrations", "8", "--seeds", "2")
    said = output(repo_root, "told_ways.py", str(tmp_path), *words, *small)
    rows = [line.split(" | ")[1:3] for line in said.splitlines() if line.startswith("| bc_mse")]
    assert rows == [["none", "nothing"], ["one", "seen"], ["one", "unseen"]]
    assert [line.split(" | ")[-1] for line in said.splitlines() if line.startswith("| bc_mse")] == [
        *("2 x 2 |", "2 x 2 |", "2 x 6 |")
    ]


@pytest.mark.slow
def test_checkpoints_prints_the_share_of_the_time_that_training_waits(repo_root) -> None:
    said = output(repo_root, "checkpoints.py", "--steps", "20", "--repeats", "1", "--seconds", "0.5")
    assert said.count("% of the run") == 2
    assert "at once/background" in said


@pytest.mark.slow
def test_importing_pictures_and_reading_them_prints_the_ratios_to_the_other_ways(repo_root) -> None:
    said = output(repo_root, "bridge_import.py", "--trajectories", "2", "--steps", "3", "--repeats", "1")
    assert "store/upstream" in said
    said = output(repo_root, "pictures.py", "--steps", "200", "--repeats", "1", "--batch", "16")
    assert said.count("mp4, LeRobot's layout") == 2


@pytest.mark.slow
def test_a_sweep_beside_ray_tune_alone_prints_rates_and_what_the_driver_pays(repo_root) -> None:
    said = output(repo_root, "sweep.py", "--quick", "--repeats", "1", "--only", "rows", "simulated")
    assert said.count("(understudy / ray tune)") == 1
    for call in ("ask", "report", "finish", "memory"):
        assert said.count(f"{call} after 30 trials") == 2


@pytest.mark.slow
def test_acting_while_learning_prints_its_ratio_to_other_code_and_the_time_of_a_checkpoint(repo_root) -> None:
    said = output(repo_root, "online.py", "--envs", "Pendulum-v1", "--steps", "2", "--repeats", "1", "--seeds", "0")
    assert said.count("understudy/CleanRL-like") == 1
    assert "checkpoint of a buffer: 100,000 rows" in said


@pytest.mark.slow
def test_acting_prints_what_a_decision_takes_in_each_form_and_its_ratio(repo_root) -> None:
    words = ("--policies", "ddim", "--repeats", "1", "--seconds", "0.01", "--rows", "1")
    said = output(repo_root, "acting.py", *words)
    assert "times as fast as eager" in said
    assert all(f"    {name} " in said for name in ("eager", "Policy.act", "exported", "torchscript"))


@pytest.mark.slow
def test_the_results_have_each_method_at_its_temperatures_and_nothing_is_made_twice(repo_root, tmp_path) -> None:
    words = ("--quick", "--only", "goals", "--folder", str(tmp_path))
    said = output(repo_root, "results.py", *words)
    assert "understudy data generate cube-single-scripted-oraclerep-v0 --episodes 8" in said
    table = (tmp_path / "results.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines() if "`algo=" in line}
    assert list(rows) == ["bc", "flow_bc", "gc_bc", "gc_ddpm_bc"]
    assert {name: row[2] != "-" for name, row in rows.items()} == {
        "bc": False,
        "flow_bc": True,
        "gc_bc": False,
        "gc_ddpm_bc": True,
    }
    assert all("distinguishable" in rows[name][3] for name in ("flow_bc", "gc_bc", "gc_ddpm_bc"))
    assert "$ " not in output(repo_root, "results.py", *words), "all of it is there"
    assert (tmp_path / "results.md").read_text() == table


@pytest.mark.slow
def test_serving_prints_missed_deadlines_asked_late_and_ahead(repo_root) -> None:
    pytest.importorskip("websockets")
    said = output(repo_root, "serving.py", "--steps", "40", "--leads", "0", "5")
    assert "0 steps" in said
    assert "5 steps" in said


def test_every_benchmark_of_the_data_path_explains_itself(repo_root) -> None:
    for script in ("store_open.py", "sampling.py", "memory.py"):
        assert f"python benchmarks/{script}" in (repo_root / "benchmarks" / script).read_text()
    assert "--repeats" in output(repo_root, "sampling.py", "--help")


@pytest.mark.slow
def test_updates_prints_ratios_to_eager_torch_and_what_an_update_consists_of(repo_root) -> None:
    words = ("--sizes", "2 x 256", "--repeats", "1", "--seconds", "0.05")
    said = output(repo_root, "updates.py", *words)
    assert all(f"\n  {name} " in said for name in ("ours", "ours, bf16", "eager", "eager, fused Adam"))
    said = output(repo_root, "updates.py", "--profile", "--sizes", "2 x 256")
    assert all(f"\n  {what} " in said for what in ("matrix products", "Adam", "GELU, forward and backward"))


@pytest.mark.slow
def test_members_beside_eager_runs_are_measured_on_the_cpu_and_need_cuda_otherwise(repo_root) -> None:
    said = output(repo_root, "members.py", "--device", "cpu", "--members", "1,4", "--repeats", "1", "--seconds", "0.02")
    assert "pack of 1 " in said
    assert "pack of 4 " in said
    for words, line in ((("--members", "0"), "numbers of members from 1 on"), ((), "torch sees no CUDA device here")):
        if not words and torch.cuda.is_available():
            continue
        command = [sys.executable, str(repo_root / "benchmarks" / "members.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert line in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_training_on_pictures_prints_samples_a_second_beside_plain_loops_and_the_share_of_data(repo_root) -> None:
    words = ("--sizes", "48", "--encoders", "impala", "--methods", "bc", "--episodes", "1", "--batch", "2")
    said = output(repo_root, "picture_training.py", *words, "--repeats", "1", "--steps", "1")
    assert all(f"\n    {name} " in said for name in ("ours", "DataLoader", "mp4 by PyAV"))
    assert said.count("data ") == 3
