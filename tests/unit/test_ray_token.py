"""Whoever starts a Ray finds one token, which nobody else on the machine can read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from understudy.runs.ray_token import GIVEN, ensure_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and an environment that names none."""
    for name in (*GIVEN, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_those_who_start_at_once_have_the_same_token(home) -> None:
    found = []

    def begin(_: int) -> None:
        ensure_token()
        found.append((home / ".ray" / "auth_token").read_text())

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(begin, range(200)))
    assert len(found) == 200
    assert len(set(found)) == 1
    assert len(found[0]) == 64
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_token_that_is_there_stays_and_is_made_private(home) -> None:
    (home / ".ray").mkdir()
    file = home / ".ray" / "auth_token"
    file.write_text("rays own")
    file.chmod(0o644)
    ensure_token()
    assert file.read_text() == "rays own"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("")
    ensure_token()
    assert len(file.read_text()) == 64


def test_a_home_that_cannot_hold_one_leaves_it_in_the_environment(home, monkeypatch) -> None:
    (home / ".ray").write_text("no folder")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that what is set in the test is taken back
    ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}])
def test_what_the_user_says_of_tokens_holds(home, monkeypatch, given) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ensure_token()
    assert not (home / ".ray").exists()
