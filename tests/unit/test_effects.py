"""Nothing that is typed is accepted without effect or note."""

from __future__ import annotations

import re

import pytest

from understudy.errors import SpecError
from understudy.registry import algorithms
from understudy.spec.compose import flat_values, given_keys, parse, split_sweeps
from understudy.spec.effects import FACTS, check_acting, check_effects, check_with_data
from understudy.spec.keys import build_run, run_fields
from understudy.spec.part import ActsOnly, Needs, mark, marks
from understudy.sweeping.sweep_spec import build_sweep, check_given


def notes(*words: str) -> list[str]:
    values = flat_values(parse(words))
    return check_effects(build_run(values), values)


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ("gpus=1", "launcher=ray"),
        ("gpus=0.5 device=cpu", "launcher=ray"),
        ("video_episodes=2 eval_episodes=0", "eval_episodes of at least 1"),
        ("goal_delta=[1,5]", "goal_relabelling=delta_goals"),
        ("proportion_order=first", "dataset_proportion below 1"),
        ("save_total_limit=2 save_interval=-1", "save_interval of at least 1"),
        ("augment_saliency=true algo=bc saliency_weight=1", "augmentation"),
        ("augment_order=[random_hue]", "augmentation"),
        ("random_hue=0.2", "random_hue in augmentation= or augment_order="),
        ("random_shift=2 encoder=impala_small augmentation=bridge", "random_shift in augmentation= or augment_order="),
        ("save_best=true eval_episodes=0", "eval_episodes of at least 1"),
        ("save_best=true eval_episodes=0 validation_fraction=0.1", "eval_episodes of at least 1"),
        ("save_best=true algo=reward_classifier encoder=resnet10", "validation_fraction"),
        ("discount=0.9", "goal_relabelling=geometric or a method that learns from rewards"),
        ("num_samples=5", "actor=best_of_n"),
        ("num_samples=5 actor=one_step", "actor=best_of_n"),
        ("alpha=5", "actor=one_step"),
        ("modes=3 algo=bc", "policy=gmm"),
        ("min_std=0.1 algo=bc policy=mse", "policy=gmm"),
        ("std=state algo=bc policy=gmm", "policy=gaussian"),
        ("fixed_std=2 algo=bc std=global", "std=fixed"),
        ("dropout=0.1 algo=bc hidden_dims=[]", "hidden_dims"),
        ("kl_weight=1 algo=act use_vae=false", "use_vae=true"),
        ("eval_temperature=0.5 algo=act use_vae=false", "a policy that draws noise"),
        ("eval_temperature=0.5 algo=bc policy=mse", "a policy that draws noise"),
        ("saliency_beta=2 algo=bc", "saliency_weight"),
        ("saliency_alpha=0.5 algo=bc saliency_weight=1", "obs_horizon of at least 2"),
        ("history=sequence encoder=impala", "obs_horizon of at least 2"),
        ("augment_where=workers", "augmentation"),
        ("normalize_actions=zscore algo=reward_classifier encoder=resnet10", "a method that acts"),
    ],
)
def test_a_key_that_changes_nothing_is_refused_with_what_it_needs(words: str, needs: str) -> None:
    with pytest.raises(SpecError, match=f"changes nothing without {needs}") as error:
        notes(*words.split())
    assert str(error.value).startswith(words.split("=")[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("dataset_replace_interval=5", "dataset_replace_interval"),
        ("horizon_length=4", "horizon_length"),
        ("chunk_size=4", "horizon_length"),
        ("video_frame_skip=2", "video_frame_skip"),
        ("eval_seed=3 eval_episodes=0", "eval_seed"),
        ("eval_max_steps=9 eval_episodes=0", "eval_max_steps"),  # `understudy evaluate` takes the run's
        ("eval_interval=9 eval_episodes=0", "eval_interval"),
        ("eval_timeout=9 eval_episodes=0", "eval_timeout"),
        ("eval_episodes=9 algo=reward_classifier encoder=resnet10", "eval_episodes"),
        ("sparse=true", "sparse"),
    ],
)
def test_what_usual_commands_give_all_the_same_is_a_note(words: str, key: str) -> None:
    (note,) = notes(*words.split())
    assert note.startswith(f"{key}=")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "gpus=1 launcher=ray",
        "gpus=0",
        "video_episodes=0 eval_episodes=0",
        "video_episodes=2 video_frame_skip=2",
        "goal_relabelling=delta_goals goal_delta=[1,5]",
        "dataset_proportion=0.5 proportion_order=first",
        "augmentation=bridge random_hue=0.2 random_shift=4",
        "augmentation=[random_shift] random_shift=2",
        "horizon_length=4 action_chunking=true",
        "algo=act horizon_length=20",
        "ogbench_dataset_dir=x dataset_replace_interval=5",
        "save_total_limit=2 save_interval=100",
        "algo=hilserl eval_max_steps=9 eval_episodes=0",
        "eval_interval=0 eval_episodes=0",
        "eval_interval=9 eval_episodes=0 validation_fraction=0.1",
        "save_best=true eval_episodes=0 validation_fraction=0.1 algo=reward_classifier encoder=resnet10",
        "discount=0.9 goal_relabelling=geometric",
        "discount=0.9 actor=best_of_n num_samples=5 sparse=true",
        "algo=bc policy=gmm modes=3 min_std=0.1",
        "algo=bc std=state",
        "algo=act kl_weight=1",
        "augmentation=drq random_shift=2 augment_where=workers encoder=impala",
        "augmentation=drq augment_order=[random_hue] random_hue=0.2 encoder=impala",
        "seeds=[0,1]",
        "seed=3",
        "cameras=[front] use_proprio=false",
        "normalize=none",
    ],
)
def test_keys_that_say_something_and_defaults_pass_without_a_word(words: str) -> None:
    assert notes(*words.split()) == []


@pytest.mark.parametrize(
    "words", ["env=a env_name=b", "env_name=b dataset=b", "lr=1e-3 --learning_rate 1e-4", "offline_steps=5 num_steps=5"]
)
def test_two_names_of_one_key_are_refused_naming_both(words: str) -> None:
    with pytest.raises(SpecError, match="are two names of one key") as error:
        parse(words.split())
    assert all(
        f"{word.split('=')[0].split()[0]}=" in str(error.value)
        for word in words.replace("--", "").split()
        if "=" in word
    )


def test_one_seed_beside_several_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^seed=3 changes nothing beside seeds=\[0,1\]: give one of the two$"):
        notes("seed=3", "seeds=[0,1]")


def test_every_condition_of_a_mark_names_a_key_or_a_fact() -> None:
    for name in algorithms.names():
        fields = run_fields(name)
        everything = {key for other in algorithms.names() for key in run_fields(other)}
        for key, field in fields.items():
            conditions = [condition for needs in marks(field, Needs) for condition in needs.conditions]
            acting = mark(field, ActsOnly)
            conditions += [acting.needs] if acting is not None and acting.needs else []
            for condition in conditions:
                word = re.split(r"[<>=]", condition)[0]
                assert word in FACTS or word in everything, f"{key}: {condition}"


def test_what_is_set_by_a_group_is_not_what_was_typed() -> None:
    assert given_keys(["bridgedata=lift_carrot_100", "lr=1e-3"]) == ["bridgedata", "lr"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("num_samples=1,2", "num_samples changes nothing without actor=best_of_n: do not sweep it"),
        ("alpha=1,2", "alpha changes nothing without actor=one_step: do not sweep it"),
        ("flow_steps=5,10 actor=one_step", "flow_steps changes nothing in acting without actor=flow or best_of_n"),
        (
            "random_hue=0.1,0.2",
            "random_hue changes nothing without random_hue in augmentation= or augment_order=: do not",
        ),
        ("lr=1e-3,1e-4 algo=hilserl num_actors=2", "num_actors, actor_address: a trial of a sweep acts by itself"),
        ("algo=hilserl num_actors=0,2", "num_actors, actor_address: a trial of a sweep acts by itself"),
        ("lr=1e-3,1e-4 launcher=ray", "launcher=ray changes nothing in a sweep"),
        ("lr=1e-3,1e-4 scheduler=none grace_steps=5", "grace_steps changes nothing without scheduler=asha"),
        ("lr=1e-3,1e-4 scheduler=none asha_slack=0.3", "asha_slack changes nothing without scheduler=asha"),
        (
            "lr=1e-3,1e-4 objective=success,latency grace_steps=100",
            "grace_steps changes nothing with several objectives, whose trials are not stopped early",
        ),
        (
            "lr=1e-3,1e-4 objective=latency grace_steps=100",
            "grace_steps changes nothing with objective=latency, whose trials are not stopped early",
        ),
        ("lr=1e-3,1e-4 racing=halving", "racing=halving changes nothing with 1 seed: give more"),
        ("lr=1e-3,1e-4 seeds=[0,1] racing=guaranteed", "racing=guaranteed changes nothing with 2 seeds: give more"),
        ("lr=1e-3,1e-4 seed=3 seeds=[0,1]", "seed=3 changes nothing beside seeds=[0,1]"),
        ("lr=1e-3,1e-4 goal_delta=[1,3]", "goal_delta=[1,3] changes nothing without goal_relabelling=delta_goals"),
    ],
)
def test_a_sweep_refuses_what_changes_nothing_in_it(words: str, line: str) -> None:
    plain, sweeps = split_sweeps(parse(words.split()))
    with pytest.raises(SpecError) as error:
        check_given(build_sweep(flat_values(plain), sweeps), given_keys(words.split()))
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    "words",
    [
        "alpha=1,2 actor=one_step,flow",
        "alpha=1,2 actor=one_step",
        "lr=1e-3,1e-4 gpus=0.5",
        "lr=1e-3,1e-4 grace_steps=5 horizon_length=1,5",
        "lr=1e-3,1e-4 scheduler=none",
        "lr=1e-3,1e-4 seeds=[0,1] racing=halving",
        "space=flow_bc num_trials=3",
    ],
)
def test_a_sweep_takes_what_changes_something_in_some_trial(words: str) -> None:
    plain, sweeps = split_sweeps(parse(words.split()))
    assert check_given(build_sweep(flat_values(plain), sweeps), given_keys(words.split())) == []


def test_an_evaluation_time_key_of_another_actor_is_refused() -> None:
    check_acting(build_run({"actor": "flow", "flow_steps": 5}), ["flow_steps"])
    with pytest.raises(SpecError, match="flow_steps=5 changes nothing in acting without actor=flow or best_of_n"):
        check_acting(build_run({"actor": "one_step", "flow_steps": 5}), ["flow_steps"])


@pytest.mark.parametrize(
    ("words", "without"),
    [
        ("cameras=[front]", "pictures in the dataset"),
        ("use_proprio=false", "pictures in the dataset"),
        ("normalize=bounds", "states in what the policy sees"),
        ("reached_proportion=0.5", "goals"),
        ("encoder=impala goal_fusion=late", "goals"),
        ("encoder=impala shared_goal_encoder=false", "goals"),
        ("encoder=impala shared_camera_encoder=true", "several cameras in what the policy sees"),
    ],
)
def test_what_only_data_tell_is_asked_of_the_data(words: str, without: str) -> None:
    spec = build_run(flat_values(parse(words.split())))
    told = [name for name, fact in FACTS.items() if fact.holds is None]
    assert check_with_data(spec, dict.fromkeys(told, True)) == []
    with pytest.raises(SpecError, match=f"changes nothing without {without}"):
        check_with_data(spec, dict.fromkeys(told, False))
