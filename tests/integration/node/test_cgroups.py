"""Cgroups of this host: bounds that hold, and an end that takes everything."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

from cakework.node.cgroups import Cgroup, Limits
from tests.integration.node.processors import throttled

NAME = f"test-cgroups-{os.getpid()}-"
"""Ends so that it is the beginning of no other run's."""
DEADLINE_S = 60


def _run_inside(cgroup: Cgroup, command: str) -> subprocess.Popen[bytes]:
    joins = "".join(f"echo $$ > {file}; " for file in cgroup.procs_files())
    return subprocess.Popen(["sh", "-c", f"{joins}echo ready; {command}"], stdout=subprocess.PIPE)


def test_ending_takes_every_process() -> None:
    """Children that left their session are ended too, and the group is gone."""
    cgroup = Cgroup.create(f"{NAME}one", Limits(pids_max=50))
    assert cgroup.usable
    with _run_inside(cgroup, "setsid sleep 1000 & sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert process.pid in cgroup.pids()
        asyncio.run(cgroup.end())
        assert process.wait() != 0
    assert not any(folder.exists() for folder in cgroup.folders)
    assert Cgroup.existing(NAME) == []


def test_memory_holds_and_is_told() -> None:
    """A process that takes more than the group may is killed, and the kill is counted."""
    cgroup = Cgroup.create(f"{NAME}one", Limits(memory_mb=32))
    try:
        with _run_inside(cgroup, "dd if=/dev/zero of=/dev/null bs=200M count=1") as process:
            assert process.wait() != 0
        assert cgroup.oom_kills() >= 1
    finally:
        asyncio.run(cgroup.end())


def test_processors_are_bounded_for_all_within_a_group() -> None:
    """Two groups that have no bound of their own, or a larger one, have that of the one that
    they are within; they are found, and it goes when nothing is in it any more."""
    whole = Cgroup.create(f"{NAME}whole", Limits(cpus=0.05))
    inner = [
        Cgroup.create(f"{NAME}in-{number}", Limits(cpus=cpus, within=whole.name))
        for number, cpus in enumerate((None, 8))
    ]
    spin = "while true; do :; done"
    with _run_inside(inner[0], spin) as one, _run_inside(inner[1], spin) as other:
        before = throttled(whole)
        deadline = time.monotonic() + DEADLINE_S
        while throttled(whole) < before + 3:
            assert time.monotonic() < deadline, "both use as much as they like"
        assert {one.pid, other.pid} <= whole.pids()
        whole.leave()
        assert all(folder.exists() for folder in whole.folders)
        for found in Cgroup.existing(f"{NAME}in-"):
            asyncio.run(found.end())
    whole.leave()
    assert Cgroup.existing(NAME) == []


def test_groups_of_an_earlier_run_are_found() -> None:
    """By the beginning of their name, with what runs in them."""
    cgroup = Cgroup.create(f"{NAME}left", Limits())
    with _run_inside(cgroup, "sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = Cgroup.existing(NAME)
        assert found.pids() >= {process.pid}
        asyncio.run(found.end())


def test_a_host_without_cgroups_is_tolerated(tmp_path: Path) -> None:
    """The group then holds nothing and says so; ending it is no error."""
    cgroup = Cgroup.create(f"{NAME}one", Limits(memory_mb=1, pids_max=1, cpus=1), root=tmp_path)
    assert not cgroup.usable
    assert cgroup.pids() == set()
    asyncio.run(cgroup.end())
