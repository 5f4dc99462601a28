"""Data through transforms while the caller waits: the server as it is, adapters as they are."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cakework.server.api.transforms import STREAMS_EACH
from cakework.server.transforms.calls import AHEAD
from cakework.server.transforms.formats import JsonLines
from cakework.server.transforms.groups import Group
from cakework.server.transforms.sources import GROUP_BYTES, PIECE_BYTES, WINDOW_BYTES

from .function_node import FunctionNode
from .processes import serving
from .rig import DEADLINE_S, KEY, Json, as_problem, eventually, settings_for, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

NDJSON = {"content-type": "application/x-ndjson"}
CSV = {"content-type": "text/csv"}
DOUBLE = """\
def transform(record, context):
    if record == "fail":
        raise ValueError("it cannot be")
    if record == "none":
        return None
    if record == "many":
        return [1, 2, 3]
    return {"was": record}
"""


class Stream:
    """A call whose body and answer are under way together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.left = b""
        self.begun = False

    async def send(self, data: bytes) -> None:
        """Send a piece of the body, as soon as it is taken."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        """Send the end of the body."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def first_line(self) -> bytes:
        """Return the first line of the answer."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n")

    async def line(self) -> bytes:
        """Return the next line of the answer's body; nothing at its end."""
        if not self.begun:
            assert b" 200 " in await self.first_line()
            async with asyncio.timeout(DEADLINE_S):
                await self.reader.readuntil(b"\r\n\r\n")
            self.begun = True
        while b"\n" not in self.left:
            async with asyncio.timeout(DEADLINE_S):
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                piece = await self.reader.readexactly(size + 2)
            if not size:
                return b""
            self.left += piece[:-2]
        line, _, self.left = self.left.partition(b"\n")
        return line + b"\n"


class Transforms:
    """What tests do with transforms."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.rig = functions.rig

    async def made(self, code: str = DOUBLE, **settings: Any) -> str:
        """Make a transform that is live, with time for its start; return its id."""
        settings = {"timeoutMs": 30_000, **settings}
        return await self.functions.made(code, kind="transform", settings=settings)

    async def send(self, function_id: str, **request: Any) -> httpx2.Response:
        path = f"/v1/transforms/{function_id}/apply"
        return await self.rig.client.post(path, **request)

    async def lines(self, function_id: str, *records: Any) -> tuple[list[Any], Json]:
        """Send records as lines; return what came back, and the invocation."""
        body = "".join(json.dumps(each) + "\n" for each in records)
        response = await self.send(function_id, content=body, headers=NDJSON)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        told = [json.loads(line) for line in response.text.splitlines()]
        return told, await self.record(response)

    @contextlib.asynccontextmanager
    async def stream(
        self, function_id: str, kind: str = "application/x-ndjson"
    ) -> AsyncGenerator["Stream"]:
        """Begin a call whose body is sent while its answer is read; hang up at the end."""
        url = self.rig.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port, limit=4 << 20)
        head = (
            f"POST /v1/transforms/{function_id}/apply HTTP/1.1\r\nHost: cakework\r\n"
            f"X-Api-Key: {KEY}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(head.encode())
        try:
            yield Stream(reader, writer)
        finally:
            writer.transport.abort()

    async def record(self, response: httpx2.Response) -> Json:
        """Return the invocation of an answer, when it is over."""
        path = f"/v1/invocations/{response.headers['cakework-invocation-id']}"

        async def look() -> Json | None:
            known = await self.rig.client.get(path)
            found = known.json() if known.status_code == 200 else {"state": "running"}
            return found if found["state"] != "running" else None

        return await eventually(look, "it is on record")

    async def only_record(self, function_id: str) -> Json:
        """Return the one invocation of a function, when it is over."""

        async def look() -> Json | None:
            query = {"functionId": function_id}
            listed = await self.rig.ok("GET", "/v1/invocations", params=query)
            found = [each for each in listed["invocations"] if each["state"] != "running"]
            return found[0] if found else None

        return await eventually(look, "it is on record")

    async def free(self) -> None:
        """Return when no instance is held any more."""

        async def look() -> bool:
            rows = await self.functions.instances()
            return all(row.leased_by is None and not row.running for row in rows)

        await eventually(look, "instances are free")


@pytest.fixture
async def on_both(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Transforms]:
    """On either store."""
    async with served(folder, hosting, database_url) as functions:
        yield Transforms(functions)


@pytest.fixture
async def transforms(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Transforms]:
    """On SQLite."""
    async with served(folder, hosting, None) as functions:
        yield Transforms(functions)


@pytest.mark.contract("applyTransform")
async def test_one_record_is_answered_and_on_record(on_both: Transforms) -> None:
    """A record is answered with what came of it; the call is one invocation, which has ended."""
    function_id = await on_both.made()
    response = await on_both.send(function_id, json={"n": 1})
    assert response.status_code == 200, response.text
    assert response.json() == {"was": {"n": 1}}
    assert response.headers["cakework-transform"] == "applied; n=1"
    assert response.headers["cakework-start"] == "fork"
    record = await on_both.record(response)
    assert (record["kind"], record["trigger"], record["state"]) == (
        *("direct", "transform"),
        "succeeded",
    )
    assert record["result"] == {"records": {"in": 1, "out": 1, "dropped": 0, "failed": 0}}
    assert [each["outcome"] for each in record["attempts"]] == ["succeeded"]
    again = await on_both.send(function_id, json=[1, 2])
    assert again.json() == {"was": [1, 2]}
    await on_both.free()
    told, record = await on_both.lines(function_id, 1, "none", "many", "x")
    assert told == [{"was": 1}, 1, 2, 3, {"was": "x"}]
    assert record["result"]["records"] == {"in": 4, "out": 5, "dropped": 1, "failed": 0}
    assert len(await on_both.functions.instances()) == 1


async def test_json_comes_back_in_its_shape(transforms: Transforms) -> None:
    function_id = await transforms.made()
    cases: list[tuple[Any, Any]] = [
        ("none", None),
        ("many", [1, 2, 3]),
        ({"records": ["none", 1, "many"]}, {"records": [{"was": 1}, 1, 2, 3]}),
        ({"records": []}, {"records": []}),
        ({"records": [1], "more": 2}, {"was": {"records": [1], "more": 2}}),
        ({"records": 7}, {"was": {"records": 7}}),
    ]
    for sent, told in cases:
        response = await transforms.send(function_id, json=sent)
        assert (response.status_code, response.json()) == (200, told)


async def test_rows_of_csv_come_back_as_rows(transforms: Transforms) -> None:
    """Cells are text; a quoted one may have lines, commas and quotes; the first result has the
    columns."""
    code = """\
def transform(record, context):
    return {"name": record["name"].upper(), "n": len(record["note"]), "none": None}
"""
    function_id = await transforms.made(code)
    body = '\ufeffname,note\r\nada,"a\r\nb"\r\nbob,"say ""hi"", bob"\r\n\r\n"x, y",\r\n'
    response = await transforms.send(function_id, content=body.encode(), headers=CSV)
    assert response.headers["content-type"].startswith("text/csv")
    assert response.text == 'name,n,none\r\nADA,4,\r\nBOB,13,\r\n"X, Y",0,\r\n'


async def test_a_result_with_other_columns_is_an_error(transforms: Transforms) -> None:
    code = "def transform(record):\n    return {record['a']: 1}\n"
    function_id = await transforms.made(code)
    response = await transforms.send(function_id, content=b"a\nx\nx\ny\nx\n", headers=CSV)
    rows = response.text.split("\r\n")
    assert rows[:3] == ["x", "1", "1"]
    assert json.loads(rows[3][1:-1].replace('""', '"'))["$record"] == 3
    record = await transforms.record(response)
    assert (record["state"], record["reason"]) == ("failed", "bad_answer")


async def test_what_fails_ends_the_call(transforms: Transforms) -> None:
    """``fail``: 502, or in a stream a line that names the record, behind what was before."""
    function_id = await transforms.made()
    response = await transforms.send(function_id, json="fail")
    assert response.status_code == 502
    assert as_problem(response)["code"] == "handler_failed"
    assert "ValueError: it cannot be" in response.json()["detail"]
    record = await transforms.record(response)
    assert (record["state"], record["reason"]) == ("failed", "handler_error")
    assert record["error"]["type"] == "ValueError"
    told, record = await transforms.lines(function_id, 1, 2, "fail", 4, 5)
    assert told[:2] == [{"was": 1}, {"was": 2}]
    assert told[2:] == [
        {
            "$error": {"code": "handler_failed", "type": "ValueError", "message": "it cannot be"},
            "$record": 3,
        }
    ]
    assert record["state"] == "failed"


async def test_what_fails_passes_or_is_left_out(transforms: Transforms) -> None:
    function_id = await transforms.made(onError="pass")
    response = await transforms.send(function_id, json="fail")
    assert (response.status_code, response.json()) == (200, "fail")
    assert response.headers["cakework-transform"] == "passed; n=1"
    assert (await transforms.record(response))["state"] == "failed"
    told, record = await transforms.lines(function_id, 1, "fail", 3)
    assert told == [{"was": 1}, "fail", {"was": 3}]
    assert record["state"] == "succeeded"
    assert record["result"]["records"] == {"in": 3, "out": 3, "dropped": 0, "failed": 1}
    path, change = f"/v1/functions/{function_id}", {"settings": {"onError": "drop"}}
    await transforms.rig.ok("PATCH", path, json=change)
    response = await transforms.send(function_id, json={"records": [1, "fail", 3]})
    assert response.json() == {"records": [{"was": 1}, {"was": 3}]}
    assert response.headers["cakework-transform"] == "dropped; n=1"


async def test_batches_go_to_the_handler_of_batches(transforms: Transforms) -> None:
    code = "def transformBatch(records, context):\n    return [len(records), *records]\n"
    function_id = await transforms.made(code, unit="batch", maxBatch=3)
    response = await transforms.send(function_id, json={"records": [1, 2, 3, 4]})
    assert response.json() == {"records": [3, 1, 2, 3, 1, 4]}


async def test_a_stream_is_answered_while_it_comes(transforms: Transforms) -> None:
    """The first result is there before the second record is sent."""
    function_id = await transforms.made()
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n")
        assert await stream.line() == b'{"was":1}\n'
        await stream.send(b'2\n"no')
        assert await stream.line() == b'{"was":2}\n'
        await stream.send(b'ne"\n3')
        await stream.end()
        assert await stream.line() == b'{"was":3}\n'
        assert await stream.line() == b""


async def test_a_long_stream_keeps_its_order_and_little_of_it_is_held(
    transforms: Transforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 records come out as they went in. While nobody takes the results, the client is kept
    from sending; of all of it, never more is held than a window and two groups."""
    count, filler, sent = 20_000, "x" * 1_000, 0
    readers: list[JsonLines] = []
    groups: list[Group] = []
    waited = handed = 0
    feed, ask = JsonLines.feed, Group.ask

    def fed(reader: JsonLines, data: bytes) -> None:
        nonlocal waited
        if reader not in readers:
            readers.append(reader)
        feed(reader, data)
        waited = max(waited, reader.size + reader.partial)

    def asked(group: Group, *given: Any) -> None:
        nonlocal handed
        groups[:] = [each for each in groups if not each.answered.done()] + [group]
        handed = max(handed, sum(len(record) for each in groups for record in each.records))
        ask(group, *given)

    monkeypatch.setattr(JsonLines, "feed", fed)
    monkeypatch.setattr(Group, "ask", asked)
    function_id = await transforms.made("def transform(record):\n    return record\n")

    async def send(stream: Stream) -> None:
        nonlocal sent
        for first in range(0, count, 50):
            records = [json.dumps({"n": n, "x": filler}) for n in range(first, first + 50)]
            await stream.send("".join(each + "\n" for each in records).encode())
            sent += 50
        await stream.end()

    async with transforms.stream(function_id) as stream:
        sending = asyncio.create_task(send(stream))
        await until(lambda: readers and readers[0].size > WINDOW_BYTES, "nothing more is read")
        for number in range(count):
            assert json.loads(await stream.line())["n"] == number
        assert await stream.line() == b""
        await sending
    assert waited <= WINDOW_BYTES + PIECE_BYTES + 2_000
    assert handed <= AHEAD * (GROUP_BYTES + 2_000)
    record = await transforms.only_record(function_id)
    assert record["result"]["records"]["out"] == count
    await transforms.free()


async def test_who_hangs_up_frees_the_instance(transforms: Transforms, tmp_path: Path) -> None:
    """The handler is told, its instance goes, and it is on record as given up."""
    mark = tmp_path / "told"
    code = f"""\
import asyncio
async def transform(record, context):
    if record == 2:
        try:
            await asyncio.sleep(3600)
        finally:
            open({str(mark)!r}, "w").close()
    return record
"""
    function_id = await transforms.made(code)
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n2\n")
        assert await stream.line() == b"1\n"
    await until(mark.exists, "the handler was told")
    record = await transforms.only_record(function_id)
    assert (record["state"], record["reason"]) == ("canceled", "canceled_by_caller")

    async def look() -> bool:
        return not await transforms.functions.instances()

    await eventually(look, "the instance is gone")


async def test_a_call_can_be_given_up(transforms: Transforms) -> None:
    code = "import asyncio\nasync def transform(record):\n    await asyncio.sleep(3600)\n"
    function_id = await transforms.made(code)
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n")

        async def look() -> str | None:
            query = {"functionId": function_id}
            listed = await transforms.rig.ok("GET", "/v1/invocations", params=query)
            return listed["invocations"][0]["id"] if listed["invocations"] else None

        invocation_id = await eventually(look, "it is on record that it is under way")
        await transforms.rig.ok("POST", f"/v1/invocations/{invocation_id}/cancel")
        record = await transforms.only_record(function_id)
    assert (record["state"], record["reason"]) == ("canceled", "canceled_by_caller")


async def test_a_handler_that_takes_too_long_is_ended(transforms: Transforms) -> None:
    code = "import time\ndef transform(record):\n    time.sleep(record)\n    return record\n"
    function_id = await transforms.made(code)
    assert (await transforms.send(function_id, json=0)).json() == 0
    path = f"/v1/functions/{function_id}"
    await transforms.rig.ok("PATCH", path, json={"settings": {"timeoutMs": 300}})
    response = await transforms.send(function_id, json=3600)
    assert (response.status_code, as_problem(response)["code"]) == (504, "timeout")
    record = await transforms.record(response)
    assert (record["state"], record["reason"]) == ("failed", "timeout")
    change = {"settings": {"timeoutMs": 3_000, "onError": "pass"}}
    await transforms.rig.ok("PATCH", path, json=change)
    told, record = await transforms.lines(function_id, 0, 3600, 0, 0)
    assert told == [0, 3600, 0, 0]
    assert record["state"] == "succeeded"
    assert record["result"]["records"]["failed"] >= 1


async def test_a_process_that_ends_fails_what_it_had(transforms: Transforms) -> None:
    """The rest of a stream goes on in another instance."""
    code = (
        "import os\ndef transform(record):\n    return os._exit(3) if record == 2 else [record]\n"
    )
    function_id = await transforms.made(code, onError="drop")
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n")
        assert await stream.line() == b"1\n"
        await stream.send(b"2\n")
        await stream.send(b"3\n")
        # Of those that were handed over with it nothing is known.
        await stream.send(b"4\n5\n6\n7\n8\n9\n")
        await stream.end()
        told: list[int] = []
        while line := await stream.line():
            told.append(json.loads(line))
    assert told
    assert told == sorted(told)
    assert 2 not in told
    path, change = f"/v1/functions/{function_id}", {"settings": {"onError": "fail"}}
    await transforms.rig.ok("PATCH", path, json=change)
    response = await transforms.send(function_id, json=2)
    assert response.status_code == 502
    record = await transforms.record(response)
    assert (record["state"], record["reason"]) == ("failed", "crash")


async def test_what_cannot_be_had(transforms: Transforms) -> None:
    """Without a live version, a handler, or an instance there is an error; or records pass."""
    rig = transforms.rig
    body = {"name": "empty", "runtime": "python3.11", "kind": "transform"}
    empty = (await rig.ok("POST", "/v1/functions", json=body))["id"]
    response = await transforms.send(empty, json=1)
    assert (response.status_code, as_problem(response)["code"]) == (409, "no_live_version")
    response = await transforms.send(empty, content=b"1\n", headers=NDJSON)
    assert (response.status_code, as_problem(response)["code"]) == (409, "no_live_version")
    await rig.ok("PATCH", f"/v1/functions/{empty}", json={"settings": {"onError": "pass"}})
    response = await transforms.send(empty, content=b"1\n2\n", headers=NDJSON)
    assert (response.status_code, response.text) == (200, "1\n2\n")
    assert response.headers["cakework-transform"] == "passed"
    assert (await transforms.send(empty, json={"a": 1})).json() == {"a": 1}
    code = "def handler(event):\n    return 1\n"
    other = await transforms.made(code)
    response = await transforms.send(other, json=1)
    assert (response.status_code, as_problem(response)["code"]) == (409, "no_handler")
    plain = await transforms.functions.made(code, name="plain")
    response = await transforms.send(plain, json=1)
    assert (response.status_code, as_problem(response)["code"]) == (409, "no_handler")
    assert (await transforms.send("fn_" + "0" * 26, json=1)).status_code == 404
    response = await transforms.send(other, content=b"x", headers={"content-type": "image/png"})
    assert response.status_code == 400
    theirs = await rig.other_account()
    async with theirs:
        path = f"/v1/transforms/{other}/apply"
        assert (await theirs.post(path, json=1)).status_code == 404
        assert (await theirs.post(path, json=1, headers={"X-Api-Key": "no"})).status_code == 401


async def test_settings_of_transforms_are_theirs(transforms: Transforms) -> None:
    rig = transforms.rig
    body: Json = {"name": "t", "runtime": "python3.11", "kind": "transform"}
    made = await rig.ok("POST", "/v1/functions", json=body)
    shown = {each: made["settings"][each] for each in ("onError", "unit", "maxBatch", "timeoutMs")}
    assert shown == {"onError": "fail", "unit": "record", "maxBatch": 500, "timeoutMs": 1000}
    body = {"name": "f", "runtime": "python3.11", "settings": {"onError": "pass"}}
    problem = await rig.refused(400, "POST", "/v1/functions", json=body)
    assert problem["errors"][0]["field"] == "settings.onError"
    made = await rig.ok("POST", "/v1/functions", json={**body, "settings": {}})
    assert "onError" not in made["settings"]
    path = f"/v1/functions/{made['id']}"
    await rig.refused(400, "PATCH", path, json={"settings": {"maxBatch": 5}})
    for wrong in ({"onError": "deadLetter"}, {"maxBatch": 1001}, {"timeoutMs": 49}):
        body = {"name": "u", "runtime": "python3.11", "kind": "transform", "settings": wrong}
        await rig.refused(400, "POST", "/v1/functions", json=body)


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (NDJSON, b'{"a": \n', "Record 1 is no JSON"),
        (NDJSON, b"x" * (2 << 20), "Record 1 has more than the 1 MiB"),
        (NDJSON, b"[" * 100_000 + b"\n", "Record 1 has more than 50000 values"),
        (NDJSON, b"[" * 1_000 + b"]" * 1_000, "recursion limit"),
        (NDJSON, b"1],[2\n", "Record 1 is no JSON"),
        (NDJSON, b'"\xff"\n', "Record 1 is no JSON"),
        (NDJSON, b"NaN\n", "Record 1 is no JSON"),
        (CSV, ",".join(f"c{n}" for n in range(10_000)).encode(), "The first row has 10000 columns"),
        (CSV, b"a,a\n1,2\n", "two columns of one name"),
        (CSV, b"a,b\n1\n", "Record 1 has 1 cells, and the first row 2"),
        (CSV, b'a\n"never closed\n', "a quote that is never closed"),
        (CSV, b'a\n"' + b"x\n" * (1 << 20), "has more than the 1 MiB"),
        (CSV, b"a\n\xff\n", "is no UTF-8"),
        (CSV, b"a\n" + b"x" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    transforms: Transforms, kind: dict[str, str], body: bytes, why: str
) -> None:
    function_id = await transforms.made()
    response = await transforms.send(function_id, content=body, headers=kind)
    assert response.status_code == 400, response.text
    assert why in as_problem(response)["detail"]


async def test_what_cannot_be_read_ends_a_stream(transforms: Transforms) -> None:
    """What was before it is answered; then a line says which record it was."""
    function_id = await transforms.made(onError="pass")
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n")
        assert await stream.line() == b'{"was":1}\n'
        await stream.send(b"2\n{\n4\n")
        await stream.end()
        assert await stream.line() == b'{"was":2}\n'
        told = json.loads(await stream.line())
        assert (told["$error"]["code"], told["$record"]) == ("invalid_request", 3)
        assert await stream.line() == b""
    record = await transforms.only_record(function_id)
    assert (record["state"], record["reason"]) == ("canceled", "canceled_by_caller")
    await transforms.free()


async def test_deep_and_large_json_is_refused(transforms: Transforms) -> None:
    function_id = await transforms.made()
    head = {"content-type": "application/json"}
    for body, status in (
        (b"[" * 5_000 + b"]" * 5_000, 400),
        (b'"' + b"x" * (3 << 19) + b'"', 413),
        (b'"' + b"x" * (3 << 20) + b'"', 413),
        (b"{", 400),
    ):
        response = await transforms.send(function_id, content=body, headers=head)
        assert response.status_code == status, response.text


async def test_a_handler_cannot_answer_without_end(transforms: Transforms) -> None:
    """Of one record 1,000 results are taken, and 1 MiB; large ones of many records go in parts."""
    code = """\
def transform(record):
    if record == "many":
        return list(range(1001))
    if record == "huge":
        return "x" * (2 << 20)
    return "x" * record
"""
    function_id = await transforms.made(code)
    for record, code in (("many", "result_too_large"), ("huge", "handler_failed")):
        response = await transforms.send(function_id, json=record)
        assert response.status_code == 502
        assert as_problem(response)["code"] == code
    told, _ = await transforms.lines(function_id, *([200_000] * 40))
    assert [len(each) for each in told] == [200_000] * 40
    records = {"records": [200_000] * 40}
    response = await transforms.send(function_id, json=records)
    assert (response.status_code, as_problem(response)["code"]) == (502, "result_too_large")
    await transforms.free()


async def test_a_record_that_never_comes_is_waited_for_so_long(
    transforms: Transforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends byte by byte, or nothing, is refused, and holds no instance."""
    monkeypatch.setattr("cakework.server.transforms.sources.FIRST_S", 0.2)
    function_id = await transforms.made()
    async with transforms.stream(function_id) as stream:
        assert b" 408 " in await stream.first_line()
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n")
        assert await stream.line() == b'{"was":1}\n'
        assert json.loads(await stream.line())["$error"]["code"] == "request_timeout"
    await transforms.free()


async def test_who_does_not_take_the_answer_is_gone(
    transforms: Transforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the connection stays, the call ends, and holds no instance."""
    monkeypatch.setattr("cakework.server.api.connection.WRITE_S", 3600.0)
    monkeypatch.setattr("cakework.server.api.transforms.SEND_S", 0.2)
    code = "def transform(record):\n    return 'x' * 200_000\n"
    function_id = await transforms.made(code)
    async with transforms.stream(function_id) as stream:
        await stream.send(b"1\n" * 500)
        record = await transforms.only_record(function_id)
        assert (record["state"], record["reason"]) == ("canceled", "canceled_by_caller")


async def test_an_account_has_few_streams(transforms: Transforms) -> None:
    """Four: the next is told to come later, and another account has its own."""
    function_id = await transforms.made("def transform(record):\n    return record\n")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS_EACH):
            stream = await stack.enter_async_context(transforms.stream(function_id))
            await stream.send(b"1\n")
            assert await stream.line() == b"1\n"
        refused = await transforms.send(function_id, content=b"1\n", headers=NDJSON)
        assert (refused.status_code, as_problem(refused)["code"]) == (429, "concurrency_exceeded")


async def test_one_instance_serves_calls_in_turn(transforms: Transforms) -> None:
    """As many instances as may be: who finds none free waits for the one that comes free."""
    function_id = await transforms.made(maxInstances=1)
    answers = await asyncio.gather(*(transforms.send(function_id, json=each) for each in range(20)))
    assert [each.json() for each in answers] == [{"was": each} for each in range(20)]
    assert len(await transforms.functions.instances()) == 1


async def test_queued_work_gets_the_instance_too(transforms: Transforms) -> None:
    """An instance that is held is given back for work that waits for it."""
    code = DOUBLE + "def handler(event):\n    return 1\n"
    function_id = await transforms.made(code, maxInstances=1)
    await transforms.send(function_id, json=1)
    assert (await transforms.functions.invoke(function_id))["result"] == 1
    assert (await transforms.send(function_id, json=1)).json() == {"was": 1}


async def test_a_server_that_is_killed_leaves_nothing(folder: Path, hosting: FunctionNode) -> None:
    """What its calls held is ended by the next, and is on record as interrupted."""
    code = "import asyncio\nasync def transform(record):\n    await asyncio.sleep(3600)\n"
    async with served(folder, hosting, None) as functions:
        first = Transforms(functions)
        function_id = await first.made(code)
    settings = settings_for(folder, None)
    async with serving(settings, hosting) as process:
        path = f"/v1/transforms/{function_id}/apply"
        asking = asyncio.create_task(process.rig.client.post(path, json=1))

        async def look() -> str | None:
            listed = await process.rig.ok("GET", "/v1/invocations")
            return listed["invocations"][0]["id"] if listed["invocations"] else None

        invocation_id = await eventually(look, "it is on record that it is under way")
        process.process.kill()
        await process.process.wait()
        await asyncio.gather(asking, return_exceptions=True)
    async with served(folder, hosting, None) as functions:
        second = Transforms(functions)

        async def over() -> Json | None:
            found = await second.rig.ok("GET", f"/v1/invocations/{invocation_id}")
            return found if found["state"] != "running" else None

        record = await eventually(over, "it is over")
        assert (record["state"], record["reason"]) == ("failed", "interrupted")

        async def gone() -> bool:
            return not await functions.instances()

        await eventually(gone, "its instance is gone")
