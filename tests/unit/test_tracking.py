"""Shipping csv rows once, whatever fails; addresses without passwords; no mlflow is imported here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import understudy
from understudy.errors import TrackingError, UserError
from understudy.secrecy import is_secret, without_secrets
from understudy.tracking.addresses import (
    absolute_address,
    artifact_root,
    check_port,
    check_reachable,
    default_tracking_uri,
    run_url,
    sqlite_path,
    ui_command,
)
from understudy.tracking.facts import git_tags, printable
from understudy.tracking.shipping import CURSOR_FILE, Cursor, Point, Shipper
from understudy.tracking.shown import is_shown
from understudy.tracking.tailing import CsvTail, StepTimes
from understudy.tracking.tracked import metric_sources, track

CHILD = {**os.environ, "PYTHONPATH": str(Path(understudy.__file__).parents[1])}
"""The environment of a child process that finds the package, installed or not."""


class Store:
    """A tracking store that keeps a point once, as MLflow's SQL stores do, and can be away or die after a batch."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.batches: list[int] = []
        self.away = False
        self.loses_answers = 0
        self._lock = threading.Lock()

    def send(self, points: Sequence[Point]) -> None:
        with self._lock:
            if self.away:
                raise ConnectionError("connection refused")
            self.batches.append(len(points))
            self.points += [point for point in points if point not in self.points]
            if self.loses_answers:
                self.loses_answers -= 1
                raise ConnectionError("the connection broke after the store had written")

    def curve(self, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.points if point.key == key]


def rows(path: Path, steps: Sequence[int], column: str = "loss") -> None:
    new = not path.exists()
    with path.open("a") as file:
        if new:
            file.write(f"step,{column}\n")
        file.writelines(f"{step},{step / 10}\n" for step in steps)


def ship(folder: Path, store: Store, interval: float = 0.02) -> Shipper:
    return Shipper([(folder / "train.csv", "train/")], store.send, folder / CURSOR_FILE, interval=interval)


# ---- reading ----


def test_only_whole_rows_are_read_and_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n10,1.5\n20,2.")
    tail = CsvTail(path)
    first = list(tail.rows(None))
    assert [(row.step, row.values) for row in first] == [(10, {"loss": 1.5})]
    with path.open("a") as file:
        file.write("5\n")
    assert [(row.step, row.values) for row in tail.rows(first[-1].extent)] == [(20, {"loss": 2.5})]


def test_a_header_still_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    assert list(CsvTail(path).rows(None)) == []
    path.write_text("step,lo")
    assert list(CsvTail(path).rows(None)) == []


def test_cells_that_are_no_finite_numbers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('step,a,b,c,d,e\n10,1,,nan,inf,"x,y"\n\n20,2,3,4,5,6\n')
    got = [(row.step, row.values) for row in CsvTail(path).rows(None)]
    assert got == [(10, {"a": 1.0}), (20, {"a": 2.0, "b": 3.0, "c": 4.0, "d": 5.0, "e": 6.0})]


def test_a_file_replaced_with_a_new_column_is_read_on_from_the_same_row(tmp_path: Path) -> None:
    path = tmp_path / "eval.csv"
    rows(path, [10, 20])
    extent = list(CsvTail(path).rows(None))[-1].extent
    path.write_text("step,loss,score\n10,1.0,\n20,2.0,\n30,3.0,0.5\n")
    assert [(row.step, row.values) for row in CsvTail(path).rows(extent)] == [(30, {"loss": 3.0, "score": 0.5})]


def test_new_rows_cost_no_rereading_of_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows(path, range(50_000))
    extent = list(CsvTail(path).rows(None))[-1].extent
    size = path.stat().st_size
    rows(path, [50_000])
    header = path.read_text().index("\n") + 1
    with open(path, "r+b") as file:  # who read the old rows again would find none of them
        file.seek(header)
        file.write(b"#" * (size - header - 1))
    assert [row.step for row in CsvTail(path).rows(extent)] == [50_000]


def test_steps_get_the_time_at_which_they_were_logged(tmp_path: Path) -> None:
    (tmp_path / "timing.csv").write_text("step,time,steps_per_sec\n100,5.25,1\n200,6.5,1\n")
    times = StepTimes(tmp_path / "timing.csv")
    assert [times.at(step) for step in (100, 150, 200)] == [5250, 6500, 6500]
    before = int(time.time() * 1000)
    assert before <= times.at(201) <= time.time() * 1000


# ---- shipping ----


def test_every_row_arrives_once_and_in_batches(tmp_path: Path) -> None:
    rows(tmp_path / "train.csv", range(2500))
    store = Store()
    shipper = ship(tmp_path, store)
    assert shipper.flush(10)
    rows(tmp_path / "train.csv", [2500])
    assert shipper.close(10)
    assert store.curve("train/loss") == [(step, step / 10) for step in range(2501)]
    assert store.batches == [1000, 1000, 500, 1]


def test_a_row_with_more_numbers_than_a_batch_is_split(tmp_path: Path) -> None:
    columns = [f"c{i}" for i in range(2300)]
    (tmp_path / "train.csv").write_text(f"step,{','.join(columns)}\n1,{','.join('7' for _ in columns)}\n")
    store = Store()
    assert ship(tmp_path, store).close(10)
    assert store.batches == [1000, 1000, 300]


def test_a_new_process_goes_on_after_the_last_row_sent(tmp_path: Path) -> None:
    store = Store()
    rows(tmp_path / "train.csv", range(10))
    assert ship(tmp_path, store).close(10)
    rows(tmp_path / "train.csv", range(10, 15))
    assert ship(tmp_path, store).close(10)
    assert store.batches == [10, 5]
    assert len(store.curve("train/loss")) == 15


def test_a_store_that_is_away_stops_nothing_and_gets_all_of_it_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    store.away = True
    shipper = ship(tmp_path, store)
    rows(tmp_path / "train.csv", range(5))
    assert not shipper.flush(0.5)
    rows(tmp_path / "train.csv", range(5, 10))
    assert not shipper.flush(0.5)
    assert sum("is away" in record.message for record in caplog.records) == 1
    store.away = False
    assert shipper.close(10)
    assert [step for step, _ in store.curve("train/loss")] == list(range(10))


def test_a_batch_whose_answer_was_lost_is_sent_again_with_the_same_times(tmp_path: Path) -> None:
    rows(tmp_path / "train.csv", range(1500))
    store = Store()
    store.loses_answers = 1
    assert ship(tmp_path, store).close(10)
    assert len(store.points) == 1500
    assert store.batches == [1000, 1000, 500]


def test_a_process_killed_between_sending_and_noting_it_sends_the_same_batch_again(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys
from understudy.tracking.shipping import Shipper
sent = pathlib.Path({str(tmp_path / "sent.txt")!r})
def send(points):
    with sent.open("a") as file:
        file.write(repr([tuple(p) for p in points]) + "\\n")
    os.kill(os.getpid(), 9)
folder = pathlib.Path({str(tmp_path)!r})
Shipper([(folder / "train.csv", "train/")], send, folder / {CURSOR_FILE!r}).flush(10)
"""
    rows(tmp_path / "train.csv", range(3))
    assert subprocess.run([sys.executable, "-c", script], env=CHILD, check=False).returncode == -9
    rows(tmp_path / "train.csv", range(3, 6))
    store = Store()
    assert ship(tmp_path, store).close(10)
    before = eval((tmp_path / "sent.txt").read_text().strip())
    assert [tuple(point) for point in store.points[:3]] == before
    assert store.batches == [3, 3]


@pytest.mark.parametrize(
    "held",
    [
        '{"files": {"tr',
        "[]",
        '{"files": {"train.csv": {"rows": 3, "header": "step"}}}',
        '{"files": {"train.csv": {"offset": -1, "rows": 3, "header": "step"}}}',
        '{"pending": {"train.csv": {"extent": {"offset": 9, "rows": 1, "header": "step"}}}}',
    ],
)
def test_a_damaged_cursor_file_means_that_all_is_sent_again(tmp_path: Path, held: str) -> None:
    rows(tmp_path / "train.csv", range(3))
    (tmp_path / "timing.csv").write_text("step,time,steps_per_sec\n" + "".join(f"{s},{s},1\n" for s in range(3)))
    store = Store()
    assert ship(tmp_path, store).close(10)
    (tmp_path / CURSOR_FILE).write_text(held)
    assert ship(tmp_path, store).close(10)
    assert store.batches == [3, 3]
    assert len(store.points) == 3  # the times are those of timing.csv, so nothing is there twice


def test_rows_that_went_to_another_run_are_sent_again(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / CURSOR_FILE)
    cursor.belongs_to("one")
    cursor.files["train.csv"] = {"offset": 5, "rows": 1, "header": "step"}
    cursor.belongs_to("one")
    assert cursor.files
    cursor.belongs_to("two")
    assert json.loads((tmp_path / CURSOR_FILE).read_text())["run_id"] == "two"
    assert not Cursor(tmp_path / CURSOR_FILE).files


def test_tasks_run_in_order_and_are_repeated_until_they_succeed(tmp_path: Path) -> None:
    done: list[str] = []
    failures = iter([True, False])

    def first() -> None:
        if next(failures):
            raise ConnectionError("away")
        done.append("first")

    shipper = Shipper([], Store().send, tmp_path / CURSOR_FILE, interval=0.02)
    shipper.submit(first)
    shipper.submit(lambda: done.append("second"))
    assert shipper.close(10)
    assert done == ["first", "second"]


def test_metric_names_hold_only_what_mlflow_takes(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("step,a=b é\n1,2\n")
    store = Store()
    assert ship(tmp_path, store).close(10)
    assert [point.key for point in store.points] == ["train/a_b _"]


def test_a_run_of_one_seed_has_no_seed_folders_and_one_of_three_has_three(tmp_path: Path) -> None:
    alone = {(str(path.relative_to(tmp_path)), prefix) for path, prefix in metric_sources(tmp_path, (0,))}
    assert {("train.csv", "train/"), ("eval.csv", "eval/"), ("timing.csv", "timing/")} <= alone
    assert not any("sd0" in name for name, _ in alone)
    pack = {(str(path.relative_to(tmp_path)), prefix) for path, prefix in metric_sources(tmp_path, (0, 12))}
    assert {("sd000/train.csv", "sd000/train/"), ("sd012/eval.csv", "sd012/eval/")} <= pack


def test_of_what_is_logged_mlflow_gets_what_people_look_at() -> None:
    sent = ("train/actor_loss", "train/grad_norm", "sd001/train/actor_loss", "sd001/eval/success", "eval/success_low")
    sent += ("eval/length", "eval/flow_steps_10/success", "eval/best/success_low", "sd001/eval/validation/mse")
    sent += ("eval/validation/log_probs", "timing/steps_per_sec")
    left = ("train/max_std", "eval/validation/mean_std", "eval/normalized_return_episodes")
    left += ("sd001/train/grad_norm", "sd001/eval/length", "eval/success_seeds", "eval/success_iqm")
    left += ("eval/flow_steps_10/success_low", "eval/flow_steps_10/length", "sd001/eval/validation/max_std")
    assert [key for key in (*sent, *left) if is_shown(key)] == list(sent)


def test_a_run_says_which_commit_it_was_made_at_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        own = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
        return subprocess.run(["git", "-C", tmp_path, *own, *words], check=True, capture_output=True, text=True).stdout

    assert git_tags(str(tmp_path)) == {}
    git("init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD").strip()
    git_tags.cache_clear()
    tags = {"mlflow.source.git.commit": commit, "git_commit": commit}
    assert git_tags(str(tmp_path)) == {**tags, "git_dirty": "false"}
    (tmp_path / "a.py").write_text("a = 2\n")
    git_tags.cache_clear()
    assert git_tags(str(tmp_path)) == {**tags, "git_dirty": "true"}
    git_tags.cache_clear()


def test_parameters_keep_their_types_as_json_has_them() -> None:
    got = printable({"a": True, "b": None, "c": 2, "d": 1e-4, "e": "none", "f": [1, "x"]})
    assert got == {"a": "true", "b": "null", "c": "2", "d": "0.0001", "e": "none", "f": '[1, "x"]'}


def test_tracking_none_writes_nothing_and_starts_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    tracked = track("none", tmp_path, experiment="e", name="n", sources=[(tmp_path / "train.csv", "")])
    tracked.log_folder()
    tracked.set_tags({"a": 1})
    assert tracked.flush()
    assert tracked.close("FAILED")
    assert (tracked.run_id, tracked.url) == (None, None)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


# ---- parameters and addresses ----


def test_parameters_are_flat_and_short_and_hold_no_secrets() -> None:
    got = printable(
        {
            "lr": 1e-4,
            "config": {"hidden_dims": (512, 512)},
            "tracking_uri": "https://ada:pa55@mlflow.example/x",
            "aws_secret": "abc",
            "api_key": "abc",
            "tokenizer": "bpe",
            "seeds": list(range(1000)),
        }
    )
    assert got["lr"] == "0.0001"
    assert got["config.hidden_dims"] == "[512, 512]"
    assert got["tracking_uri"] == "https://mlflow.example/x"
    assert (got["aws_secret"], got["api_key"], got["tokenizer"]) == ("***", "***", "bpe")
    assert len(got["seeds"]) <= 500
    assert got["seeds"].endswith("characters)")
    assert not is_secret("num_tokens")


def test_the_default_store_is_sqlite_with_artifacts_beside_it(tmp_path: Path) -> None:
    uri = default_tracking_uri(tmp_path)
    assert sqlite_path(uri) == tmp_path / "mlflow.db"
    assert artifact_root(uri) == (tmp_path / "mlartifacts").as_uri()


def test_a_relative_sqlite_address_is_made_absolute_and_others_are_left() -> None:
    assert absolute_address("sqlite:///runs/mlflow.db") == f"sqlite:///{Path.cwd()}/runs/mlflow.db"
    assert absolute_address("http://host:5000") == "http://host:5000"


def test_run_pages_hold_no_password() -> None:
    assert (
        run_url("http://ada:pa55@host:81/", "1", "abc")
        == "http://host:81/#/experiments/1/runs/abc?workflowType=machine_learning"
    )
    assert (
        run_url("sqlite:////x/mlflow.db", "1", "abc")
        == "http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    )
    assert without_secrets("postgresql+psycopg2://u:p@h/db and http://h") == "postgresql+psycopg2://h/db and http://h"


@pytest.mark.timeout(200)  # MLflow's own retries last longer
@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9"),
        ("http://ada:pa55@127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9"),
        ("postgresql://ada:pa55@127.0.0.1:9/db", "no database answers at 127.0.0.1:9"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot be written"),
        ("htp://x", "did you mean 'http'"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_line_at_once(uri: str, says: str) -> None:
    with pytest.raises(TrackingError, match=says) as refused:
        check_reachable(uri)
    assert "\n" not in str(refused.value)
    assert "pa55" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are my notes, please keep them\n" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        check_reachable(default_tracking_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_text().startswith("these are my notes")


def test_a_port_in_use_is_refused_with_a_free_one() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1") as refused:
            check_port(port)
    free = int(str(refused.value).rsplit("=", 1)[1])
    assert free != port
    check_port(free)


def test_the_server_command_keeps_the_address_out_of_the_process_list(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv, environment = ui_command("postgresql://ada:pa55@host/db", port)
    assert "pa55" not in " ".join(argv)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://ada:pa55@host/db"
    with pytest.raises(UserError, match="open it in a browser"):
        ui_command("http://host:5000", port)


def test_the_command_line_needs_no_mlflow_to_import_tracking() -> None:
    code = "import sys, understudy.tracking; sys.exit(any(name.split('.')[0] == 'mlflow' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], env=CHILD, check=False).returncode == 0
