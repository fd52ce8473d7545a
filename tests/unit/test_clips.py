"""Filmed episodes on disk, which are chosen, and what `understudy evaluate --episodes` says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.command_line import Said, understudy

from understudy.cli.film import chosen_episodes, described, recorded_episodes, run_folder, step_of
from understudy.errors import UserError
from understudy.files import write_json
from understudy.runs.clips import FOLDER, Clip, arrays_of, failures_first, read_clips, write_clip
from understudy.runs.episodes import CONFIRMATION, FILE, TRAINING, Played, Setting, put_evaluation


def make_clip(run: Path, episode: int = 3, success: float | None = 1.0, setting: str = "") -> Clip:
    """Write a clip of 7 steps, whose video is a few bytes."""
    clip = Clip(1, episode, 1_000_000 + episode, 400, setting, 2.5, 7, success, 3, 10, "x")
    (run / FOLDER).mkdir(exist_ok=True)
    (run / FOLDER / f"{clip.stem}.mp4").write_bytes(b"film")
    columns = {
        "actions": np.ones((7, 2), np.float32),
        "rewards": np.zeros(7, np.float32),
        "observations": np.zeros((7, 5)),
        "images/front": np.zeros((7, 4, 4, 3), np.uint8),
        "final_observation": np.zeros(5),
    }
    return write_clip(run / FOLDER, clip, columns)


def test_a_clip_is_read_back_with_its_numbers_and_without_pictures(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, setting="flow_steps=5, num_samples=32")
    assert read_clips(tmp_path) == [clip]
    assert clip.file.is_file()
    assert clip.file.name == "seed001_episode0003_step400_from1000003_flow_steps=5_num_samples=32.mp4"
    assert {name: values.shape for name, values in arrays_of(clip).items()} == {
        "actions": (7, 2), "rewards": (7, 1), "observations": (7, 5)
    }  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"seed": "x"}', b"\xff"])
def test_damaged_clips_are_left_out_and_damaged_numbers_are_none(tmp_path: Path, damage: bytes) -> None:
    clip, whole = make_clip(tmp_path, 3), make_clip(tmp_path, 4)
    clip.file.with_suffix(".json").write_bytes(damage)
    whole.file.with_suffix(".npz").write_bytes(damage)
    assert read_clips(tmp_path) == [whole]
    assert arrays_of(whole) == {}
    whole.file.unlink()
    assert read_clips(tmp_path) == []


def test_clips_are_listed_failures_first(tmp_path: Path) -> None:
    for episode, success in ((1, 1.0), (2, 0.0), (3, None)):
        make_clip(tmp_path, episode, success)
    assert [clip.episode for clip in read_clips(tmp_path)] == [2, 3, 1]


def test_failures_are_filmed_first_and_without_success_what_did_worst() -> None:
    known = [Played(seed, episode, episode, 1.0, 5, float(episode != 2)) for seed in (0, 1) for episode in range(4)]
    assert failures_first(known, 3) == [(0, 2), (1, 2), (0, 0)]
    unknown = [Played(0, episode, episode, returns, 5) for episode, returns in enumerate([3.0, -1.0, 2.0])]
    assert failures_first(unknown, 2) == [(0, 1), (0, 2)]


def test_episodes_are_named_of_every_seed_or_of_one() -> None:
    assert chosen_episodes("3,7", [0, 5]) == [(0, 3), (1, 3), (0, 7), (1, 7)]
    assert chosen_episodes("5:3, 0:7,5:3", [0, 5]) == [(1, 3), (0, 7)]
    for text, said in {
        "3-7": "--episodes 3-7: give",
        "9:1": "no seed 9, only 0, 5",
        ",": "names 0",
        "-1": "-1",
    }.items():
        with pytest.raises(UserError, match=said):
            chosen_episodes(text, [0, 5])


def test_an_episode_is_compared_with_the_one_in_the_table(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    same, other = {(1, 1_000_003, ""): (2.5, 7)}, {(1, 1_000_003, ""): (2.5, 8)}
    assert described(clip, same).endswith("success, return 2.5, length 7, as recorded")
    assert "NOT the recorded episode (return 2.5, length 8)" in described(clip, other)
    assert "no evaluation at step 400 played it" in described(clip, {})


def test_a_trials_episodes_are_in_its_own_table_and_in_its_sweeps(tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "0002"
    for folder, stage, number, states in (
        (trial, TRAINING, 2, 10),
        (tmp_path, CONFIRMATION, 2, 20),
        (tmp_path, CONFIRMATION, 3, 30),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        put_evaluation(folder / FILE, stage, number, Setting(), 400, [Played(0, 1, states, 1.0, 9)])
    assert set(recorded_episodes(trial, 400)) == {(0, 10, ""), (0, 20, "")}
    assert recorded_episodes(trial, 300) == {}


def test_a_checkpoint_is_of_the_run_that_it_lies_in_and_of_the_step_in_its_name(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "flags.json", {})
    write_json(tmp_path / "run" / "run.json", {"step": 400})
    kept = tmp_path / "run" / "sd001" / "checkpoint_200.pt"
    kept.parent.mkdir()
    kept.touch()
    assert run_folder(str(kept)) == run_folder(str(tmp_path / "run")) == tmp_path / "run"
    assert step_of(str(kept), tmp_path / "run") == 200
    assert step_of(str(tmp_path / "run"), tmp_path / "run") == 400
    assert run_folder("models:/x@best") is None


def test_a_video_without_a_file_needs_episodes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said: Said = understudy(monkeypatch, capsys, "evaluate", "--video", str(tmp_path))
    assert said.code == 2
    assert "--video: give a file to write, or --episodes" in said.err
