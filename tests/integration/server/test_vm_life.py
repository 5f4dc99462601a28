"""The life of VMs of both kinds, under any order of calls, faults and facts."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import insert, select, text

from cakework.domain.errors import CakeworkError, NoRoom, NotFound, Unavailable
from cakework.domain.facts import AnyLine, VmStarted, VmStopped
from cakework.domain.ids import AccountId, ImageId, VmId
from cakework.domain.orders import StopOrder, VmOrder, VmReport
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import (
    Accept,
    Ignore,
    Life,
    Refuse,
    Shape,
    VmRequest,
    VmState,
    decide,
)
from cakework.server.functions.masks import Masks
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import Source
from cakework.server.logs.store import LogStore
from cakework.server.loops.vms import VmLoop
from cakework.server.node.client import NodeClient
from cakework.server.routers.gates import Gates
from cakework.server.services.build_states import BuildStates
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.facts import Facts, States
from cakework.server.services.import_states import ImportStates
from cakework.server.services.new_vms import NewVm, VmRules
from cakework.server.services.routes import Routes
from cakework.server.services.snapshot_states import SnapshotStates
from cakework.server.services.vm_admission import VmAdmission, VmLimits
from cakework.server.services.vm_orders import VmOrders
from cakework.server.services.vm_states import VmStates
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.models import AccountRow, ImageRow, VmRow
from cakework.server.store.sealing import Sealer
from cakework.server.webhooks.outbox import Outbox, Shapes
from tests.properties import examples

ACCOUNT, IMAGE = AccountId("default"), ImageId("0" * 26)
WATCH = """
CREATE TRIGGER watch AFTER UPDATE OF state ON vms WHEN OLD.state <> NEW.state
BEGIN INSERT INTO moves VALUES (OLD.cached, OLD.state, NEW.state, NEW.run - OLD.run); END
"""
Fault = Literal["none", "full", "deaf", "mute", "ends at once"]
FAULTS = st.sampled_from(("none", "none", "full", "deaf", "mute", "ends at once"))
WHICH = st.integers(0, 1)
CREATED, STARTED, STOPPED, DESTROYED = VmState
ARROWS = {
    (CREATED, STARTED),
    (CREATED, STOPPED),
    (STARTED, STOPPED),
    (STOPPED, CREATED),
    *((state, DESTROYED) for state in (CREATED, STARTED, STOPPED)),
}
"""The drawing in domain/vms.py, once more."""


class ModelNode(NodeClient):
    """A node as orders.py describes it, whose faults the test chooses.

    ``deaf`` does nothing and does not answer, ``mute`` does it and does not answer.
    """

    def __init__(self) -> None:
        self.live: dict[str, VmReport] = {}
        self.over: dict[str, VmReport] = {}
        self.disks: set[str] = set()
        self.memories: set[str] = set()
        self.facts: list[VmStarted | VmStopped] = []
        self.fault: Fault = "none"

    async def start_vm(self, order: VmOrder) -> VmReport:
        self._hear()
        over = self.over.get(order.vm_id)
        if over is not None and over.run >= order.run:
            return self._say(over)
        if order.vm_id not in self.live:
            if self.fault == "full":
                raise NoRoom("full")
            if order.volume_kept and order.volume_gb:
                self.disks.add(order.vm_id)
            report = VmReport(vm_id=order.vm_id, run=order.run, state="started")
            self.live[order.vm_id] = report
            self.memories.discard(order.vm_id)
            self.facts.append(VmStarted(at_ms=1, vm_id=order.vm_id, run=order.run))
            if self.fault == "ends at once":
                return self._say(self.end(order.vm_id))
        return self._say(self.live[order.vm_id])

    async def stop_vm(self, vm_id: VmId, order: StopOrder) -> VmReport:
        self._hear()
        if vm_id in self.live and order.keep_memory:
            if self.fault == "full":
                raise NoRoom("full")
            self.memories.add(vm_id)
            self.end(vm_id, memory_kept=True)
        elif vm_id in self.live:
            self.end(vm_id)
        if vm_id not in self.over:
            raise NotFound("unknown")
        return self._say(self.over[vm_id])

    async def delete_volume(self, vm_id: VmId) -> None:
        self._hear()
        assert vm_id not in self.live
        self.disks.discard(vm_id)
        self._say(None)

    async def delete_snapshot(self, vm_id: VmId) -> None:
        self._hear()
        assert vm_id not in self.live
        self.memories.discard(vm_id)
        self._say(None)

    async def vms(self) -> list[VmReport]:
        self._hear()
        return list(self.live.values())

    def end(self, vm_id: str, *, memory_kept: bool = False) -> VmReport:
        how = {"reason": "Over.", "exit_code": None if memory_kept else 1}
        ending = {"state": "stopped", "memory_kept": memory_kept, **how}
        report = self.over[vm_id] = self.live.pop(vm_id).model_copy(update=ending)
        about: dict[str, Any] = {"at_ms": 1, "vm_id": vm_id, "run": report.run, **how}
        self.facts.append(VmStopped(**about, memory_kept=memory_kept))
        return report

    def _hear(self) -> None:
        if self.fault == "deaf":
            raise Unavailable("deaf")

    def _say(self, answer: Any) -> Any:
        if self.fault == "mute":
            raise Unavailable("mute")
        return answer


class NoLog(LogStore):
    """A log store that nothing is said to."""

    def __init__(self) -> None:
        pass

    async def append(self, lines: Sequence[AnyLine]) -> set[Source]:
        assert not lines
        return set()

    async def last_seq(self, source: Source) -> int:
        return 0


class Lives(RuleBasedStateMachine):
    """A VM of each kind; either is asked, told of, and fails, at any time."""

    store: Path
    loop: asyncio.AbstractEventLoop

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cw-life-"))
        shutil.copy(self.store, self.folder / "store.db")
        self.database = Database(f"sqlite+aiosqlite:///{self.folder}/store.db")
        sealer = Sealer(self.folder / "key")
        sealer.open_key()
        self.node = ModelNode()
        shapes = Shapes(
            build=lambda _: {},
            vm=lambda _: {},
            version=lambda _: {},
            trigger=lambda _: {},
            invocations=lambda _, ids: {each: {} for each in ids},
            time=str,
        )
        outbox = Outbox(shapes, lambda: 1000, lambda: None)
        self.states = VmStates(Routes(), Followers(), outbox, lambda: 1000)
        builds = BuildStates(Followers(), outbox, lambda: 1000)
        imports, snapshots = ImportStates(Followers(), lambda: 1000), SnapshotStates(lambda: 1000)
        states = States(self.states, snapshots, builds, imports)
        masked = Masks(self.database, sealer, lambda: 1000).lines
        self.facts = Facts(self.database, NoLog(), Followers(), states, lambda: None, masked)
        self.cursor = 0
        admission = VmAdmission(VmLimits(started=3, cached=9, volumes_gb=1000))
        rules = VmRules(admission, VmOrders(sealer, NoLog().last_seq), "localhost")
        self.vms = Vms(self.database, self.node, self.states, rules, lambda: 1000, lambda: None)
        self.cached = CachedVms(self.database, self.vms, self.states, rules, Gates(), lambda: None)
        self.passes = VmLoop(self.database, self.node, self.states, self.vms, self.cached)
        new = NewVm(IMAGE, Shape(), env={"A": "1"}, volume_gb=1)
        self.ids: list[VmId] = []
        self.ids.append(VmId(self.do(self.cached.cache(ACCOUNT, new)).id))
        self.ids.append(VmId(self.do(self.vms.start(ACCOUNT, new)).row.id))

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def ask(self, work: Coroutine[Any, Any, Any], fault: Fault) -> None:
        self.node.fault = fault
        try:
            self.do(work)
        except CakeworkError as error:
            assert type(error) is not CakeworkError, error
        finally:
            self.node.fault = "none"

    @rule(which=WHICH, fault=FAULTS)
    def start(self, which: int, fault: Fault) -> None:
        self.ask(self.cached.start(ACCOUNT, self.ids[which]), fault)

    @rule(which=WHICH, fault=FAULTS)
    def stop(self, which: int, fault: Fault) -> None:
        self.ask(self.cached.stop(ACCOUNT, self.ids[which]), fault)

    @rule(which=WHICH, fault=FAULTS)
    def suspend(self, which: int, fault: Fault) -> None:
        self.ask(self.cached.suspend(ACCOUNT, self.ids[which]), fault)

    @rule(which=WHICH, fault=FAULTS, request=st.sampled_from((VmRequest.STOP, VmRequest.DESTROY)))
    def end(self, which: int, fault: Fault, request: VmRequest) -> None:
        self.ask(self.vms.end(ACCOUNT, self.ids[which], request), fault)

    @rule()
    def run_again(self) -> None:
        """The cached VM is stopped and started, so that there are earlier runs to be told of."""
        self.stop(0, "none")
        self.start(0, "none")

    @rule(which=WHICH)
    def program_ends(self, which: int) -> None:
        if self.ids[which] in self.node.live:
            self.node.end(self.ids[which])

    @rule(which=st.integers(0, 1000))
    def a_fact_comes(self, which: int) -> None:
        """Any of them: late, early, again. Of an earlier run, or of a start before the stop
        that is on record, it changes nothing."""
        self._comes(self.node.facts, which)

    @rule(which=st.integers(0, 1000))
    def a_fact_of_what_is_over_comes(self, which: int) -> None:
        """Of a run, or of a start, that is not on record any more."""
        now = {vm_id: self.do(self.row(vm_id)) for vm_id in self.ids}
        self._comes(
            [fact for fact in self.node.facts if _is_over(fact, now[VmId(fact.vm_id)])], which
        )

    def _comes(self, facts: Sequence[VmStarted | VmStopped], which: int) -> None:
        if not facts:
            return
        fact = facts[which % len(facts)]
        before = self.do(self.row(fact.vm_id))
        self.do(self.tell(fact))
        after = self.do(self.row(fact.vm_id))
        if _is_over(fact, before):
            assert (after.state, after.reason) == (before.state, before.reason)

    @rule(fault=FAULTS)
    def loop_passes(self, fault: Fault) -> None:
        self.ask(self.passes.one_pass(), fault)

    @rule()
    def node_is_restarted(self) -> None:
        self.node.over.clear()

    async def row(self, vm_id: str) -> VmRow:
        async with self.database.reading() as session:
            return (await session.scalars(select(VmRow).where(VmRow.id == vm_id))).one()

    async def tell(self, fact: VmStarted | VmStopped) -> None:
        self.cursor += 1
        told = fact.model_copy(update={"cursor": self.cursor})
        await self.facts.apply("node", [told], self.cursor)

    def teardown(self) -> None:
        if not hasattr(self, "ids"):
            return
        try:
            for fact in self.node.facts:
                self.do(self.tell(fact))
            for _ in range(3):
                self.do(self.passes.one_pass())
            self.do(self.compare())
        finally:
            self.do(self.database.close())
            shutil.rmtree(self.folder)

    async def compare(self) -> None:
        """Only drawn arrows were gone, and record and node agree."""
        async with self.database.reading() as session:
            rows = list(await session.scalars(select(VmRow)))
            moves = (await session.execute(text("SELECT DISTINCT * FROM moves"))).all()
        for cached, was, now, runs in moves:
            assert (was, now) in ARROWS
            assert runs == (1 if now == VmState.CREATED else 0)
            assert cached or now != VmState.CREATED
        for row in rows:
            assert row.state != VmState.CREATED
            assert (row.state == VmState.STARTED) == (row.id in self.node.live)
            assert row.id not in self.node.live or self.node.live[row.id].run == row.run
            assert row.state == row.wanted or not row.cached
            assert (row.env_sealed is not None) == (row.cached and row.state != VmState.DESTROYED)
            assert row.memory_kept == (row.id in self.node.memories)
        kept = {row.id for row in rows if row.cached and row.state != VmState.DESTROYED}
        assert self.node.disks <= kept
        assert {row.id for row in rows if row.state == VmState.STARTED and row.cached} <= (
            self.node.disks
        )


def _is_over(fact: VmStarted | VmStopped, row: VmRow) -> bool:
    late_start = isinstance(fact, VmStarted) and row.state != VmState.CREATED
    return fact.run < row.run or late_start


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[type[Lives]]:
    """The state machine, with a store to copy for each of its runs."""
    with asyncio.Runner() as runner:

        class OnThisLoop(Lives):
            store = tmp_path / "store.db"
            loop = runner.get_loop()

        runner.run(_make_store(OnThisLoop.store))
        yield OnThisLoop


async def _make_store(path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.open()
    async with database.writing() as session:
        await session.execute(text("CREATE TABLE moves (cached, was, now, runs)"))
        await session.execute(text(WATCH))
        await session.execute(insert(AccountRow).values(id=ACCOUNT, created_ms=1))
        image = {"id": IMAGE, "account_id": ACCOUNT, "size_bytes": 1, "created_ms": 1}
        await session.execute(insert(ImageRow).values(**image))
    await database.close()


def test_whatever_comes_record_and_node_agree_in_the_end(lives: type[Lives]) -> None:
    """Any calls, faults, ends and facts (repeated, late, out of order) lead along the drawn
    arrows only, and once all is told and the loop has passed, record and node are the same."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    bounds = settings(
        max_examples=examples(60), stateful_step_count=30, suppress_health_check=checks
    )
    run_state_machine_as_test(lives, settings=bounds)


def test_memory_that_no_answer_told_of_goes_with_its_vm(lives: type[Lives]) -> None:
    """A VM whose memory was kept, which the record does not know, is destroyed; found by the test
    above."""
    life = lives()
    life.open()
    life.run_again()
    life.suspend(0, "mute")
    assert life.node.memories == {life.ids[0]}
    life.end(0, "none", VmRequest.DESTROY)
    assert life.node.memories == set()
    life.teardown()


@pytest.mark.parametrize("state", VmState)
@pytest.mark.parametrize("wanted", VmState)
@pytest.mark.parametrize("cached", [False, True])
def test_every_request_has_its_answer_in_every_state(
    cached: bool, state: VmState, wanted: VmState
) -> None:
    """Nothing starts again but a cached VM; what is destroyed stays so; ending is never refused
    to who owns the kind; what is refused says why."""
    life = Life(cached, state, wanted, 1, SnapshotState.MADE)
    decisions = {request: decide(life, request) for request in VmRequest}
    gone = state is VmState.DESTROYED
    assert decisions[VmRequest.DESTROY] == (Ignore() if gone else Accept())
    for request, decision in decisions.items():
        if isinstance(decision, Refuse):
            assert decision.reason
        if request is not VmRequest.DESTROY and (request is VmRequest.STOP) == cached:
            assert isinstance(decision, Refuse)
        if gone:
            assert not isinstance(decision, Accept)
    if cached and state is VmState.STOPPED:
        assert decisions[VmRequest.STOP_CACHED] == decisions[VmRequest.SUSPEND] == Ignore()
    if decisions[VmRequest.SUSPEND] == Accept():
        assert state is VmState.STARTED
        assert wanted is not VmState.STOPPED


@pytest.mark.parametrize("snapshot", [None, *SnapshotState])
@pytest.mark.parametrize("state", VmState)
@pytest.mark.parametrize("wanted", VmState)
def test_only_a_snapshot_that_is_made_can_be_forked(
    snapshot: SnapshotState | None, state: VmState, wanted: VmState
) -> None:
    """Whatever else the VM does, as long as it is not to be gone."""
    decision = decide(Life(True, state, wanted, 1, snapshot), VmRequest.FORK)
    gone = VmState.DESTROYED in (state, wanted)
    assert (decision == Accept()) == (snapshot is SnapshotState.MADE and not gone)
