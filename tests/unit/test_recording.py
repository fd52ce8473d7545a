"""Recording: settings of LeRobot's files, keys of a terminal, sticks of a pad."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import numpy as np
import pytest

from understudy.config_files import flattened, read_config, without_comments
from understudy.envs.recording.control import Driven, Event, Said
from understudy.envs.recording.controls import keyboard
from understudy.envs.recording.controls.gamepad import PLAIN, Gamepad
from understudy.envs.recording.settings import read_words
from understudy.envs.recording.view import as_text
from understudy.errors import UserError

SEED = """{
  "env": {
    // ... the environment's settings ...
  },
  "dataset": {
    "repo_id": "your_username/dataset_name",
    "root": "/path/to/dataset",  // where it lies
    "task": "pick_cube",
    "num_episodes_to_record": 20,
    "push_to_hub": false,
  },
  /* record, replay
     or null */
  "mode": "record",
  "device": "cpu"
}"""
NEWER = {
    "env": {
        "type": "gym_manipulator",
        "name": "gym_hil",
        "task": "PandaPickCubeGamepad-v0",
        "fps": 10,
        "robot": None,
        "teleop": None,
        "processor": {
            "control_mode": "gamepad",
            "gripper": {"use_gripper": True, "gripper_penalty": -0.02},
            "reset": {"reset_time_s": 1.0, "control_time_s": 15.0, "terminate_on_success": False},
            "image_preprocessing": {"crop_params_dict": {"front": [0, 0, 128, 128]}, "resize_size": [64, 96]},
        },
    },
    "dataset": {"repo_id": "me/cubes", "root": None, "task": "pick", "num_episodes_to_record": 3, "replay_episode": 0},
    "mode": None,
    "device": "cuda",
}
OLDER = {
    "type": "hil",
    "wrapper": {"gripper_penalty": -0.02, "display_cameras": False},
    "env": {"wrapper": {"control_time_s": 20.0, "resize_size": [64, 64]}, "task": "PandaPickCubeKeyboard-v0"},
    "repo_id": "me/old",
    "dataset_root": None,
    "num_episodes": 7,
    "episode": 2,
    "mode": "replay",
}
ARM = Driven("arm", np.full(4, -1, np.float32), np.full(4, 2, np.float32), ("x", "y", "z", "gripper"))


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "env_config.json"
    path.write_text(text)
    return str(path)


def test_the_published_file_with_comments_and_a_last_comma_is_a_recording(tmp_path: Path) -> None:
    read = read_words(["--config_path", _file(tmp_path, SEED)])
    settings = read.settings
    assert (settings.env_name, settings.task, settings.num_episodes) == ("gym_hil/PandaPickCube-v0", "pick_cube", 20)
    assert settings.folder(tmp_path) == Path("/path/to/dataset")
    assert list(read.ignored) == ["device"]


def test_newer_files_say_control_time_pictures_and_what_is_ignored(tmp_path: Path) -> None:
    read = read_words([f"--config_path={_file(tmp_path, json.dumps(NEWER))}"])
    settings = read.settings
    assert (settings.control, settings.mode, settings.num_episodes) == ("gamepad", "none", 3)
    assert (settings.control_time_s, settings.reset_time_s, settings.terminate_on_success) == (15.0, 1.0, False)
    assert settings.drawn == {"height": "64", "width": "96"}
    assert settings.folder(tmp_path) == tmp_path / "lerobot" / "me" / "cubes"
    gripper = "env.processor.gripper"
    crop = "env.processor.image_preprocessing.crop_params_dict.front"
    assert set(read.ignored) == {f"{gripper}.use_gripper", f"{gripper}.gripper_penalty", crop, "device"}


def test_older_files_and_words_over_them_are_read(tmp_path: Path) -> None:
    path = _file(tmp_path, json.dumps(OLDER))
    read = read_words(["--config_path", path, "device=scripted", "--dataset.num_episodes_to_record=9"])
    settings = read.settings
    assert (settings.control, settings.mode, settings.replay_episode) == ("scripted", "replay", 2)
    assert (settings.num_episodes, settings.repo_id, settings.height) == (9, "me/old", 64)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["contol=keyboard"], "did you mean 'control'"),
        (["control=keybord"], "did you mean 'keyboard'"),
        (["device=spacemouse"], "no control 'spacemouse'"),
        (["dataset.push_to_hub=true"], "nothing is uploaded here"),
        (["env.name=real_robot"], "no robot is driven here"),
        (["--config_path"], "which file"),
        (["--config_path", "nowhere.json"], "cannot be read"),
        (["num_episodes=0"], "num_episodes=0"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_words(words)


def test_a_file_that_is_no_json_is_refused_with_its_line(tmp_path: Path) -> None:
    path = _file(tmp_path, '{\n  // a comment\n  "mode": record\n}')
    with pytest.raises(UserError, match="line 3, column 11"):
        read_config(path)
    assert without_comments('{"a": "http://x, ]"}') == '{"a": "http://x, ]"}'
    assert flattened({"a": {"b": {"c": 1}, "d": {}}, "e": 2}) == {"a.b.c": 1, "e": 2}


def test_keys_of_a_terminal_are_told_apart() -> None:
    assert keyboard.split_keys("\x1b[A\x1bOCs\x1b\x1b[Dr U") == ["up", "right", "s", "\x1b", "left", "r", " ", "u"]


def test_a_key_acts_for_a_fifth_of_a_second_and_its_opposite_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    control, write = _at_a_terminal(monkeypatch, ARM)
    with control:
        control.begin(None, None, {}, np.random.default_rng(0))
        write("\x1b[Ac")
        said = [control.read(None, None, {}) for _ in range(3)]
        assert [_action(one) for one in said] == [[2, 0, 0, 2], [2, 0, 0, 2], [0, 0, 0, 0]]
        write("\x1b[A")
        control.read(None, None, {})
        write("\x1b[Bs")
        last = control.read(None, None, {})
        assert (_action(last), last.event) == ([-1, 0, 0, 0], Event.SUCCESS)


def test_beside_a_policy_the_keyboard_takes_over_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    control, write = _at_a_terminal(monkeypatch, Driven("arm", ARM.low, ARM.high, alone=False))
    with control:
        control.begin(None, None, {}, np.random.default_rng(0))
        assert control.read(None, None, {}).action is None
        write(" \x1b[C")
        assert _action(control.read(None, None, {})) == [2, 0, 0, 0]
        write("i")
        assert control.read(None, None, {}).action is None
        write("\x1b")
        assert control.read(None, None, {}).event is Event.FAILURE


def _action(said: Said) -> list[float] | None:
    return None if said.action is None else said.action.tolist()


def _at_a_terminal(monkeypatch: pytest.MonkeyPatch, driven: Driven):
    """Return a keyboard at a pseudo terminal, and what types there."""
    ours, theirs = pty.openpty()
    monkeypatch.setattr("sys.stdin", os.fdopen(theirs, "r"))

    def write(text: str) -> None:
        os.write(ours, text.encode())

    return keyboard.Keyboard(driven), write


class Held:
    """A pad in somebody's hands."""

    def __init__(self) -> None:
        self.axes, self.buttons = [0.0] * 4, [0] * 8

    def get_axis(self, number: int) -> float:
        return self.axes[number]

    def get_button(self, number: int) -> int:
        return self.buttons[number]

    def get_numaxes(self) -> int:
        return len(self.axes)

    def get_numbuttons(self) -> int:
        return len(self.buttons)


def test_a_pads_sticks_move_the_hand_while_rb_is_held_and_buttons_speak_once() -> None:
    control, pad = Gamepad(Driven("arm", ARM.low, ARM.high, ARM.names, alone=False)), Held()
    control.use(pad, PLAIN)
    pad.axes = [0.5, -1.0, 0.05, 0.0]
    assert control.read(None, None, {}).action is None
    pad.buttons[5] = pad.buttons[7] = 1
    assert _action(control.read(None, None, {})) == [2.0, -0.5, 0.0, 2.0]
    pad.buttons[3] = 1
    assert control.read(None, None, {}).event is Event.SUCCESS
    assert control.read(None, None, {}).event is None


def test_without_a_pad_one_line_says_so_and_no_library_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    joystick = pytest.importorskip("pygame.joystick")
    joystick.init()
    if joystick.get_count():
        pytest.skip("a pad is connected")
    capfd.readouterr()
    with pytest.raises(UserError, match="no gamepad is connected; control=keyboard needs none"):
        Gamepad(ARM).__enter__()
    assert capfd.readouterr().err == ""


def test_a_picture_in_a_terminal_keeps_its_shape() -> None:
    frame = np.zeros((64, 128, 3), np.uint8)
    lines = as_text(frame, 32, 48).split("\r\n")
    assert (len(lines), lines[0].count("▀")) == (8, 32)
