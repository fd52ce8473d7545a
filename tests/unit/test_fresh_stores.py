"""A new SQLite store is a copy of one that MLflow made, and is what MLflow would have made."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from understudy.tracking import default_tracking_uri, list_runs, prepare
from understudy.tracking.fresh import fill, revision


def dump(path: Path) -> list[str]:
    """Return a database as SQL, without times and the place of its artifacts.

    The parts of each statement are sorted: MLflow's migrations write a table's constraints in whichever order.
    """
    with closing(sqlite3.connect(path)) as store:
        lines = [re.sub(r"\b\d{13}\b", "TIME", line).replace(str(path.parent), "HERE") for line in store.iterdump()]
    return sorted(", ".join(sorted(re.split(r"[,\s]+", line))) for line in lines)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the copied store, in a home of this test's own."""
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cache" / f"mlflow-{mlflow.__version__}.db"


def test_a_new_store_is_what_mlflow_makes_and_is_copied_the_second_time(cache: Path, tmp_path: Path) -> None:
    places = [tmp_path / name / "mlflow.db" for name in ("first", "second", "other")]
    for path in places[:2]:
        prepare(default_tracking_uri(path.parent))
    assert cache.is_file()
    places[2].parent.mkdir()
    uri = default_tracking_uri(places[2].parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (places[2].parent / "mlartifacts").as_uri())
        mlflow.MlflowClient(uri, uri).search_experiments()
    first, second, other = map(dump, places)
    assert first == other
    assert second == other
    with closing(sqlite3.connect(cache)) as template:
        assert template.execute("SELECT count(*) FROM experiments").fetchone() == (0,)


def test_a_copy_of_another_schema_or_a_damaged_one_is_made_again(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir(parents=True)
    with closing(sqlite3.connect(cache)) as template:
        template.execute("CREATE TABLE alembic_version (version_num)")
        template.execute("INSERT INTO alembic_version VALUES ('of old')")
        template.commit()
    for name in ("one", "two"):
        prepare(default_tracking_uri(tmp_path / name))
        assert revision(cache) == revision(tmp_path / name / "mlflow.db") != "of old"
        cache.write_bytes(b"no database at all" * 1000)


def test_where_no_copy_can_be_kept_mlflow_makes_the_tables_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    uri = default_tracking_uri(tmp_path)
    prepare(uri)
    assert list_runs(uri) == []


def test_a_file_that_holds_anything_is_left_as_it_is(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "others.db"
    with closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE mine (a)")
    before = dump(path)
    fill(path, "any")
    assert dump(path) == before
    assert not cache.exists()
