"""BridgeData: raw trees and out.npy files, against upstream's own way of reading them, written out here.

What every source keeps (round trips, damage) is in the contract suites; pickles are attacked in
tests/unit/test_bridge_unpickling.py.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.contract.bridge_tree import Recorded, make_tree
from tests.contract.source_examples import one_line, same_episodes
from tests.integration.commands import start
from tests.unit.command_line import Said, understudy

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.bridge.out_npy import read_trajectories
from understudy.envs.sources.bridge.parts import part_file
from understudy.envs.sources.bridge.raw import PARTS, ImportReport, RawImport, import_raw
from understudy.envs.sources.bridge.relabelling import relabel_actions
from understudy.envs.sources.bridge.source import Bridge
from understudy.envs.sources.bridge.trajectory import MAIN_CAMERA, Reading, loader, read_trajectory
from understudy.envs.sources.bridge.tree import Trajectory, scan
from understudy.envs.sources.source import task_of
from understudy.envs.store.finding import find_store
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import episodes_of, export_store, import_file
from understudy.envs.store.verification import verify_store
from understudy.errors import DatasetError, UserError

NEW, NEWER = "rss/kitchen/lift_carrot_100/00/2022-01-01_00-00-00", "rss/kitchen/lift_carrot_100/00/2022-01-02_03-04-05"
OLD = "icra/kitchen/pull_pot_100/00/2021-07-22_23-59-59"
LIFT, PULL = "bridge:rss/kitchen/lift_carrot_100/00", "bridge:icra/kitchen/pull_pot_100/00"
SIZE = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[Recorded]]:
    """Make a tree of three dated folders, one of them from before the cameras were in time."""
    root = tmp_path_factory.mktemp("bridge") / "raw"
    return root, make_tree(root, (NEW, NEWER, OLD), trajectories=3, steps=3, saliency=True)


@pytest.fixture(scope="module")
def root(made) -> Path:
    """The tree; read only."""
    return made[0]


@pytest.fixture
def broken(made, tmp_path) -> Path:
    """Copy one dated folder's tree, to be damaged; return the copy's root."""
    return Path(shutil.copytree(made[0] / "rss", tmp_path / "tree" / "rss")).parent


@pytest.fixture
def say(monkeypatch, capsys):
    def command(*words: Any) -> Said:
        return understudy(monkeypatch, capsys, *map(str, words))

    return command


def bring(root: Path, folder: Path, **changes: Any) -> ImportReport:
    """Import a tree with small pictures into `folder`/stores."""
    reading = changes.pop("reading", Reading(im_size=SIZE, saliency=True))
    return import_raw(RawImport(root, folder / "stores", reading=reading, **changes))


def upstreams_trajectory(folder: Path, dated: str, size: int) -> dict[str, Any]:
    """Read a raw trajectory as upstream's converter does: PIL for pictures, pickle, lists of dicts."""

    def squash(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).resize((size, size), Image.Resampling.LANCZOS)).astype(np.uint8)

    def squash_map(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))[..., None]

    observed = pickle.loads((folder / "obs_dict.pkl").read_bytes())  # noqa: S301  (made by this test)
    commands = pickle.loads((folder / "policy_out.pkl").read_bytes())  # noqa: S301
    maps = pickle.loads((folder / "saliency_map.pkl").read_bytes())  # noqa: S301
    frames = [squash(folder / "images0" / f"im_{t}.jpg") for t in range(len(observed["full_state"]))]
    columns = {
        "images0": frames,
        "state": observed["full_state"],
        "time_stamp": observed["time_stamp"],
        "saliency": [squash_map(one[0]) for one in maps],
    }
    steps = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    out = {
        "observations": steps[:-1],
        "next_observations": steps[1:],
        "actions": [one["actions"] for one in commands],
        "terminals": [0] * len(commands),
        "language": [line.strip() for line in (folder / "lang.txt").open() if "confidence" not in line],
    }
    if dated < "2021-07-23":
        for key in ("observations", "next_observations"):
            out[key] = out[key][1:]
        for key in ("actions", "terminals"):
            out[key] = out[key][:-1]
    return out


def upstreams(trajectory: Trajectory, size: int = SIZE) -> dict[str, Any]:
    return upstreams_trajectory(trajectory.path, trajectory.name[:19], size)


@pytest.mark.parametrize("exact", [True, False])
def test_a_raw_tree_is_read_as_upstream_reads_it(root, tmp_path, exact) -> None:
    report = bring(root, tmp_path, reading=Reading(im_size=SIZE, saliency=True, exact=exact))
    assert report.stores == [PULL, LIFT]
    assert report.skipped == []
    tree = scan(root, 5, 0.9, 0)
    for name in report.stores:
        store = find_store(name, tmp_path / "stores")
        trajectories = tree.tasks[name.removeprefix("bridge:")]
        for episode, trajectory in zip(episodes_of(store), trajectories, strict=True):
            wanted = upstreams(trajectory)
            steps, last = wanted["observations"], wanted["next_observations"][-1]
            found = np.concatenate([episode["images/images0"], episode["final_images/images0"][None]]).astype(int)
            pictures = np.stack([step["images0"] for step in [*steps, last]])
            assert np.abs(found - pictures).max() <= (0 if exact else 1)
            states = np.stack([step["state"] for step in steps]).astype(np.float32)
            assert episode["observations"].tobytes() == states.tobytes()
            assert episode["final_observation"].tobytes() == last["state"].astype(np.float32).tobytes()
            assert episode["actions"].tobytes() == np.stack(wanted["actions"]).astype(np.float32).tobytes()
            assert episode["time_stamp"].tolist() == [step["time_stamp"] for step in steps]
            np.testing.assert_allclose(
                episode["saliency/images0"], np.stack([step["saliency"] for step in steps]), atol=1e-5
            )
            assert episode["language"] == "\n".join(wanted["language"]) == "lift the carrot\npick up the orange thing"
            assert not episode["terminals"].any()


def test_before_the_cameras_were_in_time_the_first_picture_and_the_last_action_go(made) -> None:
    recorded = next(item for item in made[1] if OLD in item.folder.as_posix())
    reading = Reading(im_size=8)
    late, timely = (read_trajectory(recorded.folder, is_late, reading) for is_late in (True, False))
    assert len(late["actions"]) == len(timely["actions"]) - 1
    assert late["actions"].tolist() == timely["actions"][:-1].tolist()
    assert late["images/images0"].tolist() == timely["images/images0"][1:].tolist()
    assert late["observations"].tolist() == timely["observations"][1:].tolist()
    assert late["final_observation"].tolist() == timely["final_observation"].tolist()
    dates = {item.name[:19]: item.is_late for item in scan(made[0], 5, 1.0, 0).trajectories}
    assert dates == {OLD[-19:]: True, NEW[-19:]: False, NEWER[-19:]: False}


def test_pictures_are_squeezed_to_the_square_and_not_cropped(made) -> None:
    folder = made[1][0].folder
    found = read_trajectory(folder, False, Reading(im_size=16))["images/images0"][0]
    corner = np.asarray(Image.open(folder / "images0" / "im_0.jpg"))[-24:, -30:].mean((0, 1))
    assert np.abs(found[-1, -1] - corner).max() < 25
    assert found.shape == (16, 16, 3)


def test_pictures_are_made_the_quick_way_where_torch_knows_it() -> None:
    try:
        torch.nn.functional.interpolate(torch.zeros(1, 3, 9, 9), size=(4, 4), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        assert loader(8, False).__name__ == "by_pillow"
    else:
        assert loader(8, False).__name__ == "quickly"
    assert loader(8, True).__name__ == "by_pillow"


def test_the_split_is_a_share_of_each_dated_folder_whatever_root_and_depth(root) -> None:
    def training(at: Path, depth: int, seed: int = 0) -> set[str]:
        return {item.path.as_posix() for item in scan(at, depth, 0.67, seed).trajectories if item.is_training}

    everything = training(root, 5)
    for dated in (NEW, NEWER, OLD):
        assert sum(dated in path for path in everything) == 2
    parts = [training(root / "rss", 4), training(root / "icra" / "kitchen", 3)]
    assert set().union(*parts) == everything
    assert training(root / "rss" / "kitchen" / "lift_carrot_100", 2) == parts[0]
    assert any(training(root, 5, seed) != everything for seed in range(1, 6))
    assert len(scan(root, 5, 1.0, 0).trajectories) == 9


@pytest.mark.parametrize(
    ("below", "depth", "tasks"),
    [
        ("", 5, ["icra/kitchen/pull_pot_100/00", "rss/kitchen/lift_carrot_100/00"]),
        ("rss", 4, ["kitchen/lift_carrot_100/00"]),
        ("rss/kitchen/lift_carrot_100", 2, ["00"]),
        ("rss/kitchen/lift_carrot_100/00", 1, ["00"]),
    ],
)
def test_a_tasks_name_is_the_last_parts_of_its_path(root, below, depth, tasks) -> None:
    assert list(scan(root / below, depth, 0.9, 0).tasks) == tasks


def test_a_depth_that_finds_nothing_names_the_one_that_does(root, tmp_path) -> None:
    with pytest.raises(DatasetError) as error:
        scan(root, 2, 0.9, 0)
    one_line(error, "3 dated folders", "--depth 5")
    (tmp_path / "a").mkdir()
    for depth, proportion, text in ((0, 0.9, "at least 1"), (1, 1.5, "train_proportion 1.5"), (1, 0.9, "named like")):
        with pytest.raises(DatasetError) as error:
            scan(tmp_path, depth, proportion, 0)
        one_line(error, text)
    with pytest.raises(DatasetError) as error:
        scan(tmp_path / "missing", 1, 0.9, 0)
    one_line(error, "no such folder")


def rewrite(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(pickle.dumps(change(pickle.loads(file.read_bytes()))))  # noqa: S301  (made by this test)

    return damage


def overwrite(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, share: float) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int(share * (folder / name).stat().st_size)]
    )


def claim_a_gigantic_picture(folder: Path) -> None:
    file = folder / "images0/im_1.jpg"
    data = bytearray(file.read_bytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    file.write_bytes(bytes(data))


class Shell:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/understudy-was-here",)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no observations": (lambda folder: (folder / "obs_dict.pkl").unlink(), "obs_dict.pkl is missing"),
    "no commands": (lambda folder: (folder / "policy_out.pkl").unlink(), "policy_out.pkl is missing"),
    "no camera": (lambda folder: shutil.rmtree(folder / "images0"), "images0 is missing"),
    "no saliency": (lambda folder: (folder / "saliency_map.pkl").unlink(), "saliency_map.pkl is missing"),
    "one picture fewer": (lambda folder: (folder / "images0/im_1.jpg").unlink(), "pictures"),
    "one picture more": (lambda folder: shutil.copy(folder / "images0/im_1.jpg", folder / "images0/im_99.jpg"), "pict"),
    "pictures misnumbered": (
        lambda folder: (folder / "images0/im_1.jpg").rename(folder / "images0/im_77.jpg"),
        "im_1.jpg is missing",
    ),
    "a picture cut short": (cut("images0/im_1.jpg", 0.7), "im_1.jpg: not a readable JPEG"),
    "an empty picture": (overwrite("images0/im_1.jpg", b""), "im_1.jpg: not a readable JPEG"),
    "text for a picture": (overwrite("images0/im_1.jpg", b"picture" * 99), "im_1.jpg: not a readable JPEG"),
    "a header for a picture": (overwrite("images0/im_1.jpg", b"\xff\xd8\xff\xd9"), "im_1.jpg: not a readable JPEG"),
    "a picture that claims gigabytes": (claim_a_gigantic_picture, "im_1.jpg: not a readable JPEG"),
    "observations cut short": (cut("obs_dict.pkl", 0.5), "obs_dict.pkl: not a readable pickle"),
    "empty observations": (overwrite("obs_dict.pkl", b""), "obs_dict.pkl: is empty"),
    "an attack": (rewrite("obs_dict.pkl", lambda value: {**value, "x": [Shell()]}), "obs_dict.pkl: holds posix.system"),
    "observations in a list": (rewrite("obs_dict.pkl", lambda value: [value]), "holds list"),
    "no states": (rewrite("obs_dict.pkl", lambda value: {"time_stamp": value["time_stamp"]}), "no 'full_state'"),
    "no time": (rewrite("obs_dict.pkl", lambda value: {"full_state": value["full_state"]}), "no 'time_stamp'"),
    "a state fewer": (
        rewrite("obs_dict.pkl", lambda v: {**v, "full_state": v["full_state"][1:]}),
        "one more is needed",
    ),
    "a time fewer": (rewrite("obs_dict.pkl", lambda v: {**v, "time_stamp": v["time_stamp"][1:]}), "one more is needed"),
    "states of text": (rewrite("obs_dict.pkl", lambda v: {**v, "full_state": ["a"] * 4}), "full_state: holds"),
    "states of odd lengths": (
        rewrite("obs_dict.pkl", lambda v: {**v, "full_state": [[1.0], [1.0, 2.0]]}),
        "full_state",
    ),
    "a state that is no number": (
        rewrite("obs_dict.pkl", lambda v: {**v, "full_state": v["full_state"] * np.nan}),
        "'observations' has NaN",
    ),
    "wider states": (
        rewrite("obs_dict.pkl", lambda v: {**v, "full_state": np.c_[v["full_state"], v["full_state"]]}),
        "has rows (14,), earlier ones (7,)",
    ),
    "a command fewer": (rewrite("policy_out.pkl", lambda value: value[1:]), "one more is needed"),
    "commands without actions": (rewrite("policy_out.pkl", lambda value: [*value[1:], {}]), "not every step"),
    "no commands in the list": (rewrite("policy_out.pkl", lambda value: []), "policy_out.pkl: holds"),
    "commands as a dict": (rewrite("policy_out.pkl", lambda value: {"actions": value}), "policy_out.pkl: holds object"),
    "maps of bytes": (
        rewrite("saliency_map.pkl", lambda v: (255 * v).astype(np.uint8)),
        "saliency_map.pkl: holds uint8",
    ),
    "maps above 1": (rewrite("saliency_map.pkl", lambda value: 2 * value), "values must lie in [0, 1]"),
    "maps of no number": (rewrite("saliency_map.pkl", lambda value: value * np.nan), "values must lie in [0, 1]"),
    "a map fewer": (rewrite("saliency_map.pkl", lambda value: value[1:]), "saliency_map.pkl: 3 maps"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_a_trajectory_that_cannot_be_used_is_left_out_named_and_explained(broken, tmp_path, kind) -> None:
    damage, reason = DAMAGES[kind]
    hurt = broken / NEWER / "raw" / "traj_group0" / "traj0"  # not the first of its store, which sets the dims
    damage(hurt)
    report = bring(broken, tmp_path, reading=Reading(im_size=8, saliency=True), train_proportion=1.0)
    [(path, said)] = report.skipped
    assert path == hurt.relative_to(broken).as_posix()
    assert reason in said
    assert "\n" not in said
    assert not Path("/tmp/understudy-was-here").exists()
    store = find_store(LIFT, tmp_path / "stores")
    assert store.manifest.num_episodes == 5
    assert store.manifest.provenance["skipped"] == [[path, said]]
    assert store.manifest.provenance["tasks"] == {
        "rss/kitchen/lift_carrot_100/00": {"train": 5, "valid": 0, "skipped": 1}
    }
    assert verify_store(store) == []


def test_other_forms_of_commands_and_texts_are_read(broken) -> None:
    folder = broken / NEW / "raw" / "traj_group0" / "traj0"
    reading = Reading(im_size=8)
    before = read_trajectory(folder, False, reading)
    rewrite("policy_out.pkl", lambda value: np.stack([step["actions"] for step in value]))(folder)
    assert read_trajectory(folder, False, reading)["actions"].tolist() == before["actions"].tolist()
    rewrite("policy_out.pkl", list)(folder)
    (folder / "lang.txt").write_text("\nput it down\nconfidence: 2\n")
    assert read_trajectory(folder, False, reading)["language"] == "put it down"
    (folder / "lang.txt").unlink()
    assert read_trajectory(folder, False, reading)["language"] == ""


def test_a_store_of_which_nothing_is_left_is_not_written_and_others_are(made, tmp_path) -> None:
    root = Path(shutil.copytree(made[0], tmp_path / "tree"))
    for file in (root / "icra").rglob("obs_dict.pkl"):
        file.unlink()
    report = bring(root, tmp_path)
    assert report.empty == [PULL]
    assert report.stores == [LIFT]
    assert len(report.skipped) == 3
    assert [p.name for p in (tmp_path / "stores").iterdir()] == [LIFT.replace("/", "__")]


def test_cameras_that_some_lack_are_left_out_and_told_unless_they_are_asked_for(broken, tmp_path) -> None:
    folders = sorted((broken / "rss").rglob("images0"))
    for folder in folders[1:]:
        shutil.copytree(folder, folder.with_name("images1"))
    shutil.copytree(folders[0], folders[0].with_name("depth_images0"))
    report = bring(broken, tmp_path)
    assert report.cameras == (MAIN_CAMERA,)
    assert report.without == {"images1": 1}
    assert find_store(LIFT, tmp_path / "stores").cameras() == ["images0"]
    asked = bring(broken, tmp_path / "both", cameras=("images0", "images1"))
    assert find_store(LIFT, tmp_path / "both" / "stores").cameras() == ["images0", "images1"]
    assert [reason for _, reason in asked.skipped] == ["images1 is missing"]


def test_relabelled_actions_are_those_of_the_states_and_recorded(root, tmp_path) -> None:
    bring(root / "rss", tmp_path, depth=4, reading=Reading(im_size=8, relabel_actions=True))
    store = find_store("bridge:kitchen/lift_carrot_100/00", tmp_path / "stores")
    plain = bring(root / "rss", tmp_path / "plain", depth=4, reading=Reading(im_size=8))
    assert store.manifest.provenance["raw"]["relabel_actions"] is True
    untouched = find_store(plain.stores[0], tmp_path / "plain/stores")
    for item, before in zip(episodes_of(store), episodes_of(untouched), strict=True):
        states = np.concatenate([item["observations"], item["final_observation"][None]])
        np.testing.assert_allclose(item["actions"], relabel_actions(before["actions"], states), atol=1e-6)
        assert set(item["actions"][:, 6].tolist()) <= {0.0, 1.0}


@pytest.mark.slow
def test_workers_do_not_change_the_data(root, tmp_path) -> None:
    hashes = []
    for workers in (1, 2):
        bring(root, tmp_path / str(workers), name="all", num_workers=workers, reading=Reading(im_size=8))
        store = find_store("bridge:all", tmp_path / str(workers) / "stores")
        hashes.append(store.manifest.content_hash)
        assert store.manifest.num_episodes == 9
        assert store.manifest.provenance["tasks"] == {
            "icra/kitchen/pull_pot_100/00": {"train": 2, "valid": 1, "skipped": 0},
            "rss/kitchen/lift_carrot_100/00": {"train": 4, "valid": 2, "skipped": 0},
        }
        assert store.episode_column("mask/train").sum() == 6
        assert (store.episode_column("mask/train") + store.episode_column("mask/valid") == 1).all()
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_an_import_that_was_killed_goes_on_and_does_nothing_twice(root, tmp_path) -> None:
    raw = tmp_path / "raw"
    for number in range(8):
        shutil.copytree(root / NEW, raw / "task" / f"2022-02-{number + 1:02}_00-00-00")
    words = ["data", "import", "bridge-raw", str(raw), "--depth", "2"]
    words += ["--num_workers", "2", "--im_size", "64", "--data_dir", str(tmp_path / "stores")]
    parts = tmp_path / "stores" / PARTS / "bridge:task"
    child = start(*words, cwd=tmp_path)
    while len(list(parts.glob("*.npz"))) < 4:
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    its_workers = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    assert psutil.wait_procs(its_workers, timeout=600)[1] == []  # they end with it
    reading = Reading(im_size=64)
    trajectories = scan(raw, 2, 0.9, 0).trajectories
    ready = [item for item in trajectories if part_file(parts, item, reading).exists()]
    assert 4 <= len(ready) < len(trajectories)
    assert not (tmp_path / "stores" / "bridge:task").exists()
    for item in ready:  # what is ready is not read again
        (item.path / "images0" / "im_0.jpg").write_bytes(b"gone")
    report = import_raw(RawImport(raw, tmp_path / "stores", depth=2, reading=reading))
    assert report.skipped == []
    assert find_store("bridge:task", tmp_path / "stores").manifest.num_episodes == 24
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["bridge:task"]


def test_a_complete_import_is_left_as_it_is_and_another_one_is_refused(root, tmp_path) -> None:
    reading = Reading(im_size=8)
    bring(root, tmp_path, reading=reading)
    manifest = tmp_path / "stores" / LIFT.replace("/", "__") / "manifest.json"
    before = manifest.stat().st_mtime_ns
    again = bring(root, tmp_path, reading=reading)
    assert again.already == [PULL, LIFT]
    assert again.stores == []
    assert manifest.stat().st_mtime_ns == before
    for changes in ({"reading": Reading(im_size=16)}, {"reading": reading, "train_proportion": 0.5}):
        with pytest.raises(DatasetError) as error:
            bring(root, tmp_path, **changes)
        one_line(error, "exists already", "--overwrite")
    assert bring(root, tmp_path, reading=Reading(im_size=16), overwrite=True).stores == [PULL, LIFT]
    (tmp_path / "out" / "rss").mkdir(parents=True)
    with pytest.raises(DatasetError) as error:
        bring(root, tmp_path / "new", output_path=tmp_path / "out", depth=4)
    one_line(error, "dated folders")
    assert not (tmp_path / "new").exists()


def test_out_npy_files_are_upstreams_and_come_back_as_the_same_store(root, tmp_path) -> None:
    report = bring(
        root, tmp_path, output_path=tmp_path / "out", reading=Reading(im_size=SIZE, saliency=True, exact=True)
    )
    folder = tmp_path / "out" / LIFT.removeprefix("bridge:")
    assert report.files == [tmp_path / "out" / PULL.removeprefix("bridge:"), folder]
    trajectories = scan(root, 5, 0.9, 0).tasks[LIFT.removeprefix("bridge:")]
    for split, is_training in (("train", True), ("val", False)):
        found = np.load(folder / split / "out.npy", allow_pickle=True)
        mine = [item for item in trajectories if item.is_training == is_training]
        assert found.shape == (len(mine),)
        for one, trajectory in zip(found, mine, strict=True):
            wanted = upstreams(trajectory)
            assert set(one) == set(wanted)
            assert one["language"] == wanted["language"]
            assert one["terminals"] == wanted["terminals"]
            np.testing.assert_allclose(np.stack(one["actions"]), np.stack(wanted["actions"]), atol=1e-6)
            for mine_now, now in zip(
                [*one["observations"], *one["next_observations"][:-1]],
                [*wanted["observations"], *wanted["next_observations"][:-1]],
                strict=True,
            ):
                assert set(mine_now) == set(now)
                assert mine_now["images0"].tolist() == now["images0"].tolist()
                np.testing.assert_allclose(mine_now["state"], now["state"], atol=1e-6)
                np.testing.assert_allclose(mine_now["saliency"], now["saliency"], atol=1e-5)
                assert mine_now["time_stamp"] == now["time_stamp"]
            last, now = one["next_observations"][-1], wanted["next_observations"][-1]
            assert last["images0"].tolist() == now["images0"].tolist()
            np.testing.assert_allclose(last["state"], now["state"], atol=1e-6)
    store = find_store(LIFT, tmp_path / "stores")
    again = import_file(task_of(LIFT), folder, tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash
    exported = export_store(again, tmp_path / "exported", "bridge")
    for split in ("train", "val"):
        assert (exported / split / "out.npy").read_bytes() == (folder / split / "out.npy").read_bytes()


def test_a_file_written_by_upstreams_own_way_is_read(root, tmp_path) -> None:
    trajectories = scan(root / "icra", 4, 1.0, 0).trajectories
    wanted = [upstreams(trajectory) for trajectory in trajectories]
    for one in wanted:  # pictures of their own, as a converter that forgets that they are the same would write
        one["next_observations"] = [{k: np.array(v) for k, v in step.items()} for step in one["next_observations"]]
    file = tmp_path / "task" / "train" / "out.npy"
    file.parent.mkdir(parents=True)
    np.save(file, wanted, allow_pickle=True)  # type: ignore[arg-type]
    for found, one in zip(read_trajectories(file), wanted, strict=True):
        assert found["images/images0"].tolist() == [step["images0"].tolist() for step in one["observations"]]
        assert found["final_images/images0"].tolist() == one["next_observations"][-1]["images0"].tolist()
        assert found["observations"].tolist() == [step["state"].tolist() for step in one["observations"]]
        assert found["language"].split("\n") == one["language"]
        assert found["saliency/images0"].shape == (len(one["actions"]), SIZE, SIZE, 1)
    store = import_file(task_of("bridge:task"), tmp_path / "task", tmp_path / "stores")
    assert store.manifest.num_episodes == 3
    assert store.episode_column("mask/train").tolist() == [1, 1, 1]
    single = import_file(task_of("bridge:task"), file, tmp_path / "single")
    assert single.manifest.content_hash == store.manifest.content_hash


def pictured(rng: np.random.Generator, steps: int, cameras: list[str], saliency: bool, text: str | None) -> dict:
    """Return an episode with pictures."""
    episode: dict[str, Any] = {
        "observations": rng.normal(size=(steps, 7)).astype(np.float32),
        "final_observation": rng.normal(size=7).astype(np.float32),
        "actions": rng.normal(size=(steps, 7)).astype(np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminals": np.zeros(steps, bool),
        "time_stamp": 1.6e9 + rng.uniform(size=steps),
        "task_index": rng.integers(0, 2**40, steps),
    }
    for camera in cameras:
        frames = rng.integers(0, 256, (steps + 1, 4, 6, 3), dtype=np.uint8)
        episode["images/" + camera], episode["final_images/" + camera] = frames[:-1], frames[-1]
    if saliency:
        episode["saliency/" + cameras[-1]] = rng.uniform(size=(steps, 4, 6, 1)).astype(np.float32)
    return episode if text is None else {**episode, "language": text}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    cameras=st.sampled_from([["images0"], ["front", "wrist"], ["images0", "images1"]]),
    saliency=st.booleans(),
    text=st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    split=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_episodes_with_pictures_are_read_back_bit_for_bit(
    tmp_path_factory, lengths, cameras, saliency, text, split, seed
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("out")
    episodes = [pictured(rng, steps, cameras, saliency, text) for steps in lengths]
    if split:
        held = sorted(rng.integers(0, 2, len(episodes)).tolist())
        episodes = [
            {**item, "mask/train": np.uint8(not h), "mask/valid": np.uint8(h)}
            for item, h in zip(episodes, held, strict=True)
        ]
    for target in (folder / "data", *([] if split else [folder / "single.npy"])):
        Bridge().write(target, iter(episodes), "bridge:x", {})
        same_episodes(Bridge().task("bridge:x").read(target), episodes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("actions"), "no 'actions'"),
        (lambda t: t.pop("next_observations"), "no 'next_observations'"),
        (lambda t: t["actions"].pop(), "observations, "),
        (lambda t: t.update(observations=dict(enumerate(t["observations"]))), "trajectory 0"),
        (lambda t: t["observations"].__setitem__(0, 5), "not one dict a step"),
        (lambda t: t["observations"][1].pop("images0"), "not every observation has 'images0'"),
        (lambda t: t["observations"][1].update(images0=np.zeros((2, 2, 3), np.uint8)), "trajectory 0"),
        (lambda t: t["observations"][1].update(state="x"), "trajectory 0"),
        (lambda t: t.update(language=[1]), "language"),
        (lambda t: t.update(actions=[]), "trajectory 0"),
    ],
)
def test_trajectories_of_another_shape_are_refused(root, tmp_path, change, said) -> None:
    trajectory = upstreams(scan(root / "rss", 4, 1.0, 0).trajectories[0], size=4)
    change(trajectory)
    file = tmp_path / "out.npy"
    np.save(file, np.array([trajectory], object), allow_pickle=True)
    with pytest.raises(DatasetError) as error:
        import_file(task_of("bridge:x"), file, tmp_path / "stores")
    one_line(error)
    assert said in str(error.value) or "episode 0" in str(error.value)
    assert list((tmp_path / "stores").glob("*")) == []


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.array(["a"]), np.array({"a": 1}, object), np.array([1, "a"], object)]
)
def test_arrays_of_something_else_are_refused(tmp_path, value) -> None:
    file = tmp_path / "out.npy"
    np.save(file, value, allow_pickle=True)
    with pytest.raises(DatasetError) as error:
        list(read_trajectories(file))
    one_line(error, str(file))


def test_an_attack_in_an_out_npy_is_refused_and_does_not_run(tmp_path) -> None:
    file = tmp_path / "out.npy"
    np.save(file, np.array([{"observations": [{"images0": Shell()}]}], object), allow_pickle=True)
    with pytest.raises(DatasetError) as error:
        list(read_trajectories(file))
    one_line(error, "posix.system")
    assert not Path("/tmp/understudy-was-here").exists()


def test_names_are_tasks_and_nothing_that_leads_elsewhere() -> None:
    for name in ("bridge:lift_carrot_100", LIFT, "bridge:two words/00"):
        assert isinstance(task_of(name).source, Bridge)
    for name in ("bridge:", "bridge:..", "bridge:a/../b", "bridge:/etc", "bridge:a//b", "bridge:a\nb", "bridge"):
        assert not Bridge().matches(name)


def test_there_is_no_environment_and_the_error_says_what_to_do() -> None:
    with pytest.raises(UserError) as error:
        EnvFactory("bridge:lift_carrot_100")()
    one_line(error, "real robot", "eval_episodes=0", "validation_filter_key=valid")


def test_what_is_published_is_a_raw_tree_and_the_error_says_how_to_import_it(tmp_path) -> None:
    with pytest.raises(UserError) as error:
        Bridge().task("bridge:lift_carrot_100").download(tmp_path)
    one_line(error, "bridge_release", "data import bridge-raw")


def test_the_commands_of_the_users_guide(root, tmp_path, say) -> None:
    tree = root / "rss" / "kitchen"
    words = ["data", "import", "bridge-raw", tree, "--depth", "3", "--train_proportion", "0.99", "--num_workers", "1"]
    words += ["--im_size", "16", "--saliency", "--data_dir", tmp_path / "stores", "--output_path", tmp_path / "out"]
    first = say(*words)
    assert first.code == 0, first.err
    assert "bridge:lift_carrot_100/00: 6 episodes" in first.out
    assert (tmp_path / "out" / "lift_carrot_100" / "00" / "val" / "out.npy").is_file()
    dashed = [str(word).replace("_", "-") if str(word).startswith("--") else word for word in words[3:]]
    again = say("data", "import", "bridge_raw", *[w if w != "--data-dir" else "--data_dir" for w in dashed])
    assert again.code == 0, again.err
    assert "complete already" in again.out
    said = say(
        *("data", "import", "bridge", tmp_path / "out" / "lift_carrot_100", "--name", "bridge:lift_carrot_100"),
        *("--data_dir", tmp_path / "stores", "--relabel_actions"),
    )
    assert said.code == 0, said.err
    assert EpisodeStore.open(tmp_path / "stores/bridge:lift_carrot_100").manifest.provenance["relabel_actions"] is True


def test_what_was_left_out_is_printed_and_nothing_at_all_is_an_error(broken, tmp_path, say) -> None:
    (broken / NEWER / "raw" / "traj_group0" / "traj0" / "obs_dict.pkl").unlink()
    words = ["data", "import", "bridge-raw", broken, "--im-size", "8", "--num-workers", "1"]
    said = say(*words, "--data_dir", tmp_path / "one")
    assert said.code == 0
    assert f"left out: {NEWER}/raw/traj_group0/traj0: obs_dict.pkl is missing" in said.out
    for file in broken.rglob("obs_dict.pkl"):
        file.unlink()
    said = say(*words, "--data_dir", tmp_path / "none")
    assert said.code == 2
    assert "every trajectory was left out" in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "none" / LIFT).exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--depth", "2"], "--depth 5"),
        (["--depth", "0"], "at least 1"),
        (["--im-size", "0"], "im-size"),
        (["--train-proportion", "1.5"], "train_proportion 1.5"),
        (["--cameras", "images7"], "every trajectory was left out"),
        (["--name", "../x"], "no name for a store"),
        (["--image-encoding", "png"], "png"),
    ],
)
def test_wrong_options_are_one_line(root, tmp_path, say, words, text) -> None:
    said = say("data", "import", "bridge-raw", root, *words, "--num-workers", "1", "--data_dir", tmp_path / "stores")
    assert said.code == 2
    assert text in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.slow
def test_a_preset_trains_from_pictures_and_is_judged_on_held_out_trajectories(root, tmp_path, say) -> None:
    import_raw(
        RawImport(
            root / "rss/kitchen/lift_carrot_100",
            tmp_path / "stores",
            depth=2,
            reading=Reading(im_size=32),
            name="lift_carrot_100",
        )
    )
    shown = say("train", "algo=bc", "bridgedata=lift_carrot_100", "--cfg")
    assert shown.yaml["env_name"] == "bridge:lift_carrot_100"
    assert shown.yaml["eval_episodes"] == 0
    said = say(
        *("train", "algo=bc", "bridgedata=lift_carrot_100", "encoder=impala_small", "training_steps=2", "batch_size=4"),
        *("log_interval=1", "eval_interval=1", "save_interval=-1", "tracking_uri=none"),
        *(f"data_dir={tmp_path / 'stores'}", f"save_dir={tmp_path / 'runs'}"),
    )
    assert said.code == 0, said.err
    [table] = (tmp_path / "runs").rglob("train.csv")
    assert "valid" in table.read_text().splitlines()[0] + "".join(
        file.read_text().splitlines()[0] for file in table.parent.glob("eval.csv")
    )
    assert say("train", "bridgedata=lift_carot_100").err.count("did you mean 'bridge:lift_carrot_100'") == 1
