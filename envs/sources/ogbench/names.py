"""Which names OGBench's datasets have: families of environments, types of datasets, what is published of each."""

from __future__ import annotations

import re

from understudy.envs.sources.ogbench.envs import VISUAL

CUBES, PUZZLES = ("single", "double", "triple", "quadruple", "octuple"), ("3x3", "4x4", "4x5", "4x6")
ARM = {"cube": CUBES, "scene": (), "puzzle": PUZZLES}
MAZES = ("medium", "large", "giant", "teleport")
LOCOMOTION = {"pointmaze": MAZES, "antmaze": MAZES, "humanoidmaze": MAZES[:3], "antsoccer": ("arena", "medium")}
MADE_HERE = ("scripted", "policy")
TYPES = ("play", "noisy", "navigate", "stitch", "explore")
STEPS = {"cube-single": 200, "cube-double": 500, "cube-triple": 1000, "cube-quadruple": 1000, "cube-octuple": 1500,
         "scene": 750, "puzzle-3x3": 500, "puzzle-4x4": 500, "puzzle-4x5": 1000, "puzzle-4x6": 1000,
         "humanoidmaze-medium": 2000, "humanoidmaze-large": 2000, "humanoidmaze-giant": 4000}  # fmt: skip
"""Used where OGBench is not installed (1000 for others); gymnasium's registry is asked where it is."""
FAMILIES = tuple(
    f"{name}-{part}" if part else name for name, parts in {**ARM, **LOCOMOTION}.items() for part in parts or ("",)
)
DRAWN = tuple(family for family in FAMILIES if not family.startswith(("pointmaze", "antsoccer", "cube-octuple")))
"""What there are visual environments of."""
NAME = re.compile(
    rf"(?P<visual>{VISUAL})?(?P<family>{'|'.join(FAMILIES)})-(?P<kind>{'|'.join((*TYPES, *MADE_HERE))})"
    r"(-(?:(?P<single>singletask)(?:-task(?P<number>[1-5]))?|(?P<oracle>oraclerep)))?-v0"
)


def published(family: str) -> tuple[str, ...]:
    """Return the types of dataset that are published for a family."""
    name, _, size = family.partition("-")
    if name in ARM:
        return ("play", "noisy")
    return ("navigate", "stitch", "explore") if name == "antmaze" and size != "giant" else ("navigate", "stitch")
