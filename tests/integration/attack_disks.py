"""Full disks as attacks: a file system that takes no more bytes, or no more files, before a command begins.

The room is a tmpfs that is made as large as what is in it and a little more, so this needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import ClassVar

from tests.contract.source_examples import EXAMPLES, made_up
from tests.integration import test_own_data
from tests.integration.attack_kinds import DATA, SMALL, Kind, make_data
from tests.integration.attacking import Outcome
from tests.integration.breaking import only
from tests.integration.commands import run
from tests.integration.file_server import FileServer, serving

from understudy.registry import sources

CAN_MOUNT = os.geteuid() == 0 and shutil.which("mount") is not None
PENDULUM, HOPPER = "minari:pendulum/scripted-v0", "hopper-medium-v2"
ROOMY, MANY = 1 << 30, 100_000
"""Bytes and files of a disk with room."""
LEFT = (0, 0, 4 << 10, 64 << 10, 256 << 10)
"""Bytes that still fit."""


class FullDisks(Kind):
    """Each command on a disk that is full when it starts, then once there is room."""

    name: ClassVar[str] = "full disks"

    def __init__(self, root: Path, here: bool = False) -> None:
        root.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOMY},nr_inodes={MANY}", "none", str(root)], check=True)
        self.root = root
        super().__init__(root / "room", here)
        self.room.limits = {}
        self._serving = serving(self.published.read_bytes())
        self.server: FileServer = self._serving.__enter__()

    def close(self) -> None:
        """Take the file system down."""
        self._serving.__exit__(None, None, None)
        subprocess.run(["umount", "-l", str(self.root)], check=True)

    def make(self, folder: Path) -> None:
        """Make a dataset, a run of it that acts, a sweep, and files to import."""
        make_data(folder / "data")
        words = ("--episodes", "2", "--workers", "1", "--data_dir", "data")
        run("data", "generate", PENDULUM, *words, cwd=folder)
        plain = [word for word in SMALL if not word.startswith(("launcher=", "env_name=", "eval_episodes="))]
        played = (*plain, f"env_name={PENDULUM}", "eval_episodes=1")
        run("train", *played, "launcher=inline", "tracking_uri=none", "run_group=acts", cwd=folder)
        swept = ("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "with_default=false", "num_trials=2", "seeds=[0]")
        run("sweep", *SMALL[1:5], *SMALL[6:], *swept, "confirm_seeds=0", "register_as=none", cwd=folder)
        (folder / "files").mkdir()
        self.file = test_own_data.write("flat npz", folder / "files")
        self.published = folder / "files" / "hopper_medium-v2.hdf5"
        example = EXAMPLES["d4rl"]
        sources.get("d4rl").write(self.published, iter(made_up(example, [30, 1, 20])), HOPPER, {})
        self.acts = only(folder / "runs" / "bc_training" / "acts").relative_to(folder)
        self.sweep = only(folder / "runs", "sweep.json").relative_to(folder)

    def commands(self) -> dict[str, tuple[str, ...]]:
        """Return what is run, by name."""
        here = ("--data_dir", "data")
        own = ("--obs", "joints,front", "--action", "command")
        swept = ("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "with_default=false", "num_trials=2", "seeds=[0]")
        return {
            "train": ("train", *SMALL, "run_group=new"),
            "sweep": ("sweep", *SMALL[1:5], *SMALL[6:], *swept, "confirm_seeds=0", "run_group=new"),
            "generate": ("data", "generate", PENDULUM, "--name", "new", "--episodes", "2", "--workers", "1", *here),
            "import": ("data", "import", "npz", str(self.file), "--name", "new", *own, *here),
            "download": ("data", "download", HOPPER, "--url", self.server.url(), *here),
            "data export": ("data", "export", DATA, "out", "--format", "lerobot", *here),
            "evaluate": ("evaluate", str(self.acts), "eval_episodes=1", "video_episodes=1", "--video", "film.mp4"),
            "report": ("report", str(self.sweep), "--out", "page.html"),
            "export": ("models", "export", str(self.acts), "out"),
            "register": ("models", "register", str(self.acts), "--as", "taken", "--tracking_uri", "sqlite:///m.db"),
            "record": ("record", f"env_name={PENDULUM}", "control=scripted", "num_episodes=1", "root=rec"),
        }

    def attack(self, random: Random) -> list[Outcome]:
        """Fill the disk, run a command, make room, run it again."""
        self._size("size", ROOMY)
        self._size("nr_inodes", MANY)
        self.room.renew()
        self.room.home.mkdir(exist_ok=True)
        (self.room.work / "tmp").mkdir(exist_ok=True)
        name, words = random.choice(sorted(self.commands().items()))
        before = there(self.room.work)
        if random.random() < 0.75:
            left = random.choice(LEFT)
            used = shutil.disk_usage(self.root).used
            self._size("size", used + left)
            how = f"{name} with {left} bytes left"
        else:
            left, held = random.choice((0, 1, 5)), os.statvfs(self.root)
            self._size("nr_inodes", held.f_files - held.f_ffree + left)
            how = f"{name} with {left} files left"
        found = [self.room.say(*words)]
        found[0].problems = [
            it for it in found[0].problems if not it.startswith("OUTSIDE ")
        ]  # /tmp, for TMPDIR is full
        if found[0].code and found[0].code != 1:
            found[0].problems.append("not exit code 1")
        half = [path for path in sorted(there(self.room.work) - before) if half_written(self.room.work / path)]
        if half:
            found[0].problems.append(f"left {' '.join(half[:3])}")
        self._size("size", ROOMY)
        self._size("nr_inodes", MANY)
        if found[0].code:
            found.append(self.room.say(*words))
            if found[1].code:
                found[1].problems.append(f"not done with room: exit {found[1].code}")
        for outcome in found:
            outcome.how = how
        return found

    def _size(self, option: str, value: int) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}={value}", str(self.root)], check=True)


def there(folder: Path) -> set[str]:
    """Return what is below a folder, the temporary folder apart."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in found if path.parts[0] != "tmp"}


def half_written(path: Path) -> bool:
    """Return whether something is what a command had begun to write: a temporary name, or nothing in it."""
    if path.is_dir():
        return not any(path.iterdir())
    return path.name.endswith((".tmp", ".part", "-journal")) or (
        path.stat().st_size == 0 and not path.name.endswith((".lock", ".turn"))
    )
