"""Guests that behave as badly as they can, beside one that wants to work."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.footprint import Footprint
from tests.acceptance.platform import Platform

SECONDS = 20.0
ANSWER_S = 30.0
"""Starved, the neighbour answers when the others have been stopped, if ever."""
GB = 1024**3


def test_abusive_guests_harm_neither_host_nor_neighbour(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """While four guests print, fill, fork and eat without end, a neighbour answers in time,
    the API works, and the host keeps its disk and its memory. All four can be stopped."""
    disk, memory = disk_of(platform), memory_of(platform)
    web = {"SCRIPT": guests.WEB, "NAME": "neighbour"}
    with api.running(busybox, port=8000, envVars=web) as neighbour:
        api.visit_when_up(neighbour)
        abusers = [start_abuser(api, busybox, sign) for sign in guests.ABUSE]
        slowest, ends = 0.0, time.monotonic() + SECONDS
        while time.monotonic() < ends:
            begun = time.monotonic()
            assert api.visit(neighbour).text == "hello from neighbour\n"
            assert api.vm(neighbour["id"])["state"] == "started"
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < ANSWER_S
        assert memory_of(platform) - memory < 4 * GB
        assert disk_of(platform) - disk < 3 * GB
        assert api.start(busybox, envVars={"SCRIPT": "exit 0"})["id"]
        for vm in abusers:
            assert api.stop(vm)["state"] == "destroyed"
    for vm in api.vms(status="stopped"):
        api.stop(vm["id"])


def test_endless_output_is_kept_within_bounds(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """The newest lines are kept, no more of them than the setting allows, in order."""
    script = "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo $i; done; echo done; sleep 1000"
    with api.running(busybox, envVars={"SCRIPT": script}) as vm:
        api.wait_for_line(vm["id"], "done", 250)
    numbers = [int(line) for line in api.printed(vm["id"]) if line != "done"]
    assert numbers == list(range(numbers[0], 6001))
    assert len(numbers) <= 4_000


def start_abuser(api: Api, image: str, sign: str) -> str:
    """Start an abusive VM; return its id when it is at it."""
    vm = api.start(image, envVars={"SCRIPT": guests.ABUSE[sign]})["id"]
    api.wait_for_line(vm, sign)
    return vm


def memory_of(platform: Platform) -> int:
    """Return how much of the host's memory node, server and machines have, in bytes."""
    parts = {platform.pid("node"), platform.pid("server")} - {None}
    total = 0
    for pid in {*platform.machines(), *parts}:
        # A machine may end while we look.
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if "Pss:" in line)
    return total * 1024


def disk_of(platform: Platform) -> int:
    """Return how much of the host's disk the platform's folder takes, in bytes."""

    def taken() -> Iterator[int]:
        for path in platform.data_dir.rglob("*"):
            with suppress(FileNotFoundError):
                yield path.lstat().st_blocks * 512

    return sum(taken())
