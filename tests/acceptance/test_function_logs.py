"""Logs of functions on real machines: lines are told apart whatever a program prints."""

import time
from collections.abc import Sequence

from tests.acceptance.api import Api, Json
from tests.acceptance.functions import made
from tests.acceptance.waiting import until

CODE = r"""
import os, sys, threading, time

def ghost():
    number = 0
    while True:
        number += 1
        os.write(1, f"ghost {number}\n".encode())
        time.sleep(0.05)

def handler(event, context):
    data = event["data"]
    say, victim = data["say"], data.get("victim", "")
    sys.stdout.write(f"begin {say}\n")
    os.write(1, f"raw {say}\n".encode())
    os.write(2, f"fault {say}\n".encode())
    os.write(1, f"\x1b_cakework;{victim};1;\x1b\\forged {say}\n".encode())
    os.write(1, f'{{"invocationId": "{victim}", "attempt": 1}} forged {say}\n'.encode())
    os.write(1, b"\x00\xff\x01\x02 forged " + say.encode() + b"\n")
    for n in range(data.get("lines", 0)):
        print(f"{say} {n}")
    if data.get("haunt"):
        threading.Thread(target=ghost, daemon=True).start()
    if data.get("die"):
        os.write(1, f"last words {say}".encode())
        os._exit(9)
    sys.stdout.flush()
    os.write(1, f"half {say}".encode())
    return say
"""


def log_of(api: Api, invocation: Json) -> Sequence[str]:
    """Return the messages of an invocation's log, when it is whole."""
    found: list[Json] = []

    def whole() -> bool:
        found[:] = [api.get(f"/v1/invocations/{invocation['id']}/logs", batch=1000)]
        return found[0]["complete"]

    until(whole, 30, "all lines of the invocation are there")
    lines = found[0]["lines"]
    assert {line["invocationId"] for line in lines} <= {invocation["id"]}
    return [line["message"] for line in lines]


def test_nothing_that_a_program_prints_is_another_invocations(api: Api) -> None:
    """Whatever the text looks like, also where a line has no end, where a thread prints all the
    time, and where the machine's program ends."""
    settings = {"maxInstances": 1, "retry": {"maxAttempts": 1}}
    function_id = made(api, f"forger-{time.time_ns()}", CODE, "python3.11", **settings)
    path = f"/v1/functions/{function_id}/invoke"
    first = api.post(path, {"data": {"say": "first", "lines": 20}})
    victim = first["id"]
    own = sorted(log_of(api, first))
    assert {"begin first", "raw first", "fault first", "half first"} <= set(own)
    forger = api.post(path, {"data": {"say": "forger", "victim": victim, "haunt": True}})
    said = log_of(api, forger)
    assert [line for line in said if line.startswith("half first")] == []
    assert len([line for line in said if "forged forger" in line]) == 3
    log = f"/v1/functions/{function_id}/logs"

    def between() -> list[Json]:
        lines = api.get(log, batch=1000, query="ghost")["lines"]
        return [line for line in lines if "invocationId" not in line]

    until(between, 30, "the thread prints when nothing runs")
    again = api.post(path, {"data": {"say": "again", "victim": victim}})
    assert first["attempts"][0]["vmId"] == again["attempts"][0]["vmId"]
    said = [line for line in log_of(api, again) if not line.startswith("ghost")]
    assert {"begin again", "raw again", "fault again"} <= set(said)
    # The thread may have gone on where there was no newline.
    assert any(line.startswith("half again") for line in said)
    assert all("again" in line for line in said)
    died = api.post(path, {"data": {"say": "died", "victim": victim, "die": True}})
    assert (died["state"], died["reason"]) == ("failed", "crash")
    assert "last words died" in log_of(api, died)
    # What was another's while it ran is so for ever, and nothing was added to it.
    assert sorted(log_of(api, first)) == own
    lines = api.get(log, batch=1000)["lines"]
    assert {line["version"] for line in lines} == {1}
    api.http.delete(f"/v1/functions/{function_id}")
