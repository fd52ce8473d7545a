"""What answers is no web server, or a strange one: one line for trackers and downloads, and nothing is kept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.attack_kinds import SMALL, make_data
from tests.integration.test_bad_input import refused

REPLIES = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "noise": bytes(range(128, 256)) * 4,
    "a line without an end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "nothing": b"",
}
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\n\r\n<html>login</html>\n"
WORDS = b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nhello"


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Return what starts a server that gives one reply to everything."""
    servers: list[socket.socket] = []

    def start(reply: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=serve, args=(server, reply), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def serve(server: socket.socket, reply: bytes) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # the test has ended
            return
        threading.Thread(target=answer, args=(connection, reply), daemon=True).start()


def answer(connection: socket.socket, reply: bytes) -> None:
    """Reply to what came first, then read until the client goes: closed over what is unread, a connection is reset."""
    with connection:
        try:
            connection.settimeout(30)
            connection.recv(65536)
            connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # the client went, as it may
            pass


@pytest.mark.parametrize("reply", REPLIES)
def test_what_is_no_web_server_is_one_line_for_training_lists_and_downloads(
    answering, say, tmp_path: Path, reply: str
) -> None:
    make_data(tmp_path / "data")
    address = answering(REPLIES[reply])
    part = "no MLflow server answers at" if reply == "nothing" else "does not speak HTTP"
    refused(say("train", *SMALL, f"tracking_uri={address}"), part)
    refused(say("runs", "list", "--tracking_uri", address), part)
    assert not (tmp_path / "runs").exists()
    words = ("data", "download", "hopper-medium-v2", "--url", f"{address}/f.hdf5", "--data_dir", "fetched")
    refused(say(*words), "", code=1)
    assert not [path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]


@pytest.mark.parametrize("reply", [PAGE, WORDS])
def test_a_page_in_the_place_of_an_answer_is_one_line_and_is_no_dataset(answering, say, tmp_path, reply) -> None:
    make_data(tmp_path / "data")
    address = answering(reply)
    refused(say("train", *SMALL, f"tracking_uri={address}"), "not in a valid JSON format")
    words = ("data", "download", "hopper-medium-v2", "--url", f"{address}/f.hdf5", "--data_dir", "fetched")
    for _ in range(2):  # it is asked for again
        said = say(*words)
        assert said.code in (1, 2)
        assert len(said.err.splitlines()) == 1, said.err
        assert not list((tmp_path / "fetched").rglob("f.hdf5"))


def test_of_a_password_with_a_slash_in_it_nothing_is_printed(say) -> None:
    said = say("data", "download", "hopper-medium-v2", "--url", "https://me:hun/ter2@127.0.0.1:9/f", "--data_dir", "d")
    refused(said, "https://127.0.0.1:9/f: its host cannot be read from the address", "%2F", code=1)
    assert "hun" not in said.err


def test_a_run_whose_files_cannot_be_read_is_named_and_hides_no_other(say, tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    for name in ("one", "two"):
        assert say("train", *SMALL, f"run_group={name}").code == 0
    (bad,) = (path.parent for path in (tmp_path / "runs").rglob("flags.json") if "one" in path.parts)
    (bad / "run.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "data" / "bad").mkdir()
    (tmp_path / "data" / "bad" / "manifest.json").write_bytes(b"\xff[red]")
    said = say("sync", "runs")
    assert said.code == 0
    assert f"left alone: {bad / 'run.json'} cannot be read" in said.out
    assert said.out.endswith("nothing to send of the others\n")
    said = say("runs", "list", "--save_dir", "runs")
    assert said.code == 0
    assert said.out.count("finished") == 2
    said = say("data", "list", "--data_dir", "data")
    assert said.code == 0
    assert f"left out: {Path('data/bad')}" in said.out
    assert "mine" in said.out
