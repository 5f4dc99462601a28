"""A node that is killed while it clones, or after: the build goes on, and nothing is left over."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cakework.domain.facts import AnyFact, BuildLine, BuildSucceeded
from cakework.domain.orders import BuildOrder, BuildReport
from cakework.node.builds import Builds
from cakework.node.journal import Journal
from tests.integration.node.build_bench import NOTHING, Bench, NetworkOfNothing, reach_of
from tests.integration.node.gates import gate
from tests.integration.node.repositories import TOKEN, GitServer, serving
from tests.integration.node.test_github_builds import files_with, order, settings
from tests.integration.node.told import facts_in

DEADLINE_S = 200
ROOT = Path(__file__).resolve().parents[3]
AGAIN = "[cakework: the node was restarted; building again]"


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with serving(tmp_path_factory.mktemp("git")) as server:
        server.make("team/app", {"a": "1"})
        yield server


def test_a_node_killed_while_it_clones(bench: Bench, host: GitServer, tmp_path: Path) -> None:
    """kill -9 ends git too; the build waits for its order, and then goes on from the beginning."""
    wanted = order("team/app")
    host.may_answer.clear()
    with _node(bench, host, tmp_path, wanted) as pid:
        assert host.asked_for_pack.wait(DEADLINE_S)
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not bench.leftovers()["processes"])
    assert files_with(bench.data_dir, TOKEN) == []
    host.may_answer.set()
    facts = _go_on(bench, host, tmp_path, wanted)
    texts = [fact.text for fact in facts if isinstance(fact, BuildLine)]
    assert texts[1] == AGAIN
    assert texts[0] == texts[2] == f"cloning team/app, branch main, of {host.url}"
    _check_end(bench, facts)


def test_a_node_killed_after_it_cloned(bench: Bench, host: GitServer, tmp_path: Path) -> None:
    """The repository is fetched again, with the token of the order that is given again."""
    with gate(bench.netns) as shut:
        dockerfile = f"FROM cakework/busybox\nCOPY . /app\nRUN echo begins; {shut.step}\n"
        wanted = order("team/app", dockerfile=dockerfile)
        with _node(bench, host, tmp_path, wanted) as pid:
            _wait(lambda: "begins" in _texts(tmp_path))
            os.kill(pid, signal.SIGKILL)
        shut.open()
        _check_end(bench, _go_on(bench, host, tmp_path, wanted))


def _check_end(bench: Bench, facts: list[AnyFact]) -> None:
    lines = [fact for fact in facts if isinstance(fact, BuildLine)]
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    assert [type(fact) for fact in facts if not isinstance(fact, BuildLine)] == [BuildSucceeded]
    assert bench.leftovers() == NOTHING


def _go_on(bench: Bench, host: GitServer, folder: Path, wanted: BuildOrder) -> list[AnyFact]:
    """Open the node's builds here, and give the order again as the server does."""

    async def run() -> None:
        journal = Journal.open(folder / "facts")
        chosen = bench.settings(**settings(host))
        network = NetworkOfNothing(bench.netns, reach_of(chosen))
        async with (
            asyncio.timeout(DEADLINE_S),
            Builds(chosen, bench.images(), network, journal) as builds,
        ):
            assert BuildReport(build_id=wanted.build_id, wants_order=True) in builds.reports()
            await builds.submit(wanted)
            await asyncio.wait(
                [task for task in asyncio.all_tasks() if task.get_name().startswith("build ")]
            )
        journal.close()

    asyncio.run(run())
    return _facts(folder)


@contextmanager
def _node(bench: Bench, host: GitServer, folder: Path, wanted: BuildOrder) -> Generator[int]:
    """Run builds in a process of their own; give its id."""
    (folder / "orders").write_text(wanted.model_dump_json() + "\n")
    words = (bench.data_dir, bench.netns, folder / "orders", folder / "facts")
    environment = os.environ | {
        "CAKEWORK_GITHUB_URL": host.url,
        "CAKEWORK_FETCH_ALLOW": host.address,
        "CAKEWORK_EXTRA_CA": str(host.ca),
    }
    command = [sys.executable, "-m", "tests.integration.node.build_node", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def _facts(folder: Path) -> list[AnyFact]:
    return facts_in(folder / "facts")


def _texts(folder: Path) -> list[str]:
    return [fact.text for fact in _facts(folder) if isinstance(fact, BuildLine)]


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
