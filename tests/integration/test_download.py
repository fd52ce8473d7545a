"""Downloads from a server that breaks off, lies, changes its mind and says no; the end is an imported dataset."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import kill_when, run, start
from tests.integration.file_server import FileServer, serving
from tests.unit.command_line import understudy

from understudy.envs.files import downloads
from understudy.envs.files.downloads import DownloadError, Remote, Unreachable, Waiting, fetch, place_of
from understudy.envs.sources.source import task_of
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import import_file
from understudy.errors import StorageError, UserError
from understudy.registry import sources

NAME = "hopper-medium-v2"
QUICK = Waiting(patience=30.0, first_pause=0.01, tries=4)
IMPATIENT = Waiting(patience=0.3, first_pause=0.01, tries=4)  # only where the server stalls: a busy machine is slow too
MB = 1 << 20


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A real file in D4RL's format, of some megabytes."""
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": rng.normal(size=(600, 11)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (600, 3)).astype(np.float32),
            "rewards": rng.normal(size=600).astype(np.float32),
            "terminals": np.zeros(600, bool),
            "final_observation": rng.normal(size=11).astype(np.float32),
            "qpos": rng.normal(size=(600, 60)).astype(np.float32),
        }
        for _ in range(20)
    ]
    path = tmp_path_factory.mktemp("published") / "hopper_medium-v2.hdf5"
    sources.get("d4rl").write(path, episodes, NAME, {"made_by": "a test"})
    assert path.stat().st_size > 2 * MB
    return path


@pytest.fixture
def server(published) -> Iterator[FileServer]:
    with serving(published.read_bytes()) as running:
        yield running


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ranges(server: FileServer) -> list[str | None]:
    return [request.get("Range") for request in server.requests]


def test_a_connection_that_breaks_several_times_is_taken_up_where_it_broke(server, tmp_path) -> None:
    server.faults = [("drop", MB), ("drop", 200_000), ("status", 503), ("drop", 0), ("drop", 300_000)]
    seen: list[tuple[int, int]] = []
    remote = Remote(server.url(), digest(server.content))
    path = fetch(remote, tmp_path / "f.hdf5", lambda done, total: seen.append((done, total)), waiting=QUICK)
    assert path.read_bytes() == server.content
    assert sorted(seen) == seen
    assert seen[-1] == (len(server.content), len(server.content))
    assert len(server.requests) == 6
    assert all(ranges(server)[1:])
    assert server.sent < len(server.content) + 5 * 100_000  # nothing is fetched twice but what was under way
    assert [p.name for p in tmp_path.iterdir()] == ["f.hdf5"]


def test_a_server_that_cannot_send_parts_is_asked_for_the_whole_again(server, tmp_path) -> None:
    server.ranges = False
    server.faults = [("drop", MB), ("drop", MB)]
    assert fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK).read_bytes() == server.content


def test_without_a_version_a_part_is_continued_only_where_a_checksum_can_tell(server, tmp_path) -> None:
    server.etag = None
    server.faults = [("drop", MB)]
    assert fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK).read_bytes() == server.content
    assert ranges(server) == [None, None]
    server.faults = [("drop", MB)]
    fetch(Remote(server.url(), digest(server.content)), tmp_path / "g", waiting=QUICK)
    assert str(ranges(server)[3]).startswith("bytes=")


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path) -> None:
    server.faults = [("drop", MB)] * 9
    with pytest.raises(DownloadError, match=r"bytes are kept, the same command goes on"):
        fetch(Remote(server.url()), tmp_path / "f", waiting=Waiting(30.0, 0.01, tries=1))
    assert (tmp_path / "f.part").stat().st_size > MB / 2
    server.faults, server.etag, server.content = [], '"two"', server.content[::-1]
    assert fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK).read_bytes() == server.content
    assert server.requests[-1]["If-Range"] == '"one"'


def test_a_server_that_ignores_if_range_is_caught_by_its_etag(server, tmp_path) -> None:
    server.faults = [("drop", MB)] * 9
    with pytest.raises(DownloadError):
        fetch(Remote(server.url()), tmp_path / "f", waiting=Waiting(30.0, 0.01, tries=1))
    server.faults, server.content = [], server.content[::-1]
    server.etag, server.heeds_if_range = '"two"', False
    assert fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK).read_bytes() == server.content


def test_a_body_shorter_than_said_is_asked_for_again_and_never_taken_for_whole(server, tmp_path) -> None:
    server.faults = [("short", 500_000)]
    assert fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK).read_bytes() == server.content
    server.ranges, server.faults = False, [("short", 10)] * 99
    with pytest.raises(DownloadError, match=r"the connection broke.* times in a row") as error:
        fetch(Remote(server.url()), tmp_path / "g", waiting=QUICK)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "g").exists()


def test_a_body_longer_than_said_is_a_damaged_file_when_it_is_imported(server, tmp_path) -> None:
    server.faults = [("long", 100_000)]
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(Remote(server.url(), digest(server.content)), tmp_path / "f", waiting=QUICK)
    server.faults = [("long", 100_000)]
    cut = fetch(Remote(server.url()), tmp_path / "f.hdf5", waiting=QUICK)
    with pytest.raises(UserError, match="truncated or damaged") as error:
        import_file(task_of(NAME), cut, tmp_path)
    assert "\n" not in str(error.value)


def test_a_wrong_checksum_names_both_and_leaves_nothing(server, tmp_path) -> None:
    with pytest.raises(DownloadError) as error:
        fetch(Remote(server.url(), "ab" * 32), tmp_path / "f", waiting=QUICK)
    assert "ab" * 32 in str(error.value)
    assert digest(server.content) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("fault", "said"), [(("status", 403), "403 Forbidden"), (("status", 500), "500 Internal")])
def test_a_refusal_says_what_the_server_answered(server, tmp_path, fault, said) -> None:
    server.faults = [fault] * 9
    with pytest.raises(DownloadError, match=said):
        fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK)
    assert len(server.requests) == (1 if fault[1] == 403 else QUICK.tries)


def test_a_server_that_stalls_is_left_and_asked_again(server, tmp_path) -> None:
    server.faults = [("stall", MB), ("stall", 0)]
    remote = Remote(server.url())
    assert fetch(remote, tmp_path / "f", waiting=Waiting(1.0, 0.01, tries=9)).read_bytes() == server.content
    server.faults = [("stall", 0)] * 9
    with pytest.raises(DownloadError, match=r"no answer within 0\.3 s"):
        fetch(Remote(server.url()), tmp_path / "g", waiting=IMPATIENT)


def test_redirects_are_followed_and_no_proxy_is_used_for_this_machine(server, tmp_path, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(Remote(server.url("moved")), tmp_path / "f", waiting=QUICK).read_bytes() == server.content


def test_no_connection_says_how_to_bring_the_file_here(tmp_path, monkeypatch) -> None:
    remote = Remote("http://127.0.0.1:9/x/hopper.hdf5")
    monkeypatch.setattr(downloads, "Waiting", lambda: QUICK)
    with pytest.raises(Unreachable, match="the connection was refused") as error:
        task_of(NAME).fetch_file(tmp_path / "raw", remote=remote)
    target = tmp_path / "raw" / "127.0.0.1_9" / "x" / "hopper.hdf5"
    assert f"understudy data import d4rl {target} --name {NAME}" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_a_full_disk_is_seen_before_anything_is_fetched(server, tmp_path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(MB, 0, MB))
    with pytest.raises(StorageError, match=r"1\.0 MB are free; free some, or give another --data_dir"):
        fetch(Remote(server.url()), tmp_path / "f", waiting=QUICK)


def test_each_address_has_its_own_place(tmp_path) -> None:
    urls = ["http://a.org/lift/mh/low_dim.hdf5", "http://a.org/lift/ph/low_dim.hdf5", "http://b.org:80/lift/mh/low_dim.hdf5",
            "http://a.org/lift/mh/low_dim.hdf5?v=1", "http://a.org/lift/mh/low_dim.hdf5?v=2"]  # fmt: skip
    places = [place_of(Remote(url), tmp_path) for url in urls]
    assert len(set(places)) == len(urls)
    assert {path.suffix for path in places} == {".hdf5"}
    assert place_of(Remote("http://a.org/../../etc/passwd"), tmp_path) == tmp_path / "a.org" / "etc" / "passwd"
    for url in ("ftp://a.org/x", "file:///etc/passwd", "http://a.org", "hopper.hdf5"):
        with pytest.raises(UserError, match="no address of a file"):
            place_of(Remote(url), tmp_path)


def test_a_killed_download_goes_on_and_ends_as_the_same_dataset_as_a_direct_import(server, published, tmp_path) -> None:
    direct = import_file(task_of(NAME), published, tmp_path / "direct")
    words = ["data", "download", NAME, "--url", server.url(), "--data_dir", str(tmp_path / "data")]
    server.bytes_per_second = 2 * MB
    kill_when(start(*words, cwd=tmp_path), lambda: server.sent > MB)
    part = next((tmp_path / "data" / "raw").rglob("*.part"))
    had = part.stat().st_size
    assert 0 < had < len(server.content)
    server.bytes_per_second = 0
    run(*words, "--sha256", digest(server.content).upper(), cwd=tmp_path)
    assert ranges(server)[-1] == f"bytes={had}-"
    store = EpisodeStore.open(tmp_path / "data" / NAME)
    assert store.manifest.content_hash == direct.manifest.content_hash
    kept = [p for p in (tmp_path / "data" / "raw").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in kept] == [server.content]


def test_a_dataset_that_is_there_is_not_fetched_again_and_a_file_need_not_be_kept(
    server, tmp_path, monkeypatch, capsys
) -> None:
    words = ["data", "download", NAME, "--url", server.url(), "--data_dir", str(tmp_path)]
    done = understudy(monkeypatch, capsys, *words, "--no-keep_file")
    assert done.code == 0, done.err
    assert "20 episodes, 12000 transitions" in done.out
    assert not [p for p in (tmp_path / "raw").rglob("*") if p.is_file()]
    again = understudy(monkeypatch, capsys, *words)
    assert (again.code, len(server.requests)) == (0, 1)
    assert "--overwrite fetches it again" in again.out


def test_the_command_line_says_in_one_line_what_cannot_be_fetched(server, tmp_path, monkeypatch, capsys) -> None:
    for words, code, said in (
        (["hoper-medium-v2"], 2, "did you mean 'hopper-medium-v2'"),
        (["cube-single-scripted-singletask-task1-v0"], 2, "`understudy data generate cube-single-scripted-"),
        (["hopper-policy-v2"], 2, "no address of it is known"),
        ([NAME, "--url", server.url("missing")], 1, "404 Not Found"),
        ([NAME, "--url", server.url(), "--sha256", "00"], 1, digest(server.content)),
    ):
        done = understudy(monkeypatch, capsys, "data", "download", *words, "--data_dir", str(tmp_path))
        assert (done.code, done.err.count("\n")) == (code, 1), done
        assert said in done.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
