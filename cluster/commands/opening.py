"""What the commands of clusters and of jobs share: a profile's cluster, and how they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.cli.output import console

if TYPE_CHECKING:
    from understudy.cluster.jobs import Cluster
    from understudy.cluster.profile import Profile


def print_lines(lines: list[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, soft_wrap=True)


def open_profile(profile: str, overrides: list[str] | None = None) -> tuple[Profile, Cluster]:
    """Return a profile, `key=value` words laid over it, and its cluster."""
    from understudy.cluster.jobs import open_cluster
    from understudy.cluster.profile import load_profile

    loaded = load_profile(profile, overrides or [])
    return loaded, open_cluster(loaded)
