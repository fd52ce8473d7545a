"""What a run and a sweep are: names, bounds, fingerprints, search dimensions."""

from __future__ import annotations

import pytest
from tests.unit.test_compose import say as say

from understudy.errors import SpecError, UnknownName, did_you_mean
from understudy.registry import algorithms
from understudy.spec.compose import flat_values, parse, split_sweeps
from understudy.spec.keys import build_run, key_groups, resolve_key, run_fields, with_changes
from understudy.spec.space import Choice, Interval
from understudy.spec.words import ADVICE, ALIASES
from understudy.sweeping.sweep_spec import SweepSpec, build_sweep


@pytest.mark.parametrize(
    ("alias", "value", "key"),
    [
        ("offline_steps", 7, "training_steps"),
        ("num_steps", 7, "training_steps"),
        ("env", "a-v1", "env_name"),
        ("normalise", "none", "normalize"),
        ("learning_rate", 1e-3, "lr"),
        ("batch", 8, "batch_size"),
        ("gamma", 0.9, "discount"),
        ("dataset", "a-v1", "env_name"),
        ("frame_stack", 3, "obs_horizon"),
        ("max_grad_norm", 1.0, "grad_clip"),
    ],
)
def test_another_tools_name_for_a_key_is_taken(alias, value, key) -> None:
    assert build_run({alias: value}).flat()[key] == value


def test_every_word_of_other_tools_leads_to_keys_that_there_are() -> None:
    known = {key for algo in algorithms.names() for key in run_fields(algo)}
    assert set(ALIASES.values()) <= known
    assert not set(ALIASES) & known
    words = [word for advice in ADVICE for word in advice.words]
    assert len(words) == len({*words, *ALIASES}) - len(ALIASES), "one word has one advice, and is no alias"
    for advice in ADVICE:
        assert set(advice.keys) <= known
        assert any(key in advice.text for key in advice.keys) or "Adam" in advice.text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("epoch", "or by epochs=N in passes over the data"),
        ("num_epochs", "or by epochs=N in passes over the data"),
        ("max_steps", "training_steps is the number of gradient updates"),
        ("frames", "obs_horizon is how many observations"),
        ("hidden_size", "hidden_dims=[256,256]"),
        ("num_envs", "eval_envs is how many environments"),
        ("polyak", "ema_rate is the share of the newest weights"),
        ("Horizon", "horizon_length is the number of actions"),
        ("learning_rat", "did you mean 'learning_rate'?"),
        ("gama", "did you mean 'gamma'?"),
        ("proprio", "did you mean 'use_proprio'?"),
        ("Batch-Size", "did you mean 'batch_size'?"),
    ],
)
def test_a_word_of_other_tools_that_is_no_key_leads_to_the_right_one(word, said) -> None:
    with pytest.raises(SpecError) as caught:
        build_run({word: 1})
    assert str(caught.value).startswith(f"unknown key {word!r}")
    assert said in str(caught.value)
    with pytest.raises(SpecError) as swept:
        build_sweep({word: 1}, {"lr": split_sweeps(parse(["lr=1e-4,1e-3"]))[1]["lr"]})
    assert said in str(swept.value)


def test_a_name_that_is_like_none_gets_no_suggestion() -> None:
    assert "did you mean" not in did_you_mean("frames", ["cameras", "policy", "lr"])
    assert "did you mean" not in did_you_mean("xyzzy", ["cameras", "policy", "lr"])


def test_a_plug_ins_own_key_is_never_taken_for_another_tools_word() -> None:
    assert resolve_key("gamma", {"gamma", "discount"}) == "gamma"
    assert resolve_key("gamma", {"discount"}) == "discount"


def test_other_tools_words_work_in_a_sweep() -> None:
    sweep = build_sweep({"batch": 8}, split_sweeps(parse(["learning_rate=interval(1e-5,1e-3)"]))[1])
    assert (sweep.run["batch_size"], sweep.dimensions["lr"].log) == (8, True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lrr": 1}, r"unknown key 'lrr' \(did you mean 'lr'\?\); allowed: .*lr"),
        ({"trainning_steps": 1}, r"did you mean 'training_steps'"),
        ({"algo": "bc", "flow_steps": 5}, r"unknown key 'flow_steps' \(algo=flow_bc and flow_transformer have it\)"),
        ({"algo": "bc", "use_critic": True}, r"unknown key 'use_critic' \(algo=flow_bc has it\); allowed: "),
        ({"algo": "bc", "actor_type": "best-of-n"}, r"unknown key 'actor_type' \(algo=flow_bc has it\)"),
        ({"lr": 0}, r"lr=0: must be greater than 0"),
        ({"lr": 10}, r"lr=10: must be less than 10"),
        ({"lr": float("nan")}, r"lr=nan: must be a finite number"),
        ({"lr": "fast"}, r"lr='fast': must be a valid number"),
        ({"batch_size": 2.5}, r"batch_size=2.5: must be a valid integer"),
        ({"hidden_dims": [], "algo": "ddpm_bc"}, r"hidden_dims=\[\]: must have at least 1 value"),
        ({"hidden_dims": [32, 0]}, r"hidden_dims.1=0: must be greater than 0$"),
        ({"dataset_proportion": 0}, r"dataset_proportion=0: must be greater than 0"),
        ({"dataset_proportion": 1.1}, r"must be less than or equal to 1"),
        ({"save_interval": -2}, r"save_interval=-2: must be greater than or equal to -1"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\] repeats a seed"),
        ({"normalize": "zscor"}, r"did you mean 'zscore'\?\); allowed: bounds, none, zscore"),
        ({"num_workers": 2}, r"num_workers=2 needs launcher=ray"),
        ({"num_workers": 3, "launcher": "ray"}, r"batch_size=256 does not divide by num_workers=3"),
        ({"env_name": ""}, r"env_name='': must be a name"),
        ({"env_name": "../../etc"}, r"must be a name"),
        ({"project": "/etc"}, r"project='/etc': must be a name"),
        ({"tracking_uri": "http://me:secret@host"}, r"tracking_uri=\*\*\*: holds a password"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_says_what_is_allowed(values, said) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        build_run(values)
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)


def test_an_unknown_algorithm_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown algorithm 'flow_cb' \(did you mean 'flow_bc'\?\); allowed: flow_bc, .*ddpm_bc"
    ):
        build_run({"algo": "flow_cb"})


def test_a_method_like_none_that_is_here_is_said_to_need_its_file(monkeypatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_PLUGINS", raising=False)
    with pytest.raises(
        UnknownName, match=r"unknown algorithm 'resmlp'; .*one of yours needs UNDERSTUDY_PLUGINS=FILE.py"
    ):
        build_run({"algo": "resmlp", "env_name": "hopper-medium-v2"})


def test_two_wrong_values_are_said_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"lr=-1: .*; batch_size=0: ") as caught:
        build_run({"lr": -1, "batch_size": 0})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("algo", ["flow_bc", "bc", "ddpm_bc"])
def test_flat_keys_build_the_same_run_again(algo) -> None:
    spec = build_run({"algo": algo, "lr": 1e-5, "seeds": [2, 0], "hidden_dims": [8, 8], "save_dir": "~/x y"})
    assert build_run(spec.flat()) == spec
    assert build_run(spec.flat()).fingerprint() == spec.fingerprint()


WHAT = {
    **{"algo": "bc", "env_name": "other-v1", "seed": 1, "seeds": [0, 1], "training_steps": 5, "normalize": "none"},
    **{
        "dataset_proportion": 0.5,
        "proportion_order": "first",
        "dataset_replace_interval": 5,
        "sparse": True,
        "discount": 0.5,
    },
    **{"filter_key": "train", "validation_fraction": 0.1, "validation_filter_key": "valid", "obs_horizon": 2},
    **{"goal_relabelling": "final", "ogbench_dataset_dir": "/data"},
    **{"lr": 1e-5, "weight_decay": 0.1, "batch_size": 8, "horizon_length": 2},
    **{"action_chunking": True, "hidden_dims": [8], "encoder": "impala_small", "grad_clip": 1.0, "action_clip": False},
    **{"flow_steps": 3, "use_fourier_features": True, "actor": "one_step", "alpha": 5.0},
    **{"cameras": ["front"], "use_proprio": False, "normalize_actions": "bounds", "goal_delta": [1, 5]},
    **{"reached_proportion": 0.1, "warmup_steps": 5, "lr_schedule": "cosine", "decay_steps": 5, "ema_rate": 0.1},
    **{"grad_accumulation": 2, "precision": "bf16", "compile": True},
    **{"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_eps": 1e-6},
}
"""A change of each key that says what is trained."""


@pytest.mark.parametrize("key", WHAT)
def test_the_fingerprint_changes_with_what_is_trained(key) -> None:
    same = {"lr_schedule": "cosine"} if key == "decay_steps" else {}
    assert build_run({**same, key: WHAT[key]}).fingerprint() != build_run(same).fingerprint()


def test_the_fingerprint_stays_when_only_logging_or_the_place_changes() -> None:
    elsewhere = {
        **{"log_interval": 1, "eval_interval": 0, "save_interval": -1, "checkpoint_seconds": 1, "eval_episodes": 0},
        **{"eval_temperature": 1, "eval_seed": 5, "video_episodes": 1, "video_frame_skip": 1, "device": "cpu"},
        **{"launcher": "ray", "num_workers": 2, "cpus": 2, "gpus": 1, "eval_envs": 1, "eval_processes": True},
        **{"eval_timeout": 60, "eval_max_steps": 9, "loader_workers": 2, "save_total_limit": 1, "save_best": True},
        **{"save_dir": "/x", "project": "p", "run_group": "g", "data_dir": "/y", "tracking_uri": "none"},
        "download": True,
        "data_path": "/z",
        **{"checkpoint_storage": "s3://bucket/runs", "data_on_device": True, "cuda_graphs": True},
    }
    assert set(elsewhere) == set(build_run({}).flat(("when", "where")))
    assert build_run(elsewhere).fingerprint() == build_run({}).fingerprint()


def test_every_key_says_either_what_or_when_or_where() -> None:
    flow_bc = build_run({})
    assert set(flow_bc.flat(("what",))) == set(WHAT)


def test_a_key_is_in_one_part_of_a_run_alone() -> None:
    for algo in algorithms.names():
        fields = [name for group in key_groups(algo).values() for name in group]
        assert len(fields) == len(set(fields)), algo


@pytest.mark.parametrize(
    ("algo", "key", "value"),
    [
        ("reward_classifier", "horizon_length", 5),
        ("reward_classifier", "action_chunking", False),
        ("reward_classifier", "chunk_size", 5),
        ("reward_classifier", "n_action_steps", 1),
        ("reward_classifier", "hidden_dims", []),
        ("reward_classifier", "saliency_weight", 0.1),
        ("act", "hidden_dims", []),
        ("bc", "flow_steps", 5),
    ],
)
def test_a_key_of_a_part_that_the_method_does_not_take_is_refused(say, algo, key, value) -> None:
    for words in (("train",), ("sweep", "lr=1e-4,1e-3")):
        said = say(*words, "--cfg", f"algo={algo}", f"{key}={value}")
        assert said.code == 2
        assert said.err.startswith(f"understudy: unknown key {key!r}")
        assert len(said.err.splitlines()) == 1


def test_what_an_earlier_version_recorded_for_keys_that_are_no_longer_taken_keeps_the_fingerprint() -> None:
    spec = build_run({"algo": "reward_classifier"})
    assert spec.flat()["horizon_length"] == 5
    recorded = {"horizon_length": 7, "action_clip": False, "n_action_steps": 1, "temporal_ensemble_coeff": 0.3}
    old = build_run({**spec.flat(), **recorded})
    assert build_run(old.flat()) == old
    assert old.fingerprint() != spec.fingerprint()
    moved = with_changes(old, save_dir="/elsewhere", log_interval=7)
    assert moved.fingerprint() == old.fingerprint()
    assert {key: moved.flat()[key] for key in recorded} == recorded


def test_wrong_values_of_several_parts_are_said_together() -> None:
    with pytest.raises(SpecError, match=r"discount=2: .*; eval_episodes=-1: .*; cpus=0: .*; lr=-1: "):
        build_run({"lr": -1, "cpus": 0, "discount": 2, "eval_episodes": -1})


def test_what_a_policy_keeps_of_its_run_has_no_places_and_no_paths_of_its_machine() -> None:
    spec = build_run({"encoder": "impala", "encoder_weights": "/weights.pt"})
    assert spec.shared().keys() == spec.flat(("what", "when")).keys() - {"encoder_weights"}
    assert spec.paths() == {
        "save_dir": spec.placement.save_dir,
        "encoder_weights": "/weights.pt",
    }


def test_one_seed_alone_and_in_a_list_are_the_same_run() -> None:
    assert build_run({"seed": 3}).fingerprint() == build_run({"seeds": [3]}).fingerprint()


def test_relative_folders_become_absolute_because_workers_start_elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_run({"save_dir": "runs"}).placement.save_dir == str(tmp_path / "runs")


# ---- sweeps ----


def sweep(*words: str) -> SweepSpec:
    plain, sweeps = split_sweeps(parse(words))
    return build_sweep(flat_values(plain), sweeps)


def test_an_interval_of_lr_is_logarithmic_and_one_of_dataset_proportion_is_not() -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "dataset_proportion=interval(0.1,1)")
    assert spec.dimensions["lr"] == Interval(low=1e-5, high=1e-3, log=True)
    assert spec.dimensions["dataset_proportion"] == Interval(low=0.1, high=1.0)


def test_tags_choose_the_scale() -> None:
    spec = sweep("lr=tag(linear,interval(1e-5,1e-3))", "batch_size=tag(log,interval(16,512))")
    assert spec.dimensions["lr"] == Interval(low=1e-5, high=1e-3, log=False)
    assert spec.dimensions["batch_size"] == Interval(low=16, high=512, log=True, integer=True)


def test_an_interval_of_weight_decay_from_0_cannot_be_logarithmic_and_is_linear() -> None:
    assert sweep("weight_decay=interval(0,0.1)").dimensions["weight_decay"] == Interval(low=0, high=0.1)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("batch_size=16,32", (16, 32)),
        ("batch_size=choice(16,32)", (16, 32)),
        ("batch_size=range(16,49,16)", (16, 32, 48)),
        ("normalize=none,zscore", ("none", "zscore")),
        ("--batch_size=16,32", (16, 32)),
        ("action_chunking=true,false", (True, False)),
    ],
)
def test_lists_choices_and_ranges_become_choices(word, values) -> None:
    assert list(sweep(word).dimensions.values()) == [Choice(values=values)]


def test_seeds_are_never_a_dimension() -> None:
    spec = sweep("seed=0,1,2", "lr=1e-4,1e-3")
    assert spec.base.all_seeds == (0, 1, 2)
    assert set(spec.dimensions) == {"lr"}


def test_flow_steps_are_evaluated_and_not_trained() -> None:
    spec = sweep("flow_steps=5,10,20", "lr=1e-4,1e-3")
    assert spec.grid == {"flow_steps": (5, 10, 20)}
    assert set(spec.dimensions) == {"lr"}


def test_a_sweep_over_flow_steps_alone_trains_once() -> None:
    spec = sweep("flow_steps=5,10")
    assert (spec.dimensions, spec.options.num_trials) == ({}, 1)


def test_sweeping_the_chunk_length_turns_chunking_on_and_contradicting_it_is_refused() -> None:
    assert sweep("horizon_length=1,5").base.config.action_chunking
    with pytest.raises(SpecError, match="horizon_length changes nothing with action_chunking=false"):
        sweep("horizon_length=1,5", "action_chunking=false")


def test_a_space_is_taken_and_a_key_on_the_line_wins_over_its_dimension() -> None:
    assert set(sweep("space=flow_bc").dimensions) == {"lr", "horizon_length"}
    fixed = sweep("space=flow_bc", "lr=1e-4")
    assert "lr" not in fixed.dimensions
    assert fixed.base.config.lr == 1e-4


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    assert sweep("lr=1e-4,1e-3", "batch_size=16,32,64", "sampler=grid").options.num_trials == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to sweep"),
        (("seed=0,1",), "nothing to sweep"),
        (("lr=interval(1e-3,1e-5)",), r"lr=interval\(0.001,1e-05\): the first end must be below"),
        (("lr=interval(1e-5,100)",), r"lr=100.0: must be less than 10"),
        (("lr=1e-4,fast",), "lr='fast': must be a valid number"),
        (("lr=1e-4,1e-4",), "a value is repeated"),
        (("flow_steps=interval(1,5)",), r"flow_steps=interval\(1,5\): give a list of values"),
        (("batch_size=interval(16.5,32)",), "batch_size is a whole number"),
        (("normalize=interval(0,1)",), "normalize is no number"),
        (("seed=interval(0,3)",), r"seed=interval\(0,3\): give a list of values"),
        (("eval_interval=1,2",), "eval_interval cannot be swept"),
        (("env_name=a,b",), "env_name cannot be swept"),
        (("lr=interval(1e-5,1e-3)", "sampler=grid"), "sampler=grid needs every swept key to be a list"),
        (("lr=1e-4,1e-3", "eval_episodes=0"), "ranks its trials by evaluation"),
        (("lr=1e-4,1e-3", "sampler=tp"), "did you mean 'tpe'"),
        (("lrr=1e-4,1e-3",), r"unknown key 'lrr' \(did you mean 'lr'\?\)"),
        (("space=flow_bc", "algo=bc"), "space=flow_bc is for algo=flow_bc"),
        (("space=flow",), "unknown search space 'flow'"),
    ],
)
def test_a_wrong_sweep_is_one_line(words, said) -> None:
    with pytest.raises((SpecError, UnknownName), match=said) as caught:
        sweep(*words)
    assert len(str(caught.value).splitlines()) == 1


def test_a_sweeps_cfg_is_yaml_that_shows_dimensions_grid_options_and_the_rest(say) -> None:
    shown = say("sweep", "--cfg", "space=flow_bc", "seed=0,1", "num_trials=7").yaml
    assert shown["dimensions"] == {"lr": "1e-05 .. 0.001 (log)", "horizon_length": [1, 5, 10]}
    assert shown["grid"] == {"flow_steps": [5, 10, 20]}
    assert shown["options"]["num_trials"] == 7
    assert shown["run"]["seeds"] == [0, 1]
    assert not set(shown["run"]) & {"lr", "horizon_length", "flow_steps"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": 10**20}, "seed=100000000000000000000: must be less than"),
        ({"seeds": [0, -1]}, "must be greater than or equal to 0"),
        ({"seeds": [10**20]}, "must be less than"),
        ({"training_steps": 10**21}, "must be less than"),
        ({"eval_seed": 2**32 - 1}, "must be less than"),
        ({"seeds": 0}, r"seeds=0: give how many, 1 to 4096"),
        ({"goal_delta": 3}, r"goal_delta=3: must be a list"),
    ],
)
def test_numbers_that_nothing_can_hold_and_single_values_for_lists_are_one_line(values, said) -> None:
    with pytest.raises(SpecError, match=said) as error:
        build_run(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("cpus", 100_000), ("batch_size", 10**9), ("loader_workers", 5000), ("eval_envs", 10**6)),
        *(("num_workers", 10**6), ("hidden_dims", [10**6]), ("horizon_length", 10**9), ("obs_horizon", 10**9)),
        *(("seeds", [-1]), ("seeds", [0] * 5000), ("save_dir", ""), ("training_steps", 10**30)),
    ],
)
def test_what_no_machine_could_hold_or_start_is_refused_before_anything_is_made(key, value) -> None:
    with pytest.raises(SpecError, match=rf"{key}.*(must be|at (least|most)|exceeded)"):
        build_run({"env_name": "hopper-medium-v2", key: value})


@pytest.mark.parametrize("values", ["range(1,1000000000)", "range(1,1e9)", "range(0,1,1e-9)"])
def test_a_range_of_a_billion_values_is_refused_before_it_is_written_out(say, values) -> None:
    said = say("sweep", "algo=bc", "env_name=hopper-medium-v2", f"batch_size={values}", "--cfg")
    assert said.code == 2
    assert "at most 100000 values" in said.err


@pytest.mark.parametrize(
    ("given", "key", "wanted"),
    [
        ({"seeds": 3}, "seeds", [0, 1, 2]),
        ({"hidden_dims": 64}, "hidden_dims", [64]),
        ({"cameras": "front"}, "cameras", ["front"]),
        ({"augmentation": "bridge"}, "augmentation", "bridge"),
    ],
)
def test_a_single_value_for_a_list_means_what_it_looks_like(given, key, wanted) -> None:
    found = build_run({"algo": "bc", **given}).flat()[key]
    assert (list(found) if isinstance(found, tuple) else found) == wanted
