"""Find what a user wants to look at, a free port, and serve its pages until Ctrl-C."""

from __future__ import annotations

import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from understudy.cluster.profile import load_profile
from understudy.dashboards.places import Root, address, kind_of
from understudy.dashboards.reading.heads import Heads
from understudy.dashboards.site import Site
from understudy.errors import UnknownName, UserError
from understudy.files import home, user_path
from understudy.secrecy import without_secrets

FIRST_PORT, TRIED = 8765, 50


def site_of(what: str, save_dir: Path, data_dir: Path | None = None) -> Site:
    """Return the site that shows `what`: a folder with runs, or a sweep or run within one, by folder, name or run id.

    Else it is a dataset's name. Without one, `save_dir` is shown. UserError where there is nothing of that name.
    """
    site = _site_of(what, save_dir, data_dir or home() / "datasets")
    site.data_dir = data_dir
    return site


def heads_of(profile: str) -> Heads:
    """Return the clusters that pages show, this profile's first; UserError where there is no such profile."""
    if profile:
        load_profile(profile)
    return Heads(profile)


@contextmanager
def remote_site(tracking_uri: str, data_dir: Path | None = None) -> Generator[Site]:
    """Yield the site that shows what an MLflow store holds; its runs are brought into a folder that is removed after.

    StoreAway, in seconds, where the store does not answer; UserError for an address that is none.
    """
    from understudy.dashboards.remote import Remote
    from understudy.tracking.addresses import OFF, absolute_address, sqlite_path
    from understudy.tracking.fetching import be_impatient

    if tracking_uri == OFF:
        raise UserError("--tracking_uri none keeps no runs to show: give a store's address, or a folder of runs")
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():  # asking MLflow would make an empty one
        raise UserError(f"--tracking_uri: there is no tracking store {path}")
    be_impatient()
    with tempfile.TemporaryDirectory(prefix="understudy-pages-") as folder:
        site = Site(Root(Path(folder)), data_dir=data_dir, remote=Remote(absolute_address(tracking_uri), Path(folder)))
        site.prepare([])
        yield site


def _site_of(what: str, save_dir: Path, data_dir: Path) -> Site:
    from understudy.envs.store.finding import store_name
    from understudy.envs.store.store import MANIFEST

    if not what:
        if not save_dir.is_dir():
            raise UserError(f"{save_dir}: no such folder; give the folder of runs, or a run, a sweep or a dataset")
        return Site(Root(save_dir))
    path = user_path(what)
    if path.is_dir() and not kind_of(path):
        return Site(Root(path))
    if what not in ("", ".", "..") and (data_dir / store_name(what) / MANIFEST).is_file():
        return Site(Root(save_dir if save_dir.is_dir() else data_dir), start=address("dataset", what))
    folder = (path if kind_of(path) else _found(what, save_dir, data_dir)).resolve()
    root = Root(_root_above(folder))
    return Site(root, start=address(kind_of(folder), root.relative(folder)))


def _found(what: str, save_dir: Path, data_dir: Path) -> Path:
    """Return the folder of a run or sweep by its name; of a dataset that is not imported, say how it can be had."""
    from understudy.envs.sources.getting import missing_dataset
    from understudy.registry import sources
    from understudy.runs.find import find

    try:
        return find(what, save_dir)
    except UnknownName:
        task = next((task for _, source in sources.items() if (task := source.parse(what)) is not None), None)
        if task is None:
            raise
        raise missing_dataset(task, data_dir) from None


def _root_above(folder: Path) -> Path:
    """Return the folder of the whole comparison or sweep that a folder is part of, and of what lies beside it."""
    top = folder
    for above in folder.parents:
        if kind_of(above):
            top = above
    return top.parent


def free_port(host: str, wanted: int | None) -> int:
    """Return the port, or the first free one from FIRST_PORT on; UserError where none is."""
    for port in (wanted,) if wanted is not None else range(FIRST_PORT, FIRST_PORT + TRIED):
        try:
            with socket.create_server((host, port)):
                return port
        except OverflowError:
            raise UserError(f"--port {port}: a port is a number from 1 to 65535") from None
        except OSError as error:
            reason = error.strerror or str(error)
    raise UserError(f"--port {wanted or FIRST_PORT}: cannot listen on {host} ({reason}); give another --port")


def serve(site: Site, host: str, port: int, browse: bool, say: Callable[[str], None]) -> None:
    """Serve a site until Ctrl-C, opening it in the browser where that is wanted."""
    import uvicorn

    from understudy.dashboards.server import LOCAL, make_app

    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}{site.start}"
    others = () if host in LOCAL else (host, socket.gethostname())
    server = uvicorn.Server(
        uvicorn.Config(make_app(site, others), host=host, port=port, log_level="error", access_log=False)
    )
    shown_is = site.root.path if site.remote is None else f"MLflow at {without_secrets(site.remote.tracking_uri)}"
    say(f"understudy on {url} (stop with Ctrl-C); it shows {shown_is}, and writes nothing")
    if others:
        say(f"anyone who reaches {host} can read it: there is no password")
    if browse:
        threading.Timer(0.6, webbrowser.open, (url,)).start()
    server.run()
