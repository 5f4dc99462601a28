"""What is sent of a folder."""

import base64
from pathlib import Path

import pytest

from cakework_client import Folder, FolderError
from cakework_client.folders import as_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a Dockerfile and a few files."""
    write(tmp_path, "Dockerfile", "FROM cakework/busybox\n")
    for name in ("a.py", "a.pyc", "src/b.py", "src/b.pyc", "docs/x.md", "docs/README.md"):
        write(tmp_path, name, name)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sent(context: Folder) -> set[str]:
    return {str(Path(file["dir"]) / file["name"]) for file in context.files}


def test_everything_is_sent_without_a_dockerignore(folder: Path) -> None:
    """All files go, with `.` as the directory of those at the root."""
    context = Folder.read(folder)
    assert context.dockerfile == "FROM cakework/busybox\n"
    assert sent(context) == {
        "Dockerfile",
        "a.py",
        "a.pyc",
        "src/b.py",
        "src/b.pyc",
        "docs/x.md",
        "docs/README.md",
    }
    assert {"dir": ".", "name": "a.py", "content": "a.py"} in context.files
    assert {"dir": "src", "name": "b.py", "content": "src/b.py"} in context.files


def test_what_dockerignore_names_is_not_sent(folder: Path) -> None:
    """Nor is what lies in a folder that it names; what it takes back is."""
    write(folder, ".dockerignore", "**/*.pyc\ndocs\n!docs/README.md\n")
    assert sent(Folder.read(folder)) == {
        ".dockerignore",
        "Dockerfile",
        "a.py",
        "src/b.py",
        "docs/README.md",
    }


def test_what_the_command_line_keeps_is_not_sent(folder: Path) -> None:
    """It changes with each deployment; elsewhere a folder of that name is one as any other."""
    write(folder, ".cakework/deployments.json", "{}")
    write(folder, "src/.cakework/file", "")
    names = sent(Folder.read(folder))
    assert "src/.cakework/file" in names
    assert not [name for name in names if name.startswith(".cakework")]


def test_bytes_that_are_no_text_travel_as_base64(folder: Path) -> None:
    """A file that is not UTF-8 says so in its encoding, and loses nothing."""
    content = bytes(range(256))
    (folder / "logo.png").write_bytes(content)
    file = next(f for f in Folder.read(folder).files if f["name"] == "logo.png")
    assert file.get("encoding") == "base64"
    assert base64.b64decode(file["content"]) == content


def test_a_link_out_of_the_folder_is_left_out(folder: Path) -> None:
    """Nothing outside the folder is sent; a link inside it is sent as what it points to."""
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "folder").symlink_to("/etc")
    (folder / "inside").symlink_to("a.py")
    context = Folder.read(folder)
    assert sorted(context.skipped) == ["folder", "outside"]
    assert {"dir": ".", "name": "inside", "content": "a.py"} in context.files


def test_another_dockerfile_can_be_named(folder: Path) -> None:
    """--file takes the place of the folder's Dockerfile."""
    write(folder, "other", "FROM cakework/python\n")
    assert Folder.read(folder, folder / "other").dockerfile == "FROM cakework/python\n"


def test_a_folder_without_dockerfile_is_refused(tmp_path: Path) -> None:
    """The message says what is missing and what to do."""
    with pytest.raises(FolderError, match="Write one"):
        Folder.read(tmp_path)
    with pytest.raises(FolderError, match="is not a folder"):
        Folder.read(tmp_path / "absent")


def test_files_can_be_given_by_their_paths() -> None:
    """Text and bytes, at the root and below; a list is handed on."""
    files = as_files({"a.txt": "a", "b/c.bin": b"\xff", "b/d.txt": b"d"})
    assert files == [
        {"dir": ".", "name": "a.txt", "content": "a"},
        {"dir": "b", "name": "c.bin", "content": "/w==", "encoding": "base64"},
        {"dir": "b", "name": "d.txt", "content": "d"},
    ]
    assert as_files(files) == files
