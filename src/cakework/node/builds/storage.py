"""Where buildah keeps layers and how it is set up: a folder of Cakework's own.

builds/storage/   images, layers, working containers, as containers/storage lays them out
builds/run/       its run-time state; emptied at start
builds/etc/       its configuration, written anew at start, read-only inside
builds/root/      where a sandbox's root is put together
builds/work/<id>/ a build's context, scratch space and result
"""

import asyncio
import json
import subprocess
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Literal

from cakework.node.builds.identities import give
from cakework.node.builds.registries import Registries
from cakework.node.cleanup import clean_up
from cakework.node.listing import entries, text_of

RESOLVER = "127.0.0.1"
"""Where every network that is leased has a resolver."""
HOST_CA = Path("/etc/ssl/certs/ca-certificates.crt")
CA = "ca.pem"
RUNTIME = Path(__file__).with_name("runtime.py")
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETFCAP",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
]


class BuildStorage:
    """The folder ``home``, made ready for buildah."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.work = home / "work"
        self.resolv_conf = home / "etc" / "resolv.conf"
        self.policy = "/b/etc/policy.json"

    def prepare(self, registries: Registries, extra_ca: Path | None) -> None:
        """Make the folders, write the configuration, remove what the last run left behind.

        ``extra_ca`` is a file of certificates to trust beside the host's. No command may be
        running on the storage.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.home.chmod(0o700)
        for name in ("run", "etc", "work"):
            _remove(self.home / name)
        for name in ("storage", "run", "etc", "work", "root"):
            (self.home / name).mkdir(exist_ok=True)
        for name in ("storage", "run"):
            give(self.home / name)
        for name, text in _configuration(registries):
            (self.home / "etc" / name).write_text(text)
        (self.home / "etc" / "runtime").chmod(0o755)
        if extra_ca is not None:
            bundle = HOST_CA.read_bytes() if HOST_CA.exists() else b""
            (self.home / "etc" / CA).write_bytes(bundle + b"\n" + extra_ca.read_bytes())

    def make_work(self, work_id: str) -> Path:
        """Make the work folder ``work_id``, with room for temporary files."""
        work = self.work / work_id
        _remove(work)
        for folder in (work, work / "tmp", work / "out", work / "sys" / "fs" / "cgroup"):
            folder.mkdir(parents=True)
        for folder in (work, *work.glob("**/")):
            give(folder)
        return work

    def remove_work(self, work_id: str) -> None:
        """Remove the work folder, in which nothing may run. Blocks as long as that takes."""
        _remove(self.work / work_id)

    async def clear_work(self, work_id: str) -> None:
        """Remove the work folder while others go on; if it stays, until the next start."""
        await clean_up(
            "work folder", lambda: asyncio.to_thread(self.remove_work, work_id), work_id=work_id
        )

    def containers_of(self, work_id: str) -> list[str]:
        """Return the working containers that a build left, known by the volume it was given."""
        return [folder.name for folder in self.container_folders(work_id)]

    def container_folders(self, work_id: str) -> list[Path]:
        """Return where those working containers have what is in no layer, such as volumes."""
        mark = f"/b/{work_id}/sys:"
        containers = entries(self.home / "storage" / "overlay-containers")
        return [
            container
            for container in containers
            if any(mark in text_of(below / "buildah.json") for below in entries(container))
        ]

    def layers_mb(self) -> int:
        """Return how much all layers hold together, in MiB."""
        return sum(int(layer.get("diff-size", 0)) for layer in self._records("layers")) // 2**20

    def has_unused_layers(self) -> bool:
        """Say whether there are layers that no image or container has for its uppermost, and that
        no other layer lies on."""
        used = {layer.get("parent") for layer in self._records("layers")}
        for user in (*self._records("images"), *self._records("containers")):
            used |= {user.get("layer"), *(user.get("mapped-layers") or ())}
        return any(layer["id"] not in used for layer in self._records("layers"))

    def images_besides(self, kept: Set[str]) -> list[str]:
        """Return the ids of images, those of finished steps too, without a name in ``kept``."""
        images = self._records("images")
        return [image["id"] for image in images if kept.isdisjoint(image.get("names") or ())]

    def _records(self, kind: Literal["layers", "images", "containers"]) -> list[dict[str, Any]]:
        file = self.home / "storage" / f"overlay-{kind}" / f"{kind}.json"
        return json.loads(file.read_bytes()) if file.exists() else []


def _remove(folder: Path) -> None:
    """Remove ``folder`` with whatever a build left in it: also folders in one another, so deep
    that a function which calls itself for each comes to its end."""
    subprocess.run(["rm", "-rf", "--", folder], check=True)


def _configuration(registries: Registries) -> Iterator[tuple[str, str]]:
    yield "storage.conf", _STORAGE
    yield "registries.conf", registries.configuration()
    yield "containers.conf", _containers()
    yield "policy.json", json.dumps({"default": [{"type": "insecureAcceptAnything"}]})
    yield "auth.json", "{}"
    yield "runtime", RUNTIME.with_suffix(".sh").read_text()
    yield "runtime.py", RUNTIME.read_text()
    yield "resolv.conf", f"nameserver {RESOLVER}\noptions ndots:1\n"


def _containers() -> str:
    return (
        "[containers]\n"
        f"default_capabilities = {json.dumps(CAPABILITIES)}\n"
        "default_sysctls = []\n"
        "http_proxy = false\n"
        "[engine]\n"
        "hooks_dir = []\n"
        'cgroup_manager = "cgroupfs"\n'
    )


_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "/b/storage"
runroot = "/b/run"
"""
