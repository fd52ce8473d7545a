"""What is recorded, from the words of a command or from a JSON file: our own keys, or LeRobot's of two generations.

LeRobot's file is that of its `gym_manipulator`. Keys of it that mean nothing here are named to the user, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from understudy.config_files import config_words, flattened, read_config
from understudy.errors import SpecError, UserError, did_you_mean
from understudy.registry import controls
from understudy.spec.choices import OneOf
from understudy.spec.compose import parse
from understudy.spec.keys import validate
from understudy.spec.part import Part

PICK_CUBE = "gym_hil/PandaPickCube-v0"
WORDS = {"pick_cube": PICK_CUBE, "PandaPickCube": PICK_CUBE}
"""Environments by what a LeRobot file calls their task."""


class RecordSettings(Part):
    """The keys of `understudy record`."""

    title: ClassVar[str] = "a recording"

    env_name: str = Field(default=PICK_CUBE, description="dataset's name or environment's id: what is played")
    repo_id: str = Field(default="", description="USER/NAME of the dataset, below $UNDERSTUDY_HOME/lerobot")
    root: str = Field(default="", description="folder of the dataset, in place of that")
    task: str = Field(default="", description="text that the episodes' task is called; none: env_name")
    num_episodes: int = Field(default=10, ge=1, description="episodes that the dataset shall have in the end")
    mode: Literal["record", "replay", "none"] = Field(
        default="record", description="record; replay one episode; or none: drive, and keep nothing"
    )
    control: Annotated[str, OneOf(controls.names)] = Field(default="keyboard", description="what drives")
    policy: str = Field(default="", description="a trained model that acts until the control takes over")
    fps: float = Field(default=0.0, ge=0, le=1000, description="steps a second; 0: the environment's own, else 10")
    control_time_s: float = Field(
        default=0.0, ge=0, description="seconds after which an episode ends; 0: the environment's limit"
    )
    reset_time_s: float = Field(default=0.0, ge=0, description="seconds between episodes, for a person")
    terminate_on_success: bool = Field(default=True, description="end an episode when its task is solved")
    success_reward: float = Field(default=1.0, description="reward of a step that the control calls a success")
    keep: Literal["all", "successful"] = Field(default="all", description="which episodes are kept")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the episodes' starts")
    replay_episode: int = Field(default=0, ge=0, description="the episode that mode=replay plays")
    pictures: Literal["av1", "h264", "image"] = Field(
        default="av1", description="how cameras are kept: video, or image for no loss"
    )
    cameras: tuple[str, ...] | None = Field(default=None, description="cameras that are seen; none: the task's own")
    height: int = Field(default=0, ge=0, description="of their pictures, in pixels; 0: the task's own")
    width: int = Field(default=0, ge=0, description="the same")
    view: Literal["none", "terminal"] = Field(
        default="none", description="show the scene in the terminal, in coloured half blocks"
    )

    @property
    def drawn(self) -> dict[str, str]:
        """The options of the pictures, as `Task.rendering` takes them."""
        said = {
            "height": str(self.height or ""),
            "width": str(self.width or ""),
            "cameras": ",".join(self.cameras or ()),
        }
        return {name: value for name, value in said.items() if value}

    def folder(self, home: Path) -> Path:
        """Return the dataset's folder; UserError where neither `root` nor `repo_id` says it."""
        from understudy.files import user_path

        if self.root:
            return user_path(self.root).absolute()
        if not self.repo_id:
            raise UserError("where to? repo_id=USER/NAME, or root=FOLDER, says which dataset is recorded")
        parts = self.repo_id.split("/")
        if len(parts) != 2 or any(part in ("", ".", "..") for part in parts):
            raise UserError(f"repo_id={self.repo_id!r}: must be USER/NAME")
        return (home / "lerobot" / self.repo_id).absolute()


@dataclass
class Read:
    """What was read of words and file."""

    settings: RecordSettings
    ignored: dict[str, str] = field(default_factory=dict)
    """Keys of the file that mean nothing here, and why."""


OURS = {name: name for name in RecordSettings.model_fields}
SAME = {
    "num_episodes_to_record": "num_episodes",
    "dataset_root": "root",
    "episode": "replay_episode",
    "pretrained_policy_name_or_path": "policy",
    "teleop": "control",
    **{f"dataset.{key}": key for key in ("repo_id", "root", "task", "replay_episode")},
    "dataset.num_episodes_to_record": "num_episodes",
    "dataset.num_episodes": "num_episodes",
    "env.fps": "fps",
    "dataset.fps": "fps",
    "env.processor.reset.reset_time_s": "reset_time_s",
    "env.processor.reset.control_time_s": "control_time_s",
    "env.processor.reset.terminate_on_success": "terminate_on_success",
    "env.wrapper.reset_time_s": "reset_time_s",
    "env.wrapper.control_time_s": "control_time_s",
}
"""LeRobot's keys, of both generations, that mean the same as ours."""
DRIVES = ("env.teleop.type", "env.processor.control_mode", "env.wrapper.control_mode", "device")
"""LeRobot's keys that may name a device, the most telling first."""
TORCH = ("cpu", "cuda", "mps", "xpu", "auto")
RESIZE = ("env.processor.image_preprocessing.resize_size", "env.wrapper.resize_size", "env.resize_size")
REASONS = {
    "env.processor.image_preprocessing.crop": "pictures of a simulator need no cropping",
    "env.wrapper.crop": "pictures of a simulator need no cropping",
    "env.processor.reward_classifier": "rewards are the environment's and the control's; training takes a classifier",
    "env.processor.gripper": "used in training (algo=hilserl), not in recording",
    "env.processor.inverse_kinematics": "the simulator has its own controller",
    "env.processor.reset.fixed_reset_joint_positions": "the simulator has its own start",
    "env.wrapper": "of LeRobot's wrappers of robots",
    "env.teleop": "of LeRobot's drivers of devices",
    "env.features": "what is seen is the environment's own",
    "device": "of torch; nothing is trained here",
    "env.device": "of torch; nothing is trained here",
}
"""Why keys that begin so are ignored."""


def read_words(words: list[str]) -> Read:
    """Return the settings that the words, and the file they name, say: words count first."""
    path, rest = config_words(words)
    given = {str(item.key_or_group): item.value() for item in parse(rest)}
    read = Read(RecordSettings())
    values = _translated(flattened(read_config(path)), read.ignored, strict=False) if path else {}
    values |= _translated(given, read.ignored, strict=True)
    read.settings = validate(RecordSettings, {key: value for key, value in values.items() if value is not None})
    return read


def _translated(given: Mapping[str, Any], ignored: dict[str, str], *, strict: bool) -> dict[str, Any]:
    """Return our keys of what was given; what is LeRobot's alone goes to `ignored`, and unknown words raise."""
    given = {key: _plain(value) for key, value in given.items()}
    values: dict[str, Any] = {}
    for key, value in given.items():
        ours = OURS.get(key) or SAME.get(key)
        if ours is not None:
            values[ours] = value
        elif key in ("dataset.push_to_hub", "push_to_hub"):
            if value:
                raise UserError(f"{key}=true: nothing is uploaded here; `hf upload REPO FOLDER` does it afterwards")
        elif not _of_lerobot(key, value, given, values):
            if strict and not key.startswith(("env.", "dataset.")) and key not in DRIVES:
                raise SpecError(f"unknown key {key!r}{did_you_mean(key, OURS, also=SAME)}")
            ignored[key] = next((why for start, why in REASONS.items() if key.startswith(start)), "no such thing here")
    if "mode" in values and values["mode"] is None:
        values["mode"] = "none"
    return _with_drive(given, values)


def _of_lerobot(key: str, value: Any, given: Mapping[str, Any], values: dict[str, Any]) -> bool:
    """Take one of LeRobot's keys that says something in its own way; return whether it does."""
    if value is None:
        return True
    if key in RESIZE:
        values["height"], values["width"] = _size(key, value)
    elif key == "env.task":
        values.setdefault("env_name", _environment(str(value)))
    elif key == "env.robot" or key.startswith("env.robot."):
        raise UserError(f"{key}: no robot is driven here, only simulators: leave env.robot out, or say env.task")
    elif key in ("env.name", "env.type"):
        if value == "real_robot":
            raise UserError("env.name=real_robot: no robot is driven here; env.name=gym_hil has the simulated one")
    elif key not in DRIVES or not _is_control(value):
        return False
    return True


def _with_drive(given: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Add the environment and the control that LeRobot's words for task and device say, where none is given."""
    task = str(given.get("env.task") or "")
    named = [str(given[key]) for key in DRIVES if _is_control(given.get(key))]
    named += [name for name in ("gamepad", "keyboard") if task.lower().endswith((name, f"{name}-v0"))]
    if named and "control" not in values:
        values["control"] = named[0].removesuffix("_ee")
    if "env_name" not in values and WORDS.get(str(values.get("task"))):
        values["env_name"] = WORDS[str(values["task"])]
    return values


def _is_control(value: Any) -> bool:
    if not isinstance(value, str) or value in TORCH or value.startswith("cuda:"):
        return False
    if value.removesuffix("_ee") not in controls.names():
        raise UserError(f"no control {value!r}{did_you_mean(value, controls.names())}")
    return True


def _environment(task: str) -> str:
    """Return the environment that LeRobot's env.task means."""
    return next((name for word, name in WORDS.items() if task.removeprefix("gym_hil/").startswith(word)), task)


def _size(key: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(side, int) for side in value):
        raise UserError(f"{key}={value!r}: must be [height, width]")
    return value[0], value[1]


def _plain(value: Any) -> Any:
    return value.text if hasattr(value, "text") and hasattr(value, "quote") else value
