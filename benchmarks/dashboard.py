"""How long pages take: 10,000 runs listed, a sweep of 1,000 trials x 10,000 evaluations shown, and every other page.

    python benchmarks/dashboard.py [--browser /usr/bin/chromium]

Each page is asked for once cold and then again, in seconds of a CPU, with its size. With a browser (and Playwright
installed) the time until all is painted is measured too. Trials are hard links to a few files, so that they fit.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from understudy.dashboards.pages.sweep import pace
from understudy.dashboards.places import Root
from understudy.dashboards.reading.sweeps import read_sweep, version_of
from understudy.dashboards.report import write_report
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import free_port
from understudy.dashboards.site import Site
from understudy.envs.simulators.video import write_mp4
from understudy.envs.store.finding import store_name
from understudy.envs.store.writer import StoreWriter
from understudy.runs.clips import Clip, write_clip
from understudy.runs.episodes import EpisodeLog, Played, Setting

KINDS = 20
"""Different curves, which the trials share."""
EPISODES, SEEDS = 50, (0, 1, 2)
HEADER = "step,return,length,success,success_low,success_high,success_iqm,success_seeds,success_episodes"


def make_sweep(folder: Path, trials: int, points: int) -> Path:
    """Write what the pages read of a sweep that is under way: trials of three seeds, a tenth of them stopped."""
    random = np.random.default_rng(0)
    run = {"algo": "flow_bc", "env_name": "lift-mh-low_dim", "seeds": [0, 1, 2], "training_steps": 10_000}
    dimensions: dict[str, Any] = {
        "lr": {"kind": "interval", "low": 1e-5, "high": 1e-2, "log": True, "integer": False},
        "weight_decay": {"kind": "interval", "low": 1e-6, "high": 1e-1, "log": True, "integer": False},
        "horizon_length": {"kind": "choice", "values": [1, 5, 10]},
        "batch_size": {"kind": "choice", "values": [64, 128, 256]},
    }
    options = {"num_trials": trials, "objective": ["auto"], "direction": ["auto"], "final_episodes": 50}
    (folder / "trials").mkdir(parents=True)
    write(folder / "sweep.json", {"run": run, "dimensions": dimensions, "grid": {}, "options": options})
    write(folder / "run.json", {"status": "running"})
    curves = [_csv(folder / "trials" / f".curve{kind}", _evaluations(kind, points)) for kind in range(KINDS)]
    losses = _csv(
        folder / "trials" / ".losses", ["step,actor_loss", *(f"{step},{1 / step}" for step in _steps(points))]
    )
    for number in range(trials):
        place = folder / "trials" / f"{number:04d}"
        for seed in SEEDS:
            (place / f"sd{seed:03d}").mkdir(parents=True)
            os.link(losses, place / f"sd{seed:03d}" / "train.csv")
            os.link(curves[number % KINDS], place / f"sd{seed:03d}" / "eval.csv")
        lr = float(10 ** random.uniform(-5, -2))
        level = max(0.02, 0.9 - 0.3 * abs(np.log10(lr) + 3.3)) * random.uniform(0.8, 1.0)
        values = {
            "lr": lr,
            "weight_decay": float(10 ** random.uniform(-6, -1)),
            "horizon_length": [1, 5, 10][number % 3],
        }
        write(place / "flags.json", {**run, **values, "batch_size": [64, 128, 256][number % 3]})
        os.link(curves[number % KINDS], place / "eval.csv")
        (place / "timing.csv").write_text("step,time,steps_per_sec,data_wait\n10000,1,120,0.01\n")
        metrics = {"success": level, "success_low": max(0, level - 0.1), "success_high": min(1, level + 0.08)}
        state = {"status": "stopped" if number % 10 == 9 else "finished", "step": 10_000, "metrics": metrics}
        write(place / "run.json", state if number < trials - 4 else {"status": "running"})
    for number in (0, 1):
        _episodes(folder / "trials" / f"{number:04d}", number)
    return folder


def _steps(points: int) -> range:
    return range(1, 10_000 + 1, max(1, 10_000 // points))


def _evaluations(kind: int, points: int) -> list[str]:
    rows = [HEADER]
    for step in _steps(points):
        mean = (0.3 + 0.6 * kind / KINDS) * (1 - np.exp(-step / 3000)) + 0.01 * np.sin(step)
        rows.append(
            f"{step},{mean * 10:.6},30,{mean:.6},{max(0.0, mean - 0.1):.6},{min(1.0, mean + 0.08):.6},{mean:.6},3,10"
        )
    return rows


def _csv(file: Path, rows: list[str]) -> Path:
    file.write_text("\n".join(rows) + "\n")
    return file


def _episodes(run: Path, number: int) -> None:
    """Add the episodes of a last evaluation and one film, of plain pictures."""
    random, log = np.random.default_rng(number), EpisodeLog(run / "episodes.arrow", number)
    recorder = log.at(10_000)
    for seed in SEEDS:
        for episode in range(EPISODES):
            won = float(random.random() < 0.5 + 0.3 * number)
            recorder.add(Setting(), Played(seed, episode, 1_000_000 + episode, won, 200, won))
    recorder.finish()
    clip = Clip(0, 3, 1_000_003, 10_000, "", 0.0, 200, 0.0, 3, 10, "lab:one")
    frames = random.integers(0, 255, (67, 12, 16, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    write_mp4(frames, run / "videos" / f"{clip.stem}.mp4", clip.fps)
    numbers = {"actions": (200, 7), "rewards": (200,), "observations": (200, 40)}
    write_clip(run / "videos", clip, {name: random.normal(size=shape) for name, shape in numbers.items()})


def make_dataset(folder: Path) -> None:
    """Write a store of 200 episodes of 500 steps."""
    random = np.random.default_rng(0)
    with StoreWriter(folder, name="lab:one", source="lab", env_id="x") as writer:
        for _ in range(200):
            numbers = {"observations": (500, 40), "actions": (500, 7), "rewards": (500,)}
            columns = {name: random.normal(size=shape).astype(np.float32) for name, shape in numbers.items()}
            writer.add_episode({**columns, "terminals": np.zeros(500)})


def write(file: Path, data: Any) -> None:
    """Write JSON."""
    file.write_text(json.dumps(data))


def seconds(action: Callable[[], Any], times: int = 5) -> float:
    """Return the median of the CPU seconds that an action takes: other work on the machine does not count."""
    found: list[float] = []
    for _ in range(times):
        began = time.process_time()
        action()
        found.append(time.process_time() - began)
    return sorted(found)[times // 2]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000, help="evaluations of each trial")
    parser.add_argument("--browser", default="", help="Chromium's path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        sweep = make_sweep(root / "runs" / "sweep_1", options.trials, options.points)
        make_dataset(root / "data" / store_name("lab:one"))
        for number in range(options.runs):
            (root / "runs" / "many" / f"run_{number:05d}").mkdir(parents=True)
            (root / "runs" / "many" / f"run_{number:05d}" / "flags.json").write_text('{"algo": "bc"}')
        measure(root, sweep, options.trials, options.runs)
        if options.browser:
            paint(root, options.browser)


PAGES = {
    "runs": "/",
    "sweep": "/sweep/sweep_1",
    "trial": "/run/sweep_1/trials/0000",
    "episodes": "/episodes/sweep_1/trials/0000",
    "compare": "/compare?of=sweep_1/trials/0000&of=sweep_1/trials/0001",
    "dataset": "/dataset/lab:one",
}
BUDGETS = {"runs": 1.0, "sweep": 1.0, "trial": 1.0, "episodes": 0.5, "compare": 1.0, "dataset": 1.0, "report": 1.0}
"""Seconds that each page may take to paint."""


def measure(root: Path, sweep: Path, trials: int, runs: int) -> None:
    """Print how long the server takes for each page, and how much it sends."""
    site = Site(Root(root / "runs"), data_dir=root / "data")
    pages = TestClient(make_app(site), base_url="http://127.0.0.1")
    print(f"{runs} runs, a sweep of {trials} trials; seconds of a CPU")
    for name, address in PAGES.items():
        cold = seconds(lambda address=address: pages.get(address), 1)
        warm = seconds(lambda address=address: pages.get(address))
        size = len(pages.get(address).content) / 1e3
        print(f"{name:<10} cold {cold:.2f} s, again {warm:.2f} s, {size:.0f} kB")
    every = len(pages.get("/data/sweep/sweep_1").content) / 1e6
    print(f"all curves of the sweep: {every:.2f} MB")
    files = site.files
    asked = seconds(lambda: version_of(files, read_sweep(files, sweep)))
    wait = pace(files, read_sweep(files, sweep))
    print(f"asking whether anything changed: {asked * 1000:.0f} ms every {wait:.0f} s: {asked / wait:.2%} of a CPU")
    out = root / "report.html"
    took = seconds(lambda: write_report(sweep, out, "html"), 1)
    print(f"report.html: {out.stat().st_size / 1e6:.2f} MB in {took:.1f} s")


def paint(root: Path, browser: str) -> None:
    """Print how long a browser takes until the plots are drawn."""
    import uvicorn
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    port = free_port("127.0.0.1", None)
    site = Site(Root(root / "runs"), data_dir=root / "data")
    server = uvicorn.Server(uvicorn.Config(make_app(site), port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(600_000)
        ticks = page.context.new_cdp_session(page)
        ticks.send("Performance.enable", {"timeDomain": "threadTicks"})
        for name, address in {**PAGES, "report": f"file://{root}/report.html"}.items():
            where = address if address.startswith("file:") else f"http://127.0.0.1:{port}{address}"
            walls: list[float] = []
            spent: list[float] = []
            for _ in range(3):
                page.goto("about:blank")
                before = busy(ticks)
                page.goto(where)
                _wait_drawn(page, 1)
                walls.append(float(page.evaluate("performance.getEntriesByName('drawn')[0].startTime")))
                spent.append(1000 * (busy(ticks) - before))
            print(
                f"{name:<10} painted after {min(walls):.0f} ms (budget {1000 * BUDGETS[name]:.0f}),"
                f" {min(spent):.0f} ms of a CPU in the browser",
                flush=True,
            )
        page.goto(f"http://127.0.0.1:{port}{PAGES['sweep']}")
        _wait_drawn(page, 1)
        began, before = float(page.evaluate("performance.now()")), busy(ticks)
        page.locator('[data-action="all-curves"]').click()
        _wait_drawn(page, 2)
        took, spent_all = float(page.evaluate("performance.now()")) - began, 1000 * (busy(ticks) - before)
        print(
            f"all curves of the sweep drawn after {took:.0f} ms, {spent_all:.0f} ms of a CPU in the browser", flush=True
        )
        chromium.close()
    server.should_exit = True


def _wait_drawn(page: Any, times: int) -> None:
    """Wait until a page's plots were drawn so often, and the browser has painted them."""
    while int(page.evaluate("document.body.dataset.drawn") or 0) < times:
        page.wait_for_timeout(10)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def busy(session: Any) -> float:
    """Return the seconds of a CPU that the page's main thread has taken: other work on the machine does not count."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(item["value"] for item in metrics if item["name"] == "TaskDuration")


if __name__ == "__main__":
    main()
