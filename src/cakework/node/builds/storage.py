"""Where builds and imports work, and how buildah is set up: a folder of Cakework's own.

builds/bases/           layers of the base images: written by ours alone, read-only to builds
builds/layers/<owner>/  layers that builds of one account fetched and made; no other account's
                        build sees them
builds/etc/             buildah's configuration, written anew at start, read-only inside
builds/root/            where a sandbox's root is put together
builds/work/<id>/       a build's context, scratch space and result
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

from cakework.node.builds.identities import give
from cakework.node.builds.layers import LayerStore, remove_tree
from cakework.node.builds.recipes import BASE_TAGS
from cakework.node.builds.registries import Registries
from cakework.node.cleanup import clean_up

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
        self.bases = LayerStore(home / "bases")
        self.layers = home / "layers"
        self.resolv_conf = home / "etc" / "resolv.conf"
        self.policy = "/b/etc/policy.json"

    def prepare(self, registries: Registries, extra_ca: Path | None) -> None:
        """Make the folders, write the configuration, remove what the last run left behind.

        ``extra_ca`` is a file of certificates to trust beside the host's. No command may be
        running on the storage.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.home.chmod(0o700)
        for name in ("etc", "work"):
            remove_tree(self.home / name)
        for name in ("etc", "work", "root"):
            (self.home / name).mkdir(exist_ok=True)
        for name, text in _configuration(registries):
            (self.home / "etc" / name).write_text(text)
        (self.home / "etc" / "runtime").chmod(0o755)
        if extra_ca is not None:
            bundle = HOST_CA.read_bytes() if HOST_CA.exists() else b""
            (self.home / "etc" / CA).write_bytes(bundle + b"\n" + extra_ca.read_bytes())

    def prepare_layers(self) -> None:
        """Make the folders of layers, without those that are of no use any more.

        What lies on base images of an earlier recipe goes with those; and so do the layers of a
        version that kept them all in one place, where any build could have changed them.
        """
        mark, made_of = self.bases.folder / "recipes", "\n".join(sorted(BASE_TAGS))
        if not mark.exists() or mark.read_text() != made_of:
            for name in ("storage", "run", "layers", "bases", "builders"):
                remove_tree(self.home / name)
        self.layers.mkdir(exist_ok=True, mode=0o700)
        self.bases.prepare()
        mark.write_text(made_of)

    def make_work(self, work_id: str) -> Path:
        """Make the work folder ``work_id``, with room for temporary files."""
        work = self.work / work_id
        remove_tree(work)
        for folder in (work, work / "tmp", work / "out", work / "sys" / "fs" / "cgroup"):
            folder.mkdir(parents=True)
        for folder in (work, *work.glob("**/")):
            give(folder)
        return work

    def remove_work(self, work_id: str) -> None:
        """Remove the work folder, in which nothing may run. Blocks as long as that takes."""
        remove_tree(self.work / work_id)

    async def clear_work(self, work_id: str) -> None:
        """Remove the work folder while others go on; if it stays, until the next start."""
        await clean_up(
            "work folder", lambda: asyncio.to_thread(self.remove_work, work_id), work_id=work_id
        )


def _configuration(registries: Registries) -> Iterator[tuple[str, str]]:
    yield "storage.conf", _STORAGE + '[storage.options]\nadditionalimagestores = ["/b/bases"]\n'
    yield "bases.conf", _STORAGE
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
