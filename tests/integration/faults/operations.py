"""What is asked while a part dies: each a request, and what must be so once it was repeated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.acceptance.api import Api
from tests.acceptance.waiting import until
from tests.integration.faults.agreement import Row, disagreements, rows
from tests.integration.faults.parts import Parts
from tests.integration.node.repositories import TOKEN
from tests.integration.server.receiver import Receiver

Json = dict[str, Any]
SETTLED_S = 120.0
BUSYBOX = 'FROM cakework/busybox\nCMD ["sh", "-c", "eval \\"$SCRIPT\\""]\n'
SAY = "echo one; echo two >&2; echo three; exec sleep 100000"
END = "echo one; echo two >&2; exit 7"
COUNT = "echo run >> /data/runs; sync; wc -l < /data/runs; exec sleep 100000"
SLOW = "FROM cakework/busybox\nRUN echo waits; sleep 1000\n"


@dataclass
class World:
    """A Cakework, its API, and what there is to work with."""

    parts: Parts
    api: Api
    image: str
    registry: str
    """A reference without its tag; there is ``:there`` and no ``:missing``."""
    repository: str
    """A private one, that TOKEN opens."""
    receiver: Receiver
    """Where webhooks may go."""
    _known: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def settle(self) -> None:
        """Wait until record and machine agree and nothing is left over."""

        def told() -> str:
            return "\n".join(["all agrees; but", *disagreements(self.parts), self.parts.tail()])

        until(lambda: not disagreements(self.parts), SETTLED_S, told)

    def mark(self) -> None:
        """Remember what is on record, to tell what is new."""
        self._known = {table: {row["id"] for row in rows(self.parts, table)} for table in TABLES}

    def new(self, table: str) -> list[Row]:
        """Return what came on record since."""
        return [row for row in rows(self.parts, table) if row["id"] not in self._known[table]]

    def clear(self) -> None:
        """End every VM there is."""
        for vm in rows(self.parts, "vms"):
            if vm["state"] != "destroyed":
                kind = "cached/" if vm["cached"] else ""
                verb = "destroy" if vm["cached"] else "stop"
                self.api.post(f"/v1/vm/{kind}{vm['id']}/{verb}")


TABLES = ("vms", "builds", "imports", "images")


@dataclass(frozen=True)
class Ask:
    """A request; ``vm_id`` is whose it is, if it is about one that was there before, ``secret``
    the webhook's that it is about."""

    path: str
    body: Json = field(default_factory=dict[str, Any])
    vm_id: str = ""
    method: str = "POST"
    secret: str = ""


@dataclass(frozen=True)
class Operation:
    """``ask`` prepares and says what to send; ``check`` looks at what came of it."""

    name: str
    ask: Callable[[World], Ask]
    check: Callable[[World, Ask, httpx2.Response], None]


def ask_build(_: World) -> Ask:
    files = [{"dir": ".", "name": "hello", "content": "hello\n"}]
    body = {"dockerfile": f"{BUSYBOX}COPY hello /hello\n", "files": files}
    return Ask("/v1/image/build/files", body)


def check_build(world: World, _: Ask, answer: httpx2.Response) -> None:
    build = _good(answer)
    assert [row["id"] for row in world.new("builds")] == [build["buildId"]]
    path = f"/v1/image/build/{build['buildId']}"
    ended = until(lambda: _unless(world.api.get(path), "created"), SETTLED_S, "the build ends")
    assert ended["status"] == "succeeded", (ended, world.api.messages(f"{path}/logs"))
    assert [row["id"] for row in world.new("images")] == [ended["imageId"]]
    ids = [line["id"] for line in world.api.lines(f"{path}/logs")]
    assert ids == list(range(1, len(ids) + 1))


def ask_github(world: World) -> Ask:
    wanted = {"token": TOKEN, "repository": world.repository, "branch": "main"}
    return Ask("/v1/image/build/github", {"dockerfile": f"{BUSYBOX}COPY hello /hello\n", **wanted})


def ask_cancel(world: World) -> Ask:
    body: Json = {"dockerfile": SLOW, "files": []}
    build_id = world.api.post("/v1/image/build/files", body)["buildId"]
    path = f"/v1/image/build/{build_id}"
    until(lambda: "waits" in world.api.messages(f"{path}/logs"), SETTLED_S, "the build waits")
    return Ask(f"{path}/cancel")


def check_cancel(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["status"] == "failed"
    build = world.api.get(ask.path.removesuffix("/cancel"))
    assert build["error"] == "The build was cancelled."
    assert not world.new("images")


def ask_import(world: World) -> Ask:
    return Ask("/v1/image/import", {"imageUri": f"{world.registry}:there", "password": ""})


def check_import(world: World, _: Ask, answer: httpx2.Response) -> None:
    image_id = _good(answer)["imageId"]

    def ended() -> Row | None:
        found = [row for row in rows(world.parts, "imports") if row["id"] == image_id]
        return found[0] if found and found[0]["status"] != "importing" else None

    imported = until(ended, SETTLED_S, "the import ends")
    assert imported["status"] == "succeeded", imported
    assert [row["id"] for row in world.new("images")] == [image_id]


def ask_missing(world: World) -> Ask:
    return Ask("/v1/image/import", {"imageUri": f"{world.registry}:missing", "password": ""})


def check_missing(world: World, _: Ask, answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (404, "image_not_in_registry")
    assert all(row["status"] == "failed" and row["error"] for row in world.new("imports"))


def ask_delete(world: World) -> Ask:
    ask = ask_import(world)
    image_id = world.api.post(ask.path, ask.body)["imageId"]

    def is_ready() -> bool:
        return world.api.get(f"/v1/image/{image_id}")["state"] == "ready"

    until(is_ready, SETTLED_S, "the image is there")
    return Ask(f"/v1/image/{image_id}", method="DELETE")


def check_delete(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["state"] == "deleted"
    file = world.parts.settings.node_dir / "images" / ask.path.rpartition("/")[2]
    until(lambda: not file.exists(), SETTLED_S, "the image's file is removed")


def ask_start(world: World) -> Ask:
    return Ask("/v1/vm/start", {"imageId": world.image, "envVars": {"SCRIPT": SAY}})


def check_start(world: World, _: Ask, answer: httpx2.Response) -> None:
    vm = _good(answer)
    assert vm["state"] == "started"
    assert {row["id"]: row["state"] for row in world.new("vms")}.pop(vm["id"]) == "started"
    assert world.api.wait_for_line(vm["id"], "three") == ["one", "two", "three"]
    others = [row for row in world.new("vms") if row["id"] != vm["id"]]
    assert {row["state"] for row in others} <= {"destroyed"}, others


def ask_short(world: World) -> Ask:
    return Ask("/v1/vm/start", {"imageId": world.image, "envVars": {"SCRIPT": END}})


def check_short(world: World, _: Ask, answer: httpx2.Response) -> None:
    vm = world.api.wait_for_state(_good(answer)["id"], "stopped")
    assert (vm["exitCode"], vm["reason"]) == (7, "the program ended with exit code 7")
    world.settle()
    assert world.api.vm(vm["id"])["exitCode"] == 7
    assert world.api.printed(vm["id"]) == ["one", "two"]


def ask_disk(world: World) -> Ask:
    wanted = {"imageId": world.image, "envVars": {"SCRIPT": COUNT}, "volumeGB": 1}
    return Ask("/v1/vm/start", wanted)


def check_disk(world: World, _: Ask, answer: httpx2.Response) -> None:
    vm = _good(answer)
    assert vm["state"] == "started"
    assert world.api.wait_for_line(vm["id"], "1") == ["1"]


def ask_large(world: World) -> Ask:
    return Ask("/v1/vm/start", {"imageId": world.image, "memory": 16384})


def check_large(world: World, _: Ask, answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "no_room")
    until(lambda: not world.new("vms"), SETTLED_S, "a VM that was refused is not on record")


def ask_stop(world: World) -> Ask:
    vm = world.api.start(world.image, envVars={"SCRIPT": SAY})
    world.api.wait_for_line(vm["id"], "three")
    return Ask(f"/v1/vm/{vm['id']}/stop", vm_id=vm["id"])


def check_stop(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["state"] == "destroyed"
    assert world.api.printed(ask.vm_id) == ["one", "two", "three"]


def ask_cache(world: World) -> Ask:
    wanted = {"imageId": world.image, "envVars": {"SCRIPT": COUNT}, "volumeGB": 1}
    return Ask("/v1/vm/cache", wanted)


def check_cache(world: World, _: Ask, answer: httpx2.Response) -> None:
    vm = _good(answer)
    assert vm["state"] == "stopped"
    assert [row["id"] for row in world.new("vms")] == [vm["id"]]


def ask_start_cached(world: World) -> Ask:
    ask = ask_cache(world)
    vm_id = world.api.post(ask.path, ask.body)["id"]
    return Ask(f"/v1/vm/cached/{vm_id}/start", vm_id=vm_id)


def check_start_cached(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["state"] == "started"
    runs = [row["run"] for row in world.new("vms")]
    assert len(runs) == 1
    until(lambda: world.api.printed(ask.vm_id), SETTLED_S, "the program prints")
    printed = world.api.printed(ask.vm_id)
    assert printed == sorted(set(printed)) and len(printed) <= runs[0], (printed, runs)


def _ask_of_running(verb: str) -> Callable[[World], Ask]:
    def ask(world: World) -> Ask:
        start = ask_start_cached(world)
        world.api.post(start.path)
        world.api.wait_for_line(start.vm_id, "1")
        return Ask(f"/v1/vm/cached/{start.vm_id}/{verb}", vm_id=start.vm_id)

    return ask


def check_stop_cached(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["state"] == "stopped"
    world.api.post(f"/v1/vm/cached/{ask.vm_id}/start")
    assert world.api.wait_for_line(ask.vm_id, "2") == ["1", "2"]


def check_destroy(world: World, ask: Ask, answer: httpx2.Response) -> None:
    assert _good(answer)["state"] == "destroyed"
    assert world.api.printed(ask.vm_id) == ["1"]


def _ask_of_webhook(verb: str) -> Callable[[World], Ask]:
    def ask(world: World) -> Ask:
        world.receiver.received.clear()
        body = {"url": world.receiver.url, "events": ["webhook.test"]}
        webhook = world.api.post("/v1/webhooks", body)
        return Ask(f"/v1/webhooks/{webhook['id']}/{verb}", secret=webhook["secret"])

    return ask


def check_test(world: World, ask: Ask, answer: httpx2.Response) -> None:
    delivery = _good(answer)
    ended = _delivered(world, ask, delivery["id"])
    came = world.receiver.received
    assert {each.id for each in came} == {delivery["eventId"]}
    assert len({each.body for each in came}) == 1
    assert all(each.verified(ask.secret)["type"] == "webhook.test" for each in came)
    assert ended["attempts"] == 2


def check_rotate(world: World, ask: Ask, answer: httpx2.Response) -> None:
    secret = _good(answer)["secret"]
    delivery = world.api.post(f"{_webhook_of(ask)}/test")
    _delivered(world, ask, delivery["id"])
    (came,) = world.receiver.received
    assert len(came.headers["webhook-signature"].split()) == 2
    for each in (secret, ask.secret):
        came.verified(each)


def _webhook_of(ask: Ask) -> str:
    return ask.path.rpartition("/")[0]


def _delivered(world: World, ask: Ask, delivery_id: str) -> Json:
    """Return the one delivery of a webhook once it has succeeded."""

    def succeeded() -> Json | None:
        (found,) = world.api.get(f"{_webhook_of(ask)}/deliveries")["deliveries"]
        assert found["id"] == delivery_id
        return found if found["status"] == "succeeded" else None

    return until(succeeded, SETTLED_S, "the event is delivered")


def _good(answer: httpx2.Response) -> Json:
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    return answer.json()


def _unless(build: Json, status: str) -> Json | None:
    return build if build["status"] != status else None


BUILD = Operation("build", ask_build, check_build)
GITHUB = Operation("build from GitHub", ask_github, check_build)
DELETE = Operation("delete an image", ask_delete, check_delete)
CANCEL = Operation("cancel", ask_cancel, check_cancel)
IMPORT = Operation("import", ask_import, check_import)
MISSING = Operation("import what is not there", ask_missing, check_missing)
START = Operation("start", ask_start, check_start)
SHORT = Operation("start what ends by itself", ask_short, check_short)
DISK = Operation("start with a disk", ask_disk, check_disk)
LARGE = Operation("start what there is no room for", ask_large, check_large)
STOP = Operation("stop", ask_stop, check_stop)
CACHE = Operation("cache", ask_cache, check_cache)
START_CACHED = Operation("start a cached VM", ask_start_cached, check_start_cached)
STOP_CACHED = Operation("stop a cached VM", _ask_of_running("stop"), check_stop_cached)
TEST = Operation("test a webhook", _ask_of_webhook("test"), check_test)
ROTATE = Operation("rotate a secret", _ask_of_webhook("rotate"), check_rotate)
DESTROY = Operation("destroy", _ask_of_running("destroy"), check_destroy)
