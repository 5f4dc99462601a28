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
    text = debian_sources(_apt(tmp_path, DEB822, ONE_LINE), "bookworm")
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
    text = debian_sources(_apt(tmp_path, "", ONE_LINE), "bookworm")
    assert f"Signed-By: {KEYRING}" in text.splitlines()


def test_a_host_without_the_archive_says_so(tmp_path: Path) -> None:
    """The error names the release that was looked for."""
    with pytest.raises(SourcesError, match="forky"):
        debian_sources(_apt(tmp_path, DEB822, ONE_LINE), "forky")
