"""The OpenAPI document: what the repository keeps, and whether the server does what it says."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cakework.server.openapi import document

from .fake_node import FakeNode
from .rig import KEY, Json, Rig, settings_for
from .test_process import serving

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[3]
DOCUMENT: Json = json.loads(document())
EXAMPLES = 12
ENDLESS = """\
[[operations]]
include-operation-id = ["listInvocations", "getFunctionLogs"]
request-timeout = 10
"""
"""What these answer with ``follow=true`` never ends, and is read for so many seconds."""


def operations() -> Iterator[tuple[str, Json]]:
    for operation in (each for path in DOCUMENT["paths"].values() for each in path.values()):
        yield operation["operationId"], operation


def test_the_document_in_the_repository_is_the_servers() -> None:
    """docs/openapi.json is what ``python -m cakework.server.openapi`` writes."""
    assert (ROOT / "docs" / "openapi.json").read_text() == document()


def test_everything_is_described() -> None:
    """Each call has a summary, each parameter, field, header and answer a description."""
    bare = [name for name, operation in operations() if not operation.get("summary")]
    for name, operation in operations():
        bare += [
            f"{name} {parameter['name']}"
            for parameter in operation.get("parameters", ())
            if not parameter.get("description")
        ]
        bare += [f"{name} {s}" for s, r in operation["responses"].items() if not r["description"]]
    for name, schema in DOCUMENT["components"]["schemas"].items():
        bare += [] if schema.get("description") else [name]
        fields = cast("dict[str, Json]", schema.get("properties", {}))
        bare += [f"{name}.{field}" for field, of in fields.items() if not of.get("description")]
    assert bare == []


def test_every_error_is_declared_as_a_problem() -> None:
    """No call declares 422 or an error of another media type; retries are announced."""
    for name, operation in operations():
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"], name
            if status in ("200", "202"):
                continue
            assert status != "422", name
            assert list(answer["content"]) == ["application/problem+json"], name
            assert ("Retry-After" in answer["headers"]) == (status in ("429", "503")), name


@pytest.mark.timeout(900)
async def test_the_server_does_what_the_document_says(folder: Path, node: FakeNode) -> None:
    """schemathesis finds no answer that the document does not declare, no server error, no bad
    input taken, no call without its key, no method that should not be there.

    That a request which fits the schema is taken is left out: a Dockerfile, a token or an id
    is a string that no schema can tell from others.
    """
    async with serving(settings_for(folder, None), node) as server:
        vm = await server.rig.vm(port=80)
        # Else whoever follows its log is kept waiting for more.
        await server.rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
        node.imports_at_once = True
        output, status = await schemathesis(server.rig)
    assert status == 0, output


async def schemathesis(rig: Rig) -> tuple[str, int | None]:
    """Run schemathesis against a server; returns its output and exit status."""
    arguments: list[Any] = [
        *("run", ROOT / "docs" / "openapi.json", "--url", rig.client.base_url),
        *("--header", f"X-Api-Key: {KEY}", "--request-timeout", "60", "--seed", "1"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--max-examples", EXAMPLES, "--no-color", "--continue-on-failure"),
        "--suppress-health-check=all",
    ]
    (rig.settings.data_dir / "schemathesis.toml").write_text(ENDLESS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=rig.settings.data_dir,
    )
    output, _ = await process.communicate()
    return output.decode(), process.returncode
