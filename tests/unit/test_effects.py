"""Nothing that is typed is accepted without effect or note."""

from __future__ import annotations

import pytest

from understudy.errors import SpecError
from understudy.spec.compose import flat_values, parse
from understudy.spec.effects import check_effects
from understudy.spec.keys import build_run


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
        ("augment_saliency=true", "augmentation"),
        ("augment_order=[random_hue]", "augmentation"),
        ("random_hue=0.2", "random_hue in augmentation= or augment_order="),
        ("random_shift=2 encoder=impala_small augmentation=bridge", "random_shift in augmentation= or augment_order="),
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
