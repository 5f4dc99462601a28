"""What commands print: results on stdout, progress and errors on stderr.

Results are for people, or with ``--json`` for programs: then one JSON value a line, camelCase
as in the API. Colours and tables are drawn only on a terminal. What a stranger's program
printed is shown with its control characters escaped on a terminal, and unchanged elsewhere.
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TextIO

from cyclopts import Parameter

if TYPE_CHECKING:
    from cakework.cli.exits import CommandFailed

Json = Annotated[
    bool,
    Parameter(name="--json", negative=(), show_default=False, help="Print JSON, for programs."),
]
"""Type of every command's ``--json`` option."""

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Output:
    """Prints for one command."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, value: object, text: str) -> None:
        """Print a command's result: ``value`` as JSON, or ``text``."""
        print(json.dumps(value) if self.as_json else text, flush=True)

    def table(
        self, values: Sequence[Mapping[str, object]], columns: Mapping[str, str], *, empty: str
    ) -> None:
        """Print ``values`` as a JSON array, or as a table of ``columns`` (key → heading)."""
        if self.as_json:
            print(json.dumps(list(values)), flush=True)
        elif values:
            print_table(values, columns)
        else:
            self.progress(empty)

    def progress(self, text: str) -> None:
        """Say on stderr what is going on."""
        print(text, file=sys.stderr, flush=True)

    def line(self, message: str, *, level: str = "info") -> None:
        """Print a line of a program's output: on stdout, or with level ``error`` on stderr."""
        stream = sys.stderr if level == "error" else sys.stdout
        print(shown(message, stream), file=stream, flush=True)

    def failure(self, failure: "CommandFailed") -> None:
        """Print why the command failed, on stderr."""
        if self.as_json:
            print(json.dumps({"error": failure.problem}), file=sys.stderr, flush=True)
        else:
            print(
                f"{paint('error:', '1;31', sys.stderr)} {failure.detail}",
                file=sys.stderr,
                flush=True,
            )


def shown(message: str, stream: TextIO) -> str:
    """Return ``message`` so that it cannot steer a terminal."""
    if not stream.isatty():
        return message
    return CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", message)


def shown_on_stderr(message: str) -> str:
    """Return ``message`` as it may be shown among the progress."""
    return shown(message, sys.stderr)


def paint(text: str, code: str, stream: TextIO) -> str:
    """Return ``text`` in colour (an ANSI SGR code) on a terminal, unless NO_COLOR is set."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[{code}m{text}\x1b[0m" if coloured else text


def iso(unix_ms: int) -> str:
    """Return unix milliseconds as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(time: str, now: datetime | None = None) -> str:
    """Return how long ago a time of the API's was, in its largest unit."""
    since = (now or datetime.now(UTC)) - datetime.fromisoformat(time)
    seconds = max(int(since.total_seconds()), 0)
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def files(count: int) -> str:
    """Return how many files there are, in words."""
    return f"{count} file{'' if count == 1 else 's'}"


def facts(lines: Mapping[str, object]) -> str:
    """Return what is known of a thing, a line each or several, without what is not known."""
    told = {name: cell(value) for name, value in lines.items()}
    width = max(map(len, told))
    more = "\n".ljust(width + 5)
    return "\n".join(
        f"  {name.ljust(width)}  {value.replace(chr(10), more)}"
        for name, value in told.items()
        if value != "-"
    )


def print_table(values: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> None:
    """Print a table on stdout: drawn on a terminal, plain columns elsewhere."""
    rows = [[cell(value.get(key)) for key in columns] for value in values]
    if sys.stdout.isatty():
        draw_table(list(columns.values()), rows)
        return
    widths = [max(map(len, column)) for column in zip(columns.values(), *rows, strict=True)]
    for row in (list(columns.values()), *rows):
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    sys.stdout.flush()


def draw_table(headings: list[str], rows: list[list[str]]) -> None:
    """Draw a table with rich."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(shown(text, sys.stdout) for text in row))
    Console(markup=False, highlight=False).print(table)


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    return "-" if value is None or value == "" else str(value)
