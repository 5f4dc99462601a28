"""What is gone counts as not there, and hides nothing of what is."""

import errno
from pathlib import Path

import pytest

from cakework.node.cgroups import Cgroup
from cakework.node.listing import entries, folders_below, text_of
from tests.unit.node.vanishing import vanish_once_listed


def test_entries_of_a_folder_that_is_gone_are_none(tmp_path: Path) -> None:
    """And none of what is a file by now; those of one that is there are its own."""
    (tmp_path / "file").touch()
    assert entries(tmp_path) == [tmp_path / "file"]
    assert entries(tmp_path / "gone") == entries(tmp_path / "file") == []


def test_a_folder_that_goes_meanwhile_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others are found, each before those in it; links are not followed."""
    for name in ("a/below", "b/below", "c/below"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("/")
    vanish_once_listed(monkeypatch, tmp_path / "b")
    found = folders_below(tmp_path)
    assert found[0] == tmp_path
    assert {str(each.relative_to(tmp_path)) for each in found[1:]} == {
        "a",
        "a/below",
        "c",
        "c/below",
    }
    assert found.index(tmp_path / "a") < found.index(tmp_path / "a/below")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.ENODEV])
def test_a_file_that_is_gone_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In whichever words the kernel says so; what cannot be read for another reason is told."""

    def read(_: Path) -> str:
        raise OSError(number, "gone")

    monkeypatch.setattr(Path, "read_text", read)
    assert text_of(tmp_path / "file") == ""
    number = errno.EMFILE
    with pytest.raises(OSError, match="gone"):
        text_of(tmp_path / "file")


def test_groups_are_looked_through_while_some_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group below that is removed meanwhile hides no process of another, and can be removed
    by somebody else."""
    for name in ("one", "two", "three"):
        (tmp_path / "group" / name).mkdir(parents=True)
        (tmp_path / "group" / name / "cgroup.procs").write_text(f"{len(name)}\n")
    vanish_once_listed(monkeypatch, tmp_path / "group" / "two")
    cgroup = Cgroup("group", (tmp_path / "group",))
    assert cgroup.pids() == {3, 5}
    for name in ("one", "three"):
        (tmp_path / "group" / name / "cgroup.procs").unlink()
    vanish_once_listed(monkeypatch, tmp_path / "group" / "one")
    assert cgroup.remove()
