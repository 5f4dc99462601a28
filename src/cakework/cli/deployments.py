"""What a project's folder remembers of its deployment: ``.cakework/deployments.json``.

    {"<server>": {"vmId": "…", "leftover": ["…"]}}

``vmId`` is the VM that serves. ``leftover`` are VMs that are to be destroyed: each is noted
before it is of use and until it is gone, so that a command killed at any moment leaves none
behind for good; the next one destroys them.
"""

import fcntl
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cakework.cli.exits import CommandFailed, ExitCode

KEPT_IN = ".cakework"


@contextmanager
def only_one_deploys(folder: Path) -> Generator[None]:
    """Hold the folder's lock.

    Raises:
        CommandFailed: Another command deploys the folder, or nothing can be kept in it.
    """
    kept_in = folder / KEPT_IN
    try:
        kept_in.mkdir(exist_ok=True)
        (kept_in / ".gitignore").write_text("*\n")
        lock = (kept_in / "lock").open("a")
    except OSError as error:
        raise CommandFailed(f"Cannot write to {kept_in}: {error}", ExitCode.USAGE) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandFailed(f"{folder} is being deployed by another command.") from error
        yield


@dataclass
class Deployment:
    """The deployment of one folder on one server."""

    path: Path
    server: str
    vm_id: str | None = None
    leftover: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, folder: Path, server: str) -> "Deployment":
        """Return what the folder remembers; nothing when there was none.

        Raises:
            CommandFailed: The file is there but is not understood.
        """
        path = folder / KEPT_IN / "deployments.json"
        known = _read(path).get(server, {})
        return cls(path, server, known.get("vmId"), list(known.get("leftover", ())))

    def write(self) -> None:
        """Remember, replacing the file at once."""
        known = _read(self.path) | {self.server: {"vmId": self.vm_id, "leftover": self.leftover}}
        try:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(known, indent=2) + "\n")
            new.replace(self.path)
        except OSError as error:
            raise CommandFailed(f"Cannot write {self.path}: {error}", ExitCode.USAGE) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found: object = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return cast("dict[str, Any]", found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"{path} is not understood ({error}). Remove it; then VMs deployed before are left "
            "as they are (`cakework vms`, `cakework destroy`).",
            ExitCode.USAGE,
        ) from error
