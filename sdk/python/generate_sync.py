#!/usr/bin/env python3
"""Makes cakework_client/_sync of cakework_client/_async: the same without async and await.

Run it after each change of _async; `waiting.py`, where the two differ, is written by hand.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "cakework_client"
BY_HAND = "waiting.py"
RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"(\w*)Async(?=[A-Z])", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b(__)?a(enter__|exit__|close|closing|read|iter_bytes)\b", r"\1\2"),
    (r"\b_async\b", "_sync"),
]
HEAD = '"""Made of {source} by generate_sync.py; edit that.\n\n'


def main() -> None:
    """Write the files."""
    for path, text in generated().items():
        path.write_text(text)


def generated() -> dict[Path, str]:
    """Return the files to be, each with its text."""
    sources = [path for path in (PACKAGE / "_async").glob("*.py") if path.name != BY_HAND]
    return {PACKAGE / "_sync" / path.name: formatted(without_async(path)) for path in sources}


def without_async(path: Path) -> str:
    """Return the text of a module without async and await."""
    text = path.read_text()
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text.replace('"""', HEAD.format(source=f"_async/{path.name}"), 1)


def formatted(text: str) -> str:
    """Return code as ruff would write it."""
    ruff = [sys.executable, "-m", "ruff"]
    place = ["--stdin-filename", str(PACKAGE / "_sync" / "generated.py"), "-"]
    for step in (
        ["check", "--quiet", "--select=I,UP028", "--fix", "--unsafe-fixes"],
        ["format", "--quiet"],
    ):
        text = subprocess.run(
            [*ruff, *step, *place], input=text, text=True, check=True, capture_output=True
        ).stdout
    return text


if __name__ == "__main__":
    main()
