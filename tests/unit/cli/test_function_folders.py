"""Which files of a function's folder are its code."""

from pathlib import Path

import pytest

from cakework.cli import function_folders
from cakework.cli.exits import CommandFailed
from cakework.cli.function_folders import read_code, seen


def names(folder: Path) -> list[str]:
    return [f"{file['dir']}/{file['name']}" for file in read_code(folder)]


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def test_code_is_sent_and_nothing_else(tmp_path: Path) -> None:
    """Neither secrets of the shell, nor what was installed or made beside it, nor what
    .dockerignore names, nor what a link brings in from elsewhere."""
    folder = tmp_path / "function"
    write(folder, "main.py", "lib/a.py", "requirements.txt", "data/.envrc", "notes/draft.md")
    write(folder, ".env", ".env.local", "lib/.env", ".git/config", "node_modules/a/index.js")
    write(folder, ".venv/bin/python", "lib/__pycache__/a.pyc", "cakework.toml", ".cakework/x")
    (folder / ".dockerignore").write_text("notes\n")
    write(tmp_path, "outside.py")
    (folder / "linked.py").symlink_to(tmp_path / "outside.py")
    (folder / "inside.py").symlink_to("main.py")
    assert sorted(names(folder)) == [
        "./inside.py",
        "./main.py",
        "./requirements.txt",
        "data/.envrc",
        "lib/a.py",
    ]


def test_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do."""
    monkeypatch.setattr(function_folders, "FILES_MAX", 2)
    write(tmp_path, "a.py", "b.py", "c.py")
    with pytest.raises(CommandFailed, match=r"Name what is none in \.dockerignore"):
        read_code(tmp_path)


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    """Its cakework.toml is none."""
    write(tmp_path, "cakework.toml")
    with pytest.raises(CommandFailed, match="has no code"):
        read_code(tmp_path)


def test_a_save_is_seen(tmp_path: Path) -> None:
    """Of code, of the cakework.toml, a new file; not of what is left out."""
    write(tmp_path, "main.py", "cakework.toml")
    before = seen(tmp_path)
    write(tmp_path, "__pycache__/main.pyc")
    assert seen(tmp_path) == before
    (tmp_path / "main.py").write_text("longer than before")
    after = seen(tmp_path)
    write(tmp_path, "b.py")
    (tmp_path / "cakework.toml").write_text("longer than before")
    assert len({str(each) for each in (before, after, seen(tmp_path))}) == 3
