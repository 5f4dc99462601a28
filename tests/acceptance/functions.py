"""Functions to call, with code of a test's own."""

from collections.abc import Mapping

from tests.acceptance.api import Api, Json
from tests.acceptance.waiting import until

MADE_S = 600
"""The first of a runtime waits for its base image."""
NAMES = {"node24": "main.mjs"}


def files(content: Mapping[str, str]) -> Json:
    """Return a source of text files by path."""
    split = {path: path.rpartition("/") for path in content}
    return {
        "files": [
            {"dir": split[path][0] or ".", "name": split[path][2], "content": text}
            for path, text in content.items()
        ]
    }


def made(api: Api, name: str, code: str, runtime: str = "python3.13", **settings: object) -> str:
    """Make a function of one file; return its id when its version is live and has a snapshot."""
    source = files({NAMES.get(runtime, "main.py"): code})
    body: Json = {"name": name, "runtime": runtime, "source": source, "settings": settings}
    function_id = api.post("/v1/functions", body)["id"]
    live(api, function_id)
    path = f"/v1/functions/{function_id}/versions/1"
    until(lambda: api.get(path)["snapshot"]["state"] == "made", MADE_S, f"{name} has a snapshot")
    return function_id


def live(api: Api, function_id: str, version: int = 1) -> Json:
    """Return a version once it is ready."""

    def ready() -> Json | None:
        found = api.get(f"/v1/functions/{function_id}/versions/{version}")
        assert found["state"] != "failed", found
        return found if found["state"] == "ready" else None

    return until(ready, MADE_S, f"version {version} of {function_id} is ready")


def waiting(api: Api, function_id: str) -> str:
    """Return the id of an invocation that is not to begin for as long as a test takes."""
    body: Json = {"mode": "async", "delay": 3600}
    return api.post(f"/v1/functions/{function_id}/invoke", body)["id"]
