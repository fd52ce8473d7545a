"""What a training prints where its output is a file."""

from __future__ import annotations

import re

from tests.integration.commands import SMALL

WORDS = ("algo=bc", *SMALL, "tracking_uri=none", "save_dir=runs", "training_steps=6", "log_interval=2")


def test_a_step_that_is_logged_and_evaluated_has_one_line_with_its_score(hopper_data, done) -> None:
    said = done("train", *WORDS, "eval_interval=3", "save_interval=3")
    lines = re.findall(r"^\[Step (\d+)/6\] (.*)$", said, re.MULTILINE)
    assert [step for step, _ in lines] == ["2", "3", "4", "6"]
    assert ["normalized_return" in rest for _, rest in lines] == [False, True, True, True]
    assert all("loss" in rest for step, rest in lines)
