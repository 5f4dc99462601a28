"""The packages as they are built: what is in them, and that they work where nothing else is."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.python_sdk.server import VM, Script, good

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "python"
TEMPLATE = ("Dockerfile", ".dockerignore", "server.py")
USE = """
import cakework_client, os, sys
assert cakework_client.__file__.startswith(sys.prefix), cakework_client.__file__
with cakework_client.CakeworkClient() as client:
    print(client.get_vm("0123456789abcd").hostname)
print(cakework_client.Folder.read(__import__("pathlib").Path(os.environ["FOLDER"])).files)
try:
    cakework_client.verify_webhook(b"", {}, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
except cakework_client.WebhookRejected:
    print("rejected")
"""


def build(folder: Path, target: Path, kind: str) -> Path:
    """Build a package, without a network, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind]
    subprocess.run(
        [*command, "--directory", str(target)], cwd=folder, check=True, capture_output=True
    )
    [built] = target.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind])
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel."""
    return build(SDK, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it asks for, no more."""
    home = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    interpreter = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    [packages] = home.glob("lib/python*/site-packages")
    for name in needed(requirements(wheel)):
        provide(name, packages)
    return interpreter


def metadata(wheel: Path) -> list[str]:
    """Return what a wheel asks for, as it says."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in metadata(wheel)]


def needed(wanted: list[Requirement]) -> set[str]:
    """Return the names of all distributions that requirements lead to, here and now."""
    found: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        name = canonicalize_name(requirement.name)
        if applies and name not in found:
            found.add(name)
            assert requirement.specifier.contains(distribution(requirement.name).version)
            wanted += map(Requirement, distribution(requirement.name).requires or ())
    return found


def provide(name: str, packages: Path) -> None:
    """Link a distribution of this environment into another."""
    files = distribution(name).files or ()
    for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
        (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))


def test_the_wheel_is_used_where_nothing_else_is(
    python: Path, server: Script, tmp_path: Path
) -> None:
    """It brings all it needs: a call, a folder, a webhook."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    server.steps = [good()]
    environment = {
        "CAKEWORK_URL": server.url,
        "CAKEWORK_API_KEY": "cw_x",
        "FOLDER": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    command = [str(python), "-I", "-W", "error", "-c", USE]
    used = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    hostname, files, rejected = used.stdout.splitlines()
    assert (hostname, rejected) == (VM["hostname"], "rejected")
    assert "FROM scratch" in files


def test_its_types_are_found_by_who_installs_it(python: Path, tmp_path: Path) -> None:
    """pyright, strict, over uses that are right and uses that are not, against the wheel."""
    for name in ("right.py", "wrong.py"):
        shutil.copy(ROOT / "tests" / "python_sdk" / "typing" / name, tmp_path)
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), str(tmp_path)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_source_package_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """File by file; the README and the licence are in it."""
    source = build(SDK, tmp_path / "sdist", "sdist")
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", source, "-C", tmp_path / "unpacked"], check=True)
    [folder] = (tmp_path / "unpacked").iterdir()
    assert {"README.md", "LICENSE", "PKG-INFO", "pyproject.toml"} <= {
        path.name for path in folder.iterdir()
    }
    again = build(folder, tmp_path / "again", "wheel")
    assert dict(contents(again)) == dict(contents(wheel))


def contents(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        assert "cakework_client/py.typed" in archive.namelist()
        for name in archive.namelist():
            yield name, archive.read(name)


def test_the_server_package_asks_for_the_client(tmp_path: Path) -> None:
    """Its command line needs it, in the version that lies beside it; templates are all in it."""
    wheel = build(ROOT, tmp_path, "wheel")
    asked = {requirement.name: requirement for requirement in requirements(wheel)}
    assert asked["cakework-client"].specifier.contains(distribution("cakework-client").version)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if "cli/templates/" in name}
    assert {f"cakework/cli/templates/python/{name}" for name in TEMPLATE} <= held
