"""How a function's module is found and imported, what it handles, and why it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtimes.adapters import Adapter, adapter

EVENT = {
    "id": "evt_1",
    "type": "order.paid",
    "source": "shop",
    "specversion": "1.0",
    "subject": "ü %",
    "cakeworkheaders": {"x-topic": "ü, %"},
    "data": {"total": 5},
}
REST_PY = """
def hello(request):
    if request["query"].get("odd"):
        return {"body": "x"}
    return {"statusCode": 201, "headers": {"X-A": "1"}, "body": request}
"""
REST_JS = """
exports.hello = async (request) => {
  if (request.query.odd) return { body: "x" };
  return { statusCode: 201, headers: { "X-A": "1" }, body: request };
};
"""
TOLD = {"type": "order.paid", "subject": "%C3%BC %25", "data": {"total": 5}}
# Entry, files, handlers that are found, what the event gives.
FORMS: dict[str, tuple[str, dict[str, str], list[str], Any]] = {
    "py-handler": ("main.py", {"main.py": "def handler(e, c): return e['data']"}, ["event"], None),
    "py-one-parameter": (
        "main.py",
        {"main.py": "def handler(e): return e['data']"},
        ["event"],
        None,
    ),
    "py-event": (
        "main.py",
        {"main.py": "async def event(e, c): return e['data']"},
        ["event"],
        None,
    ),
    "py-class": (
        "main.py",
        {
            "main.py": "class A:\n  async def __call__(self, e, c): return e['data']\nhandler = A()",
        },
        ["event"],
        None,
    ),
    "py-package": (
        "pkg/mod.py",
        {
            "pkg/__init__.py": "",
            "pkg/mod.py": "from .other import data\ndef handler(e, c): return data(e)",
            "pkg/other.py": "def data(e): return e['data']",
        },
        ["event"],
        None,
    ),
    "py-named": (
        "a.py:go",
        {"a.py": "def go(e, c): return e['data']\ndef http(r): ..."},
        ["http", "event"],
        None,
    ),
    "py-shadowing": (
        "random.py",
        {"random.py": "def handler(e, c): return e['data']"},
        ["event"],
        None,
    ),
    "py-odd-name": (
        "my-func.py",
        {"my-func.py": "def handler(e): return e['data']"},
        ["event"],
        None,
    ),
    "py-cycle": (
        "main.py",
        {
            "main.py": "import a\ndef handler(e, c): return a.data(e)",
            "a.py": "import main\ndef data(e): return e['data']",
        },
        ["event"],
        None,
    ),
    "py-loop-at-import": (
        "main.py",
        {
            "main.py": "import asyncio\nasync def f(): return 1\nONE = asyncio.run(f())\n"
            "def handler(e, c): return e['data']",
        },
        ["event"],
        None,
    ),
    "py-app-function": (
        "main.py",
        {
            "main.py": "def app(env, start):\n  start('200 OK', [('Content-Type', 'application/json')])\n"
            "  return [env['wsgi.input'].read()]"
        },
        ["http"],
        {"total": 5},
    ),
    "py-http-alone": (
        "main.py",
        {
            "main.py": "import json\nfrom urllib.parse import unquote\n"
            "def http(r):\n  h = r.headers\n"
            "  given = json.loads(unquote(h['ce-cakeworkheaders']))\n"
            "  return {'type': h['ce-type'], 'subject': h['ce-subject'], 'given': given,"
            " 'data': r.json()}",
        },
        ["http"],
        {**TOLD, "given": {"x-topic": "ü, %"}},
    ),
    "py-all": (
        "main.py",
        {
            "main.py": "def http(r): ...\ndef handler(e, c): return e['data']\n"
            "def scheduled(e): ...\ndef failed(e): ...\ndef transform(r): ...\n"
            "def transform_batch(r): ...",
        },
        ["http", "event", "scheduled", "failed", "transform", "transformBatch"],
        None,
    ),
    "js-default": (
        "main.mjs",
        {"main.mjs": "export default { event: (e) => e.data }"},
        ["event"],
        None,
    ),
    "js-this": (
        "main.mjs",
        {"main.mjs": "export default { key: 'data', event(e) { return e[this.key] } }"},
        ["event"],
        None,
    ),
    "js-named": ("main.js", {"main.js": "export const event = (e) => e.data"}, ["event"], None),
    "js-handler": (
        "main.js",
        {"main.js": "export const handler = async (e) => e.data"},
        ["event"],
        None,
    ),
    "js-chosen": ("a.mjs:go", {"a.mjs": "export const go = (e) => e.data"}, ["event"], None),
    "js-common": (
        "main.cjs",
        {"main.cjs": "module.exports = { handler: (e) => e.data }"},
        ["event"],
        None,
    ),
    "js-common-exports": (
        "main.js",
        {"main.js": "exports.handler = (e) => e.data"},
        ["event"],
        None,
    ),
    "js-compiled": (
        "main.cjs",
        {
            "main.cjs": "Object.defineProperty(exports, '__esModule', { value: true });\n"
            "exports.default = { event: (e) => e.data }",
        },
        ["event"],
        None,
    ),
    "ts": (
        "main.ts",
        {
            "main.ts": "import type { Event, Handlers } from '@cakework/functions';\n"
            "import { data } from './other.ts';\n"
            "export default { event: (e: Event) => data(e) } satisfies Handlers;",
            "other.ts": "export const data = (e: { data?: unknown }): unknown => e.data;",
        },
        ["event"],
        None,
    ),
    "js-top-level-await": (
        "main.mjs",
        {
            "main.mjs": "const key = await new Promise((f) => setTimeout(f, 1, 'data'));\n"
            "export const event = (e) => e[key]",
        },
        ["event"],
        None,
    ),
    "js-cycle": (
        "main.mjs",
        {
            "main.mjs": "import { data } from './a.mjs'; export const key = 'data';\n"
            "export const event = (e) => data(e)",
            "a.mjs": "import { key } from './main.mjs'; export const data = (e) => e[key]",
        },
        ["event"],
        None,
    ),
    "js-own-package": (
        "main.mjs",
        {
            "main.mjs": "import { data } from '@cakework/functions'; export const event = data",
            "node_modules/@cakework/functions/package.json": '{"type": "module", "main": "a.js"}',
            "node_modules/@cakework/functions/a.js": "export const data = (e) => e.data",
        },
        ["event"],
        None,
    ),
    "js-from-common": (
        "main.cjs",
        {
            "main.cjs": "const { NonRetriable } = require('@cakework/functions');\n"
            "exports.event = (e) => { if (!NonRetriable) throw 1; return e.data }",
        },
        ["event"],
        None,
    ),
    "js-http-alone": (
        "main.mjs",
        {
            "main.mjs": "export default async (r) => Response.json({ type: r.headers.get('ce-type'),"
            " given: JSON.parse(decodeURIComponent(r.headers.get('ce-cakeworkheaders'))),"
            " subject: r.headers.get('ce-subject'), data: await r.json() })",
        },
        ["http"],
        {**TOLD, "given": {"x-topic": "ü, %"}},
    ),
    "js-all": (
        "main.mjs",
        {
            "main.mjs": "export default { fetch() {}, event: (e) => e.data, scheduled() {},"
            " failed() {}, transform() {}, transformBatch() {} }",
        },
        ["http", "event", "scheduled", "failed", "transform", "transformBatch"],
        None,
    ),
}
# Entry, files, the error's type, what its message or frames have.
BROKEN: dict[str, tuple[str, dict[str, str], str, str]] = {
    "py-raises": ("main.py", {"main.py": "def f():\n  1/0\nf()"}, "ZeroDivisionError", "in f"),
    "py-syntax": ("main.py", {"main.py": "def ("}, "SyntaxError", "main.py"),
    "py-missing": ("main.py", {"main.py": "import not_there"}, "ModuleNotFoundError", "not_there"),
    "py-exits": ("main.py", {"main.py": "import sys; sys.exit('bye')"}, "SystemExit", "bye"),
    "py-binary": ("main.py", {"main.py": "\1\2"}, "SyntaxError", "non-printable"),
    "py-nothing": ("main.py", {"main.py": "x = 1"}, "NoHandler", "handles nothing"),
    "py-no-file": ("gone.py", {}, "NoEntry", "gone.py"),
    "py-no-name": ("main.py:go", {"main.py": "def handler(e): ..."}, "NoHandler", "go"),
    "py-cycle": (
        "main.py",
        {"main.py": "from a import x\ny = 1", "a.py": "from main import y\nx = 1"},
        "ImportError",
        "main",
    ),
    "py-lifespan": (
        "main.py",
        {
            "main.py": "async def app(scope, receive, send):\n  await send("
            "{'type': 'lifespan.startup.failed', 'message': 'no database'})",
        },
        "StartupFailed",
        "no database",
    ),
    "js-raises": ("main.mjs", {"main.mjs": "function f() { null.x }\nf()"}, "TypeError", "at f"),
    "js-syntax": ("main.mjs", {"main.mjs": "export default {"}, "SyntaxError", ""),
    "ts-syntax": (
        "main.ts",
        {"main.ts": "enum A { B }\nexport const event = 1"},
        "SyntaxError",
        "",
    ),
    "js-missing": ("main.mjs", {"main.mjs": "import 'not-there'"}, "Error", "not-there"),
    "js-late": (
        "main.mjs",
        {
            "main.mjs": "setTimeout(() => { throw new RangeError('soon') }, 0); await new Promise(() => {})"
        },
        "RangeError",
        "soon",
    ),
    "js-rejected": (
        "main.mjs",
        {"main.mjs": "Promise.reject(new RangeError('soon')); await new Promise(() => {})"},
        "RangeError",
        "soon",
    ),
    "js-throws-nothing": ("main.mjs", {"main.mjs": "throw undefined"}, "Error", "thrown"),
    "js-nothing": ("main.mjs", {"main.mjs": "export const x = 1"}, "NoHandler", "handles nothing"),
    "js-no-file": ("gone.mjs", {}, "NoEntry", "gone.mjs"),
    "js-no-name": ("main.mjs:go", {"main.mjs": "export const event = 1"}, "NoHandler", "go"),
}


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def language_of(entry: str) -> str:
    return "python" if entry.partition(":")[0].endswith(".py") else "node"


@pytest.mark.parametrize("form", FORMS)
def test_handlers_are_found(form: str, tmp_path: Path) -> None:
    """In every form that is documented, and an event comes to them."""
    entry, files, handlers, result = FORMS[form]
    with adapter(language_of(entry), entry, folder=made(tmp_path, files)) as running:
        ready = running.order("GET", "/ready")
        assert (ready["state"], ready["handlers"]) == ("ready", handlers), ready
        assert running.result(EVENT) == (result or EVENT["data"])


@pytest.mark.parametrize("form", BROKEN)
def test_why_a_function_cannot_be_loaded(form: str, tmp_path: Path) -> None:
    """The adapter stays, and says it to whoever asks."""
    entry, files, kind, told = BROKEN[form]
    with adapter(language_of(entry), entry, folder=made(tmp_path, files)) as running:
        ready = running.order("GET", "/ready")
        assert (ready["state"], ready["handlers"]) == ("failed", []), ready
        error = ready["error"]
        assert error["type"] == kind
        assert told in error["message"] + error.get("stack", "")
        assert "/runtimes/node/" not in error.get("stack", "")
        assert "/runtimes/python/" not in error.get("stack", "")
        answer = running.invoke(EVENT).answer
        assert (answer["reason"], answer["error"]) == ("no_handler", error)
        with running.visit("GET", "/") as response:
            assert response.status == 503
            assert json.loads(response.read())["error"] == error


KINDS = {
    "python": (
        "main.py",
        "def handler(e): return 'event'\ndef scheduled(e): return 'scheduled'\n"
        "def failed(e): return 'failed'",
        "def handler(e): return 'event'",
    ),
    "node": (
        "main.mjs",
        "export const event = () => 'event', scheduled = () => 'scheduled', failed = () => 'failed'",
        "export const event = () => 'event'",
    ),
}


@pytest.mark.parametrize("language", KINDS)
def test_kinds_of_work(language: str, tmp_path: Path) -> None:
    """Each has its handler; those of schedules and failures are events without one."""
    entry, every, one = KINDS[language]
    with adapter(language, entry, folder=made(tmp_path, {entry: every})) as running:
        given = {"event": "event", "scheduled": "scheduled", "failure": "failed"}
        for kind, result in given.items():
            assert running.result(EVENT, kind=kind) == result
        answer = running.invoke({"records": [1]}, kind="transform").answer
        assert answer["reason"] == "no_handler"
    with adapter(language, entry, folder=made(tmp_path, {entry: one})) as running:
        for kind in given:
            assert running.result(EVENT, kind=kind) == "event"


TRANSFORMS = {
    "python": (
        "main.py",
        "def transform(record, context):\n"
        "  if record == 'bad': raise ValueError('bad record')\n"
        "  return {'drop': None, 'two': [1, 2]}.get(str(record), record)",
        "async def transformBatch(records):\n  if 'bad' in records: raise ValueError('bad record')\n"
        "  return [each for each in records if each != 'drop']",
    ),
    "node": (
        "main.ts",
        "export function transform(record: unknown) {\n"
        "  if (record === 'bad') throw new Error('bad record');\n"
        "  return { drop: undefined, two: [1, 2] }[record as string] ?? (record === 'drop' ? null : record);\n}",
        "export function transformBatch(records: string[]) {\n"
        "  if (records.includes('bad')) throw new Error('bad record');\n"
        "  return records.filter((each) => each !== 'drop');\n}",
    ),
}


@pytest.mark.parametrize("language", TRANSFORMS)
def test_transforms(language: str, tmp_path: Path) -> None:
    """Record by record, each with its own outcome; or a batch, as a whole; one by the other."""
    entry, by_record, by_batch = TRANSFORMS[language]
    good = {"records": ["a", "drop", "two", {"b": 1}]}
    with adapter(language, entry, folder=made(tmp_path, {entry: by_record})) as running:
        told = running.result({"records": [*good["records"], "bad"]}, kind="transform")["records"]
        assert told[:4] == [{"out": ["a"]}, {"out": []}, {"out": [1, 2]}, {"out": [{"b": 1}]}]
        assert told[4]["error"]["message"] == "bad record"
        batch = running.result(good, kind="transform", unit="batch")
        assert batch == {"out": ["a", 1, 2, {"b": 1}]}
    with adapter(language, entry, folder=made(tmp_path, {entry: by_batch})) as running:
        batch = running.result(good, kind="transform", unit="batch")
        assert batch == {"out": ["a", "two", {"b": 1}]}
        told = running.result({"records": ["a", "drop", "bad"]}, kind="transform")["records"]
        assert told[:2] == [{"out": ["a"]}, {"out": []}]
        assert told[2]["error"]["message"] == "bad record"
        bad = running.invoke({"records": ["bad"]}, kind="transform", unit="batch").answer
        assert bad["reason"] == "handler_error"


@pytest.mark.parametrize("language", TRANSFORMS)
def test_long_results_of_transforms_come_in_parts(language: str, tmp_path: Path) -> None:
    """After 512 KiB of results no further record is begun; one that is too long fails alone."""
    entry, by_record, _ = TRANSFORMS[language]
    long, too_long = "\u20ac" * 70_000, "\u20ac" * 400_000
    with adapter(language, entry, folder=made(tmp_path, {entry: by_record})) as running:
        told = running.result({"records": [long, too_long, *([long] * 8)]}, kind="transform")
        assert [list(part) for part in told["records"]] == [["out"], ["error"], ["out"], ["out"]]
        assert told["records"][1]["error"]["type"] == "ResultTooLarge"


@pytest.mark.parametrize(("entry", "source"), [("main.py", REST_PY), ("main.js", REST_JS)])
def test_the_old_form(entry: str, source: str, tmp_path: Path) -> None:
    """A request as an object, an answer with statusCode."""
    folder = made(tmp_path, {entry: source})
    language = language_of(entry)
    with adapter(language, f"{entry}:hello", "--signature", "rest", folder=folder) as running:
        assert running.order("GET", "/ready")["handlers"] == ["http"]
        body = json.dumps({"n": 1}).encode()
        with running.visit("POST", "/a/b?x=1", body, Content_Type="application/json") as response:
            assert (response.status, response.headers["X-A"]) == (201, "1")
            told = json.loads(response.read())
        assert told["headers"]["content-type"] == "application/json"
        told.pop("headers")
        assert told == {
            "method": "POST",
            "path": "/a/b",
            "query": {"x": "1"},
            "params": {},
            "body": {"n": 1},
        }
        with running.visit("GET", "/?odd=1") as response:
            assert (response.status, response.headers["Cakework-Error"]) == (502, "bad_answer")


STATUSES = {
    "py": (
        "main.py",
        "from cakework_functions import Response\n"
        "def http(r): return Response('no', r.json()['status'], {'Retry-After': '9'})",
    ),
    "js": (
        "main.mjs",
        "export default async (r) =>"
        " new Response('no', { status: (await r.json()).status, headers: { 'retry-after': '9' } })",
    ),
}


@pytest.mark.parametrize("form", STATUSES)
@pytest.mark.parametrize(
    ("status", "retriable"), [(400, False), (404, False), (408, True), (429, True), (500, True)]
)
def test_statuses_of_events_by_http(
    form: str, status: int, retriable: bool, statuses: dict[str, Adapter]
) -> None:
    """Those that mean that it is to be tried again do, after Retry-After."""
    answer = statuses[form].invoke({**EVENT, "data": {"status": status}}).answer
    assert answer["error"]["type"] == f"Http{status}"
    assert answer["error"]["retriable"] is retriable
    assert answer["error"]["retryAfter"] == 9
    assert answer["reason"] == ("handler_error" if retriable else "non_retriable")


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give functions that answer with the status that they are told, by form."""
    folder = tmp_path_factory.mktemp("statuses")
    for entry, source in STATUSES.values():
        (folder / entry).write_text(source)
    with (
        adapter("python", "main.py", folder=folder) as python,
        adapter("node", "main.mjs", folder=folder) as node,
    ):
        yield {"py": python, "js": node}


METHODS = "export const GET = (r, env, ctx) => new Response(ctx.invocationId), POST = () => new Response('p')"


def test_a_function_for_each_method(tmp_path: Path) -> None:
    """In Node; others are refused."""
    with adapter("node", "main.ts", folder=made(tmp_path, {"main.ts": METHODS})) as running:
        with running.visit("GET", "/", Cakework_Invocation_Id="inv_1") as response:
            assert response.read() == b"inv_1"
        with running.visit("POST", "/") as response:
            assert response.read() == b"p"
        with running.visit("HEAD", "/") as response:
            assert response.status == 200
        with running.visit("PUT", "/") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, POST")
