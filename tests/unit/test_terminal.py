"""Output on terminals whose encoding lacks characters: every command prints all of its lines, and none fails."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.cli.output import console, print_on_any_terminal, progress_bar, show_table
from understudy.envs.store.inspection import BARS

ENCODINGS = ("ascii", "latin-1", "cp1252", "iso8859-5")


def run(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> tuple[object, str, str]:
    """Return the exit code of a command, its output and its errors, on a terminal of that encoding."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["understudy", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    for stream in streams.values():
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams.values())
    return ended.value.code, out, err


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_page_with_histograms_is_printed_whole(hopper_data: Path, monkeypatch, encoding) -> None:
    code, out, err = run(monkeypatch, encoding, "data", "info", "hopper-medium-v2")
    assert (code, err) == (0, "")
    _, whole, _ = run(monkeypatch, "utf-8", "data", "info", "hopper-medium-v2")
    assert set(whole) & set(BARS.strip())
    assert not set(out) & set(BARS.strip())
    assert len(out.splitlines()) == len(whole.splitlines())
    assert "@" in out  # the highest bar


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["día", "日本", "\udcff\udcfe"])
def test_a_name_that_the_terminal_cannot_show_is_refused_in_one_line(monkeypatch, encoding, name) -> None:
    code, out, err = run(monkeypatch, encoding, "train", f"algo={name}", "--cfg")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("understudy: unknown algorithm '")


def test_undecodable_bytes_in_a_name_are_shown_on_a_terminal_of_utf_8_too(monkeypatch) -> None:
    code, _, err = run(monkeypatch, "utf-8", "train", "algo=\udcff", "--cfg")
    assert code == 2
    assert "'\\udcff'" in err


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_and_progress_bars_escape_what_the_terminal_lacks(monkeypatch, encoding) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(console, "_force_terminal", True)
    print_on_any_terminal()
    show_table(("task", "rate"), [("持ち上げる … 3×2", "0.5 ± 0.1")], title="épisodes")
    with progress_bar("entraîné", "épisodes") as bar:
        bar(1, 2, "→ 0.5")
    stream.flush()
    out = stream.buffer.getvalue().decode(encoding)
    assert "\\u6301" in out
    assert "-> 0.5" in out
    assert "1/2" in out


def test_a_closed_standard_output_is_no_traceback(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["understudy", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_names_and_notes_with_colons_and_brackets_are_printed_as_they_are(monkeypatch, capsys) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "_file", stream)
    console.print("bridge:a: 3 episodes [bold] :smile:")
    show_table(("name",), [("lerobot:x:cat:",)], title="keys of :a:")
    with progress_bar("expert:a:", "episodes") as bar:
        bar(1, 1, "success 0.5 [0, 1] :dog: [red]")
    said = stream.getvalue()
    for text in ("bridge:a: 3 episodes [bold] :smile:", "lerobot:x:cat:", "keys of :a:", "expert:a:", ":dog: [red]"):
        assert text in said


def test_control_characters_in_names_and_files_are_shown_not_obeyed(monkeypatch, tmp_path) -> None:
    folder = tmp_path / "a\x1b[31mb[red]"
    folder.mkdir()
    (folder / "flags.json").write_text(json.dumps({"seeds": "x\x1b[2J\u202e"}))
    (folder / "run.json").write_text(json.dumps({"status": "failed", "error": "\x1b]0;title\x07"}))
    for words in (("resume", str(folder)), ("runs", "list", "--save_dir", str(tmp_path)), ("resume", "no\x1b[31m")):
        _, out, err = run(monkeypatch, "utf-8", *words)
        assert "\x1b" not in out + err
        assert "\u202e" not in out + err
    assert "\\x1b[31m" in err


def test_a_foreign_file_among_runs_does_not_keep_a_name_from_being_looked_up(monkeypatch, tmp_path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "flags.json").write_text("{}")
    (folder / "run.json").write_bytes(b"\xff\xfe\x00")
    code, _, err = run(monkeypatch, "utf-8", "resume", "their\nown", "--save_dir", str(tmp_path))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("understudy: their\\nown: no such run or sweep")


def test_what_is_printed_shows_no_secret_of_an_address(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "_file", stream)
    console.print("data of https://me:plain-secret@host/x")
    show_table(("source",), [("s3://bucket/x?token=plain-secret",)])
    assert "plain-secret" not in stream.getvalue()
    assert "https://host/x" in stream.getvalue()
