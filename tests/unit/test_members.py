"""Members of one pack that are of different configurations: each equals its configuration trained alone.

Shapes: K members, B samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.test_algorithms import NAMES, batch, make

from understudy.algorithm import Algorithm
from understudy.errors import SpecError, TrainingDiverged
from understudy.registry import algorithms
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import Mode

END = 6
OF_THE_OPTIMISER: list[dict[str, Any]] = [
    {"lr": 1e-3, "weight_decay": 0.1, "warmup_steps": 3, "grad_clip": 0.1, "ema_rate": 0.5},
    {"lr": 3e-3, "adam_beta1": 0.5, "adam_beta2": 0.9, "adam_eps": 1e-3, "grad_clip": None},
    {"lr_schedule": "cosine", "warmup_steps": 1, "grad_clip": 5.0, "weight_decay": 1e-3},
]
SHARED: dict[str, Any] = {"ema_rate": 0.1, "grad_clip": 1.0}
OF_LOSSES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "act": ({}, [{"kl_weight": 1.0, "dropout": 0.2}, {"kl_weight": 20.0, "dropout": 0.4}]),
    "bc": ({"dropout": 0.1}, [{"dropout": 0.3}, {"dropout": 0.5, "lr": 1e-2}]),
    "bc_transformer": ({}, [{"dropout": 0.3}, {"dropout": 0.5}]),
    "ddpm_bc": ({}, [{"dropout": 0.3}, {"dropout": 0.5}]),
    "flow_bc": ({"actor": "one_step"}, [{"alpha": 1.0}, {"alpha": 3.0, "warmup_steps": 2}]),
    "iql": ({}, [{"beta": 1.0, "expectile": 0.9}, {"beta": 5.0, "expectile": 0.6}]),
    "reward_classifier": ({}, [{"dropout": 0.3}, {"dropout": 0.5}]),
    "td3_bc": ({}, [{"alpha": 1.0}, {"alpha": 4.0}]),
    "vq_bet": ({}, [{"primary_weight": 1.0, "dropout": 0.2}, {"secondary_weight": 2.0, "offset_weight": 1.0}]),
}
EACH_METHOD = pytest.mark.parametrize("name", OF_LOSSES)


def pack_of(algorithm: Algorithm, own: list[dict[str, Any]], **facts: Any) -> Pack:
    return Pack(algorithm, list(range(3, 3 + len(own))), own=own, training_steps=END, **facts)


def alone(algorithm: Algorithm, own: dict[str, Any], seed: int) -> Pack:
    """Return the configuration's own pack of one: nothing in it knows of members that differ."""
    return Pack(algorithm.with_config(**own), [seed], training_steps=END)


def train(pack: Pack, first: int, last: int, members: list[int] | None = None) -> list[dict[str, torch.Tensor]]:
    found = []
    for step in range(first, last + 1):
        count = len(pack) if members is None else len(members)
        found.append(pack.update(batch(pack.algorithm, step, count), step, members=members))
    return found


def assert_same_state(pack: Pack, k: int, other: Pack) -> None:
    mine, theirs = pack.member_state(k), other.member_state(0)
    mine.pop("own", None)
    assert all("/metrics/" in name for name in flat(mine).keys() ^ flat(theirs).keys())  # of what others clip
    for name, value in flat(theirs).items():
        found = flat(mine)[name]
        same = torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
        assert same, name


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(state, dict):
        return {prefix: state}
    return {name: value for key, part in state.items() for name, value in flat(part, f"{prefix}/{key}").items()}


@pytest.mark.parametrize("name", ["flow_bc", "sac"])
def test_members_of_other_optimisers_equal_their_configurations_alone_bit_for_bit(name: str) -> None:
    algorithm = make(name, **SHARED)
    pack = pack_of(algorithm, OF_THE_OPTIMISER)
    rows = train(pack, 1, END)
    for k, own in enumerate(OF_THE_OPTIMISER):
        one = alone(algorithm, own, 3 + k)
        for row, expected in zip(rows, train(one, 1, END), strict=True):
            assert {key: row[key][k].item() for key in expected} == {key: expected[key].item() for key in expected}
        assert_same_state(pack, k, one)


@EACH_METHOD
def test_members_of_other_losses_and_dropout_equal_their_configurations_alone_bit_for_bit(name: str) -> None:
    settings, own = OF_LOSSES[name]
    algorithm = make(name, **settings)
    pack = pack_of(algorithm, [*own, {}])
    rows = train(pack, 1, 3)
    held_out = pack.losses(batch(algorithm, 9, 3), 0)
    for k, settings in enumerate([*own, {}]):
        one = alone(algorithm, settings, 3 + k)
        for row, expected in zip(rows, train(one, 1, 3), strict=True):
            assert {key: row[key][k].item() for key in expected} == {key: expected[key].item() for key in expected}
        assert_same_state(pack, k, one)
        for key, value in one.losses(batch(algorithm, 9), 0).items():
            assert value.item() == held_out[key][k].item(), key


@EACH_METHOD
def test_a_stacked_pack_of_members_that_differ_follows_a_looped_one(name: str) -> None:
    settings, own = OF_LOSSES[name]
    modes: tuple[Mode, ...] = ("loop", "vmap")
    looped, stacked = (pack_of(make(name, **settings), [*own, {}], mode=mode) for mode in modes)
    first, second = train(looped, 1, 3), train(stacked, 1, 3)
    assert stacked.mode == "vmap", "it gave way to members in turn: a poor test"
    for row, other in zip(first, second, strict=True):
        for key in row:
            np.testing.assert_allclose(row[key], other[key], rtol=1e-3, atol=1e-5, err_msg=key)


def test_members_of_which_some_drop_out_and_others_do_not_are_run_one_after_the_other() -> None:
    own = [{"dropout": 0.0}, {"dropout": 0.5}]
    stacked, looped = (pack_of(make("bc"), own, mode=mode) for mode in ("vmap", "loop"))
    train(stacked, 1, 2)
    train(looped, 1, 2)
    assert stacked.mode == "loop"
    assert torch.equal(stacked.parameters, looped.parameters)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
@pytest.mark.parametrize("name", ["flow_bc", "sac", "ddpm_bc"])
def test_a_member_that_leaves_stays_as_it_is_and_the_others_go_on_unchanged(name: str, mode: Mode) -> None:
    algorithm = make(name, **SHARED)
    own = OF_THE_OPTIMISER if name != "ddpm_bc" else [{"lr": 1e-3}, {"dropout": 0.4}, {"dropout": 0.2}]
    pack, whole = (pack_of(algorithm, own, mode=mode) for _ in range(2))
    train(pack, 1, 2)
    left = pack.member_state(1)
    found = train(pack, 3, END, [0, 2])
    expected = train(whole, 1, END)[2:]
    assert_equal_states(pack.member_state(1), left)
    compare = torch.equal if mode == "loop" else torch.allclose
    for row, other in zip(found, expected, strict=True):
        assert all(torch.allclose(row[key], other[key][[0, 2]], rtol=1e-4, equal_nan=True) for key in row)
    for k in (0, 2):
        assert compare(pack.parameters[k], whole.parameters[k])
        assert compare(pack.acting_values[k], whole.acting_values[k])


def assert_equal_states(mine: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in flat(other).items():
        found = flat(mine)[name]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else repr(found) == repr(value), name


@pytest.mark.parametrize("name", ["flow_bc", "sac"])
def test_a_member_that_diverges_is_frozen_and_the_others_go_on_unchanged(name: str) -> None:
    algorithm = make(name, **SHARED)
    pack, sound = (pack_of(algorithm, OF_THE_OPTIMISER, freezes=True) for _ in range(2))
    train(pack, 1, 2)
    train(sound, 1, 3)
    before = pack.parameters[1].clone()
    bad = batch(algorithm, 3, 3)
    bad["actions"] = bad["actions"].clone()
    bad["actions"][1] = torch.nan
    pack.update(bad, 3)
    assert torch.equal(pack.parameters[1], before)
    for k in (0, 2):
        pack.check_finite([k])
        assert torch.equal(pack.parameters[k], sound.parameters[k])
    with pytest.raises(TrainingDiverged, match="seed 4 stopped being finite at step 3"):
        pack.check_finite([1])
    train(pack, 4, END, [0, 2])
    train(sound, 4, END)
    assert torch.equal(pack.parameters[[0, 2]], sound.parameters[[0, 2]])


def test_where_all_members_diverge_none_is_touched() -> None:
    pack = pack_of(make("sac"), [{}, {"lr": 1e-3}], freezes=True)
    before, bad = pack.parameters.clone(), batch(pack.algorithm, 1, 2)
    bad["rewards"] = bad["rewards"] * torch.nan
    pack.update(bad, 1)
    assert torch.equal(pack.parameters[:, pack.layout.place("critic")], before[:, pack.layout.place("critic")])
    with pytest.raises(TrainingDiverged):
        pack.check_finite()


@EACH_METHOD
def test_members_that_differ_go_on_from_their_saved_states_bit_for_bit(name: str, tmp_path: Any) -> None:
    settings, own = OF_LOSSES[name]
    whole, before, after = (pack_of(make(name, **settings), own) for _ in range(3))
    train(whole, 1, 4)
    train(before, 1, 2)
    torch.save([before.member_state(k) for k in range(2)], tmp_path / "members.pt")
    for k, state in enumerate(torch.load(tmp_path / "members.pt", weights_only=True)):
        after.load_member_state(k, state)
    train(after, 3, 4)
    assert torch.equal(whole.parameters, after.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_may_differ_are_settings_of_the_method(name: str) -> None:
    kind = algorithms.get(name).Config
    assert {"lr", "weight_decay", "ema_rate"} <= kind.may_differ() <= kind.model_fields.keys()
    assert not kind.may_differ() & {"batch_size", "hidden_dims", "horizon_length", "precision"}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"hidden_dims": (8,)}, "hidden_dims: members of a pack cannot differ in it"),
        ({"dropuot": 0.1}, "did you mean 'dropout'"),
        ({"ema_rate": None}, "either all members of a pack act with an average"),
        ({"saliency_weight": 1.0}, "learn from batches of one kind"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_a_setting_that_a_pack_cannot_give_one_member_is_refused(own: dict[str, Any], said: str) -> None:
    with pytest.raises((SpecError, ValueError), match=said):
        Pack(make("bc", **SHARED), [0, 1], own=[{}, own])
