"""The pages about the methods are those that the code writes now, and each says what a user needs."""

from __future__ import annotations

from pathlib import Path

from understudy.documenting import pages
from understudy.registry import algorithms

FOLDER = Path(__file__).parents[2] / "docs" / "methods"


def test_the_pages_on_disk_are_what_the_code_says() -> None:
    written = {file.name: file.read_text() for file in FOLDER.glob("*.md")}
    assert written == pages(), "write them anew: PYTHONPATH=platform python -m understudy.documenting docs/methods"


def test_every_method_names_its_papers_its_command_and_what_came_of_it() -> None:
    for name, kind in algorithms.items():
        if kind.__module__.startswith("understudy.trainables."):
            page = pages()[f"{name}.md"]
            assert "arXiv" in page, name
            assert f"algo={name}" in kind.example, name
            assert kind.expected, name
            assert all(field.description for field in kind.Config.model_fields.values()), name
