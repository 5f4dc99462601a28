"""What a node has told, or is about to, as its files have it."""

import json
from pathlib import Path
from typing import Any

from cakework.domain.facts import CHANGE, LINE, AnyFact, AnyLine, VmLine


def facts_in(folder: Path) -> list[AnyFact]:
    """Return the whole facts of a journal's files, each change behind the lines before it."""
    lines: dict[str, list[AnyLine]] = {}
    for record in _records(folder / "lines", "*/*.ndjson"):
        line = LINE.validate_python(record)
        lines.setdefault(_source(line), []).append(line)
    facts: list[AnyFact] = []
    for record in _records(folder, "*.ndjson"):
        if "released" in record:
            continue
        change = CHANGE.validate_python(record.get("fact", record))
        of = lines.get(getattr(change, "vm_id", None) or getattr(change, "build_id", ""), [])
        while of and of[0].seq <= record["after"]:
            facts.append(of.pop(0))
        facts.append(change)
    return [*facts, *(line for of in lines.values() for line in of)]


def _records(folder: Path, names: str) -> list[dict[str, Any]]:
    text = b"".join(path.read_bytes() for path in sorted(folder.glob(names)))
    lines = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    return [json.loads(line) for line in lines if not line.startswith(b'{"header"')]


def _source(line: AnyLine) -> str:
    return line.vm_id if isinstance(line, VmLine) else line.build_id
