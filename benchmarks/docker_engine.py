"""A Docker engine of Debian's, of the benchmark's own: started and stopped by it.

It has its own folder, socket and network namespace, so that its bridge and its NAT rules do
not touch the host's; what it does for a container is what it always does.
"""

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

DOCKERD = Path("/usr/sbin/dockerd")
DOCKER = Path("/usr/bin/docker")
BUSYBOX = Path("/bin/busybox")
IMAGE = "cakework-bench"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Run:
    """How long a ``docker run`` took, in milliseconds: to its first line, and to its end."""

    first_line_ms: float
    end_ms: float


@dataclass(frozen=True)
class DockerEngine:
    """A running engine."""

    socket: Path

    def version(self) -> str:
        """Return what the engine says it is."""
        return self._docker("version", "--format", "{{.Server.Version}}").decode().strip()

    def run(self, *command: str) -> Run:
        """Time ``docker run --rm`` of ``command`` in the busybox image."""
        begun = time.monotonic()
        with subprocess.Popen(
            [DOCKER, "run", "--rm", IMAGE, *command], env=self._env(), stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            first_line = time.monotonic()
            process.wait(DEADLINE_S)
        ended = time.monotonic()
        if process.returncode != 0 or not line:
            raise RuntimeError(f"docker run ended with {process.returncode}, printing {line!r}")
        return Run((first_line - begun) * 1000, (ended - begun) * 1000)

    def make_image(self) -> None:
        """Make the image from busybox on this machine; no registry is asked."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            archive.add(BUSYBOX, "bin/busybox")
            for name in ("sh", "echo"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        self._docker("import", "-", IMAGE, stdin=tar.getvalue())

    def answers(self) -> bool:
        """Say whether the engine is up."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return bool(self.version())
        return False

    def _docker(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return subprocess.run(
            [DOCKER, *arguments], env=self._env(), input=stdin, check=True, capture_output=True
        ).stdout

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.socket}"}


@contextlib.contextmanager
def docker_engine() -> Generator[DockerEngine]:
    """Run an engine that has the busybox image, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="cakework-bench-docker-") as name:
        folder = Path(name)
        engine = DockerEngine(folder / "docker.sock")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(_command(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(engine, process, folder / "log")
            engine.make_image()
            yield engine
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def _command(folder: Path) -> list[str]:
    engine = [
        str(DOCKERD),
        f"--data-root={folder / 'data'}",
        f"--exec-root={folder / 'exec'}",
        f"--pidfile={folder / 'pid'}",
        f"--host=unix://{folder / 'docker.sock'}",
    ]
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *engine]


def _wait_until_up(engine: DockerEngine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Docker engine does not start:\n{log.read_text()}")
        time.sleep(0.1)
