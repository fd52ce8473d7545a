"""Memory of processes that share one store, and of one process on a store larger than it may hold. Linux only.

    python benchmarks/memory.py [--transitions 1000000] [--processes 8] [--megabytes 1024] [--limit 256]

First: `processes` processes each open the same data and sample from it until it is all in use. Each one's proportional
set size (PSS: a page that n processes share counts 1/n in each) grows by its mapping of the data and by private
memory; the sum is compared with what one process alone needs, and with as many that read the data with h5py.
Libraries are left out: every process on the machine that uses them changes their share.

Then: a store of `megabytes` is written and sampled from by processes whose heap may grow by `limit` megabytes only
(RLIMIT_DATA: private memory, mapped files are not in it); reading the same data with h5py must fail there. The same
with a store of pictures of 64 pixels, raw and as JPEG (there as many pictures, in fewer bytes).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.random
import torch  # noqa: F401  (imported by every process before anything is measured)

from measuring import NAME, episodes, make_hdf5, make_store, read_hdf5
from pictures import EPISODE, add_film, film
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.spec.data import DataSpec
from understudy.spec.learning import Sampling

BATCH, HORIZON, MB = 256, 5, 1e6
SIZE = 64
"""Edge of the pictures, in pixels."""
ROW_BYTES = 101
"""Bytes of one made-up transition in a store: 17 + 6 + 1 numbers of 4 bytes, and a flag, with the index rounded up."""


def use_store(path: Path) -> object:
    """Open a store and sample as many chunks as it has transitions; return what must stay alive."""
    windows = Windows(EpisodeStore.open(path), sampling=Sampling(horizon=HORIZON))
    for step in range(windows.num_transitions // BATCH + 1):
        windows.sample([0], step, BATCH)
    return windows


def use_hdf5(path: Path) -> object:
    """Read an HDF5 file and sample as many chunks as it has transitions; return what must stay alive."""
    data, rng = read_hdf5(path), np.random.default_rng(0)
    rows = len(data["actions"])
    for _ in range(rows // BATCH + 1):
        first = rng.integers(0, rows - HORIZON + 1, BATCH)
        _ = data["observations"][first], data["actions"][first[:, None] + np.arange(HORIZON)]
    return data


def write_store(path: Path, megabytes: int) -> object:
    """Write a store of about that size, one episode at a time."""
    with StoreWriter(path / NAME, name=NAME, source="d4rl", env_id="HalfCheetah-v4") as writer:
        for episode in episodes(int(megabytes * MB / ROW_BYTES)):
            writer.add_episode(episode)
    return writer


def write_pictures(path: Path, megabytes: int, encoding: str) -> object:
    """Write a store of as many pictures as are that size when they are raw, one episode at a time."""
    with StoreWriter(path / NAME, name=NAME, source="-", env_id="-", pictures=PictureEncoding(encoding)) as writer:
        for number in range(round(megabytes * MB / (EPISODE * 3 * SIZE**2))):
            add_film(writer, film(number % 16, SIZE))
    return writer


def use_pictures(path: Path) -> object:
    """Open a store of pictures and sample as many windows of two frames; return what must stay alive."""
    windows = Windows(EpisodeStore.open(path), DataSpec(obs_horizon=2))
    for step in range(windows.num_transitions // BATCH + 1):
        windows.sample([0], step, BATCH)
    return windows


def status(field: str, file: str = "/proc/self/status") -> int:
    """Return a field of a proc file in bytes."""
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(f"{file} has no {field}")


def limited(task: str, path: Path, limit: int, megabytes: int) -> None:
    """Run a task with a heap that may grow by `limit` megabytes; print whether it did, and its growth."""
    before = status("RssAnon")
    allowed = status("VmData") + int(limit * MB)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    try:
        kept = TASKS[task](path, megabytes)
    except MemoryError:
        print("out of memory")
        return
    print(f"done, {(status('RssAnon') - before) / MB:.0f} MB more private memory at the end")
    del kept


TASKS = {
    "store": lambda path, megabytes: use_store(path),
    "h5py": lambda path, megabytes: use_hdf5(path),
    "write": write_store,
    "write raw": lambda path, megabytes: write_pictures(path, megabytes, "raw"),
    "write jpeg": lambda path, megabytes: write_pictures(path, megabytes, "jpeg"),
    "pictures": lambda path, megabytes: use_pictures(path),
}


def wait_in_steps(task: str, path: Path) -> None:
    """Say ready, use the data when told to, say ready again and stay until the input ends."""
    print("ready", flush=True)
    sys.stdin.readline()
    kept = TASKS[task](path, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    del kept


def added_memory(task: str, path: Path, processes: int) -> np.ndarray:
    """Return the MB that using the data adds to the PSS of so many processes together: mapped data, private."""
    command = [sys.executable, __file__, "--child", task, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    sums = []
    for _ in range(2):
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit(f"a process that uses {path} failed")
        sums.append(sum(proportional(child.pid, path) for child in children))
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
    for child in children:
        child.communicate()
    return (sums[1] - sums[0]) / MB


def proportional(pid: int, path: Path) -> np.ndarray:
    """Return a process's PSS in bytes: of its mappings of `path` or files in it, and of its private memory."""
    data, wanted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):  # a mapping's first line, which ends with the file's name
            wanted = str(path) in rest[-1]
        elif word == "Pss:" and wanted:
            data += 1024 * int(rest[0])
    return np.array([data, status("Pss_Anon", f"/proc/{pid}/smaps_rollup")])


def shared(root: Path, transitions: int, processes: int) -> None:
    """Print what several processes need beside what one needs."""
    store = make_store(root, transitions)
    file = make_hdf5(root / "data.hdf5", store)
    size = sum(record["size"] for record in store.manifest.files.values()) / MB
    del store  # a mapping here would take its part of every page from the processes' sums
    print(f"{transitions} transitions, {size:.0f} MB as a store, {file.stat().st_size / MB:.0f} MB as HDF5")
    for name, path in (("store", root / NAME), ("h5py", file)):
        one, many = (added_memory(name, path, count) for count in (1, processes))
        print(
            f"{name:6} 1 process {sum(one):6.0f} MB, {processes} processes {sum(many):6.0f} MB: "
            f"{sum(many) / sum(one):.2f} times one ({many[0]:.0f} mapped, {many[1] / processes:.1f} private in each)"
        )


def flat(root: Path, megabytes: int, limit: int) -> None:
    """Print how processes with a limited heap fare on a store that is larger."""
    print(f"a store of {megabytes} MB in processes whose heap may grow by {limit} MB")
    run(root, "write", root, limit, megabytes)
    run(root, "store", root / NAME, limit, megabytes)
    file = make_hdf5(root / "data.hdf5", EpisodeStore.open(root / NAME))
    run(root, "h5py", file, limit, megabytes)
    for encoding in ("raw", "jpeg"):
        folder = root / encoding
        run(root, f"write {encoding}", folder, limit, megabytes)
        size = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file()) / MB
        print(f"a store of pictures, {encoding}, {size:.0f} MB, in the same")
        run(root, "pictures", folder / NAME, limit, megabytes)


def run(root: Path, task: str, path: Path, limit: int, megabytes: int) -> None:
    """Run one limited task in a process of its own and print what came of it."""
    command = [sys.executable, __file__, "--limited", task, str(path), "--limit", str(limit)]
    done = subprocess.run([*command, "--megabytes", str(megabytes)], capture_output=True, text=True, check=False)
    if done.returncode and task != "h5py":  # that one is meant to fail, and may do so inside a library
        raise SystemExit(f"{task}: {done.stderr.strip().splitlines()[-1]} (is the limit too small?)")
    print(f"{task:10} {done.stdout.strip() or 'out of memory'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--limited", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        wait_in_steps(options.child[0], Path(options.child[1]))
    elif options.limited:
        limited(options.limited[0], Path(options.limited[1]), options.limit, options.megabytes)
    else:
        for part in (
            lambda root: shared(root, options.transitions, options.processes),
            lambda root: flat(root, options.megabytes, options.limit),
        ):
            with tempfile.TemporaryDirectory() as folder:
                part(Path(folder))


if __name__ == "__main__":
    main()
