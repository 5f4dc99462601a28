"""What the documentation says, as it was built: nothing that users may use is missing from it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cakework.cli.main import COMMANDS
from cakework.domain.errors import ERRORS_BY_CODE
from cakework.server.webhooks.events import EventType
from cakework.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "dist" / "docs"
OPENAPI = json.loads((ROOT / "docs" / "openapi.json").read_text())
SPELLINGS = {"getBuildByPost": "getBuild", "listVMsUnversioned": "listVMs", "destroyVM": ""}
HEADINGS = {"getFunctionBuildLogs": "getBuildLogs (function)"}
FIRST = (
    *("importImage", "buildImageFromFiles", "buildImageFromGithub", "getBuild", "getBuildLogs"),
    *("startVM", "stopVM", "getVMLogs", "getVm", "listVMs"),
    *("cacheVM", "startCachedVM", "stopCachedVM", "destroyCachedVM"),
)
"""The calls that come first below their headings, in this order."""


def operations() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield method, path, id and declaration of every call."""
    for path, methods in OPENAPI["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation["operationId"], operation


def section(heading: str) -> str:
    """Return what the reference says below a call's heading."""
    page = (DOCS / "reference" / "rest.md").read_text()
    found = re.search(
        rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE
    )
    assert found, f"the reference has no {heading}"
    return found[1]


@pytest.mark.parametrize(
    ("method", "path", "name", "operation"),
    list(operations()),
    ids=[each[2] for each in operations()],
)
def test_the_reference_has_every_call(
    method: str, path: str, name: str, operation: dict[str, Any]
) -> None:
    """Each call has its address, parameters, fields of request and answer, and examples."""
    page = (DOCS / "reference" / "rest.md").read_text()
    assert f"{method} {path}\n" in page
    if name in SPELLINGS:
        return
    text = section(HEADINGS.get(name, name))
    assert f"{method} {path}\n" in text
    for parameter in operation.get("parameters", ()):
        if parameter["in"] != "header":
            assert f"| `{parameter['name']}` |" in text
    for field in fields(operation):
        assert re.search(rf"\| `(?:[\w.\[\]]+\.)?{re.escape(field)}` \| [^|]+ \| [^|]+ \|", text), (
            f"{name}: {field} is not described"
        )
    for language in ("sh", "ts", "py"):
        assert f"```{language} " in text


def fields(operation: dict[str, Any]) -> set[str]:
    """Return the names of all fields that a call takes or answers with, however deep."""
    contents = [operation.get("requestBody", {}).get("content", {})]
    contents += [
        answer.get("content", {})
        for status, answer in operation["responses"].items()
        if status < "300"
    ]
    schemas = [
        each["application/json"]["schema"] for each in contents if "application/json" in each
    ]
    return {name for schema in schemas for name in names_in(schema)}


def names_in(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the fields of a schema and of those in it."""
    if "$ref" in schema:
        schema = OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for name, field in schema.get("properties", {}).items():
        yield name
        yield from names_in(field)
    for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), schema.get("items", {})):
        if inner:
            yield from names_in(inner)


def test_calls_are_in_the_order_of_the_contract() -> None:
    """Images, VMs, cached VMs: somebody who looks for a call finds it where it was."""
    page = (DOCS / "reference" / "rest.md").read_text()
    places = [page.index(f"### {name}\n") for name in FIRST]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("reference/errors", [f"`{code}`" for code in ERRORS_BY_CODE]),
        ("reference/settings", [f"`CAKEWORK_{name.upper()}`" for name in Settings.model_fields]),
        ("reference/cli", [f"`cakework {name}" for name in COMMANDS]),
        ("webhooks", [f"`{event}`" for event in EventType]),
    ],
)
def test_pages_have_every_word(page: str, words: list[str]) -> None:
    """No error, setting, command or event is missing from its page."""
    text = (DOCS / f"{page}.md").read_text()
    assert words
    assert [word for word in words if word not in text] == []


def test_pages_name_no_setting_that_is_none() -> None:
    """What pages written by hand say of settings can be set."""
    pages = (ROOT / "web" / "src" / "content").rglob("docs/*.md")
    named = {name for page in pages for name in re.findall(r"CAKEWORK_([A-Z_]+)", page.read_text())}
    assert named
    assert {name.lower() for name in named} <= {*Settings.model_fields, "url"}


def test_the_typescript_reference_has_every_method_and_error() -> None:
    """What the client declares is on its page, with what it says of itself."""
    sources = ROOT / "sdk" / "typescript" / "src"
    page = (DOCS / "reference" / "typescript.md").read_text()
    methods = re.findall(
        r"^  (\w+)\($|^  (\w+)\(.*\{$", (sources / "client.ts").read_text(), re.MULTILINE
    )
    errors = re.findall(r"^export class (\w+)", (sources / "errors.ts").read_text(), re.MULTILINE)
    names = {first or second for first, second in methods} - {"constructor"}
    assert {"importImage", "followLogs", "waitForBuild"} <= names
    assert [name for name in names if f"### {name}\n" not in page] == []
    assert [
        name for name in errors if f"| `{name}` |" not in page and name != "CakeworkError"
    ] == []


def test_machines_are_told_of_every_page() -> None:
    """llms.txt lists a Markdown copy of every page of the documentation, and each is there."""
    listed = re.findall(r"\]\((/docs[^)]*\.md)\)", (DOCS.parent / "llms.txt").read_text())
    assert sorted(listed) == sorted(
        f"/docs/{page.parent.relative_to(DOCS)}.md".replace("/docs/..md", "/docs.md")
        for page in DOCS.rglob("index.html")
    )
    for path in listed:
        assert (DOCS.parent / path.removeprefix("/")).read_text().startswith("# ")


def test_no_page_has_a_script_in_it() -> None:
    """All scripts are files, as the policy for scripts wants it."""
    pages = list(DOCS.parent.rglob("*.html"))
    assert pages
    inline = re.compile(r"<script(?![^>]*\ssrc=)(?![^>]*application/)[^>]*>\s*\S|\son\w+=\"")
    assert [str(page) for page in pages if inline.search(page.read_text())] == []
