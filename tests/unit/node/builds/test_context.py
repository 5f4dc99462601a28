"""A context on disk, as its order says and not a byte elsewhere."""

import base64
import os
from pathlib import Path

import pytest

from cakework.domain.orders import ContextFile, FilesSource
from cakework.node.builds.context import MTIME_S, write_files
from cakework.node.builds.failure import BuildError
from cakework.node.builds.identities import ROOT_ID


def _source(files: list[tuple[str, bytes]]) -> FilesSource:
    return FilesSource(
        files=[
            ContextFile(path=path, content_base64=base64.b64encode(content).decode())
            for path, content in files
        ]
    )


def test_files_come_with_fixed_times_and_owners(tmp_path: Path) -> None:
    """Equal contexts are equal in every byte and time, so that layers are found again."""
    write_files(_source([("a/b/c", b"1"), ("run", b"#!/bin/sh\n")]), tmp_path, 100)
    found = {str(path.relative_to(tmp_path / "context")) for path in tmp_path.glob("context/**/*")}
    assert found == {"a", "a/b", "a/b/c", "run"}
    for name in found:
        status = (tmp_path / "context" / name).stat()
        assert (status.st_uid, status.st_mtime) == (ROOT_ID, MTIME_S)
    assert os.access(tmp_path / "context/run", os.X_OK)
    assert (tmp_path / "context/a/b/c").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "files",
    [
        [("../x", b"")],
        [("a/../../x", b"")],
        [("/x", b"")],
        [("a", b""), ("a", b"")],
        [("a", b""), ("a/b", b"")],
        [("x" * 300, b"")],
        [("a", b"12345"), ("b", b"123456")],
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    """Paths that leave or collide, and more bytes than are taken; nothing lands outside."""
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(BuildError):
        write_files(_source(files), work, 10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["work"]


def test_content_that_is_not_base64_is_refused(tmp_path: Path) -> None:
    """The file at fault is named."""
    source = FilesSource(files=[ContextFile(path="bad", content_base64="%%%")])
    with pytest.raises(BuildError, match="bad"):
        write_files(source, tmp_path, 10)
