"""Refuses a container that has something of others' mounted. Runs in the sandbox, as a program by
itself, with the arguments of runc.

buildah follows links in the source of ``RUN --mount=type=bind``, and ``..`` in the id of
``type=cache``, wherever they lead: to the layers of all builds. It has mounted what it found in
the container's bundle by then, so the table of mounts says what that is.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
CONTAINERS = Path("/b/storage/overlay-containers")
_WORK = re.compile(r"/b/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_OF_CONTAINER = re.compile(r"(/overlay-containers/(?P<id>[0-9a-f]{64})/userdata/\S+)")


@dataclass(frozen=True)
class Mount:
    """One line of the table of mounts: what of which file system is mounted where."""

    device: str
    root: str
    place: str
    kind: str

    def has(self, path: str) -> bool:
        """Say whether ``path`` is at or below the place."""
        return self.place == "/" or path == self.place or path.startswith(f"{self.place}/")


def main(arguments: Sequence[str]) -> None:
    """Look at the mounts of the bundle that ``arguments`` name."""
    file = _bundle(arguments) / "config.json"
    config, mounts = json.loads(file.read_bytes()), parse_mounts(MOUNTS.read_text())
    for mount in config["mounts"]:
        if mount["source"] == "/sys":
            # With some mounts beside it buildah forgets which /sys it was told to show.
            mount["source"] = f"{_work(mounts).place}/sys"
        is_bound = mount.get("type") == "bind" or {"bind", "rbind"} & {*mount.get("options", ())}
        if is_bound and not is_own(os.path.realpath(mount["source"]), mounts):
            sys.exit(f"the mount at {mount['destination']} leads out of the build")
    file.write_text(json.dumps(config))


def parse_mounts(table: str) -> list[Mount]:
    """Read the table as proc(5) describes it."""
    found: list[Mount] = []
    for line in table.splitlines():
        words = line.split(" ")
        found.append(Mount(words[2], words[3], words[4], words[words.index("-") + 1]))
    return found


def is_own(source: str, mounts: Sequence[Mount]) -> bool:
    """Say whether ``source``, in which no link is left, is the build's: of its work folder, of
    the root of one of its stages, or of one of its containers."""
    # Of several in one place, the last lies on top.
    mount = max(reversed(mounts), key=lambda each: len(each.place) if each.has(source) else -1)
    work = _work(mounts)
    path = mount.root.rstrip("/") + source.removeprefix(mount.place)
    if mount.device != work.device:
        return mount.kind == "overlay"
    if path == work.root or path.startswith(f"{work.root}/"):
        return True
    storage = next(each for each in mounts if each.place == "/b/storage")
    container = _OF_CONTAINER.fullmatch(path.removeprefix(storage.root))
    return container is not None and _is_container_of(work, container["id"])


def _work(mounts: Sequence[Mount]) -> Mount:
    return next(each for each in mounts if _WORK.fullmatch(each.place))


def _is_container_of(work: Mount, container_id: str) -> bool:
    file = CONTAINERS / container_id / "userdata" / "buildah.json"
    return file.exists() and f"{work.place}/sys:" in file.read_text()


def _bundle(arguments: Sequence[str]) -> Path:
    for word, following in pairwise(arguments):
        if word in ("--bundle", "-b"):
            return Path(following)
    return Path()


if __name__ == "__main__":
    main(sys.argv[1:])
