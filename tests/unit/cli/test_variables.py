"""Variables that are passed to a program."""

from pathlib import Path

import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.variables import read_variables


def test_options_win_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in order, options come last, and a bare name takes this shell's value."""
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\nB=from=file\nSHARED\n")
    monkeypatch.setenv("SHARED", "shell")
    monkeypatch.delenv("ABSENT", raising=False)
    assert read_variables(["A=2", "EMPTY=", "ABSENT"], [file]) == {
        "A": "2",
        "B": "from=file",
        "SHARED": "shell",
        "EMPTY": "",
    }


def test_a_variable_without_a_name_is_refused() -> None:
    """`=value` names nothing."""
    with pytest.raises(CommandFailed, match="K=V"):
        read_variables(["=value"], [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error says which file cannot be read."""
    with pytest.raises(CommandFailed, match="absent"):
        read_variables([], [tmp_path / "absent"])
