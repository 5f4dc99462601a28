"""What commands print."""

import io
import json

import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.output import Output, facts, paint, shown


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_guests_bytes_cannot_steer_a_terminal() -> None:
    """Escape sequences are shown, not obeyed, on a terminal; elsewhere bytes stay as they are."""
    message = "a\tb\x1b]0;owned\x07\x9b31m\rc ü"
    assert shown(message, Terminal()) == "a\tb\\x1b]0;owned\\x07\\x9b31m\\x0dc ü"
    assert shown(message, io.StringIO()) == message


def test_lines_keep_to_their_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """Level error goes to standard error, everything else to standard output."""
    output = Output()
    output.line("out")
    output.line("err", level="error")
    assert capsys.readouterr() == ("out\n", "err\n")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for pipes, and for nobody with NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("ok", "32", Terminal()) == "\x1b[32mok\x1b[0m"
    assert paint("ok", "32", io.StringIO()) == "ok"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("ok", "32", Terminal()) == "ok"


def test_a_failure_is_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the server's problem is passed on whole, on standard error."""
    problem = {"code": "not_found", "detail": "There is no VM 1.", "requestId": "r"}
    Output(as_json=True).failure(CommandFailed("text", problem=problem))
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {"error": problem}


def test_a_table_is_plain_columns_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there are no lines and no colours, and a missing value is a dash."""
    Output().table([{"a": 1, "b": None}, {"a": 22, "b": "x"}], {"a": "A", "b": "BB"}, empty="")
    assert capsys.readouterr().out == "A   BB\n1   -\n22  x\n"


def test_an_empty_table_is_an_empty_array_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs always get an array; people get a sentence on standard error."""
    Output(as_json=True).table([], {"a": "A"}, empty="None.")
    assert capsys.readouterr() == ("[]\n", "")
    Output().table([], {"a": "A"}, empty="None.")
    assert capsys.readouterr() == ("", "None.\n")


def test_what_takes_several_lines_stays_in_its_column() -> None:
    """So that no line of a value looks like another one."""
    told = facts({"id": "a", "next": "one\ntwo\nnow  never", "gone": None})
    assert told.splitlines() == ["  id    a", "  next  one", "        two", "        now  never"]
