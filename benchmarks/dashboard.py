"""How long pages take: 10,000 runs listed, a sweep of 1,000 trials shown, asked again while it runs, and reported.

    python benchmarks/dashboard.py [--browser /usr/bin/chromium]

With a browser (and Playwright installed) the time until the plots are drawn is measured too.
"""

from __future__ import annotations

import argparse
import json
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

EVALUATIONS = 20
HEADER = "step,return,length,success,success_low,success_high,success_iqm,success_seeds,success_episodes"


def make_sweep(folder: Path, trials: int) -> Path:
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
    for number in range(trials):
        place = folder / "trials" / f"{number:04d}"
        place.mkdir()
        lr = float(10 ** random.uniform(-5, -2))
        level = max(0.02, 0.9 - 0.3 * abs(np.log10(lr) + 3.3)) * random.uniform(0.8, 1.0)
        values = {
            "lr": lr,
            "weight_decay": float(10 ** random.uniform(-6, -1)),
            "horizon_length": [1, 5, 10][number % 3],
        }
        write(place / "flags.json", {**run, **values, "batch_size": [64, 128, 256][number % 3]})
        rows = [HEADER]
        for step in range(1, EVALUATIONS + 1):
            mean = level * (1 - np.exp(-step / 5))
            rows.append(f"{step * 500},{mean * 10},30,{mean},{max(0, mean - 0.1)},{min(1, mean + 0.08)},{mean},3,10")
        (place / "eval.csv").write_text("\n".join(rows) + "\n")
        (place / "timing.csv").write_text("step,time,steps_per_sec,data_wait\n10000,1,120,0.01\n")
        metrics = {"success": mean, "success_low": max(0, mean - 0.1), "success_high": min(1, mean + 0.08)}
        state = {"status": "stopped" if number % 10 == 9 else "finished", "step": 10_000, "metrics": metrics}
        write(place / "run.json", state if number < trials - 4 else {"status": "running"})
    return folder


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
    parser.add_argument("--browser", default="", help="Chromium's path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        sweep = make_sweep(root / "sweep_1", options.trials)
        for number in range(options.runs):
            (root / "many" / f"run_{number:05d}").mkdir(parents=True)
            (root / "many" / f"run_{number:05d}" / "flags.json").write_text('{"algo": "bc"}')
        measure(root, sweep, options.trials, options.runs)
        if options.browser:
            paint(root, options.browser)


def measure(root: Path, sweep: Path, trials: int, runs: int) -> None:
    """Print how long the server takes, and how much it sends."""
    site = Site(Root(root))
    pages = TestClient(make_app(site), base_url="http://127.0.0.1")
    first = seconds(lambda: pages.get("/"), 1)
    again = seconds(lambda: pages.get("/"))
    print(f"{runs} runs and a sweep: the first page {first * 1000:.0f} ms, again {again * 1000:.0f} ms")
    cold = seconds(lambda: pages.get("/sweep/sweep_1"), 1)
    warm = seconds(lambda: pages.get("/sweep/sweep_1"))
    size = len(pages.get("/sweep/sweep_1").content) / 1e3
    print(f"a sweep of {trials} trials: cold {cold:.2f} s, warm {warm:.2f} s, {size:.0f} kB")
    every = len(pages.get("/data/sweep/sweep_1").content) / 1e6
    print(f"all its curves: {every:.2f} MB")
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
    server = uvicorn.Server(uvicorn.Config(make_app(Site(Root(root))), port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        for name, address in {"runs": "/", "sweep": "/sweep/sweep_1", "report": f"file://{root}/report.html"}.items():
            where = address if address.startswith("file:") else f"http://127.0.0.1:{port}{address}"
            page.goto(where)
            took = []
            for _ in range(3):
                began = time.perf_counter()
                page.goto(where)
                page.wait_for_function("document.body.dataset.drawn || document.querySelector('#rows')")
                took.append(time.perf_counter() - began)
            print(f"painted, {name}: {sorted(took)[1]:.2f} s")
        chromium.close()
    server.should_exit = True


if __name__ == "__main__":
    main()
