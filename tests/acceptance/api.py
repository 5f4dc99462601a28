"""A client of the public API and of the router: what a customer's code would do."""

import contextlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.acceptance.waiting import until

TIMEOUT_S = 60.0
Json = dict[str, Any]
Check = Callable[[httpx2.Response], None]


class Api:
    """Speaks with one server as the owner of one key. ``check`` looks at every answer."""

    def __init__(self, url: str, router: str, key: str, check: Check | None = None) -> None:
        self.url = url
        self.router = router
        self.key = key
        self.http = httpx2.Client(
            base_url=url,
            headers={"X-Api-Key": key},
            timeout=TIMEOUT_S,
            event_hooks={"response": [check] if check else []},
        )

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def router_address(self) -> tuple[str, int]:
        """Where the router listens."""
        parts = urlsplit(self.router)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def post(self, path: str, body: Json | None = None) -> Json:
        return _good(self.http.post(path, json=body or {}))

    def get(self, path: str, **query: str | int) -> Json:
        return _good(self.http.get(path, params=query))

    def build(self, dockerfile: str, files: Mapping[str, str] | None = None) -> Json:
        """Build an image to its end, whichever that is."""
        listed = [_file(path, content) for path, content in (files or {}).items()]
        body: Json = {"dockerfile": dockerfile, "files": listed}
        build_id = self.post("/v1/image/build/files", body)["buildId"]

        def ended() -> Json | None:
            build = self.get(f"/v1/image/build/{build_id}")
            return build if build["status"] != "created" else None

        return until(ended, 600, f"build {build_id} ends")

    def image(self, dockerfile: str, files: Mapping[str, str] | None = None) -> str:
        """Build an image that must succeed."""
        build = self.build(dockerfile, files)
        log = "\n".join(self.messages(f"/v1/image/build/{build['buildId']}/logs"))
        assert build["status"] == "succeeded", f"{build.get('error')}\n{log}"
        return build["imageId"]

    def start(self, image: str, **wanted: Any) -> Json:
        return self.post("/v1/vm/start", {"imageId": image, **wanted})

    def stop(self, vm_id: str) -> Json:
        return self.post(f"/v1/vm/{vm_id}/stop")

    def vm(self, vm_id: str) -> Json:
        return self.get(f"/v1/vm/{vm_id}")

    def vms(self, **query: str) -> list[Json]:
        """Return all VMs, page after page."""
        found: list[Json] = []
        while True:
            page = self.get("/v1/vms", **query)
            found += page["vms"]
            if "pagination" not in page:
                return found
            query["pagination"] = page["pagination"]

    @contextlib.contextmanager
    def running(self, image: str, **wanted: Any) -> Generator[Json]:
        """Start a VM, and stop it at the end."""
        vm = self.start(image, **wanted)
        try:
            yield vm
        finally:
            self.stop(vm["id"])

    def wait_for_state(self, vm_id: str, state: str, within_s: float = 120) -> Json:
        def reached() -> Json | None:
            vm = self.vm(vm_id)
            return vm if vm["state"] == state else None

        return until(reached, within_s, f"VM {vm_id} is {state}")

    def lines(self, path: str, **query: str | int) -> list[Json]:
        """Return a log's lines, page after page."""
        found: list[Json] = []
        asked: dict[str, str | int] = {"batch": 1000, **query}
        while True:
            page = self.get(path, **asked)
            found += page["lines"]
            if "pagination" not in page:
                return found
            asked |= {name: page[name] for name in ("pagination", "from", "to")}

    def messages(self, path: str) -> list[str]:
        return [line["message"] for line in self.lines(path)]

    def printed(self, vm_id: str) -> list[str]:
        """Return what a VM printed so far."""
        return self.messages(f"/v1/vm/{vm_id}/logs")

    def wait_for_line(self, vm_id: str, text: str, within_s: float = 120) -> list[str]:
        """Wait until a VM has printed a line with ``text`` in it; return all its lines."""
        path = f"/v1/vm/{vm_id}/logs"
        until(
            lambda: self.get(path, query=text, batch=50)["lines"],
            within_s,
            lambda: f"VM {vm_id} prints {text!r}; it printed {self.printed(vm_id)[-5:]}",
        )
        return self.printed(vm_id)

    def follow(self, path: str, after: int = 0, /, **query: str) -> Iterator[Json]:
        """Yield a log's lines behind that with id ``after`` as they are pushed, to its end."""
        headers = {"Last-Event-ID": str(after)}
        with self.http.sse(path, params={"follow": "true", **query}, headers=headers) as events:
            assert events.response.is_success
            for event in events:
                if event.event == "end":
                    return
                if event.data:
                    yield json.loads(event.data)

    def visit(self, vm: Json, path: str = "/", **more: Any) -> httpx2.Response:
        """Send a request through the router to a VM."""
        headers = {"Host": vm["hostname"], **more.pop("headers", {})}
        method = more.pop("method", "GET")
        return httpx2.request(
            method, f"{self.router}{path}", headers=headers, timeout=TIMEOUT_S, **more
        )

    def visit_when_up(self, vm: Json, path: str = "/", within_s: float = 120) -> httpx2.Response:
        """Send requests until the program in the VM listens; return its first answer."""

        def answered() -> httpx2.Response | None:
            answer = self.visit(vm, path)
            if answer.status_code != 502:
                return answer
            assert answer.json()["code"] in ("vm_not_listening", "vm_closed"), answer.text
            return None

        return until(answered, within_s, f"VM {vm['id']} answers")


def _good(answer: httpx2.Response) -> Json:
    request = answer.request
    assert answer.is_success, f"{request.method} {request.url}: {answer.status_code} {answer.text}"
    return answer.json()


def _file(path: str, content: str) -> Json:
    folder, _, name = path.rpartition("/")
    return {"dir": folder or ".", "name": name, "content": content}
