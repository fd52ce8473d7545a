"""Names of the datasets that are made here: a published name with another type in it."""

from __future__ import annotations

import re

from understudy.envs.sources.source import task_of

SCRIPTED, POLICY = "scripted", "policy"
"""Types of what is made here: by a scripted expert, or by a trained policy."""


def made_name(env_name: str, kind: str) -> str:
    """Return the name of this task's dataset that is made here: `kind` (scripted, policy) for the published type.

    >>> made_name("cube-single-play-singletask-task1-v0", "scripted")
    'cube-single-scripted-singletask-task1-v0'
    """
    task = task_of(env_name)
    source = task.source
    words = re.split(r"([-/])", env_name)  # words at even places, what separates them at odd ones
    added = [[*words[:end], "-", kind, *words[end:]] for end in range(1, len(words) + 1, 2)]
    spans = [(begin, end) for end in range(1, len(words) + 1, 2) for begin in range(0, end, 2)]
    spans.sort(key=lambda span: span[1] - span[0])
    for candidate in map("".join, [*added, *([*words[:begin], kind, *words[end:]] for begin, end in spans)]):
        if source.matches(candidate) and source.task(candidate).env_id in (task.env_id, candidate):
            return candidate
    return env_name
