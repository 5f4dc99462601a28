"""A Docker engine of Debian's, of the benchmark's own: started and stopped by it.

It has its own folder, socket and network namespace, so that its bridge and its NAT rules do
not touch the host's; what it does for a container is what it always does.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.http import first_answer
from benchmarks.processes import first_line_ms, packed
from cakework.node.network.namespaces import run_inside

DOCKERD = Path("/usr/sbin/dockerd")
DOCKER = "/usr/bin/docker"
DEADLINE_S = 60.0
FIRST_PORT = 18_000


@dataclass(frozen=True)
class DockerEngine:
    """A running engine."""

    socket: Path
    pid: int

    def version(self) -> str:
        """Return what the engine says it is."""
        return self.do("version", "--format", "{{.Server.Version}}")

    def make_image(self, name: str, root: Path) -> None:
        """Make the image ``name`` of the files in ``root``; no registry is asked."""
        with packed(root) as tar:
            subprocess.run(
                [DOCKER, "import", "-", name],
                env=self.env,
                stdin=tar,
                check=True,
                capture_output=True,
            )

    def run_ms(self, image: str, *command: str) -> float:
        """Time ``docker run --rm`` to its first line, in milliseconds."""
        return first_line_ms([DOCKER, "run", "--rm", image, *command], self.env)

    def start_ms(self, container: str) -> float:
        """Time ``docker start --attach`` of a container that was made before, to its first line."""
        return first_line_ms([DOCKER, "start", "--attach", container], self.env)

    def serve_ms(self, image: str, *command: str, port: int, count: int = 1) -> float:
        """Time ``docker run --detach`` of ``count`` services at once, until all have answered.

        They are removed before this returns.
        """
        begun = time.monotonic()
        ports = range(FIRST_PORT, FIRST_PORT + count)
        runs = [self._begin(image, command, f"{public}:{port}") for public in ports]
        with ThreadPoolExecutor(count) as clients:
            list(clients.map(partial(self.answer, "127.0.0.1"), ports))
        ended = time.monotonic()
        ids = [run.communicate(timeout=DEADLINE_S)[0].decode().strip() for run in runs]
        self.do("rm", "--force", *ids)
        return (ended - begun) * 1000

    def answer(self, address: str, port: int) -> None:
        """Return when what listens in the engine's network has answered a request."""
        with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
            run_inside(namespace.fileno(), lambda: first_answer((address, port), "localhost"))

    def answers(self) -> bool:
        """Say whether the engine is up."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return bool(self.version())
        return False

    def do(self, *arguments: str) -> str:
        """Give the engine a command; return what it prints."""
        done = subprocess.run([DOCKER, *arguments], env=self.env, check=True, capture_output=True)
        return done.stdout.decode().strip()

    @property
    def env(self) -> dict[str, str]:
        """What its client needs in its environment."""
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.socket}"}

    def _begin(self, image: str, command: tuple[str, ...], publish: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [DOCKER, "run", "--detach", "--publish", publish, image, *command],
            env=self.env,
            stdout=subprocess.PIPE,
        )


@contextlib.contextmanager
def docker_engine() -> Generator[DockerEngine]:
    """Run an engine that has no image yet."""
    with tempfile.TemporaryDirectory(prefix="cakework-bench-docker-") as name:
        folder = Path(name)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(_command(folder), stdout=log, stderr=subprocess.STDOUT)
        engine = DockerEngine(folder / "docker.sock", process.pid)
        try:
            _wait_until_up(engine, process, folder / "log")
            yield engine
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()


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
