"""Members that differ in settings, and populations that exchange weights: each member is what it would be alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.unit.command_line import understudy
from tests.unit.test_pack import batch, small

from understudy.errors import SpecError
from understudy.spec.effects import check_effects
from understudy.spec.keys import build_run
from understudy.spec.population import Population
from understudy.trainables.packs.members import check_useful
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.population import exchanges, explored, first_settings

SETTINGS: list[dict[str, float]] = [
    {"lr": 1e-3, "weight_decay": 0.1, "ema_rate": 0.1},
    {"lr": 3e-3, "weight_decay": 1e-4, "ema_rate": 0.02},
]
PBT: dict[str, Any] = {"seeds": [0, 1, 2, 3, 4], "pbt": {"lr": [1e-4, 1e-2]}, "pbt_interval": 100}


def search(**settings: Any) -> Population:
    return Population(pbt={"lr": (1e-4, 1e-2)}, **settings)


def test_a_member_whose_settings_change_on_the_way_equals_one_alone_with_them() -> None:
    changed: dict[str, float] = {"lr": 5e-3, "weight_decay": 0.3, "ema_rate": 0.5}
    pack = Pack(small(ema_rate=0.05), [3, 4, 5], own=[*SETTINGS, {}])
    alone = [
        Pack(small(ema_rate=0.05), [seed], own=[own]) for seed, own in zip((3, 4, 5), (*SETTINGS, {}), strict=True)
    ]
    for step in range(1, 7):
        if step == 4:
            pack.change(1, changed)
            alone[1].change(0, changed)
        together = pack.update(batch(3), step)
        apart = [one.update(batch(1), step) for one in alone]
        assert together["actor_loss"].tolist() == [found["actor_loss"].item() for found in apart]
        assert together["lr"][0].item() == 1e-3
    for index, one in enumerate(alone):
        assert torch.equal(pack.parameters[index], one.parameters[0])
        ours, theirs = pack.weights(index), one.weights(0)  # the averages
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_member_that_takes_anothers_state_goes_on_as_that_one_with_batches_of_its_own() -> None:
    pack = Pack(small(ema_rate=0.05), [3, 4], own=SETTINGS)
    for step in range(1, 4):
        pack.update(batch(2), step)
    state = pack.member_state(1)
    pack.load_member_state(0, state)
    assert pack.own(0) == SETTINGS[1]
    heir = Pack(small(ema_rate=0.05), [3])
    heir.load_member_state(0, state)
    for step in range(4, 7):
        pack.update(batch(2), step)
        heir.update(batch(1), step)
    assert torch.equal(pack.parameters[0], heir.parameters[0])
    assert not torch.equal(pack.parameters[0], pack.parameters[1])


def test_members_cannot_differ_in_what_they_share() -> None:
    with pytest.raises(SpecError, match="batch_size: members of a pack cannot differ in it"):
        Pack(small(), [0, 1], own=[{"batch_size": 4.0}, {}])
    with pytest.raises(SpecError, match="there is no average of the weights"):
        Pack(small(), [0], own=[{"ema_rate": 0.1}])


def test_the_worst_fifth_takes_from_the_best_fifth_and_nobody_from_one_that_is_no_better() -> None:
    population, seeds = search(), list(range(10))
    scores = [(float(place), 0.0) for place in (4, 9, 2, 0, 7, 8, 1, 5, 3, 6)]
    taken = exchanges(population, seeds, 100, scores)
    assert set(taken) == {3, 6}
    assert set(taken.values()) <= {1, 5}
    assert taken == exchanges(population, seeds, 100, scores), "a function of seeds, step and scores"
    assert exchanges(population, seeds, 100, [(1.0, 0.0)] * 10) == {}
    assert exchanges(population, [0, 1], 100, [(math.nan, 0.0), (0.5, 0.0)]) == {0: 1}
    assert exchanges(population, [0, 1, 2], 100, [(0.1, 0.0), (0.5, 0.0), (0.3, 0.0)]) == {0: 1}


def test_settings_are_multiplied_or_drawn_anew_and_stay_within_their_bounds() -> None:
    kept = [explored(search(pbt_resample=0.0), seed, 100, {"lr": 1e-3})["lr"] for seed in range(50)]
    assert set(kept) == {1e-3 * 0.8, 1e-3 * 1.2}
    assert explored(search(pbt_resample=0.0), 0, 100, {"lr": 1e-2})["lr"] <= 1e-2
    drawn = [explored(search(pbt_resample=1.0), seed, 100, {"lr": 1e-3})["lr"] for seed in range(200)]
    assert all(1e-4 <= value <= 1e-2 for value in drawn)
    assert 0.35 < sum(value < 1e-3 for value in drawn) / 200 < 0.65, "evenly on a logarithmic scale"
    first = first_settings(build_run(PBT))
    assert first is not None
    assert len({own["lr"] for own in first}) == 5
    assert first == first_settings(build_run(PBT))
    assert first_settings(build_run({"seeds": [0, 1]})) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pbt": {"lr": [1e-2, 1e-4]}}, "must rise"),
        ({"pbt": {"learning_rate": [1e-4, 1e-2]}}, "cannot differ in 'learning_rate'"),
        ({"pbt": {}}, "names no setting"),
        ({"seeds": [0]}, "one seed has nobody"),
        ({"pbt_interval": 10**6}, "no exchange"),
        ({"eval_episodes": 0}, "nothing tells the members apart"),
        ({"pbt": {"ema_rate": [1e-3, 1e-1]}}, "give ema_rate="),
        ({"num_workers": 2, "launcher": "ray"}, "in one process"),
    ],
)
def test_a_population_that_makes_no_sense_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        build_run({**PBT, **changes})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_keys_that_change_nothing_beside_a_population_are_refused() -> None:
    with pytest.raises(SpecError, match=r"lr=0\.001 changes nothing beside pbt"):
        check_effects(build_run({**PBT, "lr": 1e-3}), ["lr"])
    with pytest.raises(SpecError, match=r"pbt_share=0\.5 changes nothing without pbt"):
        check_effects(build_run({"pbt_share": 0.5}), ["pbt_share"])
    algorithm = small()
    check_useful(["lr"], algorithm, Pack(algorithm, [0]).members[0])


@pytest.mark.parametrize("word", ["racing=halving", "confirm_seeds=1", "lr=1e-4,1e-3"])
def test_a_sweep_does_not_take_a_population_apart(monkeypatch, capsys, tmp_path, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("algo=bc", "env_name=hopper-medium-v2", "seeds=[0,1,2,3]", "pbt={lr:[1e-4,1e-2]}", "policy=mse,gmm")
    said = understudy(monkeypatch, capsys, "sweep", *words, word, "--cfg")
    assert said.code == 2
    assert "pbt" in said.err
    assert said.err.count("\n") == 1


def test_evaluations_are_part_of_what_is_trained_where_they_decide_it() -> None:
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return build_run(one).fingerprint() == build_run(other).fingerprint()

    assert same({"seeds": [0, 1]}, {"seeds": [0, 1], "eval_episodes": 20})
    assert not same(PBT, {**PBT, "eval_episodes": 20})
    assert same(PBT, {**PBT, "video_episodes": 1})
    assert not any(key.startswith("pbt") for key in build_run({}).flat())
