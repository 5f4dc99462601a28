"""All imports of a node: taken when the registry says yes, fetched a few at a time, told of.

Accounts take turns, both in having a registry asked and in having images fetched.

    take ──▶ asked ──▶ waiting ──▶ fetching ──▶ its end written ──▶ its end told
                          ▲            │
                          └────────────┘  the node ended meanwhile, and no password is needed

Passwords are in memory alone. An import that needs one and is cut off by the end of the node
fails, and says that it has to be asked for again.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator
from typing import Self

import structlog

from cakework.domain.errors import CakeworkError, NoRoom, NotFound
from cakework.domain.facts import ImportFailed, ImportSucceeded
from cakework.domain.orders import ImportOrder, ImportReport
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.failure import BuildError
from cakework.node.builds.identities import user_namespace
from cakework.node.builds.log import Changes, now_ms
from cakework.node.builds.registries import Registries
from cakework.node.builds.sandbox import Sandbox
from cakework.node.builds.share import share_of_builds
from cakework.node.builds.shop import BuildLimits, BuildNetwork
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup
from cakework.node.images import ImageStore
from cakework.node.imports.records import ImportRecord, ImportRecords
from cakework.node.imports.run import ImportRun, ImportShop, sentence
from cakework.settings import Settings
from cakework.turns import Turns

MOST = 200
"""Imports that may wait."""
CHECKS_AT_ONCE = 8
"""Registries that are asked at once."""
CHECK_S = 40.0
"""Longest that an order is not answered: its caller waits, and goes away after a minute."""
TURN_S = 10.0
"""How much of that may be over before its registry is asked."""
MAX_ATTEMPTS = 3
CUT_OFF = "the host was restarted meanwhile and the password is gone; import the image again"

log = structlog.get_logger(__name__)


class Imports:
    """The imports of a node; enter it before use. ``facts`` is told how each ends."""

    def __init__(
        self, settings: Settings, images: ImageStore, network: BuildNetwork, facts: Changes
    ) -> None:
        self._settings = settings
        self._images = images
        self._network = network
        self._facts = facts
        self._home = settings.node_dir / "imports"
        self._records = ImportRecords(self._home / "records")
        self._checks: Turns[str] = Turns(CHECKS_AT_ONCE)
        self._turns: Turns[str] = Turns(settings.build_concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Remove what an earlier run left, then take up the imports that it did not finish."""
        settings = self._settings
        prefix = f"import-{hashlib.sha256(str(self._home).encode()).hexdigest()[:8]}-"
        for cgroup in Cgroup.existing(prefix):
            await cgroup.end()
        share = self._stack.enter_context(share_of_builds(settings))
        storage = BuildStorage(self._home)
        registries = Registries.parse(settings.registry_mirrors, settings.insecure_registries)
        storage.prepare(registries, settings.extra_ca)
        self._records.prepare()
        sandbox = Sandbox(self._home, self._stack.enter_context(user_namespace()))
        limits = BuildLimits.of(settings)
        self._shop = ImportShop(
            storage, sandbox, self._images, self._network, limits, prefix, share
        )
        for record in self._records.unfinished():
            self._start(record, None)
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def take(self, order: ImportOrder) -> None:
        """Ask the registry, then take ``order``; it is fetched after this returns.

        An order whose image is known already changes nothing.

        Raises:
            RegistryDenied, RegistryUnreachable, WrongPlatform, ImageNotInRegistry: it cannot
                be imported.
            NoRoom: too many imports wait, or too many registries are being asked.
        """
        if self._records.get(order.image_id):
            return
        if len(self._tasks) >= MOST:
            raise NoRoom(f"{MOST} imports are waiting", retry_after_s=30)
        answered_by = asyncio.get_running_loop().time() + CHECK_S
        async with self._check_turn(order.owner):
            await ImportRun(self._shop, order).check(answered_by)
        step(Step.NODE_IMPORT_CHECKED)
        if record := self._records.add(order):
            step(Step.NODE_IMPORT_RECORDED)
            self._start(record, order)

    def report(self, image_id: str) -> ImportReport:
        """Say where an import is. Raises NotFound."""
        record = self._records.get(image_id) if image_id.isalnum() else None
        if record is None:
            raise NotFound(f"there is no import {image_id}")
        return record.report()

    def forget_old(self) -> None:
        """Forget imports that ended long ago. Blocks for a moment."""
        self._records.forget_old()

    @contextlib.asynccontextmanager
    async def _check_turn(self, account: str) -> AsyncGenerator[None]:
        """Wait for a turn to ask a registry, and hold it. Raises NoRoom."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(TURN_S):
                    await stack.enter_async_context(self._checks.hold(account))
            except TimeoutError as error:
                raise NoRoom(
                    "as many registries are being asked as may be, and have not answered yet",
                    retry_after_s=10,
                ) from error
            yield

    def _start(self, record: ImportRecord, order: ImportOrder | None) -> None:
        task = asyncio.create_task(self._carry_out(record, order), name=f"import {record.image_id}")
        self._tasks[record.image_id] = task
        task.add_done_callback(lambda task: self._ended(record.image_id, task))

    def _ended(self, image_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[image_id]
        if not task.cancelled() and (error := task.exception()):
            log.error("import_not_told", image_id=image_id, exc_info=error)

    async def _carry_out(self, record: ImportRecord, order: ImportOrder | None) -> None:
        """Bring an import to its end; without ``order`` it is one of an earlier run."""
        if not record.ended:
            error = await self._fetched(record, order)
            record = record.model_copy(update={"ended": True, "error": error})
            self._records.write(record)
        step(Step.NODE_IMPORT_ENDED)
        self._facts.append(self._fact(record))
        step(Step.NODE_IMPORT_TOLD)
        self._records.write(record.model_copy(update={"told": True}))
        log.info("import_ended", image_id=record.image_id, error=record.error)

    def _fact(self, record: ImportRecord) -> ImportSucceeded | ImportFailed:
        image = self._images.get(record.image_id)
        if record.error is not None or image is None:
            why = record.error or "the image is not on the host any more"
            return ImportFailed(image_id=record.image_id, error=why, at_ms=now_ms())
        size = image.config.size_bytes
        return ImportSucceeded(image_id=record.image_id, size_bytes=size, at_ms=now_ms())

    async def _fetched(self, record: ImportRecord, order: ImportOrder | None) -> str | None:
        """Fetch the image; return None, or why it cannot be."""
        if self._images.get(record.image_id):
            return None
        if order is None and record.secret:
            return CUT_OFF
        async with self._turns.hold(record.owner):
            record.attempts += 1
            if record.attempts > MAX_ATTEMPTS:
                return f"the node ended during the import, {MAX_ATTEMPTS} times"
            self._records.write(record)
            step(Step.NODE_IMPORT_BEGUN)
            try:
                await ImportRun(self._shop, order or record.order()).fetch()
            except (CakeworkError, BuildError) as error:
                return sentence(error)
            except Exception as error:
                log.exception("import_broke", image_id=record.image_id)
                why = error.strerror if isinstance(error, OSError) else None
                return f"the host cannot import: {why or 'see its log'}"
        return None
