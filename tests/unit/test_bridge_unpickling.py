"""The reader of pickles from anywhere: it gives back plain data of every protocol, and nothing else gets through."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pickle
import pickletools
import random
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.envs.sources.bridge import unpickling as bridge_unpickling
from understudy.envs.sources.bridge.out_npy import read_trajectories
from understudy.envs.sources.bridge.unpickling import unpickle, unpickle_buffer
from understudy.errors import DatasetError

PROTOCOLS = range(6)


def read(data: bytes) -> Any:
    return unpickle_buffer(memoryview(data), "data.pkl")


def refused(data: bytes, *parts: str) -> str:
    """Return what is said of a pickle that must be refused, after a check that it is one line."""
    with pytest.raises(DatasetError) as error:
        read(data)
    text = str(error.value)
    assert text.startswith("data.pkl: ")
    assert "\n" not in text
    assert len(text) < 400
    for part in parts:
        assert part in text, text
    return text


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        if wanted.dtype.kind == "O":
            for one, other in zip(found.flat, wanted.flat, strict=True):
                same(one, other)
        else:
            assert found.tobytes() == wanted.tobytes()
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            same(found[key], value)
    elif isinstance(wanted, list | tuple):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, bytes):
        assert bytes(found) == wanted
    else:
        assert type(found) is type(wanted)
        assert found == wanted or (found != found and wanted != wanted)


DTYPES = st.sampled_from(["u1", "i1", "<f4", ">f4", "<f8", ">i8", "<i4", "?", "<f2", "S3", "<U4"])
ARRAYS = DTYPES.flatmap(lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
LAYOUTS = st.sampled_from([lambda a: a, np.asfortranarray, lambda a: a.T, lambda a: a[::-1]])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | ARRAYS.flatmap(lambda a: LAYOUTS.map(lambda layout: layout(a) if a.ndim else a))
    | hnp.from_dtype(np.dtype("f8")).map(np.float64)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_of_every_protocol_come_back(value, protocol) -> None:
    same(read(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_dicts_and_shared_values_come_back(protocol) -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    steps = [{"images0": frame + t, "state": np.full(7, t, ">f8"), "time_stamp": np.float64(t)} for t in range(3)]
    value = np.array([{"observations": steps[:-1], "next_observations": steps[1:]}, {"language": [""]}], object)
    value_of_dict = collections.OrderedDict(a=1, b=value)
    same(read(pickle.dumps(value, protocol)), value)
    same(read(pickle.dumps(value_of_dict, protocol)), dict(value_of_dict))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_the_names_of_numpy_before_version_2_are_known(protocol) -> None:
    value = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(2.5)}
    data = pickle.dumps(value, protocol)
    # Protocol 4 writes a text's length before it.
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    old = old.replace(b"cnumpy._core.", b"cnumpy.core.")
    if protocol < 4:
        assert old != data
        same(read(old), value)
    else:
        body = (
            b"\x80\x04"
            + b"".join(  # without frames, whose lengths would be others
                old[place:after] for (code, _, place), after in _operations(old) if code.name not in ("FRAME", "PROTO")
            )
        )
        assert b"numpy.core" in body
        same(read(body), value)


def _operations(data: bytes) -> list[tuple[Any, Any]]:
    # genops counts in its own frame-less stream: positions are those of the bytes
    found = list(pickletools.genops(io.BytesIO(data)))
    return list(zip(found, [place for _, _, place in found[1:]] + [len(data)], strict=True))


class Runs:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda bad: bad, "system"),
        (lambda bad: [[{"a": (1, [bad])}]], "system"),
        (lambda bad: np.array([{"observations": [bad]}], object), "system"),
        (lambda bad: {"full_state": np.zeros(3), "time_stamp": [0.0, bad]}, "system"),
        (lambda bad: collections.OrderedDict(a=bad), "system"),
    ],
    ids=["bare", "nested", "in an array", "in a dict", "in an ordered dict"],
)
def test_a_call_of_the_shell_is_refused_wherever_it_is_and_does_not_run(tmp_path, protocol, wrap, name) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps(wrap(Runs(os.system, f"touch {marker}")), protocol)
    refused(data, name)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "bad",
    [
        Runs(eval, "__import__('os').system('true')"),
        Runs(exec, "1"),
        Runs(getattr, np.ndarray, "tofile"),
        Runs(Runs, 1),
        Runs(np.load, "x.npy", None, True),
        Runs(np.memmap, "/etc/passwd"),
        Runs(pickle.loads, b"I1\n."),
        Runs(bytearray, 10**12),
        Runs(bytes, 10**12),
        Runs(np.zeros, (10**6, 10**6)),
        Runs(io.open, "/etc/passwd"),
        datetime.datetime(2021, 7, 23),
        collections.defaultdict(list),
        {1, 2},
        frozenset([1]),
        bytearray(b"abc") * 0 or Runs(list, "abc"),
        Path("/"),
        os.system,
        print,
        np.ndarray,
        np.random.default_rng(0),
        np.array([(1, 2.0)], dtype="i4,f8"),
        np.datetime64("2021-07-23"),
        np.ma.masked_array([1.0], [True]),
        1j,
    ],
    ids=lambda bad: type(bad).__name__ if not isinstance(bad, Runs) else f"calls {bad.call[0].__name__}",
)
def test_what_is_no_plain_data_is_refused(protocol, bad) -> None:
    with pytest.raises(DatasetError) as error:
        found = read(pickle.dumps({"a": bad}, protocol))
        assert not isinstance(found["a"], type), "a name came through"
        raise AssertionError(found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # protocol 0, by hand
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",  # NEWOBJ_EX
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pmodule\n.",  # PERSID
        b"\x80\x02K\x01Q.",  # BINPERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R}X\x01\x00\x00\x00aK\x01sb.",  # a dict as a state
        b"\x80\x02]}X\x09\x00\x00\x00__class__K\x01sb.",  # BUILD on a list
        b"cnumpy\ndtype.__class__\n.",
        b"cnumpy\nndarray.__init__\n.",
        b"cnumpy._core.multiarray\n_reconstruct.__globals__\n.",
        b"cbuiltins\n__import__\n.",
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
        b"c_codecs\nencode\n(Vx\nVidna\ntR.",
    ],
    ids=lambda data: data[:24],
)
def test_pickles_made_by_hand_are_refused(data) -> None:
    refused(data)


def test_a_name_with_line_feeds_and_escapes_is_shown_in_one_line() -> None:
    module = "a\nb\x1b[31m" * 50
    name = struct.pack("<I", len(module)) + module.encode()
    refused(b"\x80\x04X" + name + b"\x8c\x01x\x93.", "a\\nb\\x1b[31m")


def array_state(shape: str, code: str, content: bytes) -> bytes:
    """Return a pickle of an array with a shape (pickled), dtype and content that need not fit."""
    made = b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    dtype = b"cnumpy\ndtype\nX" + struct.pack("<I", len(code)) + code.encode() + b"\x89\x88\x87R"
    dtype += b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return made + b"(K\x01" + shape.encode("latin-1") + dtype + b"\x89" + content + b"tb."


HUGE = "\x8a\x05" + "\x00\x00\x00\x00\x10"  # LONG1 of 2^36


@pytest.mark.parametrize(
    ("shape", "code", "content"),
    [
        (f"{HUGE}\x85", "f8", b"C\x08" + bytes(8)),  # 2^36 numbers in 8 bytes
        (f"{HUGE}{HUGE}\x86", "u1", b"C\x00"),
        (f"K\x00{HUGE}\x86", "u1", b"C\x00"),
        (f"{HUGE}\x85", "O8", b"]"),
        ("J\xff\xff\xff\xff\x85", "u1", b"C\x01a"),  # -1
        ("K\x02\x85", "f8", b"C\x0a" + bytes(10)),
        ("K\x02\x85", "V1000000000", b"C\x02aa"),
        ("K\x02\x85", "S1000000000000", b"C\x02aa"),
        ("K\x02\x85", "U0", b"C\x00"),
        ("K\x02\x85", "no such type", b"C\x02aa"),
        ("K\x02\x85", "f8,i4", b"C\x02aa"),
        ("G\x40\x00\x00\x00\x00\x00\x00\x00\x85", "u1", b"C\x02aa"),  # 2.0
        ("X\x01\x00\x00\x002\x85", "u1", b"C\x02aa"),
        ("(" + "K\x01" * 40 + "t", "u1", b"C\x01a"),
        ("K\x02\x85", "u1", b"K\x05"),
        ("K\x02\x85", "u1", b"N"),
        ("K\x02\x85", "O8", b"C\x10" + bytes(16)),  # pointers from a file
    ],
)
def test_arrays_that_claim_more_or_other_than_their_bytes_are_refused(shape, code, content) -> None:
    refused(array_state(shape, code, content))


def test_an_array_as_it_should_be_made_by_hand_is_read() -> None:
    assert read(array_state("K\x02\x85", "u1", b"C\x02\x07\x08")).tolist() == [7, 8]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",  # BINBYTES8
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x80\x03B" + struct.pack("<I", 2**31) + b"abc.",
        b"\x80\x02X" + struct.pack("<I", 2**31) + b"abc.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"abc.",
        b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abc.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"V" + b"a" * 100_000,
        b"\x80\x02K\x01r\xff\xff\xff\xff0j\xfe\xff\xff\xff.",  # a memo of 2^32 places, and one that was not set
    ],
    ids=lambda data: data[:14],
)
def test_claims_of_gigabytes_are_refused_before_they_are_made(data) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_memo_place_far_away_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_small_file_that_unfolds_to_billions_is_refused_or_shared() -> None:
    """Ten lists of ten of the same lists of ten ...: sharing keeps them small, and the reader does not copy."""
    data = b"\x80\x02]q\x00"
    for level in range(1, 60):
        data += b"](" + b"h" + bytes([level - 1]) + (b"h" + bytes([level - 1])) * 9 + b"eq" + bytes([level])
    found = read(data + b".")
    assert len(found) == 10


def test_texts_that_are_made_bytes_again_and_again_are_refused() -> None:
    """`_codecs.encode` of one remembered megabyte, two thousand times: 2 GB from 1 MB."""
    text = (
        b"\x80\x02X"
        + struct.pack("<I", 2**20)
        + b"a" * 2**20
        + b"q\x000c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x0200]("
    )
    refused(text + b"h\x01h\x00h\x02\x86R" * 2_000 + b"e.", "unfolds")


def test_empty_containers_without_end_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(bridge_unpickling, "FREE_OPERATIONS", 1000)
    refused(b"\x80\x02(" + b"}" * 4_000 + b"t.", "more than")


def test_an_array_of_objects_that_repeats_a_long_list_is_refused() -> None:
    items = b"](" + b"N" * 100_000 + b"eq\x000"
    shape = b"J" + struct.pack("<i", 100_000) + b"\x85"
    state = b"(K\x01" + shape + b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R\x89h\x00tb"
    array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" + state
    refused(b"\x80\x03" + items + b"](" + array * 200 + b"e.", "unfolds")


@pytest.mark.parametrize("opening", [b"(", b"]q\x00h\x00(h\x00", b"]("], ids=["marks", "lists in themselves", "lists"])
def test_deep_nesting_is_read_or_refused_without_a_crash(opening) -> None:
    try:
        read(b"\x80\x02" + opening * 60_000 + b".")
    except DatasetError as error:
        assert "\n" not in str(error)


def test_a_deeply_nested_key_is_refused_before_it_is_hashed() -> None:
    refused(b"\x80\x02})" + b"\x85" * 150_000 + b"K\x01s.", "a key of type tuple")


def test_deeply_nested_tuples_and_dicts_are_let_go_without_a_crash() -> None:
    refused(b"\x80\x02)" + b"\x85" * 150_000)
    refused(b"\x80\x02" + b"}K\x01" * 50_000 + b"N" + b"s" * 50_000)


def test_a_pickle_that_is_cut_short_is_refused_at_every_length() -> None:
    value = {"full_state": np.arange(21.0).reshape(3, 7), "time_stamp": [0.1, 0.2], "o": np.array([{"a": 1}], object)}
    for protocol in PROTOCOLS:
        data = pickle.dumps(value, protocol)
        for length in range(len(data)):
            with pytest.raises(DatasetError):
                read(data[:length])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_changed_bytes_are_read_or_refused(protocol) -> None:
    value = [{"images0": np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "state": np.arange(7.0)}, np.float32(1), "é"]
    original, rng = pickle.dumps(value, protocol), random.Random(protocol)
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read(bytes(data))
        except DatasetError as error:
            assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_is_refused_or_harmless(data) -> None:
    try:
        read(data)
    except DatasetError as error:
        assert "\n" not in str(error)


def test_files_that_are_none_or_something_else_are_refused(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        unpickle(tmp_path / "missing.pkl")
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(DatasetError, match="empty"):
        unpickle(tmp_path / "empty.pkl")
    with pytest.raises(DatasetError):
        unpickle(tmp_path)


def test_arrays_are_views_of_the_file_and_cannot_be_written(tmp_path) -> None:
    file = tmp_path / "large.pkl"
    file.write_bytes(pickle.dumps({"a": np.zeros(200_000_000, np.uint8)}, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = unpickle(file)["a"]
    assert found.shape == (200_000_000,)
    assert not found.flags.writeable
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB, of 200 MB


def test_an_archive_of_zeros_in_the_place_of_an_out_npy_is_refused(tmp_path) -> None:
    """np.load would open a zip file by its first bytes and unfold it."""
    file = tmp_path / "out.npy"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", bytes(100_000_000))
    assert file.stat().st_size < 200_000
    with pytest.raises(DatasetError) as error:
        list(read_trajectories(file))
    assert "\n" not in str(error.value)
    with pytest.raises(DatasetError):
        unpickle(file)


def test_a_picture_shown_a_hundred_thousand_times_does_not_unfold(tmp_path) -> None:
    """One frame of 48 kB and a list that refers to it over and over: 4.8 GB of observations."""
    step = {"images0": np.zeros((128, 128, 3), np.uint8)}
    steps = [step] * 100_000
    bomb = [{"observations": steps, "next_observations": steps, "actions": [np.zeros(7)] * 100_000}]
    file = tmp_path / "out.npy"
    np.save(file, np.array(bomb, object), allow_pickle=True)
    assert file.stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match="unfolds to"):
        list(read_trajectories(file))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
