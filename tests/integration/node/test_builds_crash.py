"""A node that is killed in the middle of builds: each comes to its one true end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from cakework.domain.facts import AnyFact, BuildFailed, BuildLine, BuildSucceeded
from cakework.domain.orders import BuildOrder
from cakework.node.builds import Builds
from cakework.node.journal import Journal
from tests.integration.node.build_bench import NOTHING, Bench, NetworkOfNothing, order
from tests.integration.node.gates import Gate, gate
from tests.integration.node.told import facts_in

DEADLINE_S = 200
ROOT = Path(__file__).resolve().parents[3]
SLOW = "FROM cakework/busybox\nRUN echo waits; sleep 1000"


def test_a_killed_nodes_builds_stop_and_are_run_again(bench: Bench, tmp_path: Path) -> None:
    """kill -9 ends all that a build started; at restart it goes on, numbers without gap or repeat,
    with the layers that were finished."""
    with gate(bench.netns) as shut:
        wanted = order(
            "FROM cakework/busybox\nRUN echo layer one\n"
            f"RUN echo two begins; {shut.step}; echo done"
        )
        with _node(bench, tmp_path, wanted) as pid:
            _wait(lambda: "two begins" in _texts(_facts(tmp_path)))
            os.kill(pid, signal.SIGKILL)
            _wait(lambda: not bench.leftovers()["processes"])
        before = len(_facts(tmp_path))
        shut.open()
        facts = _go_on(bench, tmp_path, wanted)
    lines = [fact for fact in facts if isinstance(fact, BuildLine)]
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    again = [line.text for line in lines[before:]]
    assert again[0] == "[cakework: the node was restarted; building again]"
    assert "layer one" not in again
    assert "done" in again
    assert [type(fact) for fact in facts if not isinstance(fact, BuildLine)] == [BuildSucceeded]
    assert bench.images().get(wanted.image_id) is not None
    assert bench.leftovers() == NOTHING
    assert bench.unused_layers() == set()


def test_a_container_that_is_on_record_alone_goes(bench: Bench, tmp_path: Path) -> None:
    """Whoever makes one has it on record before describing it, and may be killed in between."""
    wanted = order(SLOW)
    with _node(bench, tmp_path, wanted) as pid:
        _wait(lambda: "waits" in _texts(_facts(tmp_path)))
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not bench.leftovers()["processes"])
    layers = bench.settings().node_dir / "builds" / "layers"
    described = list(layers.glob("*/storage/overlay-containers/*/userdata/buildah.json"))
    assert described
    for file in described:
        file.unlink()

    async def run() -> None:
        async with bench.open() as builds:
            await builds.cancel(wanted.build_id)
            await bench.ledger.ended(wanted.build_id)

    asyncio.run(run())
    assert bench.leftovers() == NOTHING
    assert bench.unused_layers() == set()


def test_a_kill_while_layers_are_stored_leaves_none(bench: Bench, tmp_path: Path) -> None:
    """A layer that is half there goes with the next build, and so does one that has no image."""
    # It is half there for a moment, which a busy machine may let pass unseen.
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        wanted = order(
            "FROM cakework/busybox\nRUN head -c 60000000 /dev/urandom > /f; echo written\nRUN true"
        )
        with _node(bench, folder, wanted) as pid:
            _wait(lambda folder=folder: _is_storing(bench, folder) or _has_ended(folder))
            os.kill(pid, signal.SIGKILL)
            _wait(lambda: not bench.leftovers()["processes"])
        half_there = bench.unused_layers()
        assert isinstance(_go_on(bench, folder, wanted)[-1], BuildSucceeded)
        assert bench.leftovers() == NOTHING
        assert bench.unused_layers() == set()
        if half_there:
            return
    raise AssertionError("no layer was half there")


def _is_storing(bench: Bench, folder: Path) -> bool:
    return "written" in _texts(_facts(folder)) and bool(bench.unused_layers())


def _has_ended(folder: Path) -> bool:
    return any(isinstance(fact, BuildSucceeded) for fact in _facts(folder))


def test_a_build_that_takes_its_node_down_every_time_fails(bench: Bench, tmp_path: Path) -> None:
    """After three beginnings it is not begun again: it fails, and says why."""
    wanted = order(SLOW)
    for _ in range(3):
        seen = _texts(_facts(tmp_path)).count("waits")
        with _node(bench, tmp_path, wanted) as pid:
            _wait(lambda seen=seen: _texts(_facts(tmp_path)).count("waits") > seen)
            os.kill(pid, signal.SIGKILL)
    facts = _go_on(bench, tmp_path, wanted)
    assert isinstance(facts[-1], BuildFailed)
    assert facts[-1].error == "the node ended during the build, 3 times"
    assert bench.leftovers() == NOTHING


def test_a_node_that_is_closed_takes_its_builds_up_again(bench: Bench) -> None:
    """Closing leaves nothing running and tells no end; opening again carries on."""

    async def run(shut: Gate) -> None:
        wanted = order(f"FROM cakework/busybox\nRUN echo begins; {shut.step}; echo done")
        async with bench.open() as builds:
            await builds.submit(wanted)
            await bench.ledger.printed(wanted.build_id, "begins")
        assert bench.ledger.end(wanted.build_id) is None
        assert bench.leftovers() == NOTHING
        shut.open()
        async with bench.open():
            assert isinstance(await bench.ledger.ended(wanted.build_id), BuildSucceeded)

    with gate(bench.netns) as shut:
        asyncio.run(run(shut))


def _go_on(bench: Bench, folder: Path, wanted: BuildOrder) -> list[AnyFact]:
    """Run the node's builds again here until the build has ended; return all facts there are."""

    async def run() -> None:
        journal = Journal.open(folder / "facts")
        network = NetworkOfNothing(bench.netns)
        async with (
            asyncio.timeout(DEADLINE_S),
            Builds(bench.settings(), bench.images(), network, journal) as builds,
        ):
            while wanted.build_id in builds.known():
                await asyncio.wait(
                    [task for task in asyncio.all_tasks() if task.get_name().startswith("build ")]
                )
        journal.close()

    asyncio.run(run())
    return _facts(folder)


@contextmanager
def _node(bench: Bench, folder: Path, wanted: BuildOrder) -> Generator[int]:
    """Run builds in a process of their own; give its id."""
    (folder / "orders").write_text(wanted.model_dump_json() + "\n")
    command = [
        sys.executable,
        "-m",
        "tests.integration.node.build_node",
        str(bench.data_dir),
        bench.netns,
        str(folder / "orders"),
        str(folder / "facts"),
    ]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def _facts(folder: Path) -> list[AnyFact]:
    return facts_in(folder / "facts")


def _texts(facts: list[AnyFact]) -> list[str]:
    return [fact.text for fact in facts if isinstance(fact, BuildLine)]


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
