"""What pip is told of the host's index."""

import subprocess
from pathlib import Path

import pytest

from cakework.node.builds.package_index import PackageIndex, package_index

SECRET = "https://user:p%40ss'w@index.example/simple"


def test_files_and_variables_count_as_with_pip(tmp_path: Path) -> None:
    """A later file wins, a variable wins over files, and what pip need not know here stays."""
    for name, text in (
        (".pip/pip.conf", "[global]\nindex-url = https://one.example/\ntimeout = 7\n"),
        (
            ".config/pip/pip.conf",
            "[download]\nindex_url = https://two.example/\n[install]\nx = 1",
        ),
        ("named.conf", "[global]\nretries = 2\ntrusted-host =\n  a.example\n  b.example\n"),
        ("broken.conf", "retries\n"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    environment = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "named.conf"),
        "PIP_TIMEOUT": "9",
        "PIP_TARGET": "/elsewhere",
        "PIP_CERT": "/ca.pem",
        "https_proxy": "http://proxy.example:3128",
    }
    index = package_index(environment)
    assert index.variables == {
        "PIP_INDEX_URL": "https://two.example/",
        "PIP_TRUSTED_HOST": "a.example b.example",
        "PIP_TIMEOUT": "9",
        "PIP_RETRIES": "2",
        "https_proxy": "http://proxy.example:3128",
    }
    assert index.cert == Path("/ca.pem")


def test_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    """Base images are made all the same."""
    (tmp_path / "pip.conf").write_text("retries\n")
    assert not package_index({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}).variables


@pytest.mark.parametrize("cert", [None, "/it's.pem"])
def test_the_script_sets_what_it_should(cert: str | None) -> None:
    """Whatever a value is made of, the shell takes it as it stands."""
    index = PackageIndex({"PIP_INDEX_URL": SECRET}, None)
    ran = subprocess.run(
        ["sh", "-c", 'eval "$(cat)"; printf "%s %s" "$PIP_INDEX_URL" "${PIP_CERT-None}"'],
        input=index.script(cert),
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert ran.stdout.decode() == f"{SECRET} {cert}"


def test_passwords_are_hidden() -> None:
    """As they are written in an address, and as they are sent."""
    index = PackageIndex(
        {"PIP_INDEX_URL": SECRET, "https_proxy": "http://token@proxy.example"}, None
    )
    text = index.hide(f"{SECRET} user:p@ss'w p@ss'w p%40ss'w token")
    assert not [secret for secret in ("p@ss", "p%40ss", "token") if secret in text]
    assert "index.example" in text
