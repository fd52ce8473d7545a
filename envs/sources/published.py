"""Fetch a source's published dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from understudy.envs.files.downloads import OnBytes, Remote, Unreachable, fetch, place
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.envs.sources.source import Source


def fetch_published(
    source: Source,
    env_name: str,
    folder: Path,
    progress: OnBytes | None = None,
    *,
    remote: Remote | None = None,
    overwrite: bool = False,
) -> Path:
    """Fetch a dataset's published file (or `remote`) into `folder`; offline, say how to bring the file here."""
    remote = remote or source.remote(env_name)
    if remote is None:
        model = "" if source.expert(env_name) else " --policy MODEL"
        how = f"make it with `understudy data generate {env_name}{model}`, or give its --url"
        raise UserError(f"{env_name}: no address of it is known; {how}")
    target = place(remote, folder)
    try:
        return fetch(remote, target, progress, overwrite=overwrite)
    except Unreachable as error:
        command = f"understudy data import {source.name} {target} --name {env_name}"
        raise Unreachable(f"{error}; fetch it where there is internet, copy it to {target}, run `{command}`") from error
