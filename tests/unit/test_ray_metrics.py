"""What a training tells Ray's metrics: under which names and labels, and nothing where no Ray runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.envs.store.writer import StoreWriter
from understudy.registry import loops
from understudy.runs.ray_metrics import LABELS, MEASURES, Exporter, exported_name, ray_runs
from understudy.spec.keys import build_run
from understudy.trainables.loops import exporting

PROGRAM = """
import sys
from understudy.registry import loops
from understudy.spec.keys import build_run
keys = {keys!r}
loops.get("offline")(build_run(keys)).run({path!r})
assert "ray" not in sys.modules, sorted(name for name in sys.modules if name.startswith("ray"))[:5]
"""


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """Return the keys of a run on a few made-up episodes."""
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "data" / "made", name="made", source="d4rl", env_id="x") as writer:
        for _ in range(4):
            seen = random.normal(size=(8, 3)).astype(np.float32)
            rest = {"actions": seen[:, :2] / 9, "rewards": np.zeros(8), "terminals": np.zeros(8)}
            writer.add_episode({"observations": seen, **rest, "final_observation": seen[-1]})
    own = {"algo": "bc", "env_name": "made", "data_dir": str(tmp_path / "data"), "seeds": [0, 1], "hidden_dims": [8]}
    sizes = {"training_steps": 20, "log_interval": 10, "batch_size": 4, "loader_workers": 0, "eval_episodes": 0}
    return {**own, **sizes, "validation_fraction": 0.25, "device": "cpu", "tracking_uri": "none"}


def test_what_is_sent_of_a_trial_has_the_sweeps_name_and_names_that_are_declared(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, dict[str, Any]] = {}

    def note(exporter: Exporter, measure: str, value: float, **labels: str) -> None:
        assert set(labels) == set(MEASURES[measure].labels)
        sent[measure] = {"value": value, **exporter._labels, **labels}

    monkeypatch.setattr(exporting, "ray_runs", lambda: True)
    monkeypatch.setattr(Exporter, "send", note)
    path = tmp_path / "sweep_1" / "trials" / "0007"
    path.mkdir(parents=True)
    loops.get("offline")(build_run(keys)).run(path)
    told = {"sweep": "sweep_1", "run": "0007", "algorithm": "bc", "environment": "made"}
    assert tuple(told) == LABELS
    assert sent["step"] == {"value": 20, **told}
    assert sent["total_steps"] == {"value": 20, **told}
    assert sent["loss"]["loss"].endswith("loss")
    assert 0 <= sent["data_wait_ratio"]["value"] <= 1
    assert sent["steps_per_second"]["value"] == 0, "of a run that is done"
    assert sent["checkpoint_seconds"]["value"] > 0
    assert {"success_rate", "return", "parameter_age"} == set(MEASURES) - set(sent), "there were none of these"


def test_each_seeds_newest_evaluation_is_sent(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, float, str]] = []
    monkeypatch.setattr(exporting, "ray_runs", lambda: True)
    monkeypatch.setattr(Exporter, "send", lambda own, name, value, **labels: sent.append((name, value, str(labels))))

    class Reached:
        """What a training has come to."""

        spec, step, last, seeds = build_run(keys), 10, False, (0, 1)
        run = type("Run", (), {"path": tmp_path})
        metrics = {"parameter_age": 2.0, "steps_per_sec": 9.0}
        evaluated = [{"success": 0.5, "return": 3.0}, {"success": 0.75, "return": 4.0}]

    speed = type("Speed", (), {"measured": (9.0, 0.25)})
    export = exporting.Export(Reached, speed, lambda: None)
    export()
    export()  # within EXPORT_SECONDS: nothing is sent again
    assert ("success_rate", 0.75, "{'seed': '1'}") in sent
    assert ("return", 3.0, "{'seed': '0'}") in sent
    assert ("parameter_age", 2.0, "{}") in sent
    assert ("steps_per_second", 9.0, "{}") in sent
    assert len(sent) == len(set(sent))


def test_a_run_without_ray_imports_none(keys: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    program = PROGRAM.format(keys=keys, path=tmp_path / "run").replace("PosixPath(", "__import__('pathlib').Path(")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_names_are_those_that_prometheus_shows() -> None:
    assert exported_name("loss") == "ray_understudy_loss"
    assert all(name.isidentifier() and kept.help for name, kept in MEASURES.items())


def test_a_ray_that_is_not_there_or_half_imported_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert not ray_runs()
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    assert not ray_runs()
