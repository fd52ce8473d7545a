"""Docstrings are written in the words of the field and begin with what a thing is or does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDERS = ("platform", "envs", "trainables", "search_spaces", "cluster", "dashboards", "tests", "benchmarks", "scripts")
UNWANTED = re.compile(r"\s*(Say (whether|if|yes|no)\b|Tell (whether|if)\b|Of\b)")
"""How no docstring begins: a predicate's begins with "Return whether", a constant's names the constant."""
RIDDLES = re.compile(r"\s*(Ready|Do as|After|Before|Between|Under|Nothing|None|True|False)\b")
"""How none begins of the kernel and the environments: what it speaks of is named first."""


def docstrings(file: Path) -> list[tuple[int, str]]:
    """Return the line and text of each docstring in a file: of modules, classes, functions, fields and constants."""
    statements = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Expr))
    found = ((node.lineno, node.value) for node in statements if isinstance(node.value, ast.Constant))
    return [(line, constant.value) for line, constant in found if isinstance(constant.value, str)]


def test_docstrings_begin_with_what_a_thing_is_or_does(repo_root: Path) -> None:
    files = [file for folder in FOLDERS for file in sorted((repo_root / folder).rglob("*.py"))]
    assert len(files) > 300
    wrong = [
        f"{file.relative_to(repo_root)}:{line}: {text.splitlines()[0]}"
        for file in files
        for line, text in docstrings(file)
        if UNWANTED.match(text)
        or (file.relative_to(repo_root).parts[0] in ("platform", "envs") and RIDDLES.match(text))
    ]
    assert not wrong, "\n".join(wrong)
