"""The command line: both spellings, Hydra's values and groups, and every command line of the first users' guide."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.unit.command_line import Said, understudy

from understudy.errors import SpecError, UserError
from understudy.spec.compose import flat_values, parse, split_sweeps, to_overrides
from understudy.spec.keys import build_run, key_groups


def values(*words: str, config_dir: str | None = None) -> dict:
    plain, sweeps = split_sweeps(parse(words))
    assert not sweeps
    return flat_values(plain, config_dir)


@pytest.fixture
def say(monkeypatch, capsys):
    def command(*words: str) -> Said:
        return understudy(monkeypatch, capsys, *words)

    return command


@pytest.mark.parametrize(
    "words",
    [
        ("lr=1e-4", "sparse=true"),
        ("--lr=1e-4", "--sparse=True"),
        ("--lr", "1e-4", "--sparse"),
        ("--sparse", "--lr", "1e-4"),
        ("--sparse", "lr=1e-4"),
    ],
)
def test_every_spelling_of_a_key_means_the_same(words) -> None:
    assert values(*words) == {"lr": 1e-4, "sparse": True}


def test_dashes_in_a_flag_are_underscores_and_dashes_in_a_value_stay() -> None:
    assert to_overrides(["--env-name=lift-mh-low_dim", "--run-group", "a-b"]) == [
        "env_name=lift-mh-low_dim",
        "run_group=a-b",
    ]


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert values("--save_interval", "-1", "--eval_seed=7") == {"save_interval": -1, "eval_seed": 7}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("encoder=None", None),
        ("encoder=null", None),
        ("--encoder=None", None),
        ("sparse=True", True),
        ("sparse=false", False),
        ("lr=1e-4", 1e-4),
        ("lr=3E-4", 3e-4),
        ("hidden_dims=[256,256]", [256, 256]),
        ("run_group=BC_MuJoCo_v1", "BC_MuJoCo_v1"),
        ("env_name=halfcheetah-medium-v2", "halfcheetah-medium-v2"),
        ("tracking_uri=http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("tracking_uri=sqlite:////tmp/a.db?mode=rw&x=1", "sqlite:////tmp/a.db?mode=rw&x=1"),
        ("save_dir=runs/my run (2)/", "runs/my run (2)/"),
        ("save_dir=/data/lr=1e-4/seed=0", "/data/lr=1e-4/seed=0"),
        ("save_dir='quoted, comma'", "quoted, comma"),
        ("run_group=it's", "it's"),
        ("run_group=007", "007"),
        ("--project=1e3", "1e3"),
        ("save_dir=nan", "nan"),
    ],
)
def test_values_are_read_as_a_user_means_them(word, value) -> None:
    assert values(word) == {word.lstrip("-").split("=")[0]: value}


@pytest.mark.parametrize("words", [("lr",), ("1e-4",), ("--lr=1", "2"), ("--=3",)])
def test_a_word_that_is_no_setting_is_refused_with_the_way_to_write_one(words) -> None:
    with pytest.raises(UserError, match="write key=value or --key=value"):
        values(*words)


@pytest.fixture
def groups(tmp_path: Path) -> str:
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / "lift.yaml").write_text("# @package _global_\nenv_name: lift-mh-low_dim\nlr: 1.0e-4\n")
    (tmp_path / "robot" / "can.yaml").write_text("# @package _global_\nenv_name: can-mh-low_dim\n")
    return str(tmp_path)


def test_a_group_of_the_users_own_sets_keys_and_a_key_on_the_line_wins(groups) -> None:
    assert values("robot=lift", config_dir=groups) == {"env_name": "lift-mh-low_dim", "lr": 1e-4}
    assert values("lr=2e-4", "--robot=lift", config_dir=groups)["lr"] == 2e-4


def test_the_packages_groups_stay_there_beside_the_users(groups) -> None:
    assert values("experiment=quickstart", "robot=can", config_dir=groups)["project"] == "quickstart"


def test_an_unknown_option_of_a_group_is_refused_with_the_nearest(groups) -> None:
    with pytest.raises(SpecError, match=r"unknown robot 'lfit' \(did you mean 'lift'\?\); allowed: can, lift"):
        values("robot=lfit", config_dir=groups)


def test_a_config_dir_that_is_missing_or_holds_bad_yaml_is_one_line(tmp_path, say) -> None:
    assert "no such folder" in say("train", "--config-dir", str(tmp_path / "no"), "--cfg").err
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / "bad.yaml").write_text("a: [1, 2\nb: {\n")
    said = say("train", "--config-dir", str(tmp_path), "robot=bad", "--cfg")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "bad.yaml" in said.err


def test_the_group_can_be_chosen_from_the_real_command(say, groups) -> None:
    assert say("train", "--config-dir", groups, "robot=lift", "--cfg").yaml["env_name"] == "lift-mh-low_dim"


GUIDE = {
    "--env_name=halfcheetah-medium-v2 --training_steps=100000 --eval_interval=10000 --seed=0": {
        "env_name": "halfcheetah-medium-v2",
        "training_steps": 100_000,
        "eval_interval": 10_000,
        "seed": 0,
    },
    "--env_name=halfcheetah-medium-v2 --training_steps=100000 --action_chunking=True --horizon_length=5 --seed=0": {
        "training_steps": 100_000,
        "action_chunking": True,
        "horizon_length": 5,
    },
    "--env_name=visual-singletask-task0-v0 --encoder=impala_small --training_steps=500000"
    " --batch_size=128 --lr=1e-4 --seed=0": {
        "env_name": "visual-singletask-task0-v0",
        "encoder": "impala_small",
        "training_steps": 500_000,
        "batch_size": 128,
        "lr": 1e-4,
    },
    "--env_name=lift-mh-low_dim --training_steps=200000 --action_chunking=True --horizon_length=10"
    " --batch_size=256 --seed=0": {
        "env_name": "lift-mh-low_dim",
        "training_steps": 200_000,
        "action_chunking": True,
        "horizon_length": 10,
        "batch_size": 256,
    },
    "--env_name=halfcheetah-medium-v2 --seed=4 --run_group=BC_seeds": {"seed": 4, "run_group": "BC_seeds"},
    "--env_name=halfcheetah-medium-v2 --lr=3e-4 --run_group=lr_search": {"lr": 3e-4, "run_group": "lr_search"},
    "--env_name=halfcheetah-medium-v2 --flow_steps=20 --run_group=flow_search": {
        "flow_steps": 20,
        "run_group": "flow_search",
    },
    "--batch_size=128": {"batch_size": 128},
    "--batch_size=512": {"batch_size": 512},
    "--device=cpu": {"device": "cpu"},
    "--dataset_proportion=0.5": {"dataset_proportion": 0.5},
    "--dataset_replace_interval=1000": {"dataset_replace_interval": 1000},
    "--ogbench_dataset_dir=/data/ogbench": {"ogbench_dataset_dir": "/data/ogbench"},
    "--ogbench_dataset_dir=None": {"ogbench_dataset_dir": None},
    "--encoder=None": {"encoder": None},
    "--sparse=True": {"sparse": True},
    "--use_fourier_features=True": {"use_fourier_features": True},
    "--run_group=BC_MuJoCo_v1": {"run_group": "BC_MuJoCo_v1"},
    "--eval_interval=50000 --eval_episodes=50": {"eval_interval": 50_000, "eval_episodes": 50},
    "--eval_episodes=100 --video_episodes=5 --video_frame_skip=2": {"eval_episodes": 100, "video_episodes": 5},
    "--save_interval=10000": {"save_interval": 10_000},
    "--save_interval=-1": {"save_interval": -1},
    "--horizon_length=10": {"horizon_length": 10},
    "--offline_steps=1000": {"training_steps": 1000},
    **{
        f"--env_name={name}": {"env_name": name}
        for name in (
            *("walker2d-medium-v2", "hopper-medium-v2", "halfcheetah-medium-expert-v2", "walker2d-medium-expert-v2"),
            *("antmaze-umaze-v2", "antmaze-medium-play-v2", "pen-human-v1", "hammer-human-v1", "door-human-v1"),
            *("relocate-human-v1", "can-mh-low_dim", "square-mh-low_dim", "transport-mh-low_dim"),
            "visual-singletask-task1-v0",
        )
    },
}
"""Command lines of the users' first guide, after the program's name, and what they set."""

DEFAULTS = {
    **{"run_group": "BC", "seed": 0, "env_name": "halfcheetah-medium-v2"},
    **{"training_steps": 1_000_000, "batch_size": 256, "log_interval": 1000},
    **{"eval_interval": 50_000, "save_interval": 100_000},
    **{"lr": 3e-4, "flow_steps": 10, "horizon_length": 5, "action_chunking": False, "use_fourier_features": False},
    **{"eval_episodes": 10, "video_episodes": 0, "video_frame_skip": 3},
    "eval_temperature": None,  # the guide's 0, but for an actor that chooses among samples
    **{"dataset_proportion": 1.0, "dataset_replace_interval": 0, "ogbench_dataset_dir": None, "sparse": False},
    **{"encoder": None, "algo": "flow_bc"},
}
"""The same guide's defaults."""


def test_the_guides_defaults_are_the_defaults(say) -> None:
    shown = say("train", "--cfg").yaml
    assert {key: shown[key] for key in DEFAULTS} == DEFAULTS
    assert shown["save_dir"] == str(Path("runs/fbc").absolute())


@pytest.mark.parametrize("line", GUIDE)
def test_a_command_line_of_the_guide_sets_what_it_says_and_nothing_else(say, line) -> None:
    said = say("train", "--cfg", *line.split())
    wrong = [word for word in ("visual-singletask", "/data/ogbench") if word in line]
    assert said.code == (2 if wrong else 0), said.err
    assert all(f"understudy: {word}" in said.err or word in said.err for word in wrong)
    shown = yaml.safe_load(said.out)
    untouched = {key: value for key, value in DEFAULTS.items() if f"--{key}=" not in line}
    assert {key: shown[key] for key in GUIDE[line]} == GUIDE[line]
    assert {key: shown[key] for key in untouched} == {
        **untouched,
        **{k: v for k, v in GUIDE[line].items() if k in untouched},
    }


def test_what_cfg_prints_builds_the_same_run_again(say) -> None:
    shown = say("train", "--cfg", "lr=1e-5", "seeds=[3,1]", "hidden_dims=[64,64]", "algo=bc", "encoder=None").yaml
    assert build_run(shown).flat() == shown


@pytest.mark.parametrize(
    "words", [("seed=0,1,2",), ("--seed=0,1,2",), ("seeds=0,1,2",), ("seeds=[0,1,2]",), ("seed=range(0,3)",)]
)
def test_several_seeds_can_be_given_to_train_in_any_way(say, words) -> None:
    assert say("train", "--cfg", *words).yaml["seeds"] == [0, 1, 2]


def test_train_refuses_several_values_and_names_the_command_that_takes_them(say) -> None:
    said = say("train", "--cfg", "lr=1e-4,3e-4")
    assert said.code == 2
    assert said.err == "understudy: lr has several values: `understudy sweep` tries them; train takes one\n"


def test_seeds_from_an_interval_are_refused(say) -> None:
    assert "seed=interval(0,3): give a list of values" in say("train", "--cfg", "seed=interval(0,3)").err


def test_the_version_is_printed(say) -> None:
    from understudy import __version__

    assert say("--version").out == f"understudy {__version__}\n"


@pytest.mark.parametrize(
    "words", [("trian",), ("data", "lst"), ("ui", "--port", "x"), ("evaluate",), ("runs", "list", "--bogus")]
)
def test_a_word_that_no_command_has_is_one_line_that_names_the_help(say, words) -> None:
    said = say(*words)
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert "--help`" in said.err


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_help_shows_every_key_of_the_chosen_algorithm(say, command) -> None:
    said = say(command, "--help", "algo=ddpm_bc")
    assert said.code == 0
    for key in ("env_name", "sampling_steps", "hidden_dims", "save_interval", "none, zscore, bounds"):
        assert key in said.out
    assert "flow_steps" not in said.out.split("keys of algo=")[1]
    titles = [line for line in said.out.splitlines() if line.startswith("keys of ")]
    assert len(titles) == len(key_groups("ddpm_bc")) + (command == "sweep")


def test_runs_are_listed_newest_first_with_children_below_their_parents() -> None:
    from understudy.cli.runs import under_parents

    rows = [("c2", "p1"), ("p2", None), ("c1", "p1"), ("p1", None), ("lost", "elsewhere")]
    ordered = under_parents([{"run_id": name, "parent_run_id": parent} for name, parent in rows])
    assert [run["run_id"] for run in ordered] == ["p2", "p1", "c2", "c1", "lost"]


def test_variables_of_the_environment_are_not_read_from_yaml(say, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for text in ("run_group: ${oc.env:MY_TOKEN}\n", "run_group: a-${oc.decode:${oc.env:MY_TOKEN,x}}\n"):
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\n" + text)
        said = say("train", "--config-dir", str(tmp_path / "conf"), "experiment=mine", "--cfg")
        assert said.code == 2
        assert "${oc.env:MY_TOKEN" in said.err
        assert "hunter2" not in said.out + said.err
