"""The contract of logs: what a page has, what may be asked of it, and how the next one is got."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import permutations
from urllib.parse import quote

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import are_lines, is_problem, is_time, time_of

NUMBERS = 130
WORDS = ("Äpfel", "ΣΊΣΥΦΟΣ", "İstanbul", "STRASSE 100%_")
SCRIPT = f"""
i=0; while [ $i -lt {NUMBERS} ]; do i=$((i+1)); echo "line $i"; [ $i = 60 ] && usleep 20000; done
{"; ".join(f'echo "{word}"' for word in WORDS)}
echo wrong >&2
sleep 1; echo end
"""
ALL = NUMBERS + len(WORDS) + 2
THREE = ("pagination", "from", "to")


@pytest.fixture(scope="module")
def log(api: Api, busybox: str) -> Iterator[str]:
    """The path of a log with numbered lines, words of many alphabets, and a line of stderr."""
    with api.running(busybox, envVars={"SCRIPT": SCRIPT}) as vm:
        api.wait_for_line(vm["id"], "end")
        yield f"/v1/vm/{vm['id']}/logs"


@pytest.fixture(scope="module")
def lines(api: Api, log: str) -> list[Json]:
    """All lines of that log."""
    return api.get(log, batch=1000)["lines"]


def asked(api: Api, log: str, **query: str | int) -> list[str]:
    return [line["message"] for line in api.get(log, **query)["lines"]]


@pytest.mark.contract("getVMLogs", "getCachedVMLogs")
def test_a_page_has_lines_and_the_way_to_the_next(api: Api, log: str, lines: list[Json]) -> None:
    """100 lines unless another number is asked for; the range; nothing but lines on the last
    page. A log of a cached VM has the same answer under both names, one-time VMs' too."""
    are_lines(lines)
    assert [line["id"] for line in lines] == list(range(1, ALL + 1))
    assert [line["message"] for line in lines if line["level"] == "error"] == ["wrong"]
    page = api.get(log)
    assert set(page) == {"lines", *THREE}
    assert page["lines"] == lines[:100]
    assert isinstance(page["pagination"], str)
    ends = [is_time(page[name]).timestamp() * 1000 for name in ("from", "to")]
    assert ends == pytest.approx([lines[0]["timestamp"], lines[-1]["timestamp"]], abs=0.5)
    last = api.get(log, **{name: page[name] for name in THREE})
    assert last == {"lines": lines[100:]}
    cached = log.replace("/vm/", "/vm/cached/")
    assert api.get(cached) == page
    assert api.get(cached, order="newest_first", query="LINE") == api.get(
        log, order="newest_first", query="LINE"
    )


@pytest.mark.parametrize("order", ["oldest_first", "newest_first", None])
@pytest.mark.parametrize("names", list(permutations(THREE)))
def test_the_three_are_sent_back_in_any_order(
    api: Api, log: str, lines: list[Json], names: tuple[str, ...], order: str | None
) -> None:
    """Page after page gives every line once, wherever in the URL each of them stands."""
    asked = {"batch": "50"} | ({"order": order} if order else {})
    page = api.get(log, **asked)
    found: list[Json] = page["lines"]
    for _ in range(2):
        back = {name: quote(page[name]) for name in names} | asked
        url = "&".join(f"{name}={value}" for name, value in back.items())
        page = api.http.get(f"{log}?{url}").raise_for_status().json()
        found += page["lines"]
    assert set(page) == {"lines"}
    assert found == (lines[::-1] if order == "newest_first" else lines)


@pytest.mark.parametrize("batch", ["49", "1001", "0", "-50", "50.5", "many", ""])
def test_a_batch_out_of_range_is_refused(api: Api, log: str, batch: str) -> None:
    """Neither fewer than 50 nor more than 1000 lines."""
    is_problem(api.http.get(log, params={"batch": batch}), 400, "invalid_request", "batch")


@pytest.mark.parametrize(("batch", "count"), [(50, 50), (51, 51), (1000, ALL)])
def test_a_batch_in_range_is_given(api: Api, log: str, batch: int, count: int) -> None:
    """The bounds themselves included."""
    assert len(api.get(log, batch=batch)["lines"]) == count


@pytest.mark.parametrize(
    ("query", "word"),
    [
        *(("äPFEL", "Äpfel"), ("Ä", "Äpfel"), ("ä", "Äpfel")),
        *(("σίσυφοσ", "ΣΊΣΥΦΟΣ"), ("σίσυφος", "ΣΊΣΥΦΟΣ"), ("ς", "ΣΊΣΥΦΟΣ")),
        *(("İSTANBUL", "İstanbul"), ("istanbul", "İstanbul"), ("İ", "İstanbul")),
        *(("straße", "STRASSE 100%_"), ("100%", "STRASSE 100%_"), ("0%_", "STRASSE 100%_")),
        *(("WRONG", "wrong"), ("Line 130", "line 130")),
    ],
)
def test_a_query_has_no_case_in_any_alphabet(api: Api, log: str, query: str, word: str) -> None:
    """A substring, without regard to case; no character has a meaning of its own."""
    found = asked(api, log, query=query, batch=1000)
    assert word in found
    others = {*WORDS, "wrong", "end"} - {word}
    assert query == "İ" or not others & set(found)


def test_a_query_for_nothing_gives_every_line(api: Api, log: str, lines: list[Json]) -> None:
    """An empty one is none."""
    assert api.get(log, query="", batch=1000)["lines"] == lines
    assert api.get(log, query="not in any line") == {"lines": []}


@pytest.mark.parametrize("zone", ["Z", "z", "%2B0000", "+0000", "%2B00:00", "-00:00", "%20UTC", ""])
@pytest.mark.parametrize("digits", [3, 6])
def test_a_range_takes_the_spellings_of_iso_8601(
    api: Api, log: str, lines: list[Json], zone: str, digits: int
) -> None:
    """Both ends belong to it, however the zone is written, and whether a plus is encoded."""
    middle = next(line for line in lines if line["message"] == "line 61")["timestamp"]
    at = datetime.fromtimestamp(middle / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    at += f".{middle % 1000:03}{'0' * (digits - 3)}{zone}"
    later = [line for line in lines if line["timestamp"] >= middle]
    until_then = [line for line in lines if line["timestamp"] <= middle]
    assert lines != later
    assert lines != until_then
    assert api.http.get(f"{log}?batch=1000&from={at}").json() == {"lines": later}
    assert api.http.get(f"{log}?batch=1000&to={at}").json() == {"lines": until_then}


def test_a_range_takes_what_the_documentation_shows(api: Api, log: str, lines: list[Json]) -> None:
    """Whole seconds with an offset of four digits; other offsets are reckoned with."""
    times = {"from": "2022-07-19T13:32:56+0000", "to": "2999-07-19T13:32:56+0000"}
    assert api.get(log, batch=1000, **times)["lines"] == lines
    assert api.get(log, to="2022-07-19T13:32:56+0000") == {"lines": []}
    first = datetime.fromtimestamp(lines[0]["timestamp"] / 1000, UTC)
    hour_behind = f"{first:%Y-%m-%dT%H:%M:%S}.{first.microsecond // 1000:03}+0100"
    assert api.get(log, batch=1000, **{"from": hour_behind})["lines"] == lines
    assert api.get(log, to=hour_behind) == {"lines": []}


@pytest.mark.parametrize(
    ("field", "value"),
    [("from", "yesterday"), ("to", "2022-02-30"), ("order", "sideways"), ("pagination", "x")],
)
def test_what_is_no_query_is_refused(api: Api, log: str, field: str, value: str) -> None:
    """400 names the parameter."""
    is_problem(api.http.get(log, params={field: value}), 400, "invalid_request", field)


@pytest.mark.contract("getVMLogs")
def test_a_followed_log_has_the_same_lines(api: Api, log: str, lines: list[Json]) -> None:
    """Server-sent events: each line as JSON, under its id, from the one named last."""
    headers = {"Last-Event-ID": str(ALL - 2)}
    with api.http.sse(log, params={"follow": "true"}, headers=headers) as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        found = [(event.id, event.json()) for event in events if event.event == "message"]
    assert found == [(str(line["id"]), line) for line in lines[-2:]]


@pytest.mark.contract("getVMLogs")
def test_what_is_followed_is_narrowed(api: Api, log: str, lines: list[Json]) -> None:
    """By query, by range and by both, as a page is; from the line named last on."""
    at = time_of(next(line for line in lines if line["message"] == "line 61"))
    for query in ({"query": "LINE 1"}, {"from": at}, {"to": at}, {"query": "line", "from": at}):
        page = api.get(log, batch=1000, **query)["lines"]
        assert 1 < len(page) < len(lines)
        assert list(api.follow(log, **query)) == page
        assert list(api.follow(log, page[0]["id"], **query)) == page[1:]
    assert list(api.follow(log, query="not in any line")) == []
