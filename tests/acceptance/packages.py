"""Packages as they are published, served beyond the host, where builds reach them by a setting."""

import base64
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.outside import heard_first, namespace

ADDRESS, HOST_END = "10.77.0.67", "10.77.0.3"
NAME = "cakework-index"
DOWNLOAD_S = 300
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")


@dataclass(frozen=True)
class Packages:
    """``wheels`` is an index of Python's; ``locked`` what a package-lock.json says of each of npm's
    packages, by name."""

    wheels: str
    locked: dict[str, dict[str, str]]


@contextlib.contextmanager
def published(wheels: Sequence[str], modules: Sequence[str]) -> Generator[Packages]:
    """Fetch wheels for Python 3.13, with all that they need, and npm's packages, each alone and
    named with its version; serve them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{NAME}-")))
        _fetch_wheels(folder / "simple", wheels)
        packed = dict(zip(modules, _packed(folder, modules), strict=True))
        enter = stack.enter_context(namespace(NAME, HOST_END, [ADDRESS]))
        serve = [sys.executable, "-u", "-m", "http.server", "0", "--bind", ADDRESS]
        line = stack.enter_context(heard_first([*enter, *serve, "--directory", str(folder)]))
        (url,) = re.findall(r"\((http://\S+)/\)", line)
        yield Packages(
            f"{url}/simple/",
            {
                name: {
                    "version": version,
                    "resolved": f"{url}/{file.name}",
                    "integrity": _digest_of(file),
                }
                for module, file in packed.items()
                for name, _, version in [module.rpartition("@")]
            },
        )


def _fetch_wheels(index: Path, wheels: Sequence[str]) -> None:
    """Fetch them into a folder each of its package's name, whose listing is a page of an index."""
    fitting = [f"--platform={platform}" for platform in PLATFORMS]
    command = ["pip", "download", "--quiet", "--only-binary=:all:", "--python-version=3.13"]
    _run([sys.executable, "-m", *command, *fitting, f"--dest={index}", *wheels])
    for wheel in list(index.iterdir()):
        package = index / wheel.name.partition("-")[0].lower().replace("_", "-")
        package.mkdir()
        wheel.rename(package / wheel.name)


def _packed(folder: Path, modules: Sequence[str]) -> list[Path]:
    """Fetch packages of npm's as they are published."""
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), *modules]
    return [folder / name for name in _run(command, {"PATH": tools}).split()]


def _digest_of(file: Path) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()}"


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> str:
    own = {**os.environ, **(env or {})}
    done = subprocess.run(
        command, env=own, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
