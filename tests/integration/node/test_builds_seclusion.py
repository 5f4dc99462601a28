"""What a Dockerfile does not get to see: other builds, the node's sockets and data, the host."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed
from cakework.node.builds import Builds
from cakework.node.network.builds import BuildNetworks, Reach
from cakework.node.network.namespaces import enable_forwarding, set_host_rules
from cakework.node.network.rules import Egress, no_rules, outer_rules
from cakework.node.network.slots import Slots
from cakework.node.territory import Territory, lease_territory
from tests.integration.node.build_bench import NOTHING, Bench, Ledger, order
from tests.integration.node.builder_site import Names

BASE = "FROM cakework/busybox\n"
NEEDLE = "needle-7d1c"
PORT = 8123
LOOK = """\
find / -name "$1*" -not -path '/proc/*' -not -path /look.sh 2>/dev/null | sed 's/^/file /'
for process in /proc/[0-9]*; do
    if tr '\\0' ' ' <$process/cmdline 2>/dev/null | grep -q "wait-for-$1"; then echo process; fi
    ls $process/root/$1 2>/dev/null | sed 's/^/file /'
done
shift
hears() { nc -w 1 $1 8123 </dev/null 2>/dev/null | grep -q hello; }
for try in 1 2 3 4 5; do
    if hears 127.0.0.1; then echo port; break; fi
    sleep 0.2
done
for address in "$@"; do
    if hears $address; then echo port; fi
done
echo looked
"""
"""Looks for a file whose name begins with the first argument, for a process that has it in its
command, and for a port: on its own loopback, where it is listened for again and again between
connections, and at the addresses that follow."""
SERVE = """\
touch "/$1.made"
sh -c 'while true; do echo hello | nc -l -p 8123; done' "wait-for-$1" &
until nc -w 1 127.0.0.1 8123 </dev/null 2>/dev/null | grep -q hello; do sleep 0.1; done
"""


@dataclass
class WalledBench(Bench):
    """A bench whose builds each have a network namespace of their own, as on a node."""

    territory: Territory = field(kw_only=True)

    @contextlib.asynccontextmanager
    async def open(self, **changes: object) -> AsyncGenerator[Builds]:
        self.ledger = Ledger()
        egress = Egress()
        set_host_rules(outer_rules(egress, self.territory))
        enable_forwarding()
        networks = BuildNetworks(self.territory, Slots(), egress, Reach(), Names({}))
        settings = self.settings(**changes)
        try:
            async with Builds(settings, self.images(), networks, self.ledger) as builds:
                yield builds
        finally:
            networks.close()
            set_host_rules(no_rules(self.territory))


@pytest.fixture(scope="module")
def walled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledBench]:
    territory = lease_territory(tmp_path_factory.mktemp("node"))
    yield WalledBench(bench.data_dir, bench.netns, territory=territory)


def looked(bench: Bench, addresses: list[str]) -> tuple[list[str], list[str]]:
    """Run two builds at once, the second of which looks for what is the first's; return what the
    first finds of its own with the same look, and what the second does."""
    look = f"sh /look.sh {NEEDLE} {' '.join(addresses)}"
    files = {"look.sh": LOOK, "serve.sh": SERVE}
    copy = f"{BASE}COPY look.sh serve.sh /\n"
    first = order(
        f"{copy}COPY {NEEDLE} /\nRUN sh /serve.sh {NEEDLE}; {look}; sleep 1000",
        {**files, NEEDLE: "secret"},
    )
    second = order(f"{copy}RUN {look}", files)

    async def run() -> None:
        async with bench.open() as builds:
            await builds.submit(first)
            await bench.ledger.printed(first.build_id, "looked")
            await builds.submit(second)
            await bench.ledger.ended(second.build_id)
            await builds.cancel(first.build_id)

    asyncio.run(run())
    assert bench.leftovers() == NOTHING
    ledger = bench.ledger
    assert "looked" in ledger.texts(second.build_id), ledger.texts(second.build_id)
    return found(ledger.texts(first.build_id)), found(ledger.texts(second.build_id))


def found(texts: list[str]) -> list[str]:
    """Return what LOOK found, of all that a build printed."""
    return [text for text in texts if text.startswith(("file /", "process", "port"))]


def test_a_build_sees_nothing_of_another(walled: WalledBench) -> None:
    """Neither its files, nor its processes, nor a port on which it listens."""
    ends = [end for slot in range(4) for end in walled.territory.addresses(slot)]
    own, others = looked(walled, ends)
    assert {f"file /{NEEDLE}", f"file /{NEEDLE}.made", "process", "port"} <= set(own)
    assert others == []


def test_what_looks_for_another_would_find_it(bench: Bench) -> None:
    """In one network, the port is found: it is the wall that keeps it, not how it is looked for."""
    _, others = looked(bench, [])
    assert others == ["port"]


@pytest.mark.parametrize(
    "steps",
    [
        "RUN --mount=type=cache,id=../../../storage,target=/m {look}",
        "RUN --mount=type=bind,source=../../storage,target=/m {look}",
        "RUN ln -s /b/storage /l\n{base}RUN --mount=type=bind,from=0,source=/l,target=/m {look}",
        "RUN ln -s / /l\n{base}RUN --mount=type=bind,rw,from=0,source=/l,target=/m {look}",
        "RUN ln -s /b/storage /l\n{base}COPY --from=0 /l/ /m/\nRUN {look}",
        "RUN ln -s /b/storage /m\nVOLUME /m\nRUN {look}",
        "RUN --mount=type=bind,source=../../bases,target=/m {look}",
        "RUN ln -s /b/bases /l\n{base}RUN --mount=type=bind,from=0,source=/l,target=/m {look}",
    ],
    ids=["cache", "context", "link", "link to all", "copy", "volume", "bases", "link to bases"],
)
def test_the_layers_of_all_builds_are_out_of_reach(bench: Bench, steps: str) -> None:
    """No mount that a Dockerfile may ask for leads to where buildah keeps them."""
    places = ["/m/storage.lock", "/m/b/storage", "/m/b/bases", "/m/overlay-layers"]
    look = f"sh -c 'ls -d {' '.join(places)} 2>&1; echo looked'"
    wanted = order(BASE + steps.format(look=look, base=BASE), {"f": ""})
    end = bench.build(wanted)
    texts = bench.ledger.texts(wanted.build_id)
    assert isinstance(end, BuildFailed) or "looked" in texts
    assert not {*places} & set(texts)


def test_no_step_makes_a_namespace(bench: Bench) -> None:
    """Neither one of users, in which it would have all rights, nor another without one; the bound
    that says so is not its own to change."""
    tries = {
        "users": "unshare -U true",
        "root": "unshare -U -r true",
        "mounts": "unshare -U -r -m mount -t tmpfs x /tmp",
        "network": "unshare -U -r -n true",
        "alone": "unshare -m true",
        "bound": "echo 9 > /proc/sys/user/max_user_namespaces",
        "proc": "mount -t proc p /tmp && echo 9 > /tmp/sys/user/max_user_namespaces",
    }
    steps = "; ".join(
        f"if {{ {words}; }} 2>/dev/null; then echo did {name}; fi" for name, words in tries.items()
    )
    wanted = order(f"{BASE}RUN {steps}; unshare -U true; cat /proc/sys/user/max_user_namespaces")
    bench.image(wanted)
    texts = bench.ledger.texts(wanted.build_id)
    assert [text for text in texts if text.startswith("did ")] == []
    assert "0" in texts
    assert any(text.startswith("unshare: ") and "No space left" in text for text in texts), texts


def test_the_hosts_temporary_files_are_out_of_reach(bench: Bench) -> None:
    """No step, COPY or mount finds what is in the host's /tmp and /var/tmp, and nothing that a
    build leaves in its own gets there."""
    mark = f"cakework-test-{secrets.token_hex(8)}"
    hosts = [Path(folder) / mark for folder in ("/tmp", "/var/tmp")]
    with contextlib.ExitStack() as stack:
        for file in hosts:
            file.write_text("the host's\n")
            stack.callback(file.unlink)
        look = f"find / -xdev -name '{mark}*' 2>/dev/null; find /m -name '{mark}*' 2>/dev/null"
        leave = " ".join(f"{folder}/{mark}-left" for folder in ("/tmp", "/var/tmp", "/dev/shm"))
        wanted = order(
            f"{BASE}RUN mkdir -p /var/tmp; touch {leave}\n"
            f"{BASE}RUN {look}; echo looked\n"
            f"RUN --mount=type=bind,from=0,source=/tmp,target=/m {look}; echo looked"
        )
        bench.image(wanted)
        texts = bench.ledger.texts(wanted.build_id)
        assert texts.count("looked") == 2
        assert [text for text in texts if text.startswith("/")] == [f"/m/{mark}-left"]
        copy = f"RUN ln -s / /all\n{BASE}COPY --from=0 /all/tmp/{mark} /x\n"
        assert "“COPY --from=0" in bench.error(order(BASE + copy))
        left = [path for file in hosts for path in file.parent.glob(f"{mark}-left")]
        assert left == []


def test_mounts_of_a_builds_own_are_there(bench: Bench) -> None:
    """A cache, the context, a stage and a link in it, a volume; /sys stays empty with them."""
    wanted = order(
        f"{BASE}RUN mkdir /d; echo stage > /d/x; ln -s d /e\n{BASE}VOLUME /v\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,source=f,target=/f"
        " --mount=type=bind,from=0,source=/d,target=/d --mount=type=tmpfs,target=/t"
        " --mount=type=bind,from=0,source=/e,target=/e"
        " touch /c/x /v/x /t/x && cat /f /d/x /e/x && ls -A /sys/fs/cgroup && echo end\n",
        {"f": "context\n"},
    )
    bench.image(wanted)
    texts = bench.ledger.texts(wanted.build_id)
    assert texts[texts.index("context") :][:4] == ["context", "stage", "stage", "end"]


def test_the_nodes_sockets_and_data_are_out_of_reach(bench: Bench) -> None:
    """No RUN finds them, not at their paths either, and COPY takes files of the context alone."""
    settings = bench.settings()
    paths = [settings.node_socket, settings.dial_socket]
    with contextlib.ExitStack() as stack:
        settings.run_dir.mkdir(exist_ok=True)
        for path in paths:
            # A node of another test in this folder, which was killed, leaves its own.
            path.unlink(missing_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.path.relpath(path))
            stack.callback(path.unlink)
            listener.listen()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(os.path.relpath(path))
        given = [str(path) for path in (*paths, settings.data_dir, settings.node_dir / "images")]
        wanted = order(
            f"{BASE}RUN mkdir /own && touch /own/node.sock; ls -d {' '.join(given)} 2>/dev/null; "
            "find / -name node.sock -o -name dial.sock -o -name territory; echo looked"
        )
        bench.image(wanted)
        texts = bench.ledger.texts(wanted.build_id)
        assert [text for text in texts if text.startswith("/")] == ["/own/node.sock"]
        for path in given:
            assert f"“COPY {path}" in bench.error(order(f"{BASE}COPY {path} /x"))
            link = order(f"{BASE}RUN ln -s {path} /l\n{BASE}COPY --from=0 /l /x\n")
            assert "“COPY --from=0" in bench.error(link)
        mine = order(
            f"{BASE}COPY {paths[0]} /x\nRUN cat /x", {str(paths[0])[1:]: "of the context\n"}
        )
        bench.image(mine)
    assert "of the context" in bench.ledger.texts(mine.build_id)
