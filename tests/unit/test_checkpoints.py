"""A checkpoint that takes the place of one of the same step: at any moment one of the two can be read."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest
import torch

from understudy import checkpoints
from understudy.errors import CheckpointError


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


def test_a_file_of_another_kind_is_refused_in_one_short_line(tmp_path) -> None:
    h5py.File(tmp_path / "ok.hdf5", "w").close()
    torch.save({"step": 1}, tmp_path / "cut.pt")
    with (tmp_path / "cut.pt").open("r+b") as file:
        file.truncate(300)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "object.pt")
    why = {
        "ok.hdf5": "it is damaged, or no PyTorch file",
        "cut.pt": "it is damaged, or no PyTorch file",
        "object.pt": "it holds the Python object torch.nn.modules.linear.Linear, and only weights and numbers are read",
    }
    for name, said in why.items():
        with pytest.raises(CheckpointError) as caught:
            checkpoints.load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} cannot be read: {said}"


@pytest.mark.parametrize("content", [b"", b"\x16\\\x0e\xe0\xdd", b"0" * 64 + b"  step_5.pt\n"])
def test_a_checksum_that_was_damaged_is_one_line(tmp_path, content: bytes) -> None:
    file = tmp_path / "step_5.pt"
    checkpoints.save(file, {"step": 5})
    file.with_name("step_5.pt.sha256").write_bytes(content)
    with pytest.raises(CheckpointError, match="its SHA-256 is not the one in"):
        checkpoints.load(file)
