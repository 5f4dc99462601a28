"""What `cakework build` sends of a folder."""

import base64
from pathlib import Path

import pytest

from cakework.cli.context import Context, read_context
from cakework.cli.exits import CommandFailed, ExitCode


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


def sent(context: Context) -> set[str]:
    return {str(Path(file["dir"]) / file["name"]) for file in context.files}


def test_everything_is_sent_without_a_dockerignore(folder: Path) -> None:
    """All files go, with `.` as the directory of those at the root."""
    context = read_context(folder)
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


@pytest.mark.parametrize(
    ("lines", "left_out"),
    [
        ("*.pyc", {"a.pyc"}),
        ("**/*.pyc", {"a.pyc", "src/b.pyc"}),
        ("src", {"src/b.py", "src/b.pyc"}),
        ("/src/", {"src/b.py", "src/b.pyc"}),
        ("src/*.pyc", {"src/b.pyc"}),
        ("docs\n!docs/README.md", {"docs/x.md"}),
        ("docs/*\n!docs/README.md", {"docs/x.md"}),
        ("b.py", set[str]()),
        ("# a.py\n\n   \n", set[str]()),
        ("./a.py", {"a.py"}),
        ("a.p?", {"a.py"}),
    ],
)
def test_dockerignore_means_what_docker_means(folder: Path, lines: str, left_out: set[str]) -> None:
    """Patterns start at the root, the last that matches wins, and `!` takes a file back."""
    everything = sent(read_context(folder))
    write(folder, ".dockerignore", lines)
    assert sent(read_context(folder)) == everything - left_out | {".dockerignore"}


def test_bytes_that_are_no_text_travel_as_base64(folder: Path) -> None:
    """A file that is not UTF-8 says so in its encoding, and loses nothing."""
    content = bytes(range(256))
    (folder / "logo.png").write_bytes(content)
    file = next(f for f in read_context(folder).files if f["name"] == "logo.png")
    assert file["encoding"] == "base64"
    assert base64.b64decode(file["content"]) == content


def test_a_link_out_of_the_folder_is_left_out(folder: Path) -> None:
    """Nothing outside the folder is sent; a link inside it is sent as what it points to."""
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "folder").symlink_to("/etc")
    (folder / "inside").symlink_to("a.py")
    context = read_context(folder)
    assert sorted(context.skipped) == ["folder", "outside"]
    assert {"dir": ".", "name": "inside", "content": "a.py"} in context.files


def test_another_dockerfile_can_be_named(folder: Path) -> None:
    """--file takes the place of the folder's Dockerfile."""
    write(folder, "other", "FROM cakework/python\n")
    assert read_context(folder, folder / "other").dockerfile == "FROM cakework/python\n"


def test_a_folder_without_dockerfile_is_a_usage_error(tmp_path: Path) -> None:
    """The message says what is missing and what to do."""
    with pytest.raises(CommandFailed, match="--file") as failure:
        read_context(tmp_path)
    assert failure.value.exit_code == ExitCode.USAGE
