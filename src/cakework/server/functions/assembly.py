"""How the parts of functions are put together."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from cakework.dialer import NodeDialer
from cakework.domain.errors import CakeworkError
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter
from cakework.server.functions.attempts import Attempts
from cakework.server.functions.dead_letters import DeadLetters
from cakework.server.functions.deploys import DeployLoop
from cakework.server.functions.dispatch import DispatchLoop
from cakework.server.functions.drafts import Drafts
from cakework.server.functions.failures import Failures, Shown
from cakework.server.functions.flow import Flow
from cakework.server.functions.flow_loop import FlowLoop
from cakework.server.functions.functions import Functions
from cakework.server.functions.gatherings import Gatherings
from cakework.server.functions.instances import Instances
from cakework.server.functions.intake import Intake
from cakework.server.functions.invocations import Endings, Invocations, OnEnd
from cakework.server.functions.keeping import KeepingLoop, KeptOfFunctions
from cakework.server.functions.layers import Layers
from cakework.server.functions.lendings import Lendings
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
from cakework.server.loops.loop import Loop
from cakework.server.node.client import NodeClient
from cakework.server.services.announcements import Announcements
from cakework.server.services.builds import Builds
from cakework.server.services.images import Images
from cakework.server.services.keys import Keys
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow
from cakework.server.store.sealing import Sealer
from cakework.server.transforms.apply import Transforms
from cakework.server.transforms.holds import HOLD_PERIOD_S, Holds
from cakework.settings import Settings

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
    shown: Shown
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


def function_parts(
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
    shown: Shown,
    clock: Clock,
    deploy_hint: asyncio.Event,
    dispatch_hint: asyncio.Event,
) -> FunctionParts:
    """Return the parts of functions, not yet open; ``shown`` is how invocations are told of."""
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
        shown=shown,
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
    failures = Failures(invocations, ground.shown)

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
