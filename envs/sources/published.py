"""Fetch a source's published dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from understudy.envs.files.downloads import OnBytes, Remote, Unreachable, fetch, place
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.envs.sources.task import Task


def fetch_published(
    task: Task,
    folder: Path,
    progress: OnBytes | None = None,
    *,
    remote: Remote | None = None,
    overwrite: bool = False,
) -> Path:
    """Fetch a dataset's published file (or `remote`) into `folder`; offline, say how to bring the file here."""
    remote = remote or task.remote
    if remote is None:
        model = "" if task.expert() else " --policy MODEL"
        how = f"make it with `understudy data generate {task.env_name}{model}`, or give its --url"
        raise UserError(f"{task.env_name}: no address of it is known; {how}")
    target = place(remote, folder)
    try:
        return fetch(remote, target, progress, overwrite=overwrite)
    except Unreachable as error:
        command = f"understudy data import {task.source.name} {target} --name {task.env_name}"
        raise Unreachable(f"{error}; fetch it where there is internet, copy it to {target}, run `{command}`") from error
