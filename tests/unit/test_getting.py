"""A dataset that is not here: what is said works for its name when it is typed, and files of other tools are found."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.contract.lerobot_examples import written
from tests.contract.source_examples import EXAMPLES, made_up, one_line
from tests.unit.command_line import understudy

from understudy.envs.sources.getting import find_dataset
from understudy.envs.sources.opening import open_named
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.errors import DatasetError, UnknownName, UserError
from understudy.registry import sources
from understudy.spec.keys import build_run

HOPPER, CUBES = EXAMPLES["d4rl"], EXAMPLES["ogbench"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default folder of datasets of a user who has nothing."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "understudy"))
    for name in ("D4RL_DATASET_DIR", "MINARI_DATASETS_PATH", "HF_LEROBOT_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "understudy" / "datasets"


def said_of(name: str, data: Path) -> str:
    with pytest.raises(UserError) as error:
        find_dataset(name, data)
    return one_line(error, repr(name))


DOWNLOAD, GENERATE = "understudy data download {}", "understudy data generate {}"


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("hopper-medium-v2", [DOWNLOAD]),
        ("hopper-policy-v2", [f"{GENERATE} --policy MODEL", "understudy data import d4rl FILE --name {}"]),
        ("minari:D4RL/pointmaze/umaze-v2", [DOWNLOAD]),
        ("minari:pendulum/scripted-v0", [GENERATE, "understudy data import minari FOLDER --name {}"]),
        ("lift-mh-low_dim", [DOWNLOAD, GENERATE]),
        ("lift-scripted-low_dim", [GENERATE, "understudy data import robomimic FILE --name {}"]),
        (
            "expert:Pendulum-v1",
            [f"{GENERATE} --policy MODEL", "understudy data import expert_buffer FOLDER --name {}"],
        ),
        (
            "bridge:lift carrot",
            ["understudy data import bridge FOLDER --name {}", "understudy data import bridge-raw ROOT --name {}"],
        ),
        ("lerobot:a/b", ["understudy data import lerobot FOLDER --name {}"]),
    ],
)
def test_only_ways_that_work_for_the_name_are_said(data: Path, name: str, ways: list[str]) -> None:
    assert re.findall(r"`([^`]*)`", said_of(name, data)) == [way.format(shlex.quote(name)) for way in ways]


def test_demonstrations_that_get_another_name_are_said_to(data: Path) -> None:
    said = said_of("cube-single-play-singletask-task1-v0", data)
    assert "of its task, called cube-single-scripted-singletask-task1-v0)" in said


def test_another_folder_of_datasets_is_part_of_the_command(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    assert f"`understudy data download hopper-medium-v2 --data_dir '{folder}'`" in said_of("hopper-medium-v2", folder)


def own(data: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.hdf5"
    sources.get("d4rl").write(file, iter(made_up(HOPPER, [3])), HOPPER.env_name, {})
    import_file(task_of(HOPPER.env_name), file, data, ImportOptions(name=name))


def test_ones_own_datasets_are_suggested_first(data: Path, tmp_path: Path) -> None:
    own(data, tmp_path, "my-reach")
    for look in (lambda: find_dataset("my-rech", data), lambda: open_named(build_run({"env_name": "my-rech"}))):
        with pytest.raises(UnknownName) as error:
            look()
        one_line(error, "'my-rech' (did you mean 'my-reach'?); in ", ": my-reach")
    with pytest.raises(UnknownName) as error:
        find_dataset("hoper-medium-v2", data)
    one_line(error, "did you mean 'hopper-medium-v2'?")


FOUND = {
    "d4rl": (HOPPER.env_name, "home/.d4rl/datasets/hopper_medium-v2.hdf5"),
    "ogbench": ("cube-single-play-singletask-task1-v0", "home/.ogbench/data/cube-single-play-v0.npz"),
    "minari": ("minari:mine/pendulum-v0", "home/.minari/datasets/mine/pendulum-v0"),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_other_tools_have_left_here_is_named_works_when_typed_and_trains(
    data: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, place = FOUND[kind]
    example, file = EXAMPLES[kind], tmp_path / place
    file.parent.mkdir(parents=True)
    sources.get(kind).write(file, iter(made_up(example, [4, 3])), example.env_name, {})
    command = re.findall(r"`([^`]*)`", said_of(name, data))[0]
    assert str(file) in command
    assert open_named(build_run({"env_name": name})).manifest.num_episodes == 2
    done = understudy(monkeypatch, capsys, *shlex.split(command)[1:], "--overwrite")
    assert done.code == 0, done.err
    assert find_dataset(name, data).manifest.num_episodes == 2


def test_minaris_and_d4rls_own_variables_are_followed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for kind, name, place in (
        ("d4rl", HOPPER.env_name, "d4rl/hopper_medium-v2.hdf5"),
        ("minari", "minari:mine/pendulum-v0", "minari/mine/pendulum-v0"),
    ):
        example, file = EXAMPLES[kind], tmp_path / place
        file.parent.mkdir(parents=True)
        sources.get(kind).write(file, iter(made_up(example, [4])), example.env_name, {})
        assert sources.get(kind).task(name).found() == file


def test_a_lerobot_dataset_that_is_nowhere_is_one_line_with_the_command_that_fetches_it(data: Path) -> None:
    with pytest.raises(DatasetError) as error:
        open_named(build_run({"env_name": "lerobot:user/name"}))
    place = data.parent / "lerobot" / "user" / "name"
    one_line(error, f"`hf download user/name --repo-type dataset --local-dir {place}`")


def test_lerobots_own_folder_is_looked_into(data: Path, tmp_path: Path) -> None:
    written(tmp_path / "home/.cache/huggingface/lerobot/me/pick", 2, pictures="image")
    assert open_named(build_run({"env_name": "lerobot:me/pick"})).manifest.num_episodes == 2


def test_a_run_fetches_its_dataset_where_it_is_told_to(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source, fetched = sources.get("d4rl"), tmp_path / "published.hdf5"
    source.write(fetched, iter(made_up(HOPPER, [3, 2])), HOPPER.env_name, {})

    def download(self: Any, folder: Path, progress: Any = None) -> Path:
        assert (self.env_name, folder) == (HOPPER.env_name, data / "raw")
        for tenth in range(1, 11):
            progress(tenth * 10**6, 10**7)
        return fetched

    kind = type(source.task(HOPPER.env_name))
    monkeypatch.setattr(kind, "download", download)
    with pytest.raises(DatasetError, match="or download=true"):
        open_named(build_run({"env_name": HOPPER.env_name}))
    run = build_run({"env_name": HOPPER.env_name, "download": True})
    assert open_named(run).manifest.num_episodes == 2
    assert "hopper-medium-v2: 5 MB of 10" in caplog.text
    monkeypatch.setattr(kind, "download", lambda *arguments: pytest.fail("it is here"))
    open_named(run)
    assert run.fingerprint() == build_run({"env_name": HOPPER.env_name}).fingerprint()


def test_what_cannot_be_fetched_is_not_offered_to_be(data: Path) -> None:
    with pytest.raises(DatasetError) as error:
        open_named(build_run({"env_name": "bridge:lift_carrot_100", "download": True}))
    assert "download" not in one_line(error, "understudy data import bridge-raw ROOT")
