"""What `cakework up` gives its parts."""

import os
import subprocess
from pathlib import Path

import pytest

from cakework.cli.serving import first_commands, of_router


def test_the_router_has_no_secrets_of_roots() -> None:
    """Strangers speak to it: it is given its settings and what programs need, by name."""
    given = {
        "CAKEWORK_PORT": "8081",
        "cakework_proxy_host": "0.0.0.0",
        "CAKEWORK_API_KEY": "cw_x",
        "cakework_api_key": "cw_x",
        "CAKEWORK_DATABASE_URL": "postgresql://x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
        "HOMEBREW_TOKEN": "x",
        "HOME": "/root",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/src",
        "LANG": "C.UTF-8",
    }
    settings = {"CAKEWORK_PORT", "cakework_proxy_host"}
    assert of_router(given).keys() == {*settings, "HOME", "PATH", "PYTHONPATH", "LANG"}


def test_the_first_commands_can_be_copied_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shell that has no such command in its PATH, in any folder."""
    told, folder = tmp_path / "told", tmp_path / "a folder" / "bin"
    folder.mkdir(parents=True)
    command = folder / "cakework"
    command.write_text(f'#!/bin/sh\necho "$@" >>{told}\ntest $1 = run || ls -d "$2"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", os.defpath)
    script = "\n".join(first_commands(folder))
    subprocess.run(["sh", "-euc", script], check=True, cwd=tmp_path, capture_output=True)
    (built, ran) = told.read_text().splitlines()
    assert built.startswith("build /")
    assert ran == f"run {built.removeprefix('build ')}"
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    assert first_commands(folder) == script.splitlines()[1:]
