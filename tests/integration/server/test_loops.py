import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cakework.domain.errors import Unavailable
from cakework.domain.facts import VmLine
from cakework.domain.ids import VmId, new_vm_id
from cakework.domain.orders import VmReport
from cakework.domain.vms import VmState
from cakework.server.loops.journal import parse_fact, whole_lines
from cakework.server.loops.loop import RETRY_LAST_S, Loop, retry_wait_s
from cakework.server.loops.vms import VmLoop

from .fake_node import FakeNode
from .rig import Rig, running, settings_for, until

pytestmark = pytest.mark.anyio


def vm_loop(rig: Rig) -> VmLoop:
    parts = rig.server
    return VmLoop(parts.database, parts.node, parts.vm_states, parts.vms, parts.cached_vms)


async def test_a_vm_that_nothing_claims_is_ended(rig: Rig) -> None:
    """What runs on the node without a record, or with one that is over, is stopped there."""
    stray, kept = new_vm_id(), (await rig.vm())["id"]
    gone = (await rig.vm())["id"]
    await rig.ok("POST", f"/v1/vm/{gone}/stop")
    for vm_id in (stray, gone):
        rig.node.vms[vm_id] = VmReport(vm_id=vm_id, state="started")
    await vm_loop(rig).one_pass()
    assert set(rig.node.vms) == {kept}


async def test_a_vm_that_the_node_lost_is_stopped_with_a_reason(rig: Rig) -> None:
    """Missing once it may have ended a moment ago; missing twice it is gone."""
    vm_id = (await rig.vm())["id"]
    rig.node.vms.clear()
    loop = vm_loop(rig)
    await loop.one_pass()
    assert (await rig.ok("GET", f"/v1/vm/{vm_id}"))["state"] == "started"
    await loop.one_pass()
    vm = await rig.ok("GET", f"/v1/vm/{vm_id}")
    assert vm["state"] == "stopped"
    assert vm["reason"]
    await rig.node.stopped(vm_id, "The truth came late.", 9)
    await rig.eventually(f"/v1/vm/{vm_id}", reason="The truth came late.", exitCode=9)


async def test_a_vm_that_the_node_reports_stopped_is_stopped(rig: Rig) -> None:
    """The node's report is believed before its fact has come."""
    vm_id = (await rig.vm())["id"]
    rig.node.vms[vm_id] = VmReport(
        vm_id=vm_id, state="stopped", reason="QEMU died.", exit_code=None
    )
    await vm_loop(rig).one_pass()
    vm = await rig.ok("GET", f"/v1/vm/{vm_id}")
    assert (vm["state"], vm["reason"]) == ("stopped", "QEMU died.")


async def test_one_vm_that_cannot_be_settled_does_not_hold_up_the_others(rig: Rig) -> None:
    """The node refuses one order again and again; a stop beside it goes through."""
    image_id = await rig.image()
    stuck = (await rig.vm(image_id))["id"]
    other = (await rig.vm(image_id))["id"]
    await rig.server.vms.want(VmId(stuck), VmState.DESTROYED)
    await rig.server.vms.want(VmId(other), VmState.DESTROYED)
    rig.node.unstoppable.add(stuck)
    await vm_loop(rig).one_pass()
    assert (await rig.ok("GET", f"/v1/vm/{other}"))["state"] == "destroyed"
    assert (await rig.ok("GET", f"/v1/vm/{stuck}"))["state"] == "started"
    rig.node.unstoppable.clear()
    await vm_loop(rig).one_pass()
    assert (await rig.ok("GET", f"/v1/vm/{stuck}"))["state"] == "destroyed"


async def test_a_node_with_a_new_data_folder_starts_its_journal_afresh(
    folder: Path, database_url: str | None
) -> None:
    """Cursors belong to a node id: facts of the new one with low cursors are taken."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            vm_id = (await rig.vm())["id"]
            await node.push(*(node.line(vm_id, f"old {number}") for number in range(50)))
            await rig.messages(f"/v1/vm/{vm_id}/logs", 50)
            image_id = (await rig.ok("GET", f"/v1/vm/{vm_id}"))["imageId"]
        node.forget_everything("node-2")
        loop = vm_loop(rig)
        async with node.serving():
            new_id = (await rig.vm(image_id))["id"]
            await node.push(node.line(new_id, "new"))
            assert await rig.messages(f"/v1/vm/{new_id}/logs", 1) == ["new"]
            for _ in range(2):
                await loop.one_pass()
            await rig.eventually(f"/v1/vm/{vm_id}", state="stopped")


async def test_facts_of_what_is_not_on_record_are_passed_over(rig: Rig) -> None:
    """A fact about an unknown VM or build, or of an unknown kind, stops nothing."""
    vm_id = (await rig.vm())["id"]
    await rig.node.stopped("f" * 14, "who?", 1)
    await rig.node.started("e" * 14)
    await rig.node.fail("nobody", "no")
    await rig.node.push(rig.node.line(vm_id, "still here"))
    assert await rig.messages(f"/v1/vm/{vm_id}/logs", 1) == ["still here"]
    await until(lambda: not rig.node.facts, "every fact is acknowledged")


async def test_a_late_start_does_not_wake_the_dead(rig: Rig) -> None:
    """``vm.started`` after ``vm.stopped`` or a destroy changes nothing."""
    vm_id = (await rig.vm())["id"]
    await rig.node.stopped(vm_id, "It ended.", 0)
    await rig.node.started(vm_id)
    await until(lambda: not rig.node.facts, "every fact is acknowledged")
    assert (await rig.ok("GET", f"/v1/vm/{vm_id}"))["state"] == "stopped"


async def test_chunks_of_the_journal_are_put_together() -> None:
    """Lines are whole however the bytes come, and heartbeats are nothing."""

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"\n", b"on", b"e\ntwo\n\nth", b"", b"ree\n", b"\n\n", b"rest"):
            yield chunk

    found = [lines async for lines in whole_lines(chunks())]
    assert found == [[b"one", b"two"], [b"three"]]


def test_an_unknown_fact_is_passed_over_by_its_cursor(caplog: pytest.LogCaptureFixture) -> None:
    """A kind that this server does not know is logged and left; what has no cursor is an error."""
    with caplog.at_level(logging.CRITICAL):
        assert parse_fact(b'{"cursor": 7, "kind": "vm.sang", "at_ms": 1}') == (None, 7)
        with pytest.raises(ValueError, match="no fact"):
            parse_fact(b'{"kind": "vm.line"}')
    fact = VmLine(cursor=8, vm_id="v", seq=1, stream="stdout", text="x", at_ms=1)
    assert parse_fact(fact.model_dump_json().encode()) == (fact, 8)


async def test_a_loop_runs_when_hinted_and_again_after_it_failed() -> None:
    """A hint brings a pass at once, a failed pass another try, and no error ends the loop."""
    passes = 0
    hint = asyncio.Event()

    async def one_pass() -> None:
        nonlocal passes
        passes += 1
        if passes == 2:
            raise Unavailable("not now")
        if passes == 3:
            raise LookupError("a fault of ours")

    task = asyncio.create_task(Loop("test", one_pass, 3600, hint).run())
    await until(lambda: passes == 1, "the first pass")
    hint.set()
    await until(lambda: passes == 4, "the hinted pass and its tries")
    hint.set()
    await until(lambda: passes == 5, "a pass after a hint")
    task.cancel()
    await asyncio.wait([task])


def test_tries_come_later_and_later_and_never_stop() -> None:
    """Waiting doubles up to a bound."""
    waits = [retry_wait_s(failures) for failures in range(1, 2000)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_LAST_S


async def test_the_reader_begins_again_when_storing_fails(folder: Path, node: FakeNode) -> None:
    """What could not be stored is not acknowledged, and comes again."""
    async with running(settings_for(folder, None), node) as rig:
        vm_id = (await rig.vm())["id"]
        facts = vars(rig.server.lines)["_facts"]
        keep, failures = facts.keep, 0

        async def fail_once(*arguments: object) -> None:
            nonlocal failures
            failures += 1
            if failures == 1:
                raise OSError("disk full")
            await keep(*arguments)

        facts.keep = fail_once
        await node.push(node.line(vm_id, "once"))
        assert await rig.messages(f"/v1/vm/{vm_id}/logs", 1) == ["once"]
        assert failures == 2
