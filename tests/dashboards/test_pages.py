"""The pages over HTTP: what they say, what they refuse, and that damaged folders are shown and break nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from tests.dashboards.conftest import Open
from tests.dashboards.folders import data_in, make_run, make_sweep

from understudy.files import write_json

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def shown(tmp_path: Path, opened: Open) -> TestClient:
    """Return pages of a folder with a sweep and a run."""
    make_sweep(tmp_path / "project" / "sweep_1")
    make_run(tmp_path / "project" / "run_1", 0.9)
    return opened(tmp_path)


def test_the_first_page_lists_sweeps_and_runs_and_not_what_is_inside_them(shown: TestClient) -> None:
    page = shown.get("/").text
    assert 'href="/sweep/project/sweep_1"' in page
    assert 'href="/run/project/run_1"' in page
    assert "0000" not in page
    assert "0.80 [0.70, 0.87]" in page


def test_the_list_is_filtered_by_words_of_the_path_and_by_kind(shown: TestClient) -> None:
    assert "run_1" not in shown.get("/list", params={"words": "SWEEP project"}).text
    assert "sweep_1" not in shown.get("/list", params={"kind": "run"}).text
    assert "Nothing here" in shown.get("/list", params={"words": "elsewhere"}).text


def test_ten_thousand_runs_are_fifty_rows_a_page(tmp_path: Path, opened: Open) -> None:
    for number in range(10_000):
        folder = tmp_path / f"group_{number // 1000}" / f"run_{number:05d}"
        folder.mkdir(parents=True)
        (folder / "flags.json").touch()
    page = opened(tmp_path).get("/", params={"page": "3"}).text
    assert page.count('class="name"') == 50
    assert "151–200 of 10\u2009000" in page


def test_a_sweeps_page_has_the_verdict_and_the_numbers_of_every_trial(shown: TestClient) -> None:
    page = shown.get("/sweep/project/sweep_1").text
    assert "Trial 7 was chosen; one other cannot be told from it" in page
    assert "Not distinguishable from trial 2." in page
    assert "confirmed over 3 seeds × 50 episodes that no trial was ranked by" in page
    data = data_in(page)
    assert [trial["n"] for trial in data["trials"]] == list(range(8))
    assert data["best"] == 7
    assert data["curves"]["7"]["step"] == [100, 200, 300, 400]
    assert {axis["key"] for axis in data["axes"]} == {"lr", "horizon_length"}
    assert data["candidates"][1]["difference"] == [0.05, -0.02, 0.12]
    assert {item["key"] for item in data["importance"]} == {"lr", "horizon_length"}


@pytest.mark.parametrize(
    ("keys", "study", "said"),
    [
        ({"save_dir": "/my runs"}, False, "In MLflow: <code>understudy ui --save_dir &#39;/my runs&#39;</code>."),
        (
            {"tracking_uri": "http://me:secret@host:5000"},
            False,
            "In MLflow: <code>understudy ui --tracking_uri http://host:5000</code>.",
        ),
        ({"tracking_uri": "none"}, True, "In Optuna: <code>optuna-dashboard sqlite:///{path}/study.db</code>."),
    ],
)
def test_a_sweeps_page_has_the_commands_that_show_it_elsewhere_and_no_others(
    tmp_path: Path, opened: Open, keys: dict[str, str], study: bool, said: str
) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=2)
    record = json.loads((sweep / "sweep.json").read_text())
    write_json(sweep / "sweep.json", {**record, "run": {**record["run"], **keys}})
    if study:
        (sweep / "study.db").touch()
    page = opened(tmp_path).get("/sweep/sweep_1").text
    (commands,) = re.findall(r'<p class="commands">(.*?) *</p>', page)
    assert commands == said.replace("{path}", str(sweep))


def test_a_sweep_that_goes_on_is_asked_for_again_and_answers_only_what_is_new(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=2, status="running")
    write_json(sweep / "trials" / "0001" / "run.json", {"status": "running"})
    pages = opened(tmp_path)
    page = pages.get("/sweep/sweep_1").text
    asked = page.partition('hx-get="')[2].partition('"')[0]
    assert "Trial 0 leads so far" in page
    assert pages.get(asked).status_code == 204
    with open(sweep / "trials" / "0001" / "eval.csv", "a", encoding="utf-8") as file:
        file.write("500,9,30,0.9,0.8,0.95,0.9,3,10\n")
    answer = pages.get(asked)
    assert answer.status_code == 200
    assert data_in(answer.text)["curves"]["1"]["mean"][-1] == 0.9
    assert "<html" not in answer.text


def test_of_many_trials_the_best_are_rows_and_all_when_they_are_asked_for(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=1)
    for number in range(1, 120):
        shutil.copytree(sweep / "trials" / "0000", sweep / "trials" / f"{number:04d}")
    pages = opened(tmp_path)
    assert pages.get("/sweep/sweep_1").text.count("<tr data-trial=") == 100
    assert pages.get("/sweep/sweep_1?all").text.count("<tr data-trial=") == 120
    assert len(data_in(pages.get("/sweep/sweep_1").text)["trials"]) == 120


def test_a_trial_shows_its_difference_from_the_chosen_one_and_its_seeds(shown: TestClient) -> None:
    page = shown.get("/run/project/sweep_1/trials/0003").text
    assert "What differs from" in page
    assert "trial 7" in page
    assert set(data_in(page)["seeds"]["eval/success"]) == {"0", "1", "2"}


def test_a_sweep_with_two_objectives_shows_their_front_by_name(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=3)
    record = json.loads((sweep / "sweep.json").read_text())
    record["options"] |= {"objective": ["success", "length"], "direction": ["auto"]}
    write_json(sweep / "sweep.json", record)
    front = [{"trial": 2, "success": 0.8, "length": 30.0, "parameters": {}, "metrics": {}}]
    write_json(sweep / "report.json", {"pareto_front": front})
    found = data_in(opened(tmp_path).get("/sweep/sweep_1").text)["pareto"]
    assert (found["y"], found["x"]) == ("success", "length")
    assert found["front"] == [{"n": 2, "x": 30.0, "y": 0.8}]
    assert [point["n"] for point in found["points"]] == [0, 1, 2]


def test_a_running_run_that_wrote_nothing_for_minutes_is_said_to_be_quiet(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "run_1", state={"status": "running"})
    long_ago = time.time() - 3600
    for file in run.iterdir():
        if file.is_file():
            os.utime(file, (long_ago, long_ago))
    assert "wrote nothing for 60 min" in opened(tmp_path).get("/run/run_1").text


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"run": 3, "dimensions": [], "options": null}', "\x00\xff", "null"])
def test_a_damaged_sweep_json_is_a_page_that_says_so(tmp_path: Path, opened: Open, damage: str) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=2)
    (sweep / "sweep.json").write_bytes(damage.encode("latin-1"))
    pages = opened(tmp_path)
    answer = pages.get("/sweep/sweep_1")
    assert answer.status_code == 200
    assert 'class="problem"' in answer.text
    assert pages.get("/").status_code == 200


@pytest.mark.parametrize("name", ["run.json", "flags.json", "best.json", "report.json", "race.json", "summary.csv"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", b'{"metrics": 3, "trial": {}, "compared": [3]}'])
def test_damage_in_any_file_of_a_sweep_breaks_no_page(tmp_path: Path, opened: Open, name: str, damage: bytes) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=2)
    (sweep / name).write_bytes(damage)
    if name.endswith(".json"):
        (sweep / "trials" / "0001" / name).write_bytes(damage)
    pages = opened(tmp_path)
    for address in ("/", "/sweep/sweep_1", "/run/sweep_1/trials/0001", "/data/sweep/sweep_1"):
        assert pages.get(address).status_code == 200, address


@pytest.mark.parametrize("name", ["eval.csv", "timing.csv", "episodes.arrow", "sd000/train.csv"])
def test_half_written_tables_are_read_as_far_as_they_go(tmp_path: Path, opened: Open, name: str) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=1)
    file = sweep / "trials" / "0000" / name
    whole = file.read_bytes()
    pages = opened(tmp_path)
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:cut])
        assert pages.get("/sweep/sweep_1").status_code == 200
        assert pages.get("/run/sweep_1/trials/0000").status_code == 200


def test_names_are_text_and_neither_markup_nor_commands_to_a_terminal(tmp_path: Path, opened: Open) -> None:
    name = f"a {SCRIPT.replace('/', '')} \x1b[31m 100%"
    make_run(tmp_path / name, env_name=f"{SCRIPT}\x1b[2J", state={"error": SCRIPT, "status": "failed"})
    sweep = make_sweep(tmp_path / "sweep_1", trials=2, model=SCRIPT, why=SCRIPT)
    flags = sweep / "trials" / "0000" / "flags.json"
    flags.write_text(flags.read_text().replace("0.001", f'"{SCRIPT}"').replace('"lr": 1e-05', f'"lr": "{SCRIPT}"'))
    pages = opened(tmp_path)
    for address in ("/", f"/run/{quote(name)}", "/sweep/sweep_1", "/run/sweep_1/trials/0000"):
        answer = pages.get(address)
        assert answer.status_code == 200, address
        assert "<script>" not in answer.text
        assert "\x1b" not in answer.text


@pytest.mark.parametrize("path", ["../secret", "%2e%2e/secret", "project/../../secret", "/etc", "link", "%00"])
def test_nothing_outside_of_the_folder_is_shown(tmp_path: Path, opened: Open, path: str) -> None:
    root = tmp_path / "root"
    make_run(root / "project" / "run_1")
    make_run(tmp_path / "secret")
    (root / "link").symlink_to(tmp_path / "secret")
    pages = opened(root)
    for kind in ("run", "sweep", "file", "data/sweep", "live/run"):
        assert pages.get(f"/{kind}/{path}").status_code == 404


def test_only_videos_and_pictures_are_given_out_as_files_and_in_parts(tmp_path: Path, opened: Open) -> None:
    run = make_run(tmp_path / "run_1")
    (run / "video.mp4").write_bytes(bytes(range(200)))
    pages = opened(tmp_path)
    part = pages.get("/file/run_1/video.mp4", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-type"] == "video/mp4"
    assert pages.get("/file/run_1/flags.json").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""])
def test_another_host_than_this_machine_is_refused(shown: TestClient, host: str) -> None:
    assert shown.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(shown: TestClient, method: str) -> None:
    assert shown.request(method, "/").status_code == 405


def test_every_answer_says_that_nothing_comes_from_elsewhere(shown: TestClient) -> None:
    for address in ("/", "/sweep/project/sweep_1", "/nowhere", "/static/style.css"):
        headers = shown.get(address).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    for address in ("/", "/sweep/project/sweep_1", "/run/project/run_1"):
        page = shown.get(address).text
        assert "style=" not in page, "the policy allows no styles in the page"
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "https://" not in page


def test_looking_changes_no_file(tmp_path: Path, opened: Open) -> None:
    make_sweep(tmp_path / "sweep_1", trials=2)
    shutil.rmtree(tmp_path / "sweep_1" / "trials" / "0001" / "sd002")

    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before, pages = state(), opened(tmp_path)
    for address in ("/", "/sweep/sweep_1", "/run/sweep_1/trials/0001", "/data/sweep/sweep_1"):
        assert pages.get(address).status_code == 200
    assert state() == before


def test_a_failed_trial_has_its_reason_and_the_last_lines_of_its_log(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=3)
    failed = sweep / "trials" / "0001"
    write_json(failed / "run.json", {"status": "failed", "step": 200, "error": "ValueError: no such gripper"})
    lines = [f"line {number}" for number in range(100)] + [f"\x1b[31m{SCRIPT}", "ValueError: no such gripper"]
    (failed / "log.txt").write_text("\n".join(lines) + "\n")
    write_json(sweep / "trials" / "0002" / "run.json", {"status": "stopped", "step": 100})
    pages = opened(tmp_path)
    page = pages.get("/run/sweep_1/trials/0001").text
    log = page.partition('<pre class="log"')[2].partition("</pre>")[0]
    assert 'class="problem">ValueError: no such gripper' in page
    assert log.count("line ") == 28
    assert "\\x1b[31m&lt;script&gt;" in log
    assert "stopped by ASHA after" in pages.get("/run/sweep_1/trials/0002").text
    whole = pages.get("/sweep/sweep_1").text
    assert "line 99" in whole
    assert "line 90" not in whole


def test_a_run_shows_its_commit_and_what_it_ran_on(tmp_path: Path, opened: Open) -> None:
    origin = {"commit": "0123456789abcdef", "dirty": True, "host": SCRIPT, "python": "3.12.1", "torch": "2.9.0"}
    make_run(tmp_path / "run_1", state={"origin": origin, "earlier_commits": ["feedbeef"]})
    page = opened(tmp_path).get("/run/run_1").text
    assert "0123456789abcdef with changes" in page
    assert "trained at feedbeef" in page
    assert "2.9.0" in page
    assert "<script>alert" not in page
    make_run(tmp_path / "run_2", state={"origin": [3]})
    assert opened(tmp_path).get("/run/run_2").status_code == 200


def test_a_curve_of_many_evaluations_keeps_its_peaks_in_few_points(tmp_path: Path, opened: Open) -> None:
    sweep = make_sweep(tmp_path / "sweep_1", trials=2)
    for trial in sweep.glob("trials/*"):
        head = "step,return,length,success,success_low,success_high\n"
        rows = [f"{step},1,30,{1 if step == 5003 else 0.5},0.4,0.6" for step in range(10_000)]
        (trial / "eval.csv").write_text(head + "\n".join(rows) + "\n")
    pages = opened(tmp_path)
    curves = data_in(pages.get("/sweep/sweep_1").text)["curves"]
    assert max(curves["0"]["mean"]) == 1
    assert len(curves["0"]["step"]) <= 100
    assert len(curves["1"]["low"]) <= 500  # the chosen one, with its band
    assert len(pages.get("/sweep/sweep_1").content) < 60_000
