"""What commands print: tables, progress bars, specs. Nothing else in the package prints."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.table import Table

from understudy.errors import visible
from understudy.secrecy import shown


class PlainConsole(Console):
    """A console that shows control characters in names and files instead of obeying them, and no secret in them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, each text made visible, addresses without their secrets."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(visible(segment.text)), segment.style)


# No markup and no emoji: a path or a name with [brackets] or :a: in it is printed as it is.
console = PlainConsole(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout is not None and sys.stdout.isatty() else 120
)
HELP_WIDTH = {"max_content_width": 110}
"""Click settings of every command."""
OVERRIDES: dict[str, Any] = {
    **HELP_WIDTH,
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""Click settings of a command that takes `key=value` and `--key=value` words of its own."""


PLAIN = {
    **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
    **{"–": "-", "—": "-", "‑": "-", "…": "...", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "·": "."},
    **{"×": "x", "±": "+-", "≥": ">=", "≤": "<=", "→": "->", "←": "<-", "\u00a0": " "},
}
"""What stands for a character on a terminal that has none; any other is written as Python escapes it."""


def print_on_any_terminal() -> None:
    """Have standard output and error write every text, whatever their encoding (latin-1, ASCII) can hold."""
    codecs.register_error("understudy.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook may have put something else there
            stream.reconfigure(errors="understudy.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return plain characters for those that an encoding lacks; file names' undecodable bytes are among them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lacking), error.end


def examples(*commands: str) -> str:
    """Return the end of a help text: command lines that no terminal's width folds."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a plain table; long cells are folded, never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def show_mapping(values: Mapping[str, Any], title: str | None = None, indent: int = 0) -> None:
    """Print keys and values, one a line, as YAML that can be read back; lists of plain values stay on their line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
            plain = not any(isinstance(item, Mapping | list | tuple) for item in sequence)
            return super().represent_sequence(tag, sequence, flow_style=plain)

    text = yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, default_flow_style=False, width=110).rstrip()
    lines = [*([f"# {title}"] if title else []), *text.splitlines()]
    print("\n".join(" " * indent + line for line in lines))


@contextmanager
def progress_bar(label: str, unit: str) -> Generator[Callable[[int, int, str], None]]:
    """Show a bar; the block gets a function of (done, total, note). The unit "bytes" shows sizes and a rate."""
    counts = (
        (DownloadColumn(), TransferSpeedColumn())
        if unit == "bytes"
        else (MofNCompleteColumn(), TextColumn(unit, markup=False))
    )
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counts,
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    bar = Progress(*columns, console=console, transient=False)
    task = bar.add_task(label, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
        if not bar.live.is_started:  # not before: what fails at once shows its error alone
            bar.start()
        bar.update(task, completed=done, total=total or None, note=note)

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
