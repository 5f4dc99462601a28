from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.contexts import PathError, checked_path, collisions, file_path

NASTY = st.text(alphabet=st.sampled_from("ab./\\\0é \n"), max_size=12)


@pytest.mark.parametrize(
    ("directory", "name", "path"),
    [
        (".", "app.py", "app.py"),
        ("", "app.py", "app.py"),
        ("./", "app.py", "app.py"),
        ("src", "app.py", "src/app.py"),
        ("./src//lib/", "a b", "src/lib/a b"),
        ("...", "..x", ".../..x"),
    ],
)
def test_a_file_gets_its_path_below_the_root(directory: str, name: str, path: str) -> None:
    """``.`` and empty parts fall away, the rest stays as it is."""
    assert file_path(directory, name) == path
    assert checked_path(path) == path


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        *(("/etc", "x"), ("/", "x"), ("..", "x"), ("a/../b", "x"), ("a/..", "x"), ("a\0", "x")),
        *((".", ""), (".", "."), (".", ".."), (".", "a/b"), (".", "/a"), (".", "a\0")),
        *((".", "é" * 128), ("d" * 256, "x"), ("a/" * 129, "x"), ("/".join(["d" * 200] * 30), "x")),
    ],
)
def test_what_would_leave_the_context_or_is_no_name_is_refused(directory: str, name: str) -> None:
    """Absolute, upward, NUL, empty, with a slash, too long: none of them gets a path."""
    with pytest.raises(PathError):
        file_path(directory, name)


@given(NASTY, NASTY)
def test_no_path_leaves_the_context(directory: str, name: str) -> None:
    """Whatever goes in, what comes out lies below the root and is in its plain form."""
    try:
        path = file_path(directory, name)
    except PathError:
        return
    parts = path.split("/")
    assert not PurePosixPath(path).is_absolute()
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in path
    assert checked_path(path) == path


@pytest.mark.parametrize("path", ["", "./a", "a//b", "a/", "/a", "../a", "a/./b"])
def test_a_path_that_is_not_in_its_plain_form_is_refused(path: str) -> None:
    """The second check takes only what the first one makes."""
    with pytest.raises(PathError):
        checked_path(path)


def test_paths_that_leave_no_place_for_each_other_are_found() -> None:
    """A path given twice, and a file that another path needs as a folder, are named."""
    paths = ["a", "b/c", "a", "a/b/c", "b/d"]
    assert [index for index, _ in collisions(paths)] == [2, 3]
    assert list(collisions(["a/b", "a/c", "ab"])) == []


class Counted(str):
    """A text that counts how often a part of it is cut off."""

    cuts = 0
    __slots__ = ()

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        Counted.cuts += 1
        before, sign, after = super().rpartition(sep)
        return Counted(before), sign, after


@pytest.mark.parametrize("folders", [2000, 4000])
def test_of_folders_in_one_another_each_is_looked_at_once(folders: int) -> None:
    """Also where they are thousands deep, which no check of a path lets through, and have thousands
    of files: the work grows with what is given, not with its depth times its number."""
    deep = "/".join(["d"] * folders)
    paths = [Counted(f"{deep}/{number}") for number in range(folders)]
    Counted.cuts = 0
    assert list(collisions(paths)) == []
    assert Counted.cuts < 8 * folders
