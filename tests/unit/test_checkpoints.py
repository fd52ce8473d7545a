"""A checkpoint that takes the place of one of the same step: at any moment one of the two can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from understudy import checkpoints


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_process_that_dies_while_it_replaces_a_checkpoint_leaves_a_readable_one(
    tmp_path, monkeypatch, renames
) -> None:
    file = tmp_path / "step_5.pt"
    checkpoints.save(file, {"step": 5, "evaluating": True})
    replace, done = os.replace, []

    def die_after_some(source: Path, target: Path) -> None:
        if Path(target).name in (file.name, f"{file.name}.sha256"):
            if len(done) == renames:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_after_some)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(file, {"step": 5, "evaluating": False})
    assert checkpoints.load(file)["evaluating"] is (renames < 2)
    monkeypatch.undo()
    checkpoints.save(file, {"step": 5, "evaluating": False})
    assert checkpoints.load(file)["evaluating"] is False
    assert len(file.with_name("step_5.pt.sha256").read_text().splitlines()) == 1
