"""Templates and the files that pages are made of. What is not a template's own text is escaped, controls shown."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from understudy.dashboards.places import address
from understudy.errors import visible
from understudy.sweeping.format import figure, number, objective_text

HERE = Path(__file__).parent
STATIC = HERE / "static"
STYLES = ("vendor/uPlot.min.css", "style.css")
SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "vendor/htmx.min.js",
    "plots.js",
    "parallel.js",
    "curves.js",
    "player.js",
    "page.js",
)


def clean(value: Any) -> Any:
    """Return a text that any browser can be sent: no control characters, nothing that UTF-8 has no bytes for."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value).encode("utf-8", "backslashreplace").decode()


@cache
def environment() -> Environment:
    """Return the templates, with what they call."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    made.filters.update(ago=ago, figure=figure, lasted=lasted, number=number, thousands=thousands)
    made.globals.update(
        address=address, objective_text=objective_text, static=static_address, styles=STYLES, scripts=SCRIPTS,
        inlined=inlined,
    )  # fmt: skip
    return made


def render(name: str, **values: Any) -> str:
    """Return a page."""
    return environment().get_template(name).render(**values)


def static_address(name: str) -> str:
    """Return the address of one of our own files, which changes when it does."""
    return f"/static/{name}?{_digest(name)}"


@cache
def _digest(name: str) -> str:
    return hashlib.blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()


def inlined(name: str) -> Markup:
    """Return one of our own files as it is, to stand within a page that is one file."""
    return Markup((STATIC / name).read_text(encoding="utf-8"))


def ago(moment: float) -> str:
    """Return how long ago a moment is, in one unit."""
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def lasted(job: Any) -> str:
    """Return for how long something that has begun has gone on, or went on until it ended, in one unit."""
    seconds = max(0.0, (job.ended or time.time()) - job.started)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def thousands(value: float) -> str:
    """Return a whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u2009")
