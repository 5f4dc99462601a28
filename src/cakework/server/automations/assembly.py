"""How the parts of automations are put together."""

import asyncio
from dataclasses import dataclass

from cakework.server.automations.arrivals import Arrivals
from cakework.server.automations.doors import Doors
from cakework.server.automations.event_records import EventRecords
from cakework.server.automations.event_room import EventRoom
from cakework.server.automations.events import Events
from cakework.server.automations.fan_out import FanOut
from cakework.server.automations.inbound import Inbound
from cakework.server.automations.plans import Planner
from cakework.server.automations.refusals import PERIOD_S as REFUSAL_PERIOD_S
from cakework.server.automations.refusals import Refusals
from cakework.server.automations.schedules import Schedules
from cakework.server.automations.triggers import Triggers
from cakework.server.automations.wishes import Wishes
from cakework.server.clock import Clock
from cakework.server.functions.invocations import Invocations
from cakework.server.loops.loop import Loop
from cakework.server.store.database import Database
from cakework.server.store.sealing import Sealer
from cakework.settings import Settings

SCHEDULE_PERIOD_S = 30.0
FAN_OUT_PERIOD_S = 1.0
EVENTS_KEPT_PERIOD_S = 10.0
ARRIVAL_PERIOD_S = 60.0


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


def automation_parts(
    settings: Settings,
    database: Database,
    sealer: Sealer,
    invocations: Invocations,
    clock: Clock,
    dispatch_hint: asyncio.Event,
) -> AutomationParts:
    """Return the parts of automations, not yet open; ``dispatch_hint`` is for what they make."""
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
