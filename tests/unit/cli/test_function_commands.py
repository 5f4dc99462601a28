"""What commands for functions refuse before anybody is asked."""

import sys
from pathlib import Path
from typing import Any

import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.invoke import failure_of, read_json
from cakework.cli.main import run
from cakework.cli.output import ago
from cakework_client import Invocation
from cakework_client.wire import read

TIME = "2026-11-30T12:00:00.000Z"
FAILED: dict[str, Any] = {
    "id": "inv_1",
    "functionId": "fn_1",
    "state": "failed",
    "reason": "handler_error",
    "trigger": "api",
    "kind": "queued",
    "depth": 0,
    "attempts": [],
    "attempt": 2,
    "createdAt": TIME,
    "updatedAt": TIME,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a function, for a server that is not there: who asks it ends with 3."""
    monkeypatch.setenv("CAKEWORK_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CAKEWORK_API_KEY", "cw_x")
    monkeypatch.setattr("cakework_client.calls.PAUSE_S", 0.001)
    (tmp_path / "cakework.toml").write_text('name = "a"\nruntime = "python"\n')
    (tmp_path / "main.py").touch()
    return tmp_path


def test_a_folder_that_is_both_is_asked_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And options of the one are not passed over for the other."""
    assert run(["deploy", str(folder)]) == 3
    assert run(["deploy", str(folder), "--port", "80"]) == 2
    assert "--port is for VMs" in capsys.readouterr().err
    (folder / "Dockerfile").write_text("FROM cakework/python\nEXPOSE 80\n")
    assert run(["deploy", str(folder)]) == 2
    assert "--as function, or --as vm" in capsys.readouterr().err
    assert run(["deploy", str(folder), "--as", "vm", "--name", "x"]) == 2
    assert "--name is for functions" in capsys.readouterr().err
    assert run(["deploy", str(folder), "--as", "function"]) == 3
    assert run(["deploy", str(folder), "--as", "vm"]) == 3


def test_a_folder_that_is_neither_is_told_of_both(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked, and it is said what writes them."""
    (folder / "cakework.toml").unlink()
    assert run(["deploy", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "neither a cakework.toml, of a function, nor a Dockerfile, of a VM" in told
    assert "`cakework init`" in told


@pytest.mark.parametrize(
    "words",
    [
        ["invoke", "a", "--data", "1", "--event", "{}"],
        ["invoke", "a", "--data", "no json"],
        ["invoke", "a", "--data", "@/nonexistent"],
        ["invoke", "a", "--wait"],
        ["invoke", "a", "--delay", "3"],
        ["invoke", "a", "--async", "--delay=-1"],
        ["invoke", "a", "--version", "0"],
        ["promote", "a", "one"],
        ["dead", "replay"],
        ["dead", "replay", "no-id"],
        ["dead", "discard", "inv_1"],
        ["dead", "discard", "inv_1", "--all"],
        ["dead", "discard", "inv_1", "--function", "a"],
        ["dead", "--reason", "handler_eror"],
        ["invocations", "--state", "done"],
        ["invocations", "--from", "yesterday"],
        ["triggers", "add", "a"],
        ["triggers", "add", "a", "--cron", "* * * * *", "--event", "b"],
        ["triggers", "add", "a", "--cron", "* * * * *", "--every", "60"],
        ["triggers", "add", "a", "--every", "9"],
        ["triggers", "add", "a", "--every", "60", "--time-zone", "Europe/Berlin"],
        ["triggers", "add", "a", "--time-zone", "Europe/Berlin"],
        ["triggers", "add", "a", "--cron", "* * * * *", "--time-zone", "no zone"],
        ["triggers", "add", "a", "--at", "tomorrow"],
        ["triggers", "add", "a", "--source", "/shop"],
        ["triggers", "add", "a", "--event", "b", "--filter", "no json"],
        ["triggers", "add", "a", "--event", "b", "--filter", "[]"],
        ["triggers", "add", "a", "--event", "b", "--retry", "3"],
        ["triggers", "add", "a", "--webhook", "paypal"],
        ["triggers", "add", "a", "--header", "X-A"],
        ["triggers", "add", "a", "--secret"],
        ["triggers", "add", "a", "--webhook", "stripe", "--secret", "s3cret"],
        ["triggers", "add", "a", "--every", "60", "--pause-after", "0"],
        ["triggers", "run", "t", "--data", "1", "--event", "{}"],
        ["triggers", "preview"],
        ["triggers", "preview", "* * * * *", "--every", "60"],
        ["triggers", "preview", "--every", "60", "--count", "51"],
        ["triggers", "--type", "timer"],
        ["events", "emit"],
        ["events", "emit", "a", "--event", "{}"],
        ["events", "emit", "--event", "{}", "--data", "1"],
        ["events", "emit", "--event", "[]"],
        ["events", "emit", "--event", "[1]"],
        ["events", "match", "--filter", "{}"],
        ["events", "--from", "yesterday"],
        ["init", "--function", "ruby"],
        ["dev", "/nonexistent"],
    ],
    ids=" ".join,
)
def test_words_that_cannot_be_end_with_2(words: list[str], folder: Path) -> None:
    """Nobody was asked: that would be 3."""
    try:
        code = run(words)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2


def test_data_comes_from_a_file(tmp_path: Path) -> None:
    """By @, as with curl."""
    (tmp_path / "data.json").write_text('{"a": [1]}')
    assert read_json(f"@{tmp_path / 'data.json'}", "--data") == {"a": [1]}
    with pytest.raises(CommandFailed, match="has to be in quotes"):
        read_json("text", "--data")


def test_an_error_is_told_once() -> None:
    """Python's traceback has it at the end, JavaScript's at the beginning."""
    for stack in ("Traceback:\n  line 3\nError: no\n", "Error: no\n    at main.ts:3"):
        error = {"type": "Error", "message": "no", "stack": stack, "retriable": True}
        failure = failure_of(read(Invocation, {**FAILED, "error": error}))
        assert failure.detail.count("Error: no") == 1
        assert "3" in failure.detail
        assert failure.detail.endswith("inv_1 failed: handler_error after 2 attempts.")
        assert failure.problem["stack"] == stack
        logged = failure_of(read(Invocation, {**FAILED, "error": error}), f"a line\n{stack}")
        assert logged.detail.splitlines() == [
            "Error: no",
            "inv_1 failed: handler_error after 2 attempts.",
        ]


def test_an_error_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a stranger's text."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    error: dict[str, Any] = {"type": "Error", "message": "a\x1b[2Jb", "stack": "c\x1b[31md\n"}
    error["retriable"] = True
    failure = failure_of(read(Invocation, {**FAILED, "error": error}))
    assert "\x1b" not in failure.detail
    assert "a\\x1b[2Jb" in failure.detail


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("2026-11-30T11:59:59.000Z", "1 s"),
        ("2026-11-30T11:58:00.000Z", "2 min"),
        ("2026-11-30T07:00:00.000Z", "5 h"),
        ("2026-11-20T12:00:00.000Z", "10 d"),
        ("2026-11-30T12:00:09.000Z", "0 s"),
    ],
)
def test_how_long_ago(time: str, told: str) -> None:
    """In one unit; clocks may differ."""
    from datetime import datetime

    assert ago(time, datetime.fromisoformat(TIME)) == told
