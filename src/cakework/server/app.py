"""Where the server is put together: everything gets what it needs here, and nowhere else.

What webhooks, functions and automations are made of is in the ``assembly`` of each.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from sqlalchemy.orm import Session

import cakework
from cakework.domain.ids import AccountId
from cakework.server.api import problems
from cakework.server.api.account_builds import AccountBuildRoutes
from cakework.server.api.account_route import Door
from cakework.server.api.bodies import Bodies
from cakework.server.api.builds import BuildRoutes, build_answer
from cakework.server.api.cached_vms import CachedVmRoutes
from cakework.server.api.costs import Costs
from cakework.server.api.document import describe
from cakework.server.api.drafts import DraftRoutes
from cakework.server.api.events import EventRoutes
from cakework.server.api.forks import ForkRoutes
from cakework.server.api.function_archives import FunctionArchiveRoutes
from cakework.server.api.function_logs import FunctionLogRoutes
from cakework.server.api.functions import FunctionRoutes, version_answer
from cakework.server.api.github_builds import GithubBuildRoutes
from cakework.server.api.health import HealthRoutes
from cakework.server.api.images import ImageRoutes
from cakework.server.api.imports import ImportRoutes
from cakework.server.api.inbound import BODIES_BYTES_MAX, InboundRoutes
from cakework.server.api.inbound import BODY_BYTES_MAX as INBOUND_BYTES_MAX
from cakework.server.api.invocations import InvocationRoutes, invocation_answer
from cakework.server.api.logs import LogRoutes
from cakework.server.api.parsing import Parser
from cakework.server.api.request_scope import RequestScope
from cakework.server.api.schedules import ScheduleRoutes
from cakework.server.api.secrets import SecretRoutes
from cakework.server.api.times import rfc3339
from cakework.server.api.transforms import STREAMS, STREAMS_EACH, WHOLES, TransformRoutes
from cakework.server.api.triggers import PAGES_AT_ONCE, TriggerRoutes, trigger_answer
from cakework.server.api.vms import VmRoutes, vm_answer
from cakework.server.api.webhooks import WebhookRoutes
from cakework.server.automations.assembly import AutomationParts, automation_parts
from cakework.server.automations.lifecycle import Lifecycle
from cakework.server.clock import Clock, now_ms
from cakework.server.functions.assembly import FunctionParts, function_parts
from cakework.server.functions.changes import Changes
from cakework.server.functions.invocations import without_bytes
from cakework.server.functions.leases import take_back
from cakework.server.functions.logs import FunctionLogs
from cakework.server.functions.machines import Machines
from cakework.server.functions.marks import Marks
from cakework.server.functions.masks import Masks
from cakework.server.logs.file import Kept
from cakework.server.logs.followers import Followers
from cakework.server.logs.store import LogStore
from cakework.server.logs.stretches import Stretches
from cakework.server.loops.builds import BuildLoop
from cakework.server.loops.idle import IdleLoop
from cakework.server.loops.imports import ImportLoop
from cakework.server.loops.journal import JournalReader, LinesReader
from cakework.server.loops.leftovers import LeftoverLoop
from cakework.server.loops.loop import Loop
from cakework.server.loops.retention import KeptDays, RetentionLoop
from cakework.server.loops.snapshots import SnapshotLoop
from cakework.server.loops.vms import VmLoop
from cakework.server.node.client import NodeClient
from cakework.server.routers.desk import Desk
from cakework.server.routers.gates import Gates
from cakework.server.services.account_builds import AccountBuilds
from cakework.server.services.announcements import All
from cakework.server.services.build_states import BuildStates
from cakework.server.services.builds import Builds
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.facts import Facts, States
from cakework.server.services.forks import Forks
from cakework.server.services.idempotency import Idempotency
from cakework.server.services.image_quota import ImageQuota
from cakework.server.services.images import Images
from cakework.server.services.import_states import ImportStates
from cakework.server.services.imports import Imports
from cakework.server.services.keys import Keys
from cakework.server.services.log_owners import LogOwners
from cakework.server.services.logs import Logs, Owners
from cakework.server.services.new_vms import VmRules
from cakework.server.services.routes import Routes
from cakework.server.services.snapshot_states import SnapshotStates
from cakework.server.services.spool import Spool
from cakework.server.services.vm_admission import VmAdmission, VmLimits
from cakework.server.services.vm_orders import VmOrders
from cakework.server.services.vm_states import VmStates
from cakework.server.services.vms import Vms
from cakework.server.services.waitlist import Waitlist
from cakework.server.services.wakes import Wakes
from cakework.server.store.database import Database, database_url
from cakework.server.store.free_space import FreeSpace
from cakework.server.store.sealing import Sealer
from cakework.server.web.site import Site
from cakework.server.web.waitlist import WaitlistForm
from cakework.server.webhooks.assembly import WebhookParts, webhook_parts
from cakework.server.webhooks.outbox import Shapes
from cakework.settings import Settings
from cakework.turns import Turns

BUILD_PERIOD_S = 5.0
VM_PERIOD_S = 5.0
SNAPSHOT_PERIOD_S = 5.0
IDLE_PERIOD_S = 1.0
IMPORT_PERIOD_S = 5.0
LEFTOVER_PERIOD_S = 60.0
RETENTION_PERIOD_S = 600.0
RETENTION_FIRST_S = 30.0
"""After a start there are more urgent things to do than to forget what is old."""


@dataclass(frozen=True, slots=True)
class Server:
    """The parts of one server, put together but not yet open."""

    settings: Settings
    database: Database
    space: FreeSpace
    sealer: Sealer
    log_store: LogStore
    followers: Followers
    node: NodeClient
    spool: Spool
    keys: Keys
    routes: Routes
    vms: Vms
    cached_vms: CachedVms
    forks: Forks
    gates: Gates
    wakes: Wakes
    desk: Desk
    vm_states: VmStates
    builds: Builds
    account_builds: AccountBuilds
    imports: Imports
    images: Images
    logs: Logs
    function_logs: FunctionLogs
    waitlist: Waitlist
    idempotency: Idempotency
    webhooks: WebhookParts
    functions: FunctionParts
    automations: AutomationParts
    changes: Changes
    loops: tuple[Loop, ...]
    journal: JournalReader
    lines: LinesReader

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the stores, run the loops, and close everything after."""
        self.settings.server_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.node.close)
            await asyncio.to_thread(self.sealer.open_key)
            stack.push_async_callback(self.database.close)
            await self.database.open()
            stack.push_async_callback(self.log_store.close)
            await self.log_store.open()
            await asyncio.to_thread(self.spool.open)
            await self.keys.configure(self.settings.api_key)
            await self.routes.load(self.database)
            await take_back(self.database)
            stack.callback(self.webhooks.guard.close)
            stack.push_async_callback(self.webhooks.pending.close)
            await self.webhooks.pending.open()
            stack.push_async_callback(self.automations.inbound.close)
            stack.push_async_callback(self.functions.adapter.close)
            stack.push_async_callback(self.functions.dispatch.close)
            stack.push_async_callback(self.functions.lendings.close)
            stack.push_async_callback(self.functions.holds.close)
            stack.push_async_callback(self.functions.trials.close)
            stack.push_async_callback(self.functions.deploys.close)
            stack.callback(self.automations.schedules.close)
            for run in (self.journal.run, self.lines.run, *(loop.run for loop in self.loops)):
                stack.push_async_callback(_end, asyncio.create_task(run()))
            stack.push_async_callback(self.wakes.close)
            stack.push_async_callback(self.desk.close)
            await self.desk.open(self.settings.routes_socket)
            stack.callback(self.followers.close)
            yield


def build_server(settings: Settings, clock: Clock = now_ms) -> Server:
    """Put a server together. Nothing is opened and nothing runs yet."""
    database = Database(database_url(settings))
    kept = Kept(settings.max_log_lines, settings.max_logs_mb_per_account << 20)
    space = FreeSpace(settings.server_dir, settings.min_free_store_mb)
    log_owners, stretches = LogOwners(database), Stretches(settings.max_log_lines_per_attempt)
    log_store = LogStore(
        *(settings.server_dir / "logs.db", kept, log_owners.find, space),
        functions=log_owners.functions,
        stretches=stretches,
    )
    followers, routes = Followers(), Routes()
    node = NodeClient(settings.node_socket)
    import_states = ImportStates(followers, clock)
    sealer = Sealer(settings.server_dir / "secret.key")
    spool = Spool(settings.server_dir / "spool", sealer)
    admission = VmAdmission(
        VmLimits(
            settings.max_vms_per_account,
            settings.max_cached_vms_per_account,
            settings.max_volumes_gb_per_account,
        )
    )
    image_quota = ImageQuota(settings.max_images_per_account, settings.max_images_mb_per_account)
    orders = VmOrders(sealer, log_store.last_seq)
    rules = VmRules(admission, orders, settings.base_domain, clock)
    shapes = _shapes(settings, clock)
    webhooks = webhook_parts(settings, database, sealer, shapes, clock)
    announcements = All(webhooks.outbox)
    states = States(
        VmStates(routes, followers, announcements, clock),
        SnapshotStates(clock),
        BuildStates(followers, announcements, clock),
        import_states,
    )
    build_hint, vm_hint, leftover_hint = asyncio.Event(), asyncio.Event(), asyncio.Event()
    snapshot_hint, gates = asyncio.Event(), Gates()
    vms = Vms(database, node, states.vms, rules, clock, vm_hint.set)
    cached_vms = CachedVms(database, vms, states.vms, rules, gates, snapshot_hint.set)
    snapshot_pass = SnapshotLoop(database, node, orders, states.snapshots, states.vms).one_pass
    snapshot_loop = Loop("snapshots", snapshot_pass, SNAPSHOT_PERIOD_S, snapshot_hint)
    idle_loop = Loop("idle", IdleLoop(routes, gates, cached_vms).one_pass, IDLE_PERIOD_S)
    imports = Imports(database, node, import_states, image_quota, clock)
    import_loop = Loop(
        "imports", ImportLoop(database, node, imports, import_states).one_pass, IMPORT_PERIOD_S
    )
    builds = Builds(
        database, spool, settings.max_builds_per_account, image_quota, build_hint.set, clock
    )
    build_pass = BuildLoop(database, node, spool, builds, states.builds).one_pass
    build_loop = Loop("builds", build_pass, BUILD_PERIOD_S, build_hint)
    vm_pass = VmLoop(database, node, states.vms, vms, cached_vms).one_pass
    vm_loop = Loop("vms", vm_pass, VM_PERIOD_S, vm_hint)
    leftovers = Loop(
        "leftovers", LeftoverLoop(database, node).one_pass, LEFTOVER_PERIOD_S, leftover_hint
    )
    days = KeptDays(
        logs=settings.retain_logs_days,
        stopped=settings.retain_stopped_vms_days,
        vms=settings.retain_vms_days,
        builds=settings.retain_builds_days,
        deliveries=settings.webhook_log_days,
    )
    retention_pass = RetentionLoop(database, log_store, node, vms, days, clock).one_pass
    retention = Loop(
        "retention", retention_pass, RETENTION_PERIOD_S, first_after_s=RETENTION_FIRST_S
    )
    wakes = Wakes(database, cached_vms, space)
    deploy_hint, dispatch_hint = asyncio.Event(), asyncio.Event()

    def build_ended() -> None:
        build_hint.set()
        deploy_hint.set()

    images = Images(database, clock, leftover_hint.set)
    machines = Machines(database, node, vms, states.vms, states.snapshots, rules, snapshot_hint.set)
    masks = Masks(database, sealer, clock)
    marks = Marks(database, node, log_store, stretches)
    keys = Keys(database, clock)
    functions = function_parts(
        *(settings, database, sealer, keys, builds, machines, images, node, masks, marks),
        *(announcements, shapes.invocations, clock, deploy_hint, dispatch_hint),
    )
    invocations = functions.invocations
    announcements.others.append(Lifecycle(invocations, shapes, webhooks.outbox, clock))
    automations = automation_parts(settings, database, sealer, invocations, clock, dispatch_hint)
    vms.make_room = functions.make_room
    facts = Facts(database, log_store, followers, states, build_ended, masks.lines)
    logs = Logs(database, log_store, followers, settings.max_followed_logs_per_account)
    return Server(
        settings=settings,
        database=database,
        space=space,
        sealer=sealer,
        log_store=log_store,
        followers=followers,
        node=node,
        spool=spool,
        keys=keys,
        routes=routes,
        vms=vms,
        cached_vms=cached_vms,
        forks=Forks(database, vms, states, rules, snapshot_hint.set),
        gates=gates,
        wakes=wakes,
        desk=Desk(routes, gates, wakes, functions.lendings),
        vm_states=states.vms,
        builds=builds,
        account_builds=AccountBuilds(database, node, states.builds, build_hint.set),
        imports=imports,
        images=images,
        logs=logs,
        function_logs=FunctionLogs(database, log_store, logs, functions.invocations),
        waitlist=Waitlist(database, clock),
        idempotency=Idempotency(database, sealer, clock),
        webhooks=webhooks,
        loops=(
            *(build_loop, vm_loop, snapshot_loop, idle_loop, import_loop, leftovers),
            *(webhooks.loop, retention, *functions.loops, *automations.loops),
        ),
        functions=functions,
        automations=automations,
        changes=Changes(database, functions.invocations, followers, clock),
        journal=JournalReader(node, facts),
        lines=LinesReader(node, facts),
    )


def create_app(settings: Settings, server: Server | None = None) -> FastAPI:
    """Return the API of ``server``, or of one put together from ``settings``.

    Its lifespan opens the stores and runs the loops.
    """
    parts = server or build_server(settings)
    parser = Parser()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with parts.running():
            try:
                yield
            finally:
                await parser.close()

    app = FastAPI(
        title="Cakework",
        summary="Build, run and observe your users' code in microVMs.",
        version=cakework.__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    app.add_middleware(RequestScope)
    body_bytes = settings.max_body_mb << 20
    bodies = Bodies(settings.max_bodies_mb << 20, body_bytes)
    under_way: Turns[AccountId] = Turns(settings.api_connections)
    costs = Costs((settings.server_memory_mb << 20) // 2)
    door = Door(
        parts.keys,
        parts.idempotency,
        parts.space,
        bodies,
        parser,
        costs,
        under_way,
        body_bytes,
    )
    invocations = InvocationRoutes(
        parts.functions.invocations, parts.functions.dead_letters, parts.changes, parts.logs
    )
    for router in (
        GithubBuildRoutes(parts.builds).router(door),
        BuildRoutes(parts.builds).router(door),
        AccountBuildRoutes(parts.account_builds).router(door),
        ImportRoutes(parts.imports).router(door),
        ImageRoutes(parts.images).router(door),
        VmRoutes(parts.vms, parts.imports, settings.proxy_port).router(door),
        CachedVmRoutes(parts.cached_vms, parts.vms, parts.imports, settings.proxy_port).router(
            door
        ),
        ForkRoutes(parts.forks, settings.proxy_port).router(door),
        WebhookRoutes(parts.webhooks.endpoints, parts.webhooks.deliveries).router(door),
        LogRoutes(parts.logs, Owners(parts.vms, parts.builds)).router(door),
        FunctionRoutes(
            parts.functions.functions, parts.functions.intake, settings.proxy_port
        ).router(door),
        FunctionArchiveRoutes(
            parts.functions.functions, parts.functions.intake, settings.proxy_port
        ).router(door),
        DraftRoutes(
            parts.functions.functions,
            parts.functions.drafts,
            parts.functions.intake,
            parts.functions.trials,
            invocations,
        ).router(door),
        invocations.router(door),
        TriggerRoutes(parts.automations.triggers, invocations, Turns(PAGES_AT_ONCE)).router(door),
        ScheduleRoutes(parts.automations.triggers.now_ms).router(door),
        EventRoutes(parts.automations.events, parts.automations.event_records).router(door),
        TransformRoutes(
            parts.functions.transforms, Turns(STREAMS, each=STREAMS_EACH), Turns(WHOLES)
        ).router(door),
        SecretRoutes(parts.functions.secrets).router(door),
        FunctionLogRoutes(parts.functions.functions, parts.logs, parts.function_logs).router(door),
        InboundRoutes(
            parts.automations.inbound,
            parts.space,
            Bodies(BODIES_BYTES_MAX, INBOUND_BYTES_MAX),
            parser,
            costs,
        ).router(),
        HealthRoutes(parts.database, parts.node).router(),
        WaitlistForm(parts.waitlist).router(),
    ):
        # Not include_router, which keeps routes of routers, to be looked through at each request.
        app.router.routes.extend(router.routes)
    app.router.default = Site(settings.site_dir)
    describe(app)
    return app


def invocations_shown(session: Session, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return invocations as the API shows them, without their events and results."""
    return {
        found.row.id: invocation_answer(found).model_dump(mode="json", exclude_none=True)
        for found in without_bytes(session, ids)
    }


def _shapes(settings: Settings, clock: Clock) -> Shapes:
    return Shapes(
        build=lambda row: build_answer(row).model_dump(mode="json", exclude_none=True),
        vm=lambda row: vm_answer(row, settings.proxy_port).model_dump(
            mode="json", exclude_none=True
        ),
        version=lambda row: version_answer(row).model_dump(mode="json", exclude_none=True),
        trigger=lambda row: trigger_answer(row, clock()).model_dump(mode="json", exclude_none=True),
        invocations=invocations_shown,
        time=rfc3339,
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
