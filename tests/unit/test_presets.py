"""Presets are published protocols: each composes for its methods, gives way to what is said, and says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.errors import SpecError
from understudy.spec.compose import flat_values, parse
from understudy.spec.keys import build_run, check_keys
from understudy.spec.presets import Preset, presets

EACH = pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)


def meant(*words: str, config_dir: str | None = None) -> dict[str, Any]:
    return flat_values(parse(list(words)), config_dir)


@EACH
def test_a_preset_is_a_run_of_each_method_that_it_is_for(preset: Preset) -> None:
    for algo in preset.about.get("methods", ["bc", "gc_ddpm_bc"]):
        values = meant(f"preset={preset.name}", f"algo={algo}", "env_name=lift-mh-low_dim")
        check_keys(values, algo)
        spec = build_run(values)
        own = {**preset.keys, **preset.by_algo.get(algo, {})}
        held = spec.flat() | {"algo": preset.keys.get("algo")}
        assert {key: held[key] for key in own} == own


@EACH
def test_a_preset_says_what_it_is_where_it_is_from_and_what_counts(preset: Preset) -> None:
    assert {"what", "source", "counts"} <= preset.about.keys()


def test_the_users_word_goes_first_by_whatever_name() -> None:
    spec = build_run(meant("preset=qc", "learning_rate=1e-5", "actor_type=distill-ddpg", "eval_temperature=0"))
    assert (spec.config.lr, spec.config.model_dump()["actor"], spec.config.eval_temperature) == (1e-5, "one_step", 0.0)


def test_a_preset_goes_before_the_one_that_a_task_of_bridgedata_brings() -> None:
    for words in (["preset=bridge", "bridgedata=put_it"], ["bridgedata=put_it", "preset=bridge"]):
        values = meant(*words)
        assert (values["grad_clip"], values["decay_steps"], values["env_name"]) == (None, 2_000_000, "bridge:put_it")


def test_a_preset_for_other_methods_is_answered() -> None:
    with pytest.raises(SpecError, match=r"preset=qc is for algo=flow_bc, not algo=bc$"):
        meant("preset=qc", "algo=bc")


def test_a_preset_of_ones_own_lies_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    about = "about: {what: ours, methods: [bc]}\n"
    (tmp_path / "preset" / "lab.yaml").write_text(f"# @package _global_\n{about}algo: bc\nlr: 0.5\n")
    assert meant("preset=lab", config_dir=str(tmp_path)) == {"algo": "bc", "lr": 0.5}
    with pytest.raises(SpecError, match="preset=lab is for algo=bc"):
        meant("preset=lab", "algo=act", config_dir=str(tmp_path))
