"""Two accounts at once on one platform: one does its worst in every way, the other works.

Ordinary work is done while all that the first has begun still waits, and neither sees or
changes anything of the other's. How much longer it takes is what `make hostile` measures.
"""

import contextlib
import json
from collections.abc import Generator, Iterator

import httpx2
import pytest

from tests.acceptance import attacks, guests
from tests.acceptance.api import Api, Json
from tests.acceptance.attacks import ATTACKS, NOISE, Attack, Attacker
from tests.acceptance.conftest import HOOKS
from tests.acceptance.document import Document
from tests.acceptance.platform import Platform
from tests.acceptance.test_accounts import about_something, body_of, filled, of_functions
from tests.acceptance.waiting import until
from tests.integration.server.receiver import receiving


@pytest.fixture(scope="module")
def attacker(platform: Platform, silent: str) -> Iterator[Attacker]:
    """An account that does its worst."""
    with platform.api(platform.new_key("attacker")) as api:
        yield Attacker(api, api.image(guests.BUSYBOX), silent, HOOKS, strength=1)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """All that the other account is told."""
    return []


@pytest.fixture(scope="module")
def other(platform: Platform, document: Document, told: list[str]) -> Iterator[Api]:
    """An account with ordinary work."""

    def hear(answer: httpx2.Response) -> None:
        document.check(answer)
        told.append(answer.read().decode())

    with platform.api(platform.new_key("neighbour"), hear) as api:
        yield api


@pytest.fixture(scope="module")
def work(platform: Platform, other: Api) -> Iterator["Work"]:
    """What it works with: an image, a VM of it that serves, a webhook, a function."""
    image = other.image(guests.BUSYBOX)
    web = {"SCRIPT": guests.WEB, "NAME": "neighbour"}
    with (
        receiving(host=HOOKS) as receiver,
        other.running(image, port=8000, envVars=web) as vm,
    ):
        other.visit_when_up(vm)
        webhook = other.post("/v1/webhooks", {"url": receiver.url})
        functions = of_functions(other)
        yield Work(
            other, image, vm, webhook, functions, lambda: [each.id for each in receiver.received]
        )
        other.http.delete(f"/v1/functions/{functions['function']}").raise_for_status()
        other.http.delete(f"/v1/webhooks/{webhook['id']}").raise_for_status()


class Work:
    """Ordinary work of an account, and the ids of all that comes of it."""

    def __init__(
        self,
        api: Api,
        image: str,
        vm: Json,
        webhook: Json,
        of_functions: dict[str, str],
        received: object,
    ) -> None:
        self._api = api
        self._image = image
        self._vm = vm
        self._webhook = webhook
        assert callable(received)
        self._received = received
        self._of_functions = of_functions
        self.builds: set[str] = set()
        self.vms: set[str] = {vm["id"]}

    def do(self) -> dict[str, str]:
        """Do all of it once, to its end; return ids of what it is about."""
        api = self._api
        assert api.vm(self._vm["id"])["state"] == "started"
        assert api.visit(self._vm).text == "hello from neighbour\n"
        with api.running(self._image, envVars={"SCRIPT": guests.IDLE}) as vm:
            self.vms.add(vm["id"])
            assert api.wait_for_line(vm["id"], "up") == ["up"]
        delivery = api.post(f"/v1/webhooks/{self._webhook['id']}/test")
        until(lambda: delivery["eventId"] in self._received(), 120, "the webhook is told")
        return {
            **self._of_functions,
            "vm": self._vm["id"],
            "image": self._image,
            "webhook": self._webhook["id"],
            "delivery": delivery["id"],
        }

    def build(self) -> str:
        """Build, with a step that was never done before; return the id."""
        build = self._api.build(f"FROM cakework/busybox\nRUN echo built: {len(self.builds)}\n")
        assert build["status"] == "succeeded"
        lines = self._api.messages(f"/v1/image/build/{build['buildId']}/logs")
        assert f"built: {len(self.builds)}" in lines
        assert not any(NOISE in line for line in lines)
        self.builds.add(build["buildId"])
        return build["buildId"]


@contextlib.contextmanager
def unseen(attacker: Attacker, told: list[str]) -> Generator[None]:
    """Holds a block to telling the other account nothing of the attacker's."""
    told.clear()
    yield
    heard = "\n".join(told)
    assert heard
    assert NOISE not in heard
    assert not [each for each in (*attacker.ids, attacker.image) if each in heard]


@pytest.mark.parametrize("name", ATTACKS)
def test_ordinary_work_is_done_beside_the_worst(
    attacker: Attacker, work: Work, told: list[str], name: str
) -> None:
    """To its end, while what the attacker has begun has none: each way by itself."""
    with unseen(attacker, told), ATTACKS[name](attacker):
        work.do()
        if ATTACKS[name] is attacks.sleeping_builds:
            work.build()


def test_nothing_is_seen_or_changed_beside_all_of_it_at_once(
    platform: Platform, attacker: Attacker, work: Work, other: Api, told: list[str]
) -> None:
    """Each list has one's own alone; by every call about what is the other's there is nothing; and
    no error of the server's comes of any of it."""
    at_once: list[Attack] = [each for name, each in ATTACKS.items() if "imports" not in name]
    with unseen(attacker, told), contextlib.ExitStack() as held:
        for attack in at_once:
            held.enter_context(attack(attacker))
        ids = {**work.do(), "build": work.build()}
        for method, path in about_something(platform):
            body = body_of(method, path)
            answer = attacker.api.http.request(method, filled(path, ids), json=body)
            assert answer.status_code == 404, f"{method} {path}: {answer.text}"
        assert {vm["id"] for vm in other.vms()} <= work.vms
        for path, mine in (
            ("/v1/image/builds", ids["build"]),
            ("/v1/images", ids["image"]),
            ("/v1/webhooks", ids["webhook"]),
            ("/v1/functions", ids["function"]),
            ("/v1/invocations", ids["invocation"]),
            ("/v1/secrets", ids["secret"]),
        ):
            assert mine in json.dumps(other.get(path))
            assert mine not in json.dumps(attacker.api.get(path))
        assert other.vm(ids["vm"])["state"] == "started"
    assert not {status for status in attacker.answers if status in (500, 502, 504)}
