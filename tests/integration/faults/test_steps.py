"""kill -9 at every step: afterwards record and machine agree, what was asked for is done once,
and nothing is left over."""

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from cakework.domain.steps import Step
from tests.acceptance.api import Api
from tests.acceptance.waiting import until
from tests.integration.faults import operations as of
from tests.integration.faults.agreement import images_of_nobody
from tests.integration.faults.operations import Ask, Operation, World
from tests.integration.faults.parts import KEY, Parts
from tests.integration.faults.test_function_steps import STEPS as FUNCTION_STEPS
from tests.integration.node import builder_roots, registries, repositories
from tests.integration.node.registries import Entry, Layout, Registry, tar_of
from tests.integration.node.test_snapshots_crash import STEPS as SNAPSHOT_STEPS
from tests.integration.server.receiver import receiving

pytestmark = pytest.mark.timeout(900)
"""Each test dies, starts and settles several times."""
REACHED_S = 120.0
BUILDER_REACHED_S = 250.0
"""The first build in a machine has the file system and the template of such machines made."""
ANSWERED_S = 120.0
SETTINGS = {
    "ACCELERATOR": "tcg",
    "POOL_SIZE": "0",
    "POOL_NETWORKS": "1",
    "DISK_GB": "1",
    "MIN_FREE_DISK_MB": "64",
    "MEMORY_OVERCOMMIT": "0.2",
}
IN_MACHINES = {"BUILD_ISOLATION": "vm", "BUILD_MEMORY_MB": "256", "IMAGE_SIZE_MB": "512"}

PASSED_BY: dict[Step, tuple[Operation, ...]] = {
    Step.REQUEST_RESERVED: (of.BUILD, of.START),
    Step.REQUEST_DONE: (of.START, of.BUILD, of.IMPORT, of.CACHE, of.START_CACHED, of.ROTATE),
    Step.REQUEST_KEPT: (of.BUILD, of.START),
    Step.BUILD_SPOOLED: (of.BUILD,),
    Step.BUILD_RECORDED: (of.BUILD,),
    Step.BUILD_ORDERED: (of.BUILD, of.GITHUB),
    Step.BUILD_ACCEPTED: (of.BUILD,),
    Step.BUILD_CANCELLED: (of.CANCEL,),
    Step.IMPORT_RECORDED: (of.IMPORT,),
    Step.IMPORT_REFUSED: (of.MISSING,),
    Step.IMAGE_DELETED: (of.DELETE,),
    Step.VM_RECORDED: (of.START,),
    Step.VM_RUN_BEGUN: (of.START_CACHED,),
    Step.VM_ORDERED: (of.START, of.SHORT, of.START_CACHED),
    Step.VM_REFUSED: (of.LARGE,),
    Step.VM_WANTED: (of.STOP, of.STOP_CACHED, of.DESTROY),
    Step.VM_ENDED: (of.STOP, of.STOP_CACHED, of.DESTROY),
    Step.VM_VOLUME_FREED: (of.DESTROY,),
    Step.FACTS_LINES_STORED: (of.BUILD, of.SHORT),
    Step.FACTS_STORED: (of.IMPORT, of.SHORT),
    Step.WEBHOOK_CLAIMED: (of.TEST,),
    Step.WEBHOOK_ANSWERED: (of.TEST,),
    Step.NODE_BUILD_RECORDED: (of.BUILD, of.GITHUB),
    Step.NODE_BUILD_BEGUN: (of.BUILD, of.GITHUB),
    Step.NODE_BUILD_WORKPLACE_MADE: (of.BUILD,),
    Step.NODE_BUILD_CONTEXT_WRITTEN: (of.BUILD, of.GITHUB),
    Step.NODE_BUILD_LAYERS_BUILT: (of.BUILD,),
    Step.NODE_BUILD_EXPORTED: (of.BUILD,),
    Step.NODE_BUILD_ENDED: (of.BUILD, of.GITHUB),
    Step.NODE_BUILD_TOLD: (of.BUILD,),
    Step.NODE_BUILD_CANCELLED: (of.CANCEL,),
    Step.NODE_IMAGE_WRITTEN: (of.BUILD, of.IMPORT),
    Step.NODE_IMAGE_NAMED: (of.BUILD, of.IMPORT, of.GITHUB),
    Step.NODE_IMAGE_SET_ASIDE: (of.DELETE,),
    Step.NODE_IMPORT_CHECKED: (of.IMPORT,),
    Step.NODE_IMPORT_RECORDED: (of.IMPORT,),
    Step.NODE_IMPORT_BEGUN: (of.IMPORT,),
    Step.NODE_IMPORT_PULLED: (of.IMPORT,),
    Step.NODE_IMPORT_ENDED: (of.IMPORT,),
    Step.NODE_IMPORT_TOLD: (of.IMPORT,),
    Step.NODE_MACHINE_FOLDER_MADE: (of.START,),
    Step.NODE_MACHINE_RECORDED: (of.START,),
    Step.NODE_MACHINE_WIRED: (of.START,),
    Step.NODE_MACHINE_SPAWNED: (of.START,),
    Step.NODE_MACHINE_PID_RECORDED: (of.START,),
    Step.NODE_MACHINE_RESTORED: (of.START,),
    Step.NODE_MACHINE_ASSIGNED: (of.START, of.START_CACHED),
    Step.NODE_MACHINE_RUN_SENT: (of.START, of.START_CACHED),
    Step.NODE_MACHINE_PROCESS_GONE: (of.SHORT, of.STOP),
    Step.NODE_MACHINE_CGROUP_GONE: (of.SHORT,),
    Step.NODE_MACHINE_DISKS_GONE: (of.SHORT, of.STOP_CACHED),
    Step.NODE_VOLUME_MADE: (of.START_CACHED,),
    Step.NODE_VOLUME_NAMED: (of.START_CACHED,),
    Step.NODE_VOLUME_GIVEN: (of.START_CACHED, of.DISK),
    Step.NODE_VM_STARTED: (of.START, of.START_CACHED),
    Step.NODE_VM_STOP_SENT: (of.STOP, of.STOP_CACHED),
    Step.NODE_VM_ENDED: (of.SHORT, of.STOP_CACHED),
    Step.NODE_VM_END_RECORDED: (of.SHORT, of.STOP_CACHED),
    Step.NODE_VM_END_TOLD: (of.SHORT, of.STOP_CACHED),
    Step.NODE_LINES_CONFIRMED: (of.BUILD, of.SHORT),
}
POOLED = (Step.NODE_MACHINE_FORKED, Step.NODE_MACHINE_TAKEN)
BUILDING = (Step.NODE_BUILDER_LEASED, Step.NODE_BUILDER_FED, Step.NODE_BUILDER_IMAGE_TAKEN)
CASES = [
    (step, operation, "at_once") for step, passing in PASSED_BY.items() for operation in passing
]
UNREPEATED = [
    # When it is the node that dies, its server is there all the time and sees to the rest.
    (step, passing[0], "later")
    for step, passing in PASSED_BY.items()
    if step.startswith("server.")
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("faults")
    with contextlib.ExitStack() as stack:
        made = tmp_path_factory.mktemp("registry")
        registry = stack.enter_context(registries.serving(made, password=False))
        host = stack.enter_context(repositories.serving(tmp_path_factory.mktemp("git")))
        receiver = stack.enter_context(receiving())
        authorities = folder / "authorities.pem"
        authorities.write_bytes(registry.ca.read_bytes() + host.ca.read_bytes())
        parts = Parts(
            folder,
            **SETTINGS,
            FETCH_ALLOW=f"{registry.address},{host.address}",
            EXTRA_CA=str(authorities),
            GITHUB_URL=host.url,
            WEBHOOK_ALLOW=f"127.0.0.1:{receiver.port}",
        )
        stack.callback(parts.close)
        parts.start()
        host.make("team/app", {"hello": "hello\n"})
        _push(registry, tmp_path_factory.mktemp("there"))
        api = stack.enter_context(Api(parts.url, parts.router, KEY))
        image = api.image(of.BUSYBOX)
        world = World(parts, api, image, f"{registry.address}/team/app", "team/app", receiver)
        world.settle()
        yield world
        parts.stop()
    assert parts.faulty() == []


def _push(registry: Registry, folder: Path) -> None:
    layout = Layout(folder / "layout")
    image = layout.image([(tar_of([Entry("hello", b"hello\n")]), "gzip")])
    registry.push(layout.index(image), "team/app:there")


def test_no_step_is_missed_by_these_tests() -> None:
    """Every step there is, an operation goes past in the tests below."""
    others = {*POOLED, *BUILDING, *SNAPSHOT_STEPS, *FUNCTION_STEPS}
    assert set(PASSED_BY) | others == set(Step)


@pytest.mark.parametrize(
    ("step", "operation", "again"), [*CASES, *UNREPEATED], ids=lambda value: _name(value)
)
def test_kill_at(world: World, step: Step, operation: Operation, again: str) -> None:
    """Repeated at once, or after all has come to rest without it, the request is done once."""
    world.mark()
    ask, key = operation.ask(world), secrets.token_hex(8)
    world.parts.lay(step)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(send, world, ask, key)
        world.parts.revive(step, REACHED_S)
        if again == "later":
            first.result()
            world.settle()
        answer = answered(world, ask, key)
        cut_off = first.result()
    if cut_off is not None and cut_off.status_code < 429:
        assert answer.content == cut_off.content
    operation.check(world, ask, answer)
    world.settle()
    world.clear()
    world.settle()
    assert world.parts.laid() == []


@pytest.mark.parametrize("step", POOLED)
def test_kill_with_a_machine_of_the_pool(world: World, step: Step) -> None:
    """A machine that was made ahead of its VM, and all others of the pool, go with their node."""
    world.mark()
    world.parts.restart(world.parts.node, POOL_SIZE="1")
    ask = of.START.ask(world)
    world.parts.lay(step)

    def died() -> bool:
        send(world, ask, secrets.token_hex(8))
        return world.parts.laid() == []

    until(died, REACHED_S, "a start is given the machine of the pool")
    world.parts.revive(step, REACHED_S)
    world.clear()
    world.mark()
    of.START.check(world, ask, answered(world, ask, secrets.token_hex(8)))
    world.clear()
    world.settle()


def test_the_files_of_what_came_to_nothing_are_removed(world: World) -> None:
    """Images whose import or build was given up, while the node went on with it, go too."""
    world.parts.restart(world.parts.server)
    until(lambda: not images_of_nobody(world.parts), of.SETTLED_S, "the images are removed")
    world.settle()


def test_kill_with_a_build_in_a_machine(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each time the machine goes with its node, and the build is run again in another and gets
    farther; after three times it has failed, and says why."""
    world.mark()
    run = builder_roots.run_of(tmp_path_factory)
    builder_roots.borrow(run, world.parts.settings.node_dir)
    world.parts.restart(world.parts.node, **IN_MACHINES)
    for step in BUILDING:
        world.parts.lay(step)
    build = answered(world, of.BUILD.ask(world), secrets.token_hex(8)).json()
    path = f"/v1/image/build/{build['buildId']}"
    for step in BUILDING:
        world.parts.revive(step, BUILDER_REACHED_S, **IN_MACHINES)
    until(lambda: world.api.get(path)["status"] == "failed", of.SETTLED_S, "the build fails")
    assert world.api.get(path)["error"] == "the node ended during the build, 3 times"
    assert not world.new("images")
    world.settle()
    world.parts.restart(world.parts.node)
    world.settle()


def send(world: World, ask: Ask, key: str) -> httpx2.Response | None:
    """Send a request once; None when it is cut off."""
    headers = {"Idempotency-Key": key, "X-Api-Key": KEY}
    try:
        url = f"{world.parts.url}{ask.path}"
        body = ask.body if ask.method == "POST" else None
        return httpx2.request(ask.method, url, json=body, headers=headers, timeout=ANSWERED_S)
    except httpx2.TransportError:
        return None


def answered(world: World, ask: Ask, key: str) -> httpx2.Response:
    """Repeat a request until it is answered; a client does not give up on ``unavailable``."""

    def final() -> httpx2.Response | None:
        answer = send(world, ask, key)
        waits = answer is None or answer.json().get("code") in ("unavailable", "internal_error")
        return None if waits else answer

    return until(final, ANSWERED_S, f"{ask.path} is answered")


def _name(value: object) -> str:
    return value.name.replace(" ", "_") if isinstance(value, Operation) else str(value)
