"""Podman of Debian's, with storage of the benchmark's own and runc, as a peer without a daemon."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import first_line_ms, packed

PODMAN = "/usr/bin/podman"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
"""Podman asks for the most there may be by default, which not every host allows."""


@dataclass(frozen=True)
class Podman:
    """Podman with its storage in ``folder``."""

    folder: Path

    def make_image(self, name: str, root: Path) -> None:
        """Make the image ``name`` of the files in ``root``."""
        with packed(root) as tar:
            subprocess.run(
                [*self.command(), "import", "-", name], stdin=tar, check=True, capture_output=True
            )

    def run_ms(self, image: str, *command: str) -> float:
        """Time ``podman run --rm`` to its first line, in milliseconds.

        Each run is in a network namespace of its own, so that the bridge is not the host's.
        """
        run = [*self.command(), "run", "--rm", *LIMITS, image, *command]
        script = 'ip link set lo up && exec "$@"'
        return first_line_ms(["unshare", "--net", "sh", "-c", script, "sh", *run], dict(os.environ))

    def command(self) -> list[str]:
        """Return how Podman is called."""
        return [
            PODMAN,
            f"--root={self.folder / 'root'}",
            f"--runroot={self.folder / 'run'}",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
            "--runtime=runc",
            "--events-backend=none",
        ]


@contextlib.contextmanager
def podman() -> Generator[Podman]:
    """Give a Podman without images, and remove all it kept at the end."""
    with tempfile.TemporaryDirectory(prefix="cakework-bench-podman-") as name:
        made = Podman(Path(name))
        try:
            yield made
        finally:
            subprocess.run([*made.command(), "rmi", "--all", "--force"], capture_output=True)
            subprocess.run(["umount", Path(name) / "root" / "overlay"], capture_output=True)
