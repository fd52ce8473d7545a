"""A sweep, and the model that it registered, in the place of a run: resume, evaluate, train --from, train --fork."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL, run
from tests.integration.test_bad_input import refused

from understudy import models, tracking
from understudy.errors import UnknownName, UserError
from understudy.runs.directory import RunDir
from understudy.runs.find import find
from understudy.sweeping.best import read_best

FEW = (*SMALL, "algo=bc", "training_steps=4", "save_interval=-1")


def test_a_models_address_stands_for_the_run_that_made_it(hopper_data, done, say, tmp_path: Path) -> None:
    done("train", *FEW, "save_dir=runs/fbc")
    folder = only(tmp_path / "runs")
    uri = tracking.default_tracking_uri(tmp_path / "runs" / "fbc")
    run_id = RunDir(folder).state()["run_id"]
    models.register(run_id, models.load_policy(folder).save(tmp_path / "policy"), "hop", tracking_uri=uri)
    root = tmp_path / "runs" / "fbc"
    for address in ("models:/hop@best", "models:/hop/1", "models:/hop@latest", f"runs:/{run_id}/model"):
        assert find(address, root) == folder
    assert "has finished already" in done("resume", "models:/hop@best")
    done("train", "--fork", "models:/hop/1", "training_steps=6", "save_dir=forked")
    assert RunDir(only(tmp_path / "forked")).state()["lineage"]["forked_at_step"] == 4
    done("train", "--from", "models:/hop@best", "seeds=[3]", "save_dir=again")
    assert RunDir(only(tmp_path / "again")).spec().all_seeds == (3,)
    with pytest.raises(UnknownName, match="did you mean 'hop'"):
        find("models:/hops@best", root)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"is of MLflow run {run_id}, whose folder is not below"):
        find("models:/hop@best", root)
    refused(say("resume", "models:/hop@best"), "`understudy evaluate` takes the model itself")
    assert "has finished already" in done("resume", run_id, "--save_dir", str(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_sweeps_best_is_trained_on_more_seeds_gone_on_with_and_forked(hopper_data, tmp_path: Path) -> None:
    words = ("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "seeds=[0,1]", "final_episodes=2", "with_default=false")
    run("sweep", *FEW, *words, cwd=tmp_path)
    folder = only(tmp_path / "runs", "sweep.json")
    best = read_best(folder)
    assert best is not None
    assert best.model is not None
    for name, seeds in ((folder.name, (3, 4)), (best.model, (5,))):
        run("train", "--from", name, f"seeds={list(seeds)}", f"save_dir=more{len(seeds)}", cwd=tmp_path)
        more = RunDir(only(tmp_path / f"more{len(seeds)}"))
        spec = more.spec()
        assert (spec.all_seeds, spec.config.lr, spec.training_steps) == (seeds, best.parameters["lr"], 4)
        assert spec.placement.log_model, "a trial is no model, what is trained from it is"
        assert more.state()["status"] == "finished"
    run("train", "--fork", folder.name, "training_steps=6", "save_dir=forked", cwd=tmp_path)
    forked = RunDir(only(tmp_path / "forked"))
    assert (forked.spec().all_seeds, forked.state()["step"]) == ((0, 1), 6)
    assert "configurations: 2 complete" in run("resume", best.model, cwd=tmp_path)
    assert "episodes" in run("evaluate", folder.name, "eval_episodes=1", cwd=tmp_path)
