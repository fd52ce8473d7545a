"""From what a policy sees to one flat vector: the encoder that every algorithm starts its network with.

States pass as they are, the vector of a task's text through a linear layer. Each camera's pictures go through a picture
encoder, alone or together with the goal's. The tensors are named for what they see, `encoder.<camera>.<tensor>` where
a network holds this as `encoder`, so that weights find their place in the network of another algorithm (see
`understudy.trainables.packs.transfer`).
Shape suffixes: B samples, F features; a picture is [B, H, W, C] uint8, or with frames as a sequence [B, n, H, W, C].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from understudy.errors import SpecError, UserError
from understudy.observations import (
    GOAL,
    LANGUAGE,
    STATE,
    Observations,
    ObservationShape,
    describe,
    has_pictures,
    is_picture,
    parts_of,
)
from understudy.registry import encoders
from understudy.spec.parts import Language, Vision
from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.pictures import PictureEncoder

SHARED = "shared"
"""In place of the camera's name, where one encoder serves all."""


def picture_encoder(shape: tuple[int, int, int], config: Vision, generator: torch.Generator) -> PictureEncoder:
    """Return the picture encoder that `config` names, for pictures [H, W, C]; UserError for what is none."""
    encoder = encoders.get(str(config.encoder))(shape, config, generator)
    if isinstance(encoder, PictureEncoder) and hasattr(encoder, "map_shape") and hasattr(encoder, "features"):
        return encoder
    made, origin = type(encoder).__name__, encoders.origin(str(config.encoder))
    raise UserError(
        f"encoder {config.encoder!r} ({origin}) gives a {made}, not a PictureEncoder with map_shape and features"
    )


@dataclass(frozen=True)
class Input:
    """One pass through a picture encoder: which picture, joined with which goal on the channels, through which."""

    picture: str
    encoder: str
    shape: tuple[int, int, int]
    """Shape of what the encoder is given: (H, W, C)."""
    frames: int | None
    """Frames of a history kept as a sequence, each encoded alone."""
    goal: str | None
    repeats: int
    """Times the channels of the goal are repeated."""


def picture_inputs(shape: ObservationShape, config: Vision) -> list[Input]:
    """Return the passes through picture encoders, cameras by name and then goals; SpecError where they do not fit."""
    parts = parts_of(shape)
    names = sorted(filter(is_picture, parts))
    cameras = [name for name in names if not name.startswith(GOAL)]
    early, inputs = config.goal_fusion == "early", []
    for camera in cameras:
        goal = GOAL + camera if early and GOAL + camera in names else None
        *frames, height, width, channels = parts[camera]
        repeats = _repeats(camera, parts, config) if goal else 0
        channels += repeats * parts[goal][-1] if goal else 0
        key = SHARED if config.shared_camera_encoder else camera
        inputs.append(Input(camera, key, (height, width, channels), frames[0] if frames else None, goal, repeats))
    for goal in [name for name in names if name.startswith(GOAL)]:
        camera = goal.removeprefix(GOAL)
        if camera not in cameras and (early or config.shared_goal_encoder):
            raise SpecError(
                f"observations have {goal} and no camera {camera}:"
                " only goal_fusion=late with shared_goal_encoder=false encodes it alone"
            )
        if not early:
            repeats = _repeats(camera, parts, config) if config.shared_goal_encoder else 1
            height, width, channels = parts[goal]
            key = SHARED if config.shared_camera_encoder else camera
            key = key if config.shared_goal_encoder else f"goal_{key}"
            inputs.append(Input(goal, key, (height, width, channels * repeats), None, None, repeats))
    return inputs


def _repeats(camera: str, parts: Mapping[str, tuple[int, ...]], config: Vision) -> int:
    """Return how often a goal picture's channels are repeated to fit the camera's frames; SpecError if they do not."""
    *frames, height, width, channels = parts[camera]
    goal = parts[GOAL + camera]
    if (height, width) != goal[:2] or (config.shared_goal_encoder and channels % goal[2]):
        remedy = "" if config.goal_fusion == "late" else "goal_fusion=late and "
        raise SpecError(
            f"the goal of camera {camera} has shape {goal} and its pictures {parts[camera]}:"
            f" pictures of different sizes need {remedy}shared_goal_encoder=false"
        )
    # Joined with a sequence the goal stands beside every frame; on the channels it counts as often as the frames.
    return channels // goal[2] if config.shared_goal_encoder and not frames else 1


class ObservationEncoder(nn.Module):
    """Turn observations into a flat vector [B, F]: encoded pictures by camera, then goals, then states as they are, and
    last the features of a task's text.

    With `pooled` false there is no vector, and nothing is held that would only serve it: see `unpooled`.
    """

    def __init__(
        self,
        shape: ObservationShape,
        config: Vision,
        generator: torch.Generator,
        *,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        _check(shape, config)
        self.on_channels = config.history == "channels"
        shape = with_frames_on_channels(shape) if self.on_channels else shape
        parts = parts_of(shape)
        self.states = [name for name in (STATE, GOAL + STATE) if name in parts]
        self.inputs = picture_inputs(shape, config) if config.encoder else []
        self.single = None if isinstance(shape, dict) else next(iter(parts))
        self.features = sum(math.prod(parts[name]) for name in self.states)
        self.text = text_layer(parts[LANGUAGE], config) if LANGUAGE in parts else None
        """The layer that a text's vector goes through."""
        self.features += self.text.out_features if self.text is not None else 0
        self.map_shapes: dict[str, tuple[int, int, int]] = {}
        """Shape [c, h, w] of each picture's last convolutional map."""
        self._modules_of: dict[str, str] = {}
        for item in self.inputs:
            if item.encoder not in self._modules_of:
                self._modules_of[item.encoder] = self._free_name(item.encoder)
                module = picture_encoder(item.shape, config, generator)
                self.add_module(self._modules_of[item.encoder], module if pooled else module.without_head())
            encoder = self.encoder_of(item)
            if encoder.shape != item.shape:
                raise SpecError(
                    f"one encoder cannot take pictures of shape {encoder.shape} and of {item.shape} ({item.picture}):"
                    " shared_camera_encoder=false and shared_goal_encoder=false give each its own"
                )
            self.map_shapes[item.picture] = encoder.map_shape
            self.features += encoder.features * (item.frames or 1)

    def _free_name(self, name: str) -> str:
        """Return the name as torch allows it: without dots, and none that the module has otherwise."""
        name = name.replace(".", "_")
        while hasattr(self, name):
            name += "_"
        return name

    def encoder_of(self, item: Input) -> PictureEncoder:
        """Return the picture encoder that an input goes through."""
        module = self._modules[self._modules_of[item.encoder]]
        assert isinstance(module, PictureEncoder)
        return module

    def forward(self, observations: Observations) -> torch.Tensor:
        """Return features [B, F]."""
        if self.single is not None and not self.inputs:
            return cast(torch.Tensor, observations).flatten(1)
        return self.maps(observations)[0]

    def maps(self, observations: Observations) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return features [B, F], and each camera's last convolutional map [B, c, h, w] before pooling.

        Of a history kept as a sequence it is the newest frame's map. Goals that are encoded apart have none.
        """
        parts, features, maps = self.parts(observations), [], {}
        for item in self.inputs:
            encoder = self.encoder_of(item)
            map_NCHW = encoder.map(_pixels(item, parts))
            features_NF = encoder.summarise(map_NCHW)
            if item.frames is not None:
                map_NCHW = map_NCHW.unflatten(0, (-1, item.frames))[:, -1]
                features_NF = features_NF.unflatten(0, (-1, item.frames)).flatten(1)
            features.append(features_NF)
            if not item.picture.startswith(GOAL):
                maps[item.picture] = map_NCHW
        features += [parts[name].flatten(1) for name in self.states]
        if self.text is not None:
            features.append(self.text(parts[LANGUAGE]))
        return (torch.cat(features, dim=-1) if len(features) > 1 else features[0]), maps

    def parts(self, observations: Observations) -> dict[str, torch.Tensor]:
        """Return observations by name, with the frames of pictures on their channels where they shall be there."""
        parts = observations if isinstance(observations, dict) else {str(self.single): observations}
        if not self.on_channels:
            return parts
        return {name: _frames_on_channels(part) if part.ndim == 5 else part for name, part in parts.items()}

    def unpooled(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the last convolutional map of each input by its picture, [B, n, c, h, w], n frames (1 of a single)."""
        maps = {item.picture: self.encoder_of(item).map(_pixels(item, parts)) for item in self.inputs}
        return {item.picture: maps[item.picture].unflatten(0, (-1, item.frames or 1)) for item in self.inputs}


def text_layer(shape: tuple[int, ...], config: Vision) -> nn.Linear:
    """Return the layer that makes features of a text's vector; SpecError for a method whose settings have none.

    It begins as zeros: what of a text no text of training has in common with it does nothing then.
    """
    if not isinstance(config, Language):
        raise SpecError("observations hold a task's text, which only methods with `language_encoder` take")
    layer = blank(nn.Linear, math.prod(shape), config.language_dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def with_frames_on_channels(shape: ObservationShape) -> ObservationShape:
    """Return the shape in which the frames [n, H, W, C] of each history lie on the channels, [H, W, n * C]."""
    if isinstance(shape, dict):
        return {name: _merged(part) for name, part in shape.items()}
    return _merged(shape)


def _merged(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 4:
        return shape
    frames, height, width, channels = shape
    return (height, width, frames * channels)


def _frames_on_channels(pixels_BnHWC: torch.Tensor) -> torch.Tensor:
    """Return pictures [B, H, W, n * C], oldest first."""
    return pixels_BnHWC.movedim(1, -2).flatten(-2)


def _pixels(item: Input, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the pictures [N, H, W, C] of an input, N being B or, with frames as a sequence, B * n."""
    pixels = parts[item.picture]
    if item.goal is None:
        pixels = torch.cat([pixels] * item.repeats, dim=-1) if item.repeats > 1 else pixels
    else:
        goal = torch.cat([parts[item.goal]] * item.repeats, dim=-1)
        if item.frames is not None:
            goal = goal.unsqueeze(1).expand(-1, item.frames, -1, -1, -1)
        pixels = torch.cat((pixels, goal), dim=-1)
    return pixels if item.frames is None else pixels.flatten(0, 1)


def _check(shape: ObservationShape, config: Vision) -> None:
    """Refuse an encoder without pictures, and pictures without one."""
    pictures = has_pictures(shape)
    if pictures != (config.encoder is not None):
        first, *others = encoders.names()
        wanted = (
            f"pictures need encoder={first}, or one of {', '.join(others)}"
            if pictures
            else "encoder= is for pixels [height, width, channels]"
        )
        raise SpecError(f"observations have shape {describe(shape)} and encoder is {config.encoder}: {wanted}")
