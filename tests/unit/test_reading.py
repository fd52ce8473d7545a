"""Why a file cannot be read is said as it is: locked, forbidden, away, of another kind, and damaged only when it is."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from tests.contract.source_examples import EXAMPLES, copy, data_files, forbid, made_up, one_line, place

from understudy.envs.files.reading import WrongContent, damage, open_hdf5, read_npz, understood
from understudy.envs.sources.expert_buffer.unpickling import load_tensors
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import import_file
from understudy.errors import DatasetError
from understudy.registry import sources

KINDS = sorted(EXAMPLES)


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    file = tmp_path / "file.hdf5"
    with h5py.File(file, "w") as made:
        made["a"] = np.arange(5)
    return file


def said(function: Callable[[], object], file: Path) -> str:
    with pytest.raises(DatasetError) as error:
        function()
    return one_line(error, str(file))


def opened(file: Path) -> None:
    with open_hdf5(file):
        pass


def test_a_locked_file_is_said_to_be_locked_and_by_what(hdf5: Path) -> None:
    with open(hdf5, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        line = said(lambda: opened(hdf5), hdf5)
    assert "is locked (HDF5's lock): a program has it open for writing" in line
    assert "HDF5_USE_FILE_LOCKING=FALSE" in line
    assert "damaged" not in line
    opened(hdf5)


def test_what_is_advised_for_a_lock_works(hdf5: Path) -> None:
    program = (
        f"from pathlib import Path\nfrom understudy.envs.files.reading import open_hdf5\n"
        f"with open_hdf5(Path({str(hdf5)!r})) as file: print(list(file))"
    )
    with open(hdf5, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    assert done.stdout == "['a']\n", done.stderr


def test_a_file_that_was_not_closed_by_its_writer_is_said_so(hdf5: Path) -> None:
    writer = (
        f"import h5py, os\nfile = h5py.File({str(hdf5)!r}, 'w', libver='latest')\nfile['a'] = 1\n"
        "file.swmr_mode = True\nfile.flush()\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", writer], timeout=600, check=True)
    line = said(lambda: opened(hdf5), hdf5)
    assert "not closed by the program that wrote it" in line
    assert f"h5clear -s {hdf5}" in line
    assert "damaged" not in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (gzip.compress(b"\x89HDF\r\n\x1a\n", mtime=0), "compressed with gzip: unpack it"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"message": "not found"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    ],
)
@pytest.mark.parametrize("kind", ["HDF5", "npz"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, words: str, kind: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    line = said(lambda: opened(file) if kind == "HDF5" else read_npz(file), file)
    assert f"not a readable {kind} file: " in line
    assert words in line
    assert "damaged" not in line


def test_formats_taken_for_each_other_are_named(tmp_path: Path, hdf5: Path) -> None:
    np.savez(tmp_path / "file.npz", a=np.arange(3))
    assert "not a readable HDF5 file: it is npz" in said(lambda: opened(tmp_path / "file.npz"), tmp_path / "file.npz")
    assert "not a readable npz file: it is HDF5" in said(lambda: read_npz(hdf5), hdf5)


def test_a_file_that_is_cut_short_is_called_damaged(hdf5: Path) -> None:
    os.truncate(hdf5, hdf5.stat().st_size - 100)
    assert "truncated or damaged" in said(lambda: opened(hdf5), hdf5)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EIO, "input/output error); the disk or the network file system fails"),
        (errno.ESTALE, "the network file system lost it"),
        (errno.EMFILE, "raise `ulimit -n`"),
        (errno.ENOLCK, "HDF5_USE_FILE_LOCKING=FALSE"),
    ],
)
def test_errors_of_the_system_are_not_called_damage(tmp_path: Path, number: int, words: str) -> None:
    def fail() -> None:
        with damage(tmp_path / "x", "npz"):
            raise OSError(number, os.strerror(number))

    line = said(fail, tmp_path / "x")
    assert "cannot be read (" in line
    assert words in line
    assert "damaged" not in line


def test_what_is_wrong_in_a_readable_file_is_said_as_it_is(tmp_path: Path) -> None:
    def fail(error: Exception) -> Callable[[], None]:
        def raise_it() -> None:
            with understood(tmp_path / "x", "LeRobot"):
                raise error

        return raise_it

    assert said(fail(KeyError("fps")), tmp_path).endswith("x: no 'fps' in it, which LeRobot has")
    assert said(fail(WrongContent("fps is 0")), tmp_path).endswith("x: fps is 0")
    assert "says something else than LeRobot does (bad)" in said(fail(TypeError("bad")), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forbidden_file_of_any_source_is_said_to_be_forbidden(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, example = sources.get(kind), EXAMPLES[kind]
    path = place(source, tmp_path)
    source.write(path, iter(made_up(example, [3])), example.env_name, {})
    path = copy(path, place(source, tmp_path, "forbidden"))
    for file in data_files(path)[:1]:
        forbid(monkeypatch, file)
        with pytest.raises(DatasetError) as error:
            import_file(task_of(example.env_name), path, tmp_path / "stores")
        line = one_line(error, str(file))
        assert "permission denied" in line
        assert "damaged" not in line


def test_an_hdf5_file_that_leads_into_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.arange(8.0).tobytes())
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.arange(8.0)

    def external_link(handle) -> None:
        handle["data/x"] = h5py.ExternalLink("other.hdf5", "/x")

    def external_rows(handle) -> None:
        handle.create_dataset("x", (8,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 64)])

    def virtual_rows(handle) -> None:
        layout = h5py.VirtualLayout(shape=(8,), dtype="f8")
        layout[:] = h5py.VirtualSource("other.hdf5", "x", shape=(8,))
        handle.create_virtual_dataset("x", layout)

    for make in (external_link, external_rows, virtual_rows):
        with h5py.File(tmp_path / "led.hdf5", "w") as handle:
            make(handle)
        with pytest.raises(DatasetError, match=r"another file, which is not"), open_hdf5(tmp_path / "led.hdf5"):
            pass


def test_a_small_file_that_claims_gigabytes_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as handle:
        handle.create_dataset("x", (10**10,), "f4", chunks=(1000,))  # never written: no bytes of it are there
    with pytest.raises(DatasetError, match=r"claim 40.0 GB in a file of"), open_hdf5(tmp_path / "a.hdf5"):
        pass
    torch.save({"observation": torch.zeros(1).expand(10**10)}, tmp_path / "a.pt")
    with pytest.raises(DatasetError, match=r"claim 40.0 GB in a file of"):
        load_tensors(tmp_path / "a.pt")


def test_an_npz_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**6))
    assert (tmp_path / "a.npz").stat().st_size < 10**4
    read_npz(tmp_path / "a.npz", ["x"])
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(DatasetError, match=r"unpack to 8.0 MB, and 1.0 MB of memory are free"):
        read_npz(tmp_path / "a.npz", ["x"])
