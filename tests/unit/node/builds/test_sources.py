"""Which of the host's apt sources base images are made from."""

from pathlib import Path

import pytest

from cakework.node.builds.sources import KEYRING, SourcesError, debian_sources

DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
  bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://vendor.example/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/vendor.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""
ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.gpg] http://docker.example bookworm stable
deb http://security.example/debian-security bookworm-security main contrib # security
deb-src http://archive.example/debian bookworm main
deb http://archive.example/debian trixie main
"""


def _apt(folder: Path, deb822: str, one_line: str) -> Path:
    (folder / "sources.list.d").mkdir()
    (folder / "sources.list.d" / "debian.sources").write_text(deb822)
    (folder / "sources.list").write_text(one_line)
    return folder


def test_only_debians_archive_is_taken(tmp_path: Path) -> None:
    """Others' sources, other releases, sources and what is switched off are left out."""
    text = debian_sources(_apt(tmp_path, DEB822, ONE_LINE), "bookworm", "bookworm")
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("URIs")] == [
        "URIs: http://security.example/debian-security",
        "URIs: http://archive.example/debian",
    ]
    assert [line for line in lines if line.startswith("Suites")] == [
        "Suites: bookworm-security",
        "Suites: bookworm bookworm-updates",
    ]


def test_every_entry_is_bound_to_debians_keys(tmp_path: Path) -> None:
    """An entry that names no key gets Debian's: somebody else's archive fails there."""
    text = debian_sources(_apt(tmp_path, "", ONE_LINE), "bookworm", "bookworm")
    assert f"Signed-By: {KEYRING}" in text.splitlines()


def test_another_release_comes_from_the_same_mirrors(tmp_path: Path) -> None:
    """The host's own entries count for a release that it has none for, backports left out."""
    (tmp_path / "one").mkdir()
    one_line = ONE_LINE.replace("debian trixie main", "debian sid main")
    text = debian_sources(_apt(tmp_path / "one", DEB822, one_line), "trixie", "bookworm")
    assert text.split("\n\n")[-1] == (
        "Types: deb\nURIs: http://archive.example/debian\nSuites: trixie trixie-updates\n"
        f"Components: main\nSigned-By: {KEYRING}\n"
    )
    assert "Suites: trixie-security" in text
    assert "vendor" not in text
    assert "bookworm" not in text


def test_a_hosts_entries_for_another_release_win(tmp_path: Path) -> None:
    """Who names a mirror of that release has it taken; what it has none for, its updates, comes
    from where the host's own do."""
    other = "deb http://other.example/debian trixie main\n"
    text = debian_sources(_apt(tmp_path, DEB822, f"{ONE_LINE}{other}"), "trixie", "bookworm")
    assert [line for line in text.splitlines() if line.startswith(("URIs", "Suites"))] == [
        "URIs: http://security.example/debian-security",
        "Suites: trixie-security",
        "URIs: http://archive.example/debian",
        "Suites: trixie",
        "URIs: http://other.example/debian",
        "Suites: trixie",
        "URIs: http://archive.example/debian",
        "Suites: trixie-updates",
    ]


def test_a_host_without_the_archive_says_so(tmp_path: Path) -> None:
    """The error names the release that was looked for."""
    with pytest.raises(SourcesError, match="forky"):
        debian_sources(_apt(tmp_path, DEB822, ONE_LINE), "forky", "forky")
