"""Code of a repository, handed over as an archive: for functions, of which no image is made.

It is fetched as a build's context is, in the sandbox and over the network for fetching, and packed
there: nothing of what comes is touched by the node itself.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from cakework.domain.errors import InvalidRequest, QuotaExceeded
from cakework.domain.facts import AnyLine
from cakework.domain.orders import CodeOrder
from cakework.node.builds.clone import Clone
from cakework.node.builds.failure import BuildError
from cakework.node.builds.log import BuildLog
from cakework.node.builds.sandbox import Confinement
from cakework.node.builds.shop import MIB, PIDS_MAX, Workshop
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up
from cakework.turns import Crowded, Turns

TIMEOUT_S = 40.0
"""A caller waits."""
ARCHIVE_BYTES_MAX = 64 * MIB
WAITING_MAX = 8


class CodeFetches:
    """Fetches code, a few at a time, accounts in turns."""

    def __init__(self, shop: Workshop, at_once: int) -> None:
        self._shop = shop
        self._turns: Turns[str] = Turns(at_once, waiting=WAITING_MAX)

    async def fetch(self, order: CodeOrder) -> bytes:
        """Return the newest commit of the branch that ``order`` names, as tar.gz.

        Raises:
            InvalidRequest: it cannot be had; says why.
            QuotaExceeded: the account has too many that wait.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S), self._turns.hold(order.account_id):
                return await self._fetch(order)
        except Crowded as error:
            raise QuotaExceeded(
                "Too much code of the account is being fetched.", retry_after_s=5
            ) from error
        except TimeoutError as error:
            raise InvalidRequest(
                f"{order.source.repository}: fetching it took longer than {TIMEOUT_S:.0f} s."
            ) from error
        except BuildError as error:
            raise InvalidRequest(f"The code cannot be fetched: {error}.") from error

    async def _fetch(self, order: CodeOrder) -> bytes:
        shop = self._shop
        log = BuildLog("", _Nowhere(), 0)
        async with self._workplace(order.account_id) as confinement:
            await Clone(shop.sandbox, shop.cloning, order.source, log).fetch(confinement)
            return await self._packed(confinement)

    async def _packed(self, confinement: Confinement) -> bytes:
        archive, faults = bytearray(), bytearray()

        def take(chunk: bytes) -> None:
            archive.extend(chunk)
            if len(archive) > ARCHIVE_BYTES_MAX:
                raise BuildError(f"it has more than {ARCHIVE_BYTES_MAX // MIB} MiB, packed")

        context = f"/b/{confinement.work.name}/context"
        command = ("tar", "--create", "--gzip", f"--directory={context}", ".")
        status = await self._shop.sandbox.run(command, confinement, take, faults.extend)
        if status:
            raise BuildError("its files cannot be packed")
        return bytes(archive)

    @contextlib.asynccontextmanager
    async def _workplace(self, account: str) -> AsyncGenerator[Confinement]:
        """Give folder, cgroup and network; on the way out end and remove all that is left."""
        shop, work_id = self._shop, str(uuid.uuid4())
        limits = Limits(shop.limits.memory_mb, PIDS_MAX, within=shop.share)
        async with contextlib.AsyncExitStack() as stack:
            work = shop.storage.make_work(work_id)
            stack.push_async_callback(shop.storage.clear_work, work_id)
            cgroup = Cgroup.create(f"{shop.cgroup_prefix}{work_id}", limits)
            stack.push_async_callback(clean_up, "cgroup", cgroup.end, work_id=work_id)
            network = await stack.enter_async_context(shop.network.lease_fetching(account))
            resolv_conf, file_bytes = shop.storage.resolv_conf, shop.limits.image_mb * MIB
            confinement = Confinement(work, resolv_conf, cgroup, file_bytes)
            yield replace(confinement, network=network)


class _Nowhere:
    """Where the lines of a fetch go: its faults are answered to who asked."""

    last_seq = 0

    def extend(self, lines: Sequence[AnyLine]) -> int:
        """Keep nothing."""
        return len(lines)

    async def room(self) -> None:
        """There always is some."""
