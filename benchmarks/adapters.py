"""``python -m benchmarks.adapters``: what an adapter adds to a handler that does nothing.

A warm ``POST /invoke`` over loopback, a connection each as pid 1 makes them, until the line that
says that nothing runs. Needs neither root nor a VM.
"""

import argparse
import json
import socket
import time

from tests.integration.runtimes.adapters import Adapter, adapter

from benchmarks.series import summarise

ENTRIES = {"python": "cases.py", "node": "cases.mjs"}
CASES = {"python": ("nothing", "asynchronous"), "node": ("nothing", "asynchronous")}
GOAL_MS = 2.0
WARMING = 200


def main() -> None:
    """Measure both languages in turns and print a line for each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="of each case (default 1000)")
    calls = parser.parse_args().calls
    print(f"{'':24}{'median':>10}{'p95':>10}   goal: median {GOAL_MS:g} ms")
    for language, entry in ENTRIES.items():
        with adapter(language, entry) as running:
            for case in CASES[language]:
                times = [_call_ms(running, case, n) for n in range(WARMING + calls)][WARMING:]
                summary = summarise(times)
                print(f"{language + ' ' + case:24}{summary.median:8.2f}ms{summary.p95:8.2f}ms")


def _call_ms(running: Adapter, case: str, number: int) -> float:
    context = {"invocationId": f"inv_{case}", "attempt": number + 1}
    body = json.dumps({"kind": "event", "event": {"case": case}, "context": context}).encode()
    head = f"POST /invoke HTTP/1.1\r\nUser-Agent: cakework\r\nContent-Length: {len(body)}\r\n\r\n"
    head = head.replace("\r\n", "\r\nHost: localhost\r\n", 1)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", running.control)) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    took_ms = (time.perf_counter() - began) * 1000
    assert b'"outcome":"ok"' in answer
    return took_ms


if __name__ == "__main__":
    main()
