"""The files for Prometheus and Grafana name what our trainers and Ray really export, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.dashboards.expressions import dashboards, expressions, names

from understudy.runs.ray_metrics import LABELS, MEASURES, exported_name

RECORDED = Path(__file__).parent.parent / "recorded" / "ray_metric_names.txt"


def of_ray() -> set[str]:
    """Return the names that Ray was seen to export, and those of GPUs, which no machine here has."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    seen = {line for line in RECORDED.read_text().splitlines() if not line.startswith("#")}
    return seen | {f"ray_{name}" for name in METRICS_GAUGES if name.startswith(("node_gpu", "node_gram"))}


def test_every_expression_has_names_that_are_exported(repo_root: Path) -> None:
    known = of_ray() | {exported_name(measure) for measure in MEASURES}
    found = dict(expressions(repo_root))
    assert len(found) > 25
    for where, expression in found.items():
        assert names(expression), where
        assert names(expression) <= known, where


def test_everything_that_our_trainers_export_is_shown(repo_root: Path) -> None:
    shown = {name for _, expression in expressions(repo_root) for name in names(expression)}
    assert {exported_name(measure) for measure in MEASURES} <= shown


def test_labels_in_expressions_are_those_that_are_sent(repo_root: Path) -> None:
    own = {*LABELS, *(label for measure in MEASURES.values() for label in measure.labels)}
    for where, expression in expressions(repo_root):
        if "ray_understudy_" in expression:
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\"", expression))
            used |= {name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")}
            assert used <= own, where


@pytest.mark.parametrize("name", ["trainings.json", "nodes.json"])
def test_a_dashboard_for_grafana_is_whole(repo_root: Path, name: str) -> None:
    board = json.loads((repo_root / "dashboards" / "grafana" / name).read_text())
    variables = {item["name"] for item in board["templating"]["list"]}
    assert "datasource" in variables, "which Prometheus it reads is chosen in Grafana"
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) <= variables
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for item in board["templating"]["list"][1:]:
        metric = re.match(r"label_values\((\w+)", item["definition"])
        assert metric is not None
        assert metric[1] in of_ray() | {exported_name(measure) for measure in MEASURES}


def test_grafanas_own_schema_has_every_field_of_a_dashboard(repo_root: Path) -> None:
    """What its published types do not know is lost when a dashboard is read by them and written again."""
    reason = "needs Grafana's schema: pip install grafana-foundation-sdk"
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    cog = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=reason).register_default_plugins()
    for path in dashboards(repo_root):
        board = json.loads(path.read_text())
        for variable in board["templating"]["list"]:
            variable.pop("definition", None)  # what Grafana's editor shows of a query; no part of the types
        read = json.loads(cog.JSONEncoder().encode(models.Dashboard.from_json(board)))
        assert lost(board, read, path.name) == []


def lost(given: Any, read: Any, where: str) -> list[str]:
    """Return the places where something that was given is not in what was read; what was added does not count."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [line for key in given for line in lost(given[key], read.get(key), f"{where}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [line for i, one in enumerate(given) for line in lost(one, read[i], f"{where}[{i}]")]
    return [] if given == read else [where]


def test_titles_and_names_of_dashboards_are_their_own(repo_root: Path) -> None:
    boards = [json.loads(path.read_text()) for path in dashboards(repo_root)]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 2


def test_prometheus_finds_a_heads_nodes_by_the_file_that_ray_writes(repo_root: Path) -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((repo_root / "dashboards" / "prometheus" / "prometheus.yml").read_text())
    files = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert files == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
