"""How the command line starts and ends, seen from outside."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cakework import __version__
from cakework.cli.folders import only_one
from cakework.settings import Settings

CAKEWORK = [sys.executable, "-m", "cakework.cli"]
UNUSED = "http://127.0.0.1:9"
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}
"""As wide and as plain, whatever the shell of whoever runs the tests says."""


def cakework(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CAKEWORK_")}
    env = {**clean, "CAKEWORK_CONFIG": os.devnull, **PLAIN, **env}
    return subprocess.run(
        [*CAKEWORK, *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_help_is_quick_because_it_loads_little() -> None:
    """The list of commands is shown without loading HTTP, settings or the server."""
    show = "import sys; from cakework.cli.main import run; run(['--help'])"
    heavy = "print({'httpx2', 'pydantic', 'anyio', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{show}; {heavy}"],
        env={**os.environ, **PLAIN},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Start a VM from an image" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_keys_are_made_without_the_client() -> None:
    """As the server's user, who may not reach the client's code."""
    code = "import sys, cakework.cli.keys; print('cakework_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_an_id_that_is_none_ends_with_2() -> None:
    """Before anything is asked of the server."""
    done = cakework("logs", "", CAKEWORK_API_KEY="cw_x")
    assert (done.returncode, done.stderr) == (2, "error: '' is no id.\n")


def test_a_url_that_is_none_ends_with_2() -> None:
    """The setting is named."""
    done = cakework("vms", CAKEWORK_API_KEY="cw_x", CAKEWORK_URL="localhost:8081")
    assert done.returncode == 2
    assert "CAKEWORK_URL" in done.stderr


def test_the_version_is_the_packages() -> None:
    """For people and for programs."""
    assert cakework("version").stdout == f"cakework {__version__}\n"
    assert json.loads(cakework("version", "--json").stdout) == {"version": __version__}


def test_wrong_options_end_with_2() -> None:
    """A misspelt option is answered with what was meant, on standard error."""
    done = cakework("vms", "--statu", "started", CAKEWORK_API_KEY="cw_x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--status" in done.stderr


def test_wrong_settings_end_with_2() -> None:
    """The setting is named, with what is wrong with it."""
    done = cakework("doctor", CAKEWORK_PORT="none")
    assert done.returncode == 2
    assert "port: Input should be a valid integer" in done.stderr


def test_an_unreadable_settings_file_ends_with_2(tmp_path: Path) -> None:
    """A file that is no TOML is named, and no stack is shown."""
    (tmp_path / "c.toml").write_text("port = = 1")
    done = cakework("doctor", CAKEWORK_CONFIG=str(tmp_path / "c.toml"))
    assert done.returncode == 2
    assert "CAKEWORK_CONFIG" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_settings_file_that_is_not_there_is_named() -> None:
    """A misspelt CAKEWORK_CONFIG is not passed over."""
    done = cakework("doctor", CAKEWORK_CONFIG="/nonexistent.toml")
    assert done.returncode == 2
    assert "/nonexistent.toml" in done.stderr


def test_a_server_that_is_not_there_ends_with_3() -> None:
    """The sentence names the address and what to do."""
    done = cakework("vms", CAKEWORK_URL=UNUSED, CAKEWORK_API_KEY="cw_x")
    assert (done.returncode, done.stdout) == (3, "")
    assert UNUSED in done.stderr
    assert "cakework up" in done.stderr


def test_a_missing_key_ends_with_4() -> None:
    """Nothing is asked of the server without a key; with --json the error is JSON."""
    done = cakework("vms", "--json", CAKEWORK_URL=UNUSED)
    assert done.returncode == 4
    assert json.loads(done.stderr)["error"]["code"] == "unauthenticated"


def test_the_port_alone_says_where_the_server_is() -> None:
    """CAKEWORK_PORT moves the command line too, unless CAKEWORK_URL says otherwise."""
    done = cakework("vms", CAKEWORK_PORT="9", CAKEWORK_API_KEY="cw_x")
    assert UNUSED in done.stderr


@pytest.mark.parametrize("setting", ["CAKEWORK_PORT", "CAKEWORK_PROXY_PORT"])
def test_up_refuses_a_port_that_is_taken(tmp_path: Path, setting: str) -> None:
    """Before anything is started, naming the port and the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"CAKEWORK_PORT": "0", "CAKEWORK_PROXY_PORT": "0", setting: port}
        done = cakework("up", CAKEWORK_DATA_DIR=str(tmp_path / "data"), **env)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert setting in done.stderr


def test_up_gives_up_when_the_server_cannot_work(tmp_path: Path) -> None:
    """A part that never worked is not started again and again: its own words, one sentence, and
    nothing left running."""
    data_dir = tmp_path / "data"
    (data_dir / "run" / "node.sock").mkdir(parents=True)
    env = {"CAKEWORK_PORT": "0", "CAKEWORK_PROXY_PORT": "0", "CAKEWORK_DATA_DIR": str(data_dir)}
    done = cakework("up", **env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: The node does not start")
    assert "cli/up.py" not in done.stderr
    with only_one(Settings(data_dir=data_dir)):
        pass


def test_doctor_says_the_same_to_programs() -> None:
    """One object a check, and exit code 1 exactly when one of them failed."""
    done = cakework("doctor", "--json")
    checks = json.loads(done.stdout)
    failed = [check for check in checks if check["level"] == "fail"]
    assert done.returncode == bool(failed)
    assert {"system", "KVM", "qemu", "memory", "disk"} <= {check["name"] for check in checks}
    assert all(check["advice"] for check in checks if check["level"] != "ok")
