"""Where the server is put together: everything gets what it needs here, and nowhere else."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from sqlalchemy.orm import Session

import cakework
from cakework.dialer import NodeDialer
from cakework.domain.errors import CakeworkError
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
from cakework.server.automations.arrivals import Arrivals
from cakework.server.automations.doors import Doors
from cakework.server.automations.event_records import EventRecords
from cakework.server.automations.event_room import EventRoom
from cakework.server.automations.events import Events
from cakework.server.automations.fan_out import FanOut
from cakework.server.automations.inbound import Inbound
from cakework.server.automations.lifecycle import Lifecycle
from cakework.server.automations.plans import Planner
from cakework.server.automations.refusals import PERIOD_S as REFUSAL_PERIOD_S
from cakework.server.automations.refusals import Refusals
from cakework.server.automations.schedules import Schedules
from cakework.server.automations.triggers import Triggers
from cakework.server.automations.wishes import Wishes
from cakework.server.clock import Clock, now_ms
from cakework.server.functions.adapter import Adapter
from cakework.server.functions.attempts import Attempts
from cakework.server.functions.changes import Changes
from cakework.server.functions.dead_letters import DeadLetters
from cakework.server.functions.deploys import DeployLoop
from cakework.server.functions.dispatch import DispatchLoop
from cakework.server.functions.drafts import Drafts
from cakework.server.functions.failures import Failures
from cakework.server.functions.flow import Flow
from cakework.server.functions.flow_loop import FlowLoop
from cakework.server.functions.functions import Functions
from cakework.server.functions.gatherings import Gatherings
from cakework.server.functions.instances import Instances
from cakework.server.functions.intake import Intake
from cakework.server.functions.invocations import Endings, Invocations, OnEnd, without_bytes
from cakework.server.functions.keeping import KeepingLoop, KeptOfFunctions
from cakework.server.functions.layers import Layers
from cakework.server.functions.leases import take_back
from cakework.server.functions.lendings import Lendings
from cakework.server.functions.logs import FunctionLogs
from cakework.server.functions.machines import Machines
from cakework.server.functions.marks import Marks
from cakework.server.functions.masks import Masks
from cakework.server.functions.meters import Meters
from cakework.server.functions.secrets import Secrets
from cakework.server.functions.sources import Sources
from cakework.server.functions.starts import Job, Starts
from cakework.server.functions.trials import Trials
from cakework.server.functions.visits import Visits
from cakework.server.functions.waiting import WaitingLimits
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
from cakework.server.services.announcements import All, Announcements
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
from cakework.server.store.models import VmRow
from cakework.server.store.sealing import Sealer
from cakework.server.transforms.apply import Transforms
from cakework.server.transforms.holds import HOLD_PERIOD_S, Holds
from cakework.server.web.site import Site
from cakework.server.web.waitlist import WaitlistForm
from cakework.server.webhooks.addresses import Guard, parse_allowed
from cakework.server.webhooks.deliveries import Deliveries
from cakework.server.webhooks.endpoints import Endpoints
from cakework.server.webhooks.loop import DeliveryLoop
from cakework.server.webhooks.outbox import Outbox, Shapes
from cakework.server.webhooks.sender import Sender, trusted
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
DELIVERY_PERIOD_S = 1.0
DEPLOY_PERIOD_S = 1.0
DISPATCH_PERIOD_S = 1.0
REPLAY_PERIOD_S = 1.0
FLOW_PERIOD_S = 1.0
INSTANCE_PERIOD_S = 1.0
MASK_PERIOD_S = 300.0
LENDING_PERIOD_S = 1.0
LENDING_FIRST_S = 3.0
"""After a start routers come back first to what they hold."""
KEEPING_PERIOD_S = 30.0
SCHEDULE_PERIOD_S = 30.0
FAN_OUT_PERIOD_S = 1.0
EVENTS_KEPT_PERIOD_S = 10.0
ARRIVAL_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The parts that webhooks are made of."""

    guard: Guard
    outbox: Outbox
    endpoints: Endpoints
    deliveries: Deliveries
    pending: DeliveryLoop
    loop: Loop


@dataclass(frozen=True, slots=True)
class FunctionGround:
    """What the parts of functions stand on."""

    settings: Settings
    server_id: str
    database: Database
    sealer: Sealer
    machines: Machines
    adapter: Adapter
    secrets: Secrets
    masks: Masks
    endings: Endings
    announcements: Announcements
    clock: Clock
    deploy_hint: asyncio.Event
    dispatch_hint: asyncio.Event


@dataclass(frozen=True, slots=True)
class CodeParts:
    """The parts of functions that make versions of code."""

    sources: Sources
    layers: Layers
    functions: Functions
    deploys: DeployLoop


@dataclass(frozen=True, slots=True)
class WorkParts:
    """The parts of functions that see work to its end."""

    instances: Instances
    invocations: Invocations
    attempts: Attempts
    dispatch: DispatchLoop
    flow: FlowLoop
    flow_hint: asyncio.Event
    dead_letters: DeadLetters
    replay_hint: asyncio.Event
    on_end: OnEnd


@dataclass(frozen=True, slots=True)
class FunctionParts:
    """The parts that functions are made of."""

    functions: Functions
    sources: Sources
    drafts: Drafts
    intake: Intake
    deploys: DeployLoop
    trials: Trials
    keeping: KeepingLoop
    invocations: Invocations
    secrets: Secrets
    dead_letters: DeadLetters
    adapter: Adapter
    dispatch: DispatchLoop
    flow: FlowLoop
    make_room: Callable[[VmRow, CakeworkError], Awaitable[bool]]
    lendings: Lendings
    holds: Holds
    transforms: Transforms
    loops: tuple[Loop, ...]


@dataclass(frozen=True, slots=True)
class AutomationParts:
    """The parts that automations are made of."""

    triggers: Triggers
    inbound: Inbound
    schedules: Schedules
    events: Events
    event_records: EventRecords
    event_room: EventRoom
    fan_out: FanOut
    loops: tuple[Loop, ...]


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
    webhooks: Webhooks
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
    webhooks = _webhooks(settings, database, sealer, shapes, clock)
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
    functions = _functions(
        *(settings, database, sealer, keys, builds, machines, images, node, masks, marks),
        *(announcements, clock, deploy_hint, dispatch_hint),
    )
    invocations = functions.invocations
    announcements.others.append(Lifecycle(invocations, shapes, webhooks.outbox, clock))
    automations = _automations(settings, database, sealer, invocations, clock, dispatch_hint)
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


def _webhooks(
    settings: Settings, database: Database, sealer: Sealer, shapes: Shapes, clock: Clock
) -> Webhooks:
    hint = asyncio.Event()
    guard = Guard(parse_allowed(settings.webhook_allow))
    outbox = Outbox(shapes, clock, hint.set)
    endpoints = Endpoints(database, sealer, guard, clock)
    sender = Sender(guard, trusted(settings.extra_ca))
    pending = DeliveryLoop(database, endpoints, sender, clock, hint.set)
    return Webhooks(
        guard=guard,
        outbox=outbox,
        endpoints=endpoints,
        deliveries=Deliveries(database, outbox),
        pending=pending,
        loop=Loop("webhooks", pending.one_pass, DELIVERY_PERIOD_S, hint),
    )


def _functions(
    settings: Settings,
    database: Database,
    sealer: Sealer,
    keys: Keys,
    builds: Builds,
    machines: Machines,
    images: Images,
    node: NodeClient,
    masks: Masks,
    marks: Marks,
    announcements: Announcements,
    clock: Clock,
    deploy_hint: asyncio.Event,
    dispatch_hint: asyncio.Event,
) -> FunctionParts:
    adapter = Adapter(NodeDialer(settings.dial_socket))
    most = settings.max_secrets_per_account
    ground = FunctionGround(
        settings=settings,
        server_id=secrets.token_hex(16),
        database=database,
        sealer=sealer,
        machines=machines,
        adapter=adapter,
        secrets=Secrets(database, sealer, adapter, masks, most, clock),
        masks=masks,
        endings=Endings(),
        announcements=announcements,
        clock=clock,
        deploy_hint=deploy_hint,
        dispatch_hint=dispatch_hint,
    )
    code = _code(ground, builds)
    work = _work(ground, code, marks)
    visits = Visits(sealer, ground.endings, masks, work.on_end)
    lendings = Lendings(
        *(database, code.functions, work.instances, visits, keys, clock, dispatch_hint.set)
    )

    def changed(function_id: str) -> None:
        lendings.changed(function_id)
        work.flow.changed(function_id)

    code.functions.changed = changed
    holds = Holds(lendings, ground.server_id)
    drafts = Drafts(database, code.sources, clock)
    trials = _trials(ground, code, work)
    kept = _kept_of_functions(settings)
    keeping = KeepingLoop(database, code.sources, machines, images, ground.endings, kept, clock)
    return FunctionParts(
        functions=code.functions,
        sources=code.sources,
        drafts=drafts,
        intake=Intake(code.functions, drafts, node, clock),
        deploys=code.deploys,
        trials=trials,
        keeping=keeping,
        invocations=work.invocations,
        secrets=ground.secrets,
        dead_letters=work.dead_letters,
        adapter=adapter,
        dispatch=work.dispatch,
        flow=work.flow,
        make_room=work.instances.make_room,
        lendings=lendings,
        holds=holds,
        transforms=Transforms(code.functions, holds, adapter, masks, clock),
        loops=(
            *_loops_of_work(ground, code, work, trials),
            Loop("masks", masks.tidy, MASK_PERIOD_S),
            Loop("lendings", lendings.one_pass, LENDING_PERIOD_S, first_after_s=LENDING_FIRST_S),
            Loop("holds", holds.one_pass, HOLD_PERIOD_S),
            Loop("keeping", keeping.one_pass, KEEPING_PERIOD_S, first_after_s=KEEPING_PERIOD_S),
        ),
    )


def _code(ground: FunctionGround, builds: Builds) -> CodeParts:
    database, sealer, clock = ground.database, ground.sealer, ground.clock
    sources = Sources(sealer, clock, ground.settings.max_code_mb_per_account)
    layers, domain = Layers(clock), ground.settings.base_domain
    functions = Functions(database, sealer, sources, layers, domain, clock, ground.deploy_hint.set)
    deploys = DeployLoop(
        *(database, ground.server_id, functions, sources, layers, builds, ground.machines),
        *(ground.adapter, ground.secrets, ground.announcements, clock, ground.dispatch_hint.set),
    )
    return CodeParts(sources, layers, functions, deploys)


def _work(ground: FunctionGround, code: CodeParts, marks: Marks) -> WorkParts:
    settings, database, sealer = ground.settings, ground.database, ground.sealer
    machines, adapter, endings, clock = (
        ground.machines,
        ground.adapter,
        ground.endings,
        ground.clock,
    )
    functions, hint = code.functions, ground.dispatch_hint
    instances = Instances(
        *(database, ground.server_id, functions, machines, adapter, code.deploys),
        *(ground.secrets, clock),
    )
    starts = Starts(ground.server_id, functions, instances, clock)
    begun: list[Callable[[Job], None]] = []
    limits = WaitingLimits(clock, mb_per_account=settings.max_invocations_mb_per_account)
    flow_hint, gatherings = asyncio.Event(), Gatherings(sealer)
    flow = Flow(
        *(sealer, functions.settings, Meters(clock), gatherings, endings.tell, clock),
        *(hint.set, flow_hint.set),
    )
    flow_loop = FlowLoop(database, flow, gatherings, clock, flow_hint.set)
    invocations = Invocations(
        *(database, sealer, starts, limits, flow, endings, clock, hint.set),
        lambda job: begun[0](job),
    )
    failures = Failures(invocations, invocations_shown)

    def on_end(session: Session, ids: Sequence[str]) -> None:
        flow.ended(session, ids)
        over = failures.hand_over(session, ids)
        ground.announcements.invocations_ended(session, [*ids, *over])

    attempts = Attempts(
        *(database, ground.server_id, sealer, functions, invocations, instances, starts),
        *(machines, adapter, marks, endings, ground.masks, flow, gatherings, on_end),
        *(clock, hint.set),
    )
    begun.append(attempts.begin)
    dispatch = DispatchLoop(
        database, functions, instances, starts, attempts, endings, on_end, clock, hint
    )
    replay_hint = asyncio.Event()
    dead_letters = DeadLetters(database, invocations, clock, replay_hint.set)
    return WorkParts(
        instances=instances,
        invocations=invocations,
        attempts=attempts,
        dispatch=dispatch,
        flow=flow_loop,
        flow_hint=flow_hint,
        dead_letters=dead_letters,
        replay_hint=replay_hint,
        on_end=on_end,
    )


def _trials(ground: FunctionGround, code: CodeParts, work: WorkParts) -> Trials:
    return Trials(
        *(ground.database, ground.server_id, ground.sealer, code.functions, code.sources),
        *(code.layers, code.deploys, work.instances, work.attempts, ground.machines),
        *(ground.adapter, ground.endings, ground.secrets, ground.clock, ground.deploy_hint.set),
    )


def _loops_of_work(
    ground: FunctionGround, code: CodeParts, work: WorkParts, trials: Trials
) -> tuple[Loop, ...]:
    async def make() -> None:
        await code.deploys.one_pass()
        await trials.one_pass()

    dead_letters, dispatch, instances = work.dead_letters, work.dispatch, work.instances
    return (
        Loop("replays", dead_letters.one_pass, REPLAY_PERIOD_S, work.replay_hint),
        Loop("deploys", make, DEPLOY_PERIOD_S, ground.deploy_hint),
        Loop("dispatch", dispatch.one_pass, DISPATCH_PERIOD_S, ground.dispatch_hint),
        Loop("flow", work.flow.one_pass, FLOW_PERIOD_S, work.flow_hint),
        Loop("instances", instances.tidy, INSTANCE_PERIOD_S),
        Loop("hang_ups", instances.hang_up, INSTANCE_PERIOD_S),
    )


def _kept_of_functions(settings: Settings) -> KeptOfFunctions:
    return KeptOfFunctions(
        versions=settings.max_function_versions,
        version_days=settings.retain_function_versions_days,
        invocation_days=settings.retain_invocations_days,
        dead_letter_days=settings.retain_dead_letters_days,
        invocations_mb=settings.max_invocations_mb_per_account,
    )


def _automations(
    settings: Settings,
    database: Database,
    sealer: Sealer,
    invocations: Invocations,
    clock: Clock,
    dispatch_hint: asyncio.Event,
) -> AutomationParts:
    schedule_hint, fan_out_hint = asyncio.Event(), asyncio.Event()
    doors = Doors(sealer, clock)
    triggers = Triggers(database, sealer, doors, invocations, clock, schedule_hint.set)
    refusals, arrivals = Refusals(database, clock), Arrivals(database, clock)
    schedules = Schedules(database, invocations, clock, schedule_hint, dispatch_hint.set)
    wishes = Wishes(database)
    planner = Planner(wishes, invocations)
    room = EventRoom(
        database, settings.max_events_mb_per_account, settings.retain_events_hours, clock
    )
    fan_out = FanOut(database, sealer, wishes, planner, invocations, fan_out_hint.set)
    events = Events(database, sealer, wishes, planner, invocations, room, clock, fan_out_hint.set)
    return AutomationParts(
        triggers=triggers,
        inbound=Inbound(database, doors, invocations, refusals, arrivals, clock),
        schedules=schedules,
        events=events,
        event_records=EventRecords(database, sealer),
        event_room=room,
        fan_out=fan_out,
        loops=(
            Loop("schedules", schedules.one_pass, SCHEDULE_PERIOD_S, schedule_hint),
            Loop("fan_out", fan_out.one_pass, FAN_OUT_PERIOD_S, fan_out_hint),
            Loop("refusals", refusals.one_pass, REFUSAL_PERIOD_S),
            Loop(
                *("arrivals", arrivals.one_pass, ARRIVAL_PERIOD_S),
                first_after_s=ARRIVAL_PERIOD_S,
            ),
            Loop(
                *("events", room.one_pass, EVENTS_KEPT_PERIOD_S),
                first_after_s=EVENTS_KEPT_PERIOD_S,
            ),
        ),
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
