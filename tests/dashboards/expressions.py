"""The expressions in our files for Grafana and Prometheus, and the names of metrics in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

WORDS = {"by", "sum", "avg", "max", "min", "count", "label_values"}
"""What PromQL, and Grafana's variables, make of names."""


def dashboards(root: Path) -> list[Path]:
    """Return the files for Grafana."""
    return sorted((root / "dashboards" / "grafana").glob("*.json"))


def expressions(root: Path) -> Iterator[tuple[str, str]]:
    """Yield where an expression stands, and the expression, Grafana's variables in it matching everything."""
    for path in dashboards(root):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", re.sub(r'"\$\w+"', '".*"', target["expr"])
    for rule in rules(root):
        yield f"rules.yml: {rule['alert']}", rule["expr"]


def rules(root: Path) -> list[dict[str, Any]]:
    """Return the alerts."""
    groups = yaml.safe_load((root / "dashboards" / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    bare = re.sub(r"\bby \([^)]*\)|\{[^}]*\}", "", expression)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - WORDS
