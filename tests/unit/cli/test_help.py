"""Every command's help fits a terminal of 80 columns, and says what each option is."""

from collections.abc import Iterator
from typing import Any

import pytest

from cakework.cli.main import COMMANDS, app


def commands() -> Iterator[list[str]]:
    yield []
    for name in COMMANDS:
        yield [name]
        yield from ([name, below] for below in app[name] if not below.startswith("-"))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Options without a word of what they do are none that anybody could use."""
    monkeypatch.setenv("COLUMNS", "80")
    app([*words, "--help"], result_action="return_value")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    command = app
    for word in words:
        command = command[word]
    if words and command.default_command is not None:
        for argument in command.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help, argument.name
