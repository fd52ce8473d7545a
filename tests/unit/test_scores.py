"""`best` moves only to what is better by the same evaluation; names of models are made valid or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudy.errors import SpecError
from understudy.runs.scores import Score, judge
from understudy.spec.model_names import LONGEST, check_model_name, default_model_name, valid_model_name

HOPPER = {"env_name": "Hopper-v4", "environment": None}


def score(success: float, episodes: int = 50, eval_seed: int = 1000, **environment: object) -> Score:
    interval = {"success_low": success / 2, "success_high": 1.0}
    metrics = {"success": success, **interval, "return": 10 * success, "length": 3.0}
    made = Score.of(metrics, {**HOPPER, **environment}, episodes, eval_seed)
    assert made is not None
    return made


def test_a_score_is_in_the_tags_of_a_version_and_comes_back_from_them() -> None:
    tags = score(0.84).tags()
    assert {key: tags[key] for key in ("objective", "success", "episodes", "environment")} == {
        "objective": "success",
        "success": "0.84",
        "episodes": "50",
        "environment": "Hopper-v4",
    }
    assert tags["success_low"] == "0.42"
    assert Score.from_tags({**tags, "sweep": "x"}) == score(0.84)
    assert Score.from_tags({"sweep": "x"}) is None
    assert Score.from_tags({**tags, "episodes": "many"}) is None


@pytest.mark.parametrize(
    ("new", "held", "best", "why"),
    [
        (score(0.5), None, True, "the first"),
        (score(0.0), None, False, "nothing to recommend"),
        (score(0.01), score(1.0), False, "success 0.010 is no better than 1.000 of version 4 on the same 50 episodes"),
        (score(0.9), score(0.5), True, "success 0.900 against 0.500 of version 4 on the same 50 episodes"),
        (score(0.5), score(0.5), False, "no better than"),
        (replace(score(0.5), metrics={"success": 0.5, "return": 6.0}), score(0.5), True, "against"),
        (score(1.0, episodes=1), score(0.5), False, "version 4 was evaluated on 50 episodes from seed 1000, not on 1"),
        (score(1.0, eval_seed=7), score(0.5), False, "from seed 1000, not on 50 from 7"),
        (score(1.0, env_name="Ant-v4"), score(0.5), False, "in Hopper-v4, not in Ant-v4"),
        (score(1.0, environment={"size": 64}), score(0.5), False, "in another setting of Hopper-v4"),
        (Score.of({"return": 9.0}, HOPPER, 50, 1000), score(0.5), False, "by success, not by return"),
        (None, score(0.5), False, "it was not evaluated"),
    ],
)
def test_the_best_is_what_is_better_by_the_same_evaluation(new, held, best, why) -> None:
    moved, said = judge(new, held.tags() if held else {}, 4 if held else None)
    assert moved == best
    assert why in said


def test_what_was_registered_without_an_evaluation_is_not_replaced_without_a_word() -> None:
    assert judge(score(1.0), {"trial": "0"}, 3) == (False, "how version 3 was evaluated is not known")


def test_a_number_that_is_none_makes_no_score() -> None:
    assert Score.of({"success": float("nan")}, HOPPER, 50, 0) is None
    assert Score.of({"length": 3.0}, HOPPER, 50, 0) is None


@pytest.mark.parametrize(
    ("env_name", "name"),
    [
        ("lift-mh-low_dim", "bc-lift-mh-low_dim"),
        ("minari:D4RL/door/human-v2", "bc-minari_D4RL__door__human-v2"),
        ("pend-v1.5", "bc-pend-v1_5"),
        ('50% "of" a\'b @home?#1\\2', "bc-50_ _of_ a_b _home__1_2"),
        ("ümläut", "bc-ümläut"),
    ],
)
def test_every_datasets_name_makes_a_models_name(env_name: str, name: str) -> None:
    assert default_model_name("bc", env_name) == name
    check_model_name(name)


def test_a_name_that_is_too_long_stays_different_from_others_that_begin_alike() -> None:
    names = {valid_model_name("x" * 300 + end) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) <= LONGEST for name in names)


@pytest.mark.parametrize("name", ["a/b", "a:b", "v1.5", "a@best", "50%", "it's", 'say "x"', "", " a", "a\n", "x" * 300])
def test_a_name_that_mlflow_or_an_address_does_not_take_is_refused_with_one_that_does(name: str) -> None:
    with pytest.raises(SpecError, match="would do") as refused:
        check_model_name(name, "register_as")
    assert str(refused.value).startswith("register_as=")
    check_model_name(valid_model_name(name))
