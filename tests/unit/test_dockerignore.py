"""Which files of a folder the clients send: the same in each, by Docker's rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from cakework_client.errors import FolderError
from cakework_client.folders import wanted_files

TABLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "sdk" / "dockerignore.json").read_text()
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the table's files."""
    for name in TABLE["files"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: repr(case["lines"]))
def test_a_dockerignore_leaves_out_what_docker_leaves_out(
    folder: Path, case: dict[str, Any]
) -> None:
    """Each case of the table, on real files; the TypeScript client's tests have the same table."""
    (folder / ".dockerignore").write_text(case["lines"], newline="")
    sent = {path.relative_to(folder).as_posix() for path in wanted_files(folder)}
    assert set(TABLE["files"]) - sent == set(case["ignored"])


@pytest.mark.parametrize("line", TABLE["refused"])
def test_a_line_that_is_no_pattern_is_refused(folder: Path, line: str) -> None:
    """Rather than files being sent that somebody wanted to keep."""
    (folder / ".dockerignore").write_text(f"*.pyc\n{line}\n")
    with pytest.raises(FolderError, match="is no pattern"):
        list(wanted_files(folder))
