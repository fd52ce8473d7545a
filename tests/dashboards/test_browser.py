"""The pages in a real browser: Chromium by Playwright, left out where either is missing.

pip install playwright==1.65.2 && apt-get install chromium     # no browser is fetched
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from tests.dashboards.folders import make_clip, make_run, make_store, make_sweep
from tests.dashboards.heads import as_running, head, recorded, with_gpus, write_profile

from understudy.dashboards.places import Root
from understudy.dashboards.report import write_report
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import free_port
from understudy.dashboards.site import Site
from understudy.files import write_json
from understudy.matrix.cells import Cell, MatrixDir
from understudy.matrix.comparison import Result, write_comparison

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright==1.65.2")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


SCRIPT = "<script>document.title='owned'</script>"
NASTY = "a <img src=x onerror=alert(1)> \x1b[31m 100%"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep, one under way, and two runs."""
    root = tmp_path_factory.mktemp("runs")
    make_sweep(root / "sweep_1")
    going_on = make_sweep(root / "sweep_2", trials=2, status="running")
    write_json(going_on / "trials" / "0001" / "run.json", {"status": "running"})
    for name, level in (("one", 0.9), ("two", 0.2)):
        run = make_run(root / name, level, lr=level, env_name="lab:one")
        make_clip(run, 0, 3, float(name == "one"), env_name="lab:one")
        (run / "sd001" / "final_model.pt").touch()
    make_clip(root / "two", 2, 5, 0.0)
    failed = make_sweep(root / "sweep_3", trials=3) / "trials" / "0001"
    write_json(failed / "run.json", {"status": "failed", "error": "ValueError: no such gripper", "step": 200})
    (failed / "log.txt").write_text("Traceback\nValueError: no such gripper\n")
    make_run(root / NASTY, 0.5, env_name=SCRIPT, state={"status": "failed", "error": f"{SCRIPT}\x1b[31m"})
    half = make_run(root / "half", 0.5)
    (half / "flags.json").write_text('{"algo": ')
    (half / "eval.csv").write_bytes((half / "eval.csv").read_bytes()[:50])
    (half / "episodes.arrow").write_bytes((half / "episodes.arrow").read_bytes()[:700])
    make_comparison(root / "matrix_1")
    two = make_sweep(root / "sweep_4", trials=4)
    record = json.loads((two / "sweep.json").read_text())
    record["options"] |= {"objective": ["success", "length"], "direction": ["auto"]}
    write_json(two / "sweep.json", record)
    ends = [{"trial": number, "success": number / 4, "length": 20.0 + number} for number in (1, 3)]
    write_json(two / "report.json", {"pareto_front": ends})
    return root


def make_comparison(folder: Path) -> None:
    """Write a comparison of two methods on two tasks."""
    cells = [Cell(method, task, f"{method}-{task}", ()) for task in ("near", "far") for method in ("bc", "flow_bc")]
    random, results = np.random.default_rng(0), list[Result]()
    for cell in cells:
        scores_KE = (random.uniform(size=(3, 40)) < (0.3 if cell.method == "bc" else 0.8)).astype(float)
        found = {"success": float(scores_KE.mean()), "success_low": 0.2, "success_high": 0.9}
        results.append(Result(cell.method, cell.task, "success", found, {"lr": 3e-4}, scores_KE))
    write_comparison(MatrixDir.create(folder, "compare", cells), results)


Serve = Callable[[Path], str]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Return what serves a folder and returns its address."""
    import uvicorn

    running: list[tuple[Any, threading.Thread]] = []

    def begin(folder: Path) -> str:
        port, site = free_port("127.0.0.1", None), Site(Root(folder), data_dir=folder / ".data")
        server = uvicorn.Server(uvicorn.Config(make_app(site), port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.05)
        running.append((server, thread))
        return f"http://127.0.0.1:{port}"

    yield begin
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(folder: Path, serve: Serve) -> str:
    """Serve the folder, and return its address."""
    make_store(folder / ".data", "lab:one")
    return serve(folder)


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
    made.on(
        "request", lambda request: None if request.url.startswith("http://127.0.0.1:") else wrong.append(request.url)
    )
    made.wrong = wrong
    yield made
    made.close()
    expected = wrong.pop(0) == "expected" if wrong and wrong[0] == "expected" else False
    assert [text for text in wrong if not (expected and "404" in text)] == []


PAGES = {
    "/": ".list",
    "/sweep/sweep_1": "[data-plot] canvas",
    "/sweep/sweep_3": "pre.log",
    "/sweep/sweep_4": '[data-plot="pareto"] polyline.front',
    "/run/one": "[data-plot] canvas",
    "/run/sweep_3/trials/0001": "pre.log",
    "/episodes/two": ".strip[data-drawn] canvas",
    "/compare?of=one&of=two": "[data-plot] svg",
    "/comparison/matrix_1": "[data-plot] svg",
    "/datasets": ".list",
    "/cluster": "main h1",
    "/dataset/lab:one": ".strip[data-drawn] canvas",
    "/nowhere": ".sorry",
    "/run/..%2f..%2fetc%2fpasswd": ".sorry",
}
"""Every kind of page, and what is there once it is drawn."""


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds; Playwright's own waiting evaluates texts in pages, which their policy forbids."""
    for _ in range(1200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


def drawn(page: Any) -> None:
    """Wait until the page's plots are there."""
    until(page, "document.body.dataset.drawn > 0")


@pytest.mark.parametrize("address", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1600, "light"), (800, "dark"), (400, "light")])
def test_a_page_is_drawn_and_fits_its_window(page: Any, server: str, address: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    if PAGES[address] == ".sorry":
        page.wrong.append("expected")  # Chromium tells its console of a 404
    page.goto(server + address)
    drawn(page)
    page.wait_for_selector(PAGES[address], state="attached")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it can be scrolled sideways"


@pytest.mark.parametrize("name", [quote(NASTY), "half"])
@pytest.mark.parametrize("kind", ["run", "episodes"])
def test_names_that_are_markup_and_folders_that_are_half_written_are_shown_and_do_nothing(
    page: Any, server: str, kind: str, name: str
) -> None:
    page.goto(f"{server}/{kind}/{name}")
    drawn(page)
    assert page.title() != "owned"
    assert page.locator("main img").count() == 0
    assert page.locator("main h1").count() == 1


def test_ten_thousand_runs_are_found_by_typing(chromium: Any, tmp_path: Path, page: Any, serve: Serve) -> None:
    for number in range(10_000):
        run = tmp_path / f"group_{number // 100:02d}" / f"run_{number:05d}"
        run.mkdir(parents=True)
        (run / "flags.json").write_text("{}")
    page.goto(serve(tmp_path))
    page.locator("#words").press_sequentially("group_07 run_00742")
    until(page, "document.querySelectorAll('#rows tbody tr').length === 1")
    page.locator("#rows tbody a").press("Enter")
    page.wait_for_url("**/run/group_07/run_00742")


def test_a_video_is_sought_by_its_clock_its_frames_and_its_charts(page: Any, server: str) -> None:
    page.goto(f"{server}/episodes/two")
    page.wait_for_selector(".strip[data-drawn='8']", state="attached")
    time_of, output = "document.querySelector('.screen video').currentTime", page.locator(".screen output")
    until(page, "document.querySelectorAll('.beside canvas').length === 3")
    page.locator(".strip button").nth(7).click()
    until(page, f"{time_of} > 1")
    assert output.inner_text().startswith("31 ")
    clock = page.locator("[data-clock]")
    clock.focus()
    page.keyboard.press("Home")
    until(page, f"{time_of} < 0.1")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    until(page, f"{time_of} > 0.15 && {time_of} < 0.3")
    assert output.inner_text().startswith("6 ")
    box = page.locator(".beside .u-over").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.up()
    until(page, f"{time_of} > 0.4 && {time_of} < 0.6")
    assert output.inner_text().startswith("15 ")
    page.locator(".screen [data-play]").click()
    until(page, f"{time_of} > 1.1")
    shapes = "[...document.querySelectorAll('.strip canvas')].map((one) => one.toDataURL())"
    assert len(set(page.evaluate(shapes))) == 8, "each frame is another picture"


def test_a_filmed_episode_is_chosen_in_the_table_and_the_command_of_another_is_shown(page: Any, server: str) -> None:
    page.goto(f"{server}/episodes/two")
    drawn(page)
    page.get_by_role("link", name="watch").nth(1).press("Enter")
    page.wait_for_url("**clip=2-1000005**")
    assert page.locator("#player h2").inner_text() == "Seed 2, episode 5"
    page.locator("select[name=seed]").select_option("1")
    until(page, "[...document.querySelectorAll('tr[data-cell]')].every((row) => row.dataset.cell[0] === '1')")
    button = page.locator("[data-command]").nth(1)
    button.press("Enter")
    assert page.locator("#command").inner_text() == button.get_attribute("data-command")
    page.locator("input[name=state]").fill("1000004")
    page.locator("input[name=state]").press("Enter")
    until(page, "document.querySelectorAll('tr[data-cell]').length === 1")


def test_a_cell_of_the_grid_lists_its_episode(page: Any, server: str) -> None:
    page.goto(f"{server}/episodes/two")
    drawn(page)
    page.locator('[data-plot="grid"] rect').nth(12).click()
    page.wait_for_url("**seed=1&state=1000002")
    assert page.locator("tr[data-cell]").count() == 1


def test_rollouts_run_at_one_clock(page: Any, server: str) -> None:
    page.goto(f"{server}/compare?of=one&of=two")
    drawn(page)
    times = "[...document.querySelectorAll('[data-together] video')].map((video) => video.currentTime)"
    clock = page.locator("[data-together] [data-clock]")
    clock.focus()
    page.keyboard.press("End")
    until(page, f"{times}.every((time) => time > 0.9)")
    page.keyboard.press("Home")
    until(page, f"{times}.every((time) => time < 0.1)")
    page.locator("[data-together] [data-play]").press("Enter")
    until(page, f"{times}.every((time) => time > 0.5)")


def test_a_demonstration_follows_the_clock_of_the_rollout_beside_it(page: Any, server: str) -> None:
    page.goto(f"{server}/dataset/lab:one?episode=1")
    page.wait_for_selector(".strip[data-drawn='8']", state="attached")
    until(page, "document.querySelectorAll('.beside canvas').length === 3")
    page.locator("[data-clock]").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('[data-frames] img').src.endsWith('row=6')")
    page.locator('[data-action="step"]').focus()
    page.keyboard.press("End")
    until(page, "document.querySelector('[data-frames] img').src.endsWith('row=7')")
    page.locator("select[name=beside]").select_option(index=1)
    page.wait_for_url("**beside=**")
    page.locator("#verified button").press("Enter")
    page.wait_for_selector("#verified .chip.complete")
    page.get_by_role("link", name="next").press("Enter")
    page.wait_for_url("**episode=2&beside=**")


def test_everything_can_be_reached_by_keyboard_alone(page: Any, server: str) -> None:
    page.goto(server)
    drawn(page)
    seen: list[str] = []
    for _ in range(70):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("(document.activeElement.name || '') + '|' + document.activeElement.textContent.trim()")
        )
    for wanted in ("kind|", "of|", "|sweep_1", "|one", "|Compare what is ticked", "|datasets", "|to the content"):
        assert wanted in seen, wanted
    page.locator('input[name=of][value="one"]').press("Space")
    page.locator('input[name=of][value="two"]').press("Space")
    page.locator("button", has_text="Compare what is ticked").press("Enter")
    page.wait_for_url("**/compare?of=**")


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
    until(page, "document.querySelectorAll('#rows tbody tr').length === 1")
    page.locator("label", has_text="runs").locator("input").check()
    page.wait_for_selector("#rows .empty")


def test_what_was_typed_last_is_listed_however_late_answers_come_and_the_address_has_it(page: Any, server: str) -> None:
    held: list[Any] = []
    page.route("**/list?**", lambda route: route.continue_() if "sweep_1" in route.request.url else held.append(route))
    page.goto(server)
    drawn(page)
    for words in ("s", "swe", "sweep_1"):
        page.locator("#words").fill(words)
        page.wait_for_timeout(400)
    until(page, "document.querySelectorAll('#rows tbody tr').length === 1")
    assert page.url.endswith("/?words=sweep_1&kind=")
    page.reload()
    assert page.locator("#rows tbody tr").count() == 1
    assert len(held) >= 1, "an answer was late"


def test_what_is_new_of_a_sweep_appears_by_itself(page: Any, server: str, folder: Path) -> None:
    page.goto(f"{server}/sweep/sweep_2")
    drawn(page)
    assert page.locator("h2", has_text="Trial 0 leads so far").count() == 1
    best = json.loads((folder / "sweep_1" / "best.json").read_text())
    write_json(folder / "sweep_2" / "best.json", best | {"trial": 1})
    page.wait_for_selector("text=Trial 1 was chosen")
    until(page, "document.body.dataset.drawn > 1")


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


def test_a_part_of_an_axis_is_kept_by_arrow_keys_and_a_row_that_has_the_focus_is_lit(page: Any, server: str) -> None:
    page.goto(f"{server}/sweep/sweep_1")
    drawn(page)
    holder, said = page.locator('[data-plot="parallel"]'), page.locator('[data-readout="parallel"]')
    holder.focus()
    counts: list[int] = []
    for key in ("ArrowUp", "ArrowUp", "Shift+ArrowUp", "ArrowRight", "ArrowDown"):
        holder.press(key)
        counts.append(int((said.inner_text().split() or ["8"])[0]))
    assert counts[0] >= 1, "the lowest quarter of the first key"
    assert counts[2] > counts[1], "widened"
    assert counts[3] == counts[2] >= counts[4], "another axis is chosen, and then a part of it, too"
    holder.press("Escape")
    assert said.inner_text().strip() == ""
    page.locator('tr[data-trial="3"] a').focus()
    assert "lit" in (page.locator('tr[data-trial="3"]').get_attribute("class") or "")
    assert page.locator('svg .lit[data-trial="3"]').count() >= 1


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
    page.wait_for_selector(".node:only-child")
    page.locator("a", has_text="trial 0001").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/monday/trials/0001")
    assert wrong == []
