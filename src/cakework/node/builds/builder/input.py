"""What a builder machine is given: the context, and the images from registries that it builds on.

The images are fetched as they are, in the sandbox; nobody unpacks them but the machine.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cakework.domain.image_references import whole_reference
from cakework.domain.orders import BuildOrder
from cakework.node.builds.container import EXPORT
from cakework.node.builds.disk import Bound, DiskGuard, bytes_below
from cakework.node.builds.failure import BuildError, explain_pull, last_fatal
from cakework.node.builds.identities import give
from cakework.node.builds.log import BuildLog
from cakework.node.builds.registries import qualified
from cakework.node.builds.sandbox import Confinement
from cakework.node.builds.shop import Workshop

FETCH = Path(__file__).with_name("fetch.sh")
CONFIGURATION = ("containers.conf", "policy.json", "auth.json", "ca.pem")
PINNED = "localhost/cakework-pinned"


class BuilderInput:
    """The input of one build, in the work folder of ``confinement``."""

    def __init__(
        self, shop: Workshop, order: BuildOrder, build_log: BuildLog, confinement: Confinement
    ) -> None:
        self._shop = shop
        self._order = order
        self._log = build_log
        self._confinement = confinement

    def prepare(self, references: Sequence[str]) -> None:
        """Write scripts, and what the images of registries are called in the machine. Nothing may
        have run in the work folder yet: what did could have left links in their places."""
        work = self._confinement.work
        for script in (EXPORT, FETCH):
            (work / script.name).write_bytes(script.read_bytes())
        write_names(work, references)

    async def fetch(self, references: Sequence[str]) -> None:
        """Fetch images from registries. Raises BuildError."""
        work, limits = self._confinement.work, self._shop.limits
        fault = f"the images that it builds on are larger than {limits.image_mb} MB"
        bound = Bound(lambda: bytes_below(work), limits.image_mb, fault)
        async with (
            self._shop.network.lease_fetching(self._order.owner) as network,
            DiskGuard(work, limits.spare_mb, bound),
        ):
            confinement = replace(self._confinement, network=network)
            for number, reference in enumerate(references):
                self._log.say(f"fetching {reference}")
                await self._fetch(reference, number, confinement)

    async def pour(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Give all of it to ``sink``, as a tar. Raises BuildError."""
        confinement = self._confinement
        command = ("tar", "-C", "/b", "--numeric-owner", "-cf", "-", *self._members())
        faults = bytearray()
        status = await self._shop.sandbox.run(command, confinement, sink, faults.extend)
        if status:
            said = faults.decode(errors="replace").strip()[-300:]
            raise BuildError(f"the context cannot be read: {said}")

    async def _fetch(self, reference: str, number: int, confinement: Confinement) -> None:
        script = f"/b/{confinement.work.name}/{FETCH.name}"
        status, _, output = await self._shop.sandbox.read(
            ("sh", script, whole_reference(reference), str(number)), confinement
        )
        if status:
            raise BuildError(explain_pull(reference, last_fatal(output) or output))

    def _members(self) -> list[str]:
        """Return what goes along, by its path below /b."""
        work, home = self._confinement.work, self._shop.storage.home
        names = ("Dockerfile", "dockerignore", "context", "bases", "pinned", EXPORT.name)
        return [
            *(f"etc/{name}" for name in CONFIGURATION if (home / "etc" / name).exists()),
            *(f"{work.name}/{name}" for name in names if (work / name).exists()),
        ]


def write_names(work: Path, references: Sequence[str]) -> None:
    """Say under which names the images are to be in the machine's storage.

    One that its digest names cannot have that name there, since the digest may be that of a list
    for several platforms; it gets another, and the file ``pinned`` says what it stands for.
    """
    (work / "bases").mkdir()
    give(work / "bases")
    pinned: list[str] = []
    for number, reference in enumerate(references):
        name = qualified(reference)
        if "@" in reference:
            name = f"{PINNED}:{number}"
            pinned.append(f"{reference}=container-image://{name}\n")
        (work / "bases" / f"{number}.name").write_text(name)
    (work / "pinned").write_text("".join(pinned))
