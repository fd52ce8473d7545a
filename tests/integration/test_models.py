"""A trained policy saved, logged, registered and loaded back acts the same, wherever it is loaded from."""

from __future__ import annotations

import json
import os
import pickletools
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.unit.pack_worker import SIZES

from understudy import checkpoints, models, tracking
from understudy.cli.evaluate import folder_of
from understudy.errors import CheckpointError, UnknownName, UserError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.policy_document import content_hash
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.scores import Score, judge
from understudy.spec.parts import Chunks
from understudy.tracking.artifacts import log_artifacts
from understudy.tracking.checkpoints import log_checkpoints
from understudy.tracking.client import client
from understudy.tracking.recording import start_run

OBSERVATIONS = np.random.default_rng(1).normal(3, 2, (4, 5)).astype(np.float32)


def make_policy(seeds: tuple[int, ...] = (3, 4), algo: str = "flow_bc", chunking: bool = True) -> Policy:
    kind = algorithms.get(algo)
    sizes = SIZES.get(algo, {"hidden_dims": (16, 16)})
    chunk = {"horizon_length": 3, "action_chunking": chunking} if issubclass(kind.Config, Chunks) else {}
    algorithm = kind((5,), 2, kind.Config(**sizes, **chunk))
    weights = [
        {
            name: value.detach()
            for name, value in algorithm.network(torch_generator(seed, "weights")).state_dict().items()
        }
        for seed in seeds
    ]
    normaliser = Normaliser.fit(np.random.default_rng(0).normal(3, 2, (50, 5)).astype(np.float32), "zscore")
    return Policy(algorithm, weights, normaliser, env_name="cube", seeds=seeds, spec={"algo": algo})


def same_actions(one: Policy, other: Policy) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(one.act(OBSERVATIONS, 1.0, seed=9, member=k), other.act(OBSERVATIONS, 1.0, seed=9, member=k))
        for k in range(len(one))
    )


def logged_models(uri: str, run_id: str) -> int:
    outputs = client(uri).get_run(run_id).outputs
    return len(outputs.model_outputs) if outputs else 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = tracking.default_tracking_uri(tmp_path_factory.mktemp("store"))
    tracking.prepare(uri)
    return uri


@pytest.fixture(scope="module")
def run_id(store: str) -> str:
    return tracking.start_run(store, "e", "r").run_id


# ---- the policy ----


@pytest.mark.parametrize("algo", algorithms.names())
def test_a_policy_of_every_algorithm_acts_the_same_after_a_round_trip(algo: str, tmp_path: Path) -> None:
    policy = make_policy(algo=algo)
    loaded = Policy.load(policy.save(tmp_path / "policy"))
    assert same_actions(policy, loaded)
    assert (loaded.seeds, loaded.env_name, loaded.spec) == ([3, 4], "cube", {"algo": algo})


def test_one_observation_or_many_and_chunks_or_single_actions() -> None:
    chunked, single = make_policy(), make_policy(chunking=False)
    assert chunked.act(OBSERVATIONS[0]).shape == (1, 3, 2)
    assert chunked.act(OBSERVATIONS).shape == (4, 3, 2)
    assert chunked.sample_actions(OBSERVATIONS[0]).shape == (3, 2)
    assert chunked.sample_actions(OBSERVATIONS).shape == (4, 3, 2)
    assert single.sample_actions(OBSERVATIONS[0]).shape == (2,)
    assert single.sample_actions(OBSERVATIONS).shape == (4, 2)


def test_temperature_zero_is_deterministic_and_the_noise_follows_the_seed() -> None:
    policy = make_policy()
    assert np.array_equal(policy.act(OBSERVATIONS, seed=1), policy.act(OBSERVATIONS, seed=2))
    assert not np.array_equal(policy.act(OBSERVATIONS, 1.0, seed=1), policy.act(OBSERVATIONS, 1.0, seed=2))
    generator = torch.Generator().manual_seed(0)
    first = policy.act(OBSERVATIONS, 1.0, generator=generator)
    assert not np.array_equal(first, policy.act(OBSERVATIONS, 1.0, generator=generator))


def test_evaluation_time_settings_change_without_touching_the_weights() -> None:
    policy = make_policy()
    changed = policy.with_config(flow_steps=3)
    assert changed.document()["config"]["flow_steps"] == 3
    assert all(torch.equal(policy.weights(1)[name], value) for name, value in changed.weights(1).items())
    with pytest.raises(UserError, match=r"allowed: .*flow_steps"):
        policy.with_config(lr=1e-3)


def test_observations_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(4, 6\); this policy takes \(5,\)"):
        make_policy().act(np.zeros((4, 6), np.float32))


def test_a_saved_policy_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make_policy((0, 1, 2)).save(tmp_path / "policy")
    make_policy((7,)).save(tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == ["policy.json", "weights.safetensors"]


def test_a_folder_of_something_else_is_not_replaced_by_a_policy(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="something else than a policy"):
        make_policy().save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_content_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    one = content_hash(make_policy().save(tmp_path / "a"))
    assert content_hash(make_policy().save(tmp_path / "b")) == one
    assert content_hash(make_policy((3, 5)).save(tmp_path / "c")) != one
    assert content_hash(make_policy().with_config(flow_steps=3).save(tmp_path / "d")) != one


def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path: Path) -> None:
    folder = make_policy().save(tmp_path / "policy")
    weights = folder / "member_1.safetensors"
    whole = weights.read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for content, says in ((whole[:-9], "is damaged"), (flipped, "is damaged"), (None, "is missing")):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"member_1.safetensors {says}") as refused:
            Policy.load(folder)
        assert "\n" not in str(refused.value)
        weights.touch()
    (folder / "policy.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"policy.json is damaged"):
        Policy.load(folder)
    with pytest.raises(CheckpointError, match="no policy folder"):
        Policy.load(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = make_policy().save(tmp_path / "policy")
    document = json.loads((folder / "policy.json").read_text())
    document["config"]["hidden_dims"] = [16, 17]
    (folder / "policy.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="the configuration wants"):
        Policy.load(folder)


# ---- MLflow ----


def test_a_registered_policy_loads_back_and_acts_the_same_from_every_address(
    store: str, run_id: str, tmp_path: Path
) -> None:
    policy = make_policy()
    version = models.register(run_id, policy.save(tmp_path / "policy"), "cube-model", tracking_uri=store)
    for address in ("models:/cube-model@best", f"models:/cube-model/{version}", f"runs:/{run_id}/model"):
        assert same_actions(policy, models.load_policy(address, tracking_uri=store))


def test_pyfunc_predicts_what_the_policy_does(
    store: str, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    policy = make_policy()
    version = models.register(run_id, policy.save(tmp_path / "policy"), "pyfunc-model", tracking_uri=store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # as a reader has it; set_tracking_uri would outlive the test
    loaded = mlflow.pyfunc.load_model(f"models:/pyfunc-model/{version}")
    assert np.array_equal(loaded.predict(OBSERVATIONS), policy.act(OBSERVATIONS))
    noisy = loaded.predict(OBSERVATIONS, {"temperature": 1.0, "seed": 9, "member": 1})
    assert np.array_equal(noisy, policy.act(OBSERVATIONS, 1.0, seed=9, member=1))
    assert "Tensor('float32', (-1, 5))" in str(loaded.metadata.signature)
    assert "Tensor('float32', (-1, 3, 2))" in str(loaded.metadata.signature)


def test_a_logged_model_holds_no_pickle(store: str, run_id: str, tmp_path: Path) -> None:
    model_id = models.log_model(run_id, make_policy((8,)).save(tmp_path / "policy"), tracking_uri=store)
    location = client(store).get_logged_model(model_id).artifact_location
    files = [path for path in Path(location.removeprefix("file://")).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".yaml", ".txt", ".json", ".safetensors"}
    for path in files:
        with pytest.raises(ValueError, match=r".+"):
            list(pickletools.genops(path.read_bytes()))


def test_registering_the_same_content_again_makes_no_second_version(store: str, run_id: str, tmp_path: Path) -> None:
    folder = make_policy((11,)).save(tmp_path / "policy")
    first = models.register(run_id, folder, "once", tracking_uri=store, tags={"trial": 4})
    again = make_policy((11,)).save(tmp_path / "copy")
    assert models.register(run_id, again, "once", tracking_uri=store) == first
    logged = logged_models(store, run_id)
    other = models.register(run_id, make_policy((12,)).save(tmp_path / "other"), "once", tracking_uri=store)
    assert other == first + 1
    shown = models.show_model(store, "once")
    assert [item["version"] for item in shown["versions"]] == [other, first]
    assert shown["aliases"] == {"best": other, "latest": other}
    assert shown["versions"][1]["tags"]["trial"] == "4"
    assert logged_models(store, run_id) == logged + 1


def test_best_is_moved_by_a_better_score_only_and_latest_is_the_newest(store: str, run_id: str, tmp_path: Path) -> None:
    def offered(seed: int, success: float, episodes: int = 50) -> tuple[bool, str]:
        folder = make_policy((seed,)).save(tmp_path / str(seed))
        version = models.register(run_id, folder, "judged", tracking_uri=store, alias=None)
        score = Score.of({"success": success, "return": 1.0}, {"env_name": "cube"}, episodes, 7)
        assert score is not None
        models.tag_version(store, "judged", version, score.tags())
        return models.offer_best(store, "judged", version, partial(judge, score))

    assert offered(31, 0.0) == (False, "success 0.000 is nothing to recommend")
    assert offered(32, 0.5)[0]
    assert not offered(33, 0.01)[0]
    assert "do not compare" in offered(34, 1.0, episodes=1)[1]
    assert offered(35, 0.9) == (True, "success 0.900 against 0.500 of version 2 on the same 50 episodes")
    assert not offered(36, 0.9)[0]
    shown = models.show_model(store, "judged")
    assert shown["aliases"] == {"best": 5, "latest": 6}
    assert shown["versions"][1]["tags"]["success"] == "0.9"
    for address in ("models:/judged@latest", "models:/judged/latest"):
        assert models.load_policy(address, tracking_uri=store).seeds == [36]
    with pytest.raises(UnknownName, match="has no version 9"):
        models.set_best(store, "judged", 9)
    models.set_best(store, "judged", 1)
    assert models.load_policy("models:/judged@best", tracking_uri=store).seeds == [31]


def test_a_registration_cut_off_after_logging_logs_no_second_model(store: str, run_id: str, tmp_path: Path) -> None:
    folder = make_policy((21,)).save(tmp_path / "policy")
    model_id = models.log_model(run_id, folder, tracking_uri=store)
    version = models.register(run_id, folder, "cut-off", tracking_uri=store)
    assert model_id in str(client(store).get_model_version("cut-off", str(version)).source)


def test_unknown_models_aliases_and_versions_name_the_nearest(store: str, run_id: str, tmp_path: Path) -> None:
    models.register(run_id, make_policy((31,)).save(tmp_path / "policy"), "named", tracking_uri=store)
    assert "named" in [row["name"] for row in models.list_models(store)]
    for address, says in (
        ("models:/nammed@best", "did you mean 'named'"),
        ("models:/named@bets", "did you mean 'best'"),
        ("models:/named/7", "allowed: 1"),
    ):
        with pytest.raises(UnknownName, match=says):
            models.load_policy(address, tracking_uri=store)
    with pytest.raises(UserError, match="none of models:/NAME@ALIAS"):
        models.load_policy("models:/named", tracking_uri=store)
    with pytest.raises(UnknownName, match="did you mean 'named'"):
        models.show_model(store, "name")


def test_a_store_that_is_not_there_is_not_made_by_asking_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tracking store"):
        models.load_policy("models:/a@best", tracking_uri=tracking.default_tracking_uri(tmp_path))
    assert list(tmp_path.iterdir()) == []


# ---- run directories ----


def test_a_run_directory_loads_all_of_its_seeds(tmp_path: Path) -> None:
    policy = make_policy((0, 5))
    for index, seed in enumerate(policy.seeds):
        state = {"step": 1, "seed": seed, "policy": policy.document(), "weights": policy.weights(index)}
        checkpoints.save(tmp_path / f"sd{seed:03d}" / "final_model.pt", state)
    loaded = models.load_policy(tmp_path)
    assert loaded.seeds == [0, 5]
    assert same_actions(policy, loaded)
    assert same_actions(policy.member(1), models.load_policy(tmp_path / "sd005"))
    assert same_actions(policy.member(1), models.load_policy(tmp_path / "sd005" / "final_model.pt"))


def test_a_path_with_no_policy_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no final_model.pt"):
        models.load_policy(tmp_path)
    with pytest.raises(UserError, match="no policy at"):
        models.load_policy(tmp_path / "missing")
    checkpoints.save(tmp_path / "step_3.pt", {"step": 3})
    with pytest.raises(CheckpointError, match="holds no policy"):
        models.load_policy(tmp_path / "step_3.pt")


def test_a_model_that_a_run_has_not_is_one_whole_line_with_what_it_has(store: str, tmp_path: Path) -> None:
    run = start_run(store, "fbc", "bare")
    (tmp_path / "final_model.pt").write_bytes(b"x")
    log_artifacts(store, run.run_id, tmp_path / "final_model.pt")
    with pytest.raises(UnknownName, match=r"the run has no 'model'.*final_model\.pt.*models register") as refused:
        models.load_policy(f"runs:/{run.run_id}/model", tracking_uri=store)
    assert "\n" not in str(refused.value)
    assert not str(refused.value).endswith(":")


def test_evaluate_finds_a_sweep_or_a_run_by_its_name_and_by_its_mlflow_run_id(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = Path("runs/fbc/bc_training/BC/hopper-medium-v2/sweep_20260101_120000")
    make_policy((41,)).save(sweep / "best")
    (sweep / "sweep.json").write_text("{}")
    (sweep / "run.json").write_text('{"run_id": "0123abc"}')
    for name in (sweep.name, "0123abc", str(sweep)):
        assert models.load_policy(folder_of(name)).seeds == [41]
    for other in ("sweep_2027", "models:/x@best", "nowhere/x.pt"):
        assert folder_of(other) == other


def test_a_sweeps_folder_is_its_best_policy_or_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=f"no best policy yet: `understudy resume {tmp_path}` goes on with it$"):
        models.load_policy(tmp_path)
    trial = tmp_path / "trials" / "0003" / "sd000"
    trial.mkdir(parents=True)
    (trial / "final_model.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"a trial that has finished: {trial.parent}$"):
        models.load_policy(tmp_path)
    make_policy((41,)).save(tmp_path / "best")
    assert models.load_policy(tmp_path).seeds == [41]


# ---- checkpoints ----


def test_kept_checkpoints_are_logged_models_linked_to_their_step_and_scores_and_a_run_goes_on_with_them(
    hopper_data: Path, done: Callable[..., str], tmp_path: Path
) -> None:
    words = ("eval_interval=20", "save_interval=20", "log_interval=10", "seeds=[0,1]", "save_dir=runs")
    done("train", *SMALL, *words, "training_steps=40", "log_model=false")
    (flags,) = (tmp_path / "runs" / "bc_training").rglob("flags.json")
    folder = RunDir(flags.parent)
    uri, run_id = folder.spec().placement.tracking(), folder.state()["run_id"]
    store = client(uri)
    run = store.get_run(run_id)
    assert run.outputs is not None
    outputs = sorted(run.outputs.model_outputs or [], key=lambda output: output.step)
    assert [output.step for output in outputs] == [20, 40]
    rows = {row["step"]: row for row in read_csv(folder.path / "eval.csv")}
    logged = [store.get_logged_model(output.model_id) for output in outputs]
    for model, step in zip(logged, (20, 40), strict=True):
        found = {metric.key: metric for metric in model.metrics or []}
        assert found["eval/normalized_return"].value == rows[step]["normalized_return"]
        assert {(metric.step, metric.run_id) for metric in found.values()} == {(step, run_id)}
        assert (model.name, str(model.status), model.params["algo"]) == (f"step_{step}", "READY", "flow_bc")
    assert logged[0].tags["understudy.checkpoint"] == f"runs:/{run_id}/sd000/checkpoint_20.pt"
    history = store.get_metric_history(run_id, "eval/normalized_return")
    assert [metric.step for metric in history] == [20, 40], "what a checkpoint is linked to is no further point"
    best = store.search_logged_models(
        [run.info.experiment_id], order_by=[{"field_name": "metrics.eval/normalized_return", "ascending": False}]
    )[0]
    assert best.tags["understudy.step"] == str(int(max(rows, key=lambda step: rows[step]["normalized_return"])))

    done("resume", str(folder.path), "--add-steps", "20")
    assert logged_models(uri, run_id) == 3
    old = store.get_logged_model(logged[1].model_id).tags["understudy.checkpoint"]
    assert old == "replaced: the run was trained on to step 60", "final_model.pt is a newer one"
    log_checkpoints(uri, run_id, folder.path, (0, 1), 60, {})
    assert logged_models(uri, run_id) == 3, "each is logged once"


def test_a_run_is_registered_by_its_folder_and_a_signal_meanwhile_leaves_nothing_that_the_next_does_not_end(
    hopper_data: Path, say, done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("train", *SMALL, "algo=bc", "training_steps=4", "eval_interval=0", "save_dir=runs")
    folder = only(tmp_path / "runs")
    uri = RunDir(folder).spec().placement.tracking()
    words = ("models", "register", str(folder), "--as", "hop", "--episodes", "2")
    log_model = models.log_model

    def terminated(*given: Any, **more: Any) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return log_model(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(models, "log_model", terminated)
        said = say(*words)
    assert said.code == 143
    assert said.err.splitlines()[-1] == (
        "understudy: stopped by SIGTERM; the same command registers what is not registered yet"
    )
    (version,) = models.show_model(uri, "hop")["versions"]
    assert (version["status"], version["aliases"]) == ("READY", ["latest"])
    logged = logged_models(uri, str(version["run_id"]))
    assert "registered models:/hop/1 (alias best" in done(*words)
    (version,) = models.show_model(uri, "hop")["versions"]
    assert sorted(version["aliases"]) == ["best", "latest"]
    assert logged_models(uri, str(version["run_id"])) == logged
