"""The examples of docs/handlers.md, each by the adapter of its language."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cakework.runtimes import NODE, PYTHON
from tests.integration.runtimes.adapters import NODE_PROGRAM, Adapter, adapter

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "handlers.md").read_text()
BLOCK = re.compile(r"^```(\w+)( test)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(?:#|//) (\S+)(?: signature=(\w+))?(?: entry=(\S+))?\n")
KINDS = ("event", "scheduled", "failure")


def examples() -> list[Any]:
    """Return the examples: their source, and what is sent to them and answered."""
    blocks = [match.groups() for match in BLOCK.finditer(PAGE)]
    found = [
        (source, dialogue)
        for (_, test, source), (_, _, dialogue) in zip(
            blocks, [*blocks[1:], ("", "", "")], strict=True
        )
        if not test and NAME.match(source)
    ]
    assert len(found) >= 15
    return [pytest.param(*each, id=f"{number}") for number, each in enumerate(found)]


@pytest.mark.parametrize(("source", "dialogue"), examples())
def test_examples(source: str, dialogue: str, tmp_path: Path) -> None:
    """Each is answered as the page says."""
    named = NAME.match(source)
    assert named
    file, signature, entry = named.groups()
    (tmp_path / file).write_text(source)
    language = "python" if file.endswith(".py") else "node"
    options = ["--signature", signature] if signature else []
    lines = dialogue.splitlines()
    assert any(line.startswith(("result ", "error ", "2", "4")) for line in lines)
    with adapter(language, entry or file, *options, folder=tmp_path) as running:
        for number in range(1, len(lines) + 1):
            if lines:
                said(running, lines, number)


def said(running: Adapter, lines: list[str], number: int) -> None:
    """Say what the next line says, and hold the answer to the one after it."""
    word, _, rest = lines.pop(0).partition(" ")
    if word in ("before-snapshot", "after-resume"):
        running.order("POST", f"/{word}")
    elif word.isupper():
        visited(running, word, rest, lines.pop(0))
    else:
        told = invoked(running, word, json.loads(rest), number)
        outcome, _, answer = lines.pop(0).partition(" ")
        if outcome == "result":
            assert told["result"] == json.loads(answer)
        else:
            reason, _, message = answer.partition(" ")
            assert (told["reason"], told["error"]["message"]) == (reason, json.loads(message))


def visited(running: Adapter, method: str, rest: str, answer: str) -> None:
    path, _, body = rest.partition(" ")
    status, _, expected = answer.partition(" ")
    with running.visit(method, path, body or None) as response:
        content = response.read().decode()
        told = content if isinstance(json.loads(expected), str) else json.loads(content)
        assert (response.status, told) == (int(status), json.loads(expected))


def invoked(running: Adapter, word: str, given: Any, number: int) -> dict[str, Any]:
    asked: dict[str, Any] = {"invocation": "inv_example", "attempt": number}
    if word in KINDS:
        return running.invoke(given, kind=word, **asked).answer
    unit = {"transform": "record", "batch": "batch"}[word]
    return running.invoke({"records": given}, kind="transform", unit=unit, **asked).answer


@pytest.mark.parametrize("kind", ["python", "ts"])
def test_unit_tests(kind: str, tmp_path: Path) -> None:
    """Those of the page pass, with the packages where they would be installed."""
    (source,) = [text for language, test, text in BLOCK.findall(PAGE) if test and language == kind]
    file = tmp_path / f"unit.{kind}"
    file.write_text(source)
    modules = tmp_path / "node_modules" / "@cakework"
    modules.mkdir(parents=True)
    (modules / "functions").symlink_to(NODE / "functions")
    program = [sys.executable] if kind == "python" else [str(NODE_PROGRAM)]
    subprocess.run([*program, str(file)], check=True, env={"PYTHONPATH": str(PYTHON)})
