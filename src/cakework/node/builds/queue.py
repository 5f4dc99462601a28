"""All builds of a node: taken, carried out a few at a time, accounts in turns, told of.

    submit ──▶ waiting ──▶ running ──▶ its end written ──▶ its end told
                  ▲           │
                  └───────────┘  the node ended meanwhile

A build whose node was killed is run again, with the layers that were finished, and its log
goes on where it was; one that is begun MAX_ATTEMPTS times fails. The end of a build may be
told twice, when the node is killed between telling it and noting that.

Tokens for repositories are in memory alone, until the repository is fetched. A build that was
cut off with its token waits until its order is given again.
"""

import asyncio
import contextlib
import hashlib
import weakref
from pathlib import Path
from typing import Literal, Self

import structlog

from cakework.domain.errors import NoRoom
from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.domain.orders import BuildOrder, BuildReport, CodeOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.bases import Bases
from cakework.node.builds.builder.roots import BuilderRoots
from cakework.node.builds.builder.yard import BuilderYard
from cakework.node.builds.clone import CloneLimits
from cakework.node.builds.code import CodeFetches
from cakework.node.builds.failure import BuildError
from cakework.node.builds.identities import user_namespace
from cakework.node.builds.layers import AccountLayers, LayerStore
from cakework.node.builds.log import BuildLog, Facts, now_ms
from cakework.node.builds.records import BuildRecord, BuildRecords, Outcome
from cakework.node.builds.registries import Registries
from cakework.node.builds.run import BuildRun
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.share import share_of_builds
from cakework.node.builds.shop import MIB, BuildLimits, BuildNetwork, Workshop
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up, cleanup
from cakework.node.free_space import least_for_builds_mb
from cakework.node.images import Image, ImageStore
from cakework.settings import Settings
from cakework.turns import Turns
from cakework.unbroken import unbroken

QUEUE_MAX = 1000
MAX_ATTEMPTS = 3
CANCELLED = "the build was cancelled"
UNUSED_LAYERS = Path(__file__).with_name("unused.py")
OPENINGS_MAX = 16
"""How often the storage is opened to have layers removed: each time about half of them go."""
CLONE_SHARE = 2 / 3
"""Of a build's time, that fetching a repository may take."""

log = structlog.get_logger(__name__)


class Builds:
    """The builds of a node; enter it before use. ``facts`` is told what happens, in order.

    With a ``yard``, what Dockerfiles say is done in machines of it, else in containers.
    """

    def __init__(
        self,
        settings: Settings,
        images: ImageStore,
        network: BuildNetwork,
        facts: Facts,
        yard: BuilderYard | None = None,
    ) -> None:
        self._settings = settings
        self._images = images
        self._network = network
        self._facts = facts
        self._yard = yard
        home = settings.node_dir / "builds"
        self._storage = BuildStorage(home)
        self._records = BuildRecords(home / "records")
        self._turns: Turns[str] = Turns(settings.build_concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._cancelled: set[str] = set()
        self._tokens: dict[str, str] = {}
        self._tokenless: dict[str, BuildRecord] = {}
        self._build_ended = asyncio.Event()
        self._cgroup_prefix = f"build-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-"
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Remove what an earlier run left, then take up the builds that it did not finish."""
        registries = Registries.parse(
            self._settings.registry_mirrors, self._settings.insecure_registries
        )
        for cgroup in Cgroup.existing(self._cgroup_prefix):
            await cgroup.end()
        self._share = self._stack.enter_context(share_of_builds(self._settings))
        self._storage.prepare(registries, self._settings.extra_ca)
        self._storage.prepare_layers()
        self._records.prepare()
        sandbox = Sandbox(self._storage.home, self._stack.enter_context(user_namespace()))
        self._sandbox = sandbox
        await self._tidy(self._storage.bases)
        layers = AccountLayers(self._storage.layers, self._settings.build_cache_mb, self._tidy)
        await layers.recover()
        bases = Bases(self._storage, sandbox, self._cgroup_prefix, self._share)
        self._stack.push_async_callback(bases.close)
        self._shop = Workshop(
            self._storage,
            layers,
            sandbox,
            bases,
            self._images,
            self._network,
            BuildLimits.of(self._settings),
            self._clone_limits(),
            self._cgroup_prefix,
            self._share,
            BuilderRoots(self._storage, sandbox, bases, self._cgroup_prefix, self._share),
            self._yard,
        )
        self._code = CodeFetches(self._shop, self._settings.build_concurrency)
        for record in self._records.unfinished():
            if record.wants_token():
                self._tokenless[record.build_id] = record
            else:
                self._start(record, record.order().owner)
        self._trimmer = asyncio.create_task(self._trim())
        self._stack.push_async_callback(_cancelled, self._trimmer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what runs, without an outcome: unfinished builds are taken up at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def submit(self, order: BuildOrder, written: bytes | None = None) -> None:
        """Take ``order``: when this returns it is carried out whatever happens to the node.

        An order whose build is known already changes nothing, unless its token was missing.
        ``written`` is the order as JSON, where it came as that: it is large, with files in it.

        Raises:
            NoRoom: too many builds wait.
        """
        build_id = order.build_id
        async with self._taking.setdefault(build_id, asyncio.Lock()):
            if build_id in self._tasks:
                return
            if len(self._tasks) >= QUEUE_MAX:
                raise NoRoom(f"{QUEUE_MAX} builds are waiting", retry_after_s=30)
            added = await unbroken(asyncio.to_thread(self._records.add, order, written))
            record = added or self._tokenless.pop(build_id, None)
            if record is None:
                return
            step(Step.NODE_BUILD_RECORDED)
            if order.token:
                self._tokens[build_id] = order.token
            self._start(record, order.owner)

    async def code(self, order: CodeOrder) -> bytes:
        """Return code of a repository as tar.gz; see :meth:`CodeFetches.fetch`."""
        return await self._code.fetch(order)

    async def cancel(self, build_id: str) -> None:
        """End the build as failed; one that has ended, or is not known, is left as it is."""
        if record := self._tokenless.pop(build_id, None):
            self._end(record, _failed(build_id, CANCELLED))
        task = self._tasks.get(build_id)
        if task is None:
            return
        self._cancelled.add(build_id)
        task.cancel()
        await asyncio.wait([task])

    @property
    def isolation(self) -> Literal["vm", "container"]:
        """Where what Dockerfiles say is done."""
        return "container" if self._yard is None else "vm"

    def known(self) -> list[str]:
        """Return the ids of the builds that have not ended."""
        return [*self._tasks, *self._tokenless]

    def reports(self) -> list[BuildReport]:
        """Return the builds that have not ended, and whether they wait for their order."""
        wanted = self._tokenless
        return [BuildReport(build_id=each, wants_order=each in wanted) for each in self.known()]

    def forget_old(self) -> None:
        """Forget builds that ended long ago. Blocks for a moment."""
        self._records.forget_old()

    def _start(self, record: BuildRecord, account: str) -> None:
        work = self._carry_out(record, account)
        task = asyncio.create_task(work, name=f"build {record.build_id}")
        self._tasks[record.build_id] = task
        task.add_done_callback(lambda task: self._ended(record, task))

    def _ended(self, record: BuildRecord, task: asyncio.Task[None]) -> None:
        """A task that was cancelled may not even have begun, so its end is written here."""
        build_id = record.build_id
        del self._tasks[build_id]
        self._tokens.pop(build_id, None)
        try:
            if not task.cancelled():
                task.result()
            elif build_id in self._cancelled:
                step(Step.NODE_BUILD_CANCELLED)
                self._end(record, _failed(build_id, CANCELLED))
        except Exception:
            log.exception("build_not_told", build_id=build_id)

    async def _carry_out(self, record: BuildRecord, account: str) -> None:
        self._end(record, record.outcome() or await self._outcome(record, account))

    def _end(self, record: BuildRecord, outcome: Outcome) -> None:
        if earlier := record.outcome():
            outcome = earlier
        else:
            record.end(outcome)
        step(Step.NODE_BUILD_ENDED)
        self._facts.append(outcome)
        step(Step.NODE_BUILD_TOLD)
        record.tell()
        self._cancelled.discard(record.build_id)
        self._build_ended.set()
        log.info("build_ended", build_id=record.build_id, outcome=outcome.kind)

    async def _outcome(self, record: BuildRecord, account: str) -> Outcome:
        async with self._turns.hold(account):
            order = await asyncio.to_thread(record.order)
            order = order.with_token(self._tokens.pop(record.build_id, ""))
            limit = self._settings.build_output_mb * MIB
            source = self._facts.source(record.build_id, order.owner)
            build_log = BuildLog(record.build_id, source, limit)
            try:
                image = self._images.get(order.image_id)
                image = image or await self._build(record, order, build_log)
            except BuildError as error:
                return _failed(record.build_id, str(error))
            except Exception as error:
                log.exception("build_broke", build_id=record.build_id)
                why = error.strerror if isinstance(error, OSError) else None
                return _failed(record.build_id, f"the host cannot build: {why or 'see its log'}")
            return _succeeded(record.build_id, image)

    async def _build(self, record: BuildRecord, order: BuildOrder, build_log: BuildLog) -> Image:
        attempt = record.begin()
        step(Step.NODE_BUILD_BEGUN)
        if attempt > MAX_ATTEMPTS:
            raise BuildError(f"the node ended during the build, {MAX_ATTEMPTS} times")
        if attempt > 1:
            build_log.say("[cakework: the node was restarted; building again]", "stderr")
        return await BuildRun(self._shop, order, build_log).build()

    async def _trim(self) -> None:
        """Whenever a build has ended, see to it that the layers kept are within their bound."""
        while True:
            await self._build_ended.wait()
            self._build_ended.clear()
            # If it cannot be done now, the end of the next build has it tried again.
            with cleanup("layers"):
                await self._shop.layers.trim()

    async def _tidy(self, store: LayerStore) -> None:
        """Remove working containers and layers without an image. Nothing else may be at it."""
        unused = f"/b/{_house(store)}/{UNUSED_LAYERS.name}"
        await self._keep_house(store, "buildah", "rm", "--all")
        for _ in range(OPENINGS_MAX):
            if not store.has_containers() and not store.has_unused_layers():
                return
            await self._keep_house(store, "/usr/bin/python3", "-I", unused, "/b/storage")
            await unbroken(asyncio.to_thread(store.remove_cut_off))
            await self._keep_house(store, "buildah", "rm", "--all")
        log.warning("layers_not_removed", store=store.folder.name)

    async def _keep_house(self, store: LayerStore, *command: str) -> None:
        """Run a command on a store that is no build's."""
        work_id = _house(store)
        work = self._storage.make_work(work_id)
        (work / UNUSED_LAYERS.name).write_bytes(UNUSED_LAYERS.read_bytes())
        cgroup = Cgroup.create(f"{self._cgroup_prefix}{work_id}", Limits(within=self._share))
        if not cgroup.usable:
            log.warning("no_cgroups", effect="builds have no bound on memory and processes")
        below = None if store.folder == self._storage.bases.folder else self._storage.bases
        confinement = Confinement(
            work, self._storage.resolv_conf, cgroup, MIB * MIB, store=store, bases=below
        )
        try:
            status, _, stderr = await self._sandbox.read(command, confinement)
            if status:
                told = stderr.strip()[-500:]
                raise OSError(f"{' '.join(command[:2])} does not work here: {told}")
        finally:
            await clean_up("cgroup", cgroup.end, work_id=work_id)
            await self._storage.clear_work(work_id)

    def _clone_limits(self) -> CloneLimits:
        settings = self._settings
        return CloneLimits(
            address=settings.github_url,
            timeout_s=settings.build_timeout_s * CLONE_SHARE,
            size_mb=settings.repository_size_mb,
            spare_mb=least_for_builds_mb(settings.min_free_disk_mb),
        )


def _house(store: LayerStore) -> str:
    """Return the id of the work folder of commands that are no build's."""
    return f"house-{store.folder.name}"


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _failed(build_id: str, error: str) -> BuildFailed:
    return BuildFailed(build_id=build_id, error=error, at_ms=now_ms())


def _succeeded(build_id: str, image: Image) -> BuildSucceeded:
    return BuildSucceeded(
        build_id=build_id,
        image_id=image.image_id,
        size_bytes=image.config.size_bytes,
        at_ms=now_ms(),
    )
