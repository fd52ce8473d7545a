"""The pages in a real browser: Chromium by Playwright, left out where either is missing.

pip install playwright==1.65.2 && apt-get install chromium     # no browser is fetched
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dashboards.folders import make_run, make_sweep
from tests.dashboards.heads import as_running, head, recorded, with_gpus, write_profile

from understudy.dashboards.places import Root
from understudy.dashboards.report import write_report
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import free_port
from understudy.dashboards.site import Site
from understudy.files import write_json

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright==1.65.2")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep, one under way, and two runs."""
    root = tmp_path_factory.mktemp("runs")
    make_sweep(root / "sweep_1")
    going_on = make_sweep(root / "sweep_2", trials=2, status="running")
    write_json(going_on / "trials" / "0001" / "run.json", {"status": "running"})
    make_run(root / "one", 0.9)
    make_run(root / "two", 0.2, lr=1e-4)
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Serve the folder, and return its address."""
    import uvicorn

    port = free_port("127.0.0.1", None)
    running = uvicorn.Server(uvicorn.Config(make_app(Site(Root(folder))), port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Return a browser."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: str) -> Iterator[Any]:
    """Return a page; that it complained, or asked for anything elsewhere, is a failure."""
    wrong: list[str] = []
    made = chromium.new_page(viewport={"width": 1600, "height": 1000})
    made.set_default_timeout(120_000)
    made.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("request", lambda request: None if request.url.startswith(server) else wrong.append(request.url))
    yield made
    made.close()
    assert wrong == []


PAGES = ("/", "/cluster", "/sweep/sweep_1", "/run/one", "/episodes/one", "/compare?of=one&of=two", "/datasets")


def drawn(page: Any) -> None:
    """Wait until the page's plots are there."""
    page.wait_for_function("document.body.dataset.drawn > 0")


@pytest.mark.parametrize("address", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1600, "light"), (800, "dark"), (400, "light")])
def test_a_page_is_drawn_and_fits_its_window(page: Any, server: str, address: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(server + address)
    if "sweep" in address or "of=" in address:
        drawn(page)
        assert page.locator("[data-plot] svg, [data-plot] canvas").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it can be scrolled sideways"


def test_a_sweeps_plots_are_all_there_and_a_dot_opens_its_trial(page: Any, server: str) -> None:
    page.goto(f"{server}/sweep/sweep_1")
    drawn(page)
    for plot in ("forest", "importance", "slices"):
        assert page.locator(f'[data-plot="{plot}"] svg').count() >= 1, plot
    for plot in ("curves", "parallel"):
        assert page.locator(f'[data-plot="{plot}"] canvas').count() == 1, plot
    page.locator('[data-plot="slices"] circle[data-trial="3"]').first.dispatch_event("click")
    page.wait_for_url("**/run/sweep_1/trials/0003")


def test_the_table_is_sorted_by_keyboard_alone(page: Any, server: str) -> None:
    page.goto(f"{server}/sweep/sweep_1")
    drawn(page)
    button = page.locator("th button", has_text="lr")
    button.focus()
    page.keyboard.press("Enter")
    assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
    assert page.locator("tr[data-trial]").first.get_attribute("data-trial") == "7"
    page.keyboard.press("Enter")
    assert page.locator("tr[data-trial]").first.get_attribute("data-trial") == "0"


def test_typing_filters_the_list_without_another_page(page: Any, server: str) -> None:
    page.goto(server)
    page.locator("#words").fill("sweep_1")
    page.wait_for_function("document.querySelectorAll('#rows tbody tr').length === 1")
    page.locator("label", has_text="runs").locator("input").check()
    page.wait_for_selector("#rows .empty")


def test_what_is_new_of_a_sweep_appears_by_itself(page: Any, server: str, folder: Path) -> None:
    page.goto(f"{server}/sweep/sweep_2")
    drawn(page)
    assert page.locator("h2", has_text="Trial 0 leads so far").count() == 1
    best = json.loads((folder / "sweep_1" / "best.json").read_text())
    write_json(folder / "sweep_2" / "best.json", best | {"trial": 1})
    page.wait_for_selector("text=Trial 1 was chosen")
    page.wait_for_function("document.body.dataset.drawn > 1")


def test_a_part_of_an_axis_is_kept_by_dragging_and_let_go_by_escape(page: Any, server: str) -> None:
    page.goto(f"{server}/sweep/sweep_1")
    drawn(page)
    canvas = page.locator('[data-plot="parallel"] canvas')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left = box["x"] + min(90, box["width"] * 0.08)
    page.mouse.move(left, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(left, box["y"] + 140, steps=4)
    page.mouse.up()
    assert " of 8 trials" in page.locator('[data-readout="parallel"]').inner_text()
    page.locator('[data-plot="parallel"]').focus()
    page.keyboard.press("Escape")
    assert page.locator('[data-readout="parallel"]').inner_text().strip() == ""


def test_a_report_is_drawn_with_no_server_and_no_network(chromium: Any, folder: Path, tmp_path: Path) -> None:
    write_report(folder / "sweep_1", tmp_path / "report.html", "html")
    context = chromium.new_context(offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    drawn(page)
    assert page.locator('[data-plot="curves"] canvas').count() == 1
    assert wrong == []
    context.close()


@pytest.fixture
def cluster_page(chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str, dict]]:
    """Serve a folder and a head's recorded answers; return a page, the server's address, and what the head says."""
    import uvicorn

    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    as_running(make_sweep(tmp_path / "runs" / "monday", trials=4, status="running"))
    said, port = with_gpus(recorded()), free_port("127.0.0.1", None)
    with head(said) as address:
        write_profile(tmp_path / "home", "lab", address)
        running = uvicorn.Server(uvicorn.Config(make_app(Site(Root(tmp_path / "runs"))), port=port, log_level="error"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            thread.join(0.05)
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(120_000)
        yield page, f"http://127.0.0.1:{port}", said
        page.close()
        running.should_exit = True
        thread.join()


@pytest.mark.parametrize(("width", "scheme"), [(1600, "light"), (800, "dark"), (400, "light")])
def test_a_clusters_page_fits_its_window_and_follows_the_head(cluster_page: Any, width: int, scheme: str) -> None:
    page, server, said = cluster_page
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: None if request.url.startswith(server) else wrong.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{server}/cluster")
    page.wait_for_selector(".node")
    assert page.locator(".node").count() == 4
    assert page.locator(".node.gone").count() == 1
    assert page.locator(".slots rect.taken").count() == 3 + 1, "of three CPUs, and one GPU"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it can be scrolled sideways"
    page.locator("a", has_text="trial 0002").focus()
    said["nodes"]["data"]["summary"] = said["nodes"]["data"]["summary"][:1]
    page.wait_for_function("document.querySelectorAll('.node').length === 1")
    page.locator("a", has_text="trial 0001").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/monday/trials/0001")
    assert wrong == []
