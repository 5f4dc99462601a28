"""What a build cannot do: reach out, take more than it may, outlive its end."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed
from cakework.domain.orders import FilesSource
from cakework.node.builds.context import write_files
from cakework.node.builds.share import group_of_builds
from cakework.node.cgroups import Cgroup
from tests.integration.node.build_bench import (
    DEADLINE_S,
    NOTHING,
    Bench,
    cgroup_prefix,
    mounted,
    order,
)
from tests.integration.node.processors import throttled
from tests.integration.open_files import open_files

BASE = "FROM cakework/busybox\n"


def test_a_daemon_ends_with_its_step(bench: Bench) -> None:
    """What a step leaves running does not go on, and does not hold the build up."""
    daemon = "setsid sh -c 'while true; do sleep 1; done' </dev/null >/dev/null 2>&1 &"
    bench.image(order(f"{BASE}RUN {daemon} echo left"))
    assert bench.leftovers() == NOTHING


def test_a_build_ends_when_its_time_is_over(bench: Bench) -> None:
    """A step that runs for ever, deaf to signals, is ended with all that it started."""
    step = "trap '' TERM INT HUP; (sleep 10000 &); while true; do sleep 1000; done"
    assert bench.error(order(f"{BASE}RUN {step}"), build_timeout_s=3) == (
        "the build took longer than 3 s"
    )
    assert bench.leftovers() == NOTHING


def test_memory_is_bounded(bench: Bench) -> None:
    """A step that takes more memory than builds have is killed, and the error says so."""
    hungry = "dd if=/dev/zero of=/dev/null bs=600M count=1"
    error = bench.error(order(f"{BASE}RUN {hungry}"), build_memory_mb=256)
    assert error == f"step “RUN {hungry}” ran out of memory (builds have 256 MB)"
    assert bench.leftovers() == NOTHING


def test_processes_are_bounded(bench: Bench) -> None:
    """A step that forks without end harms nobody else, and ends with the build."""
    wanted = order(f"{BASE}RUN f() {{ f | f & f; }}; f")
    assert isinstance(bench.build(wanted, build_timeout_s=5), BuildFailed)
    assert bench.leftovers() == NOTHING


def test_processors_are_bounded_for_all_builds(bench: Bench) -> None:
    """Steps that compute without end, of two builds, have together what all builds may use."""
    wanted = [order(f"{BASE}RUN echo {n}; while true; do :; done") for n in range(2)]
    node_dir = bench.settings().node_dir
    group_name, prefix = group_of_builds(node_dir), cgroup_prefix(node_dir / "builds")

    async def run() -> None:
        async with bench.open(build_cpus=0.4) as builds:
            for number, each in enumerate(wanted):
                await builds.submit(each)
                await bench.ledger.printed(each.build_id, str(number))
            (group,) = Cgroup.existing(group_name)
            for each in wanted:
                (own,) = Cgroup.existing(prefix + each.build_id)
                assert own.pids()
                assert {folder.parent for folder in own.folders} == set(group.folders)
            before = throttled(group)
            async with asyncio.timeout(DEADLINE_S):
                while throttled(group) < before + 3:  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(0.05)
            for each in wanted:
                await builds.cancel(each.build_id)

    asyncio.run(run())
    assert bench.leftovers() == NOTHING
    assert Cgroup.existing(group_name) == []


def test_output_is_bounded(bench: Bench) -> None:
    """Output without end is kept up to the bound; one line says that the rest is dropped."""
    wanted = order(f"{BASE}RUN yes | head -n 2000000; exit 9")
    error = bench.error(wanted, build_output_mb=1)
    assert error.endswith("failed with exit status 9")
    texts = bench.ledger.texts(wanted.build_id)
    assert texts[-1] == "[cakework: the build prints more than is kept; the rest is dropped]"
    assert len(texts) * 100 < 2**20


def test_a_line_without_end_is_cut(bench: Bench) -> None:
    """One line of a megabyte comes as several, none longer than 16 KiB, with nothing lost."""
    wanted = order(f"{BASE}RUN head -c 1000000 /dev/zero | tr '\\0' x; echo")
    bench.image(wanted)
    parts = [text for text in bench.ledger.texts(wanted.build_id) if text.startswith("xxx")]
    assert max(map(len, parts)) <= 16_384
    assert sum(map(len, parts)) == 1_000_000


def test_a_large_file_is_refused(bench: Bench) -> None:
    """No file can be larger than an image may be, though it takes no room that is counted."""
    error = bench.error(order(f"{BASE}RUN truncate -s 100M /big"), image_size_mb=64)
    assert "failed with exit status" in error
    assert bench.leftovers() == NOTHING


def test_the_disk_is_bounded(bench: Bench) -> None:
    """A step that writes without end, in files of any size, is ended at the bound."""
    step = "i=0; while true; do i=$((i+1)); dd if=/dev/zero of=/f$i bs=1M count=8; sleep 0.05; done"
    error = bench.error(order(f"{BASE}RUN {step}"), image_size_mb=64)
    assert error == "the build wrote more than 64 MB"
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp"])
def test_what_is_temporary_is_bounded(bench: Bench, folder: str) -> None:
    """A step's temporary files are of its layer as others are, and on no file system beside it."""
    fill = "while true; do i=$((i+1)); dd if=/dev/zero of=$TMPDIR/$i bs=1M count=8; done"
    step = f"mkdir -p {folder}; export TMPDIR={folder}; {fill}"
    error = bench.error(order(f"{BASE}RUN {step}"), image_size_mb=64)
    assert error == "the build wrote more than 64 MB"


@pytest.mark.parametrize(
    "step",
    [
        "while true; do i=$((i+1)); mkdir /d$i; cd /d$i; seq 4000 | xargs mkdir; done",
        "while true; do i=$((i+1)); mkdir /d$i; cd /d$i; seq 4000 | xargs touch; done",
        "ln='ln -s \"$@\" .'; while true; do i=$((i+1)); mkdir /d$i; cd /d$i;"
        ' seq 4000 | xargs sh -c "$ln" x; done',
        "f=$(seq 200 | tr '\\n' /); while true; do mkdir -p $f && cd -P $f || sleep 1; done",
    ],
    ids=["folders", "empty files", "links", "folders in one another"],
)
def test_what_takes_no_block_is_bounded(bench: Bench, step: str) -> None:
    """Folders, empty files and links are not made without end: each takes one of the disk's
    inodes, and counts as a block."""
    error = bench.error(order(f"{BASE}RUN {step}"), image_size_mb=64)
    assert error == "the build wrote more than 64 MB"
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize(
    "steps",
    [
        "RUN --mount=type=cache,target=/m {fill}",
        "RUN --mount=type=cache,id=../up,target=/m {fill}",
        "RUN --mount=type=bind,rw,source=.,target=/m {fill}",
        "VOLUME /m\nRUN {fill}",
    ],
    ids=["cache", "cache elsewhere", "context", "volume"],
)
def test_what_is_written_beside_layers_is_bounded(bench: Bench, steps: str) -> None:
    """A cache, the context, a volume: none of them is a way past the bound."""
    fill = "while true; do i=$((i+1)); dd if=/dev/zero of=/m/$i bs=1M count=8; done"
    wanted = order(BASE + steps.format(fill=fill), {"f": "of the context"})
    error = bench.error(wanted, image_size_mb=64)
    told = "the build wrote more than 128 MB beside its layers: downloads, caches, volumes"
    assert error == told, bench.ledger.texts(wanted.build_id)
    assert bench.leftovers() == NOTHING


def test_a_layer_of_the_largest_size_is_within_the_bounds(bench: Bench) -> None:
    """What buildah itself writes to store it does not count against the build."""
    layer = "RUN head -c 50000000 /dev/urandom > /f; echo written"
    wanted = order(f"{BASE}{layer}\nVOLUME /v\nRUN echo x > /v/x")
    bench.image(wanted, image_size_mb=64)


def test_folders_in_one_another_are_removed(bench: Bench) -> None:
    """However deep they are that a build leaves beside its layers: nothing is left of them."""
    deep = "f=$(seq 300 | sed s:.*:f/: | tr -d '\\n'); mkdir -p $f; cd -P $f"
    steps = "; ".join(["cd /m", *[deep] * 5, "cd /"])
    bench.image(order(f"{BASE}RUN --mount=type=cache,target=/m {steps}"))
    assert bench.leftovers() == NOTHING


def test_a_build_leaves_the_disk_to_vms(bench: Bench) -> None:
    """One that goes on while less than three quarters of min_free_disk_mb is free is ended, also
    if the disk is not so full that a VM would be."""
    disk = os.statvfs(bench.data_dir.parent)
    free_mb = disk.f_bavail * disk.f_frsize >> 20
    error = bench.error(order(f"{BASE}RUN sleep 1000"), min_free_disk_mb=free_mb * 19 // 10)
    assert error == "the disk for builds is full"
    assert bench.leftovers() == NOTHING


def test_an_image_over_its_bound_is_refused(bench: Bench) -> None:
    """Layers that are each within the bound do not make an image that is over it."""
    layers = "".join(f"RUN head -c 40000000 /dev/urandom > /f{n}\n" for n in range(2))
    error = bench.error(order(BASE + layers), image_size_mb=64)
    assert error in ("the image is larger than 64 MB", "the build wrote more than 64 MB")
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("path", ["../up", "/etc/cron.d/x", "a/../../up", "a//b", "", ".", "a\0b"])
def test_a_context_stays_in_its_folder(bench: Bench, path: str) -> None:
    """A path that leads out of the context fails the build before anything is written."""
    error = bench.error(order(f"{BASE}COPY . /x", {path: "evil"}))
    assert error.startswith("the context cannot")
    assert bench.leftovers() == NOTHING


def test_links_do_not_lead_copies_to_the_host(bench: Bench, tmp_path: Path) -> None:
    """COPY through links that a step made stays in the image, for reading as for writing."""
    (tmp_path / "victim").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    dockerfile = f"""\
{BASE}RUN ln -s {tmp_path}/victim /out && ln -s {secret} /in
COPY file /out/file
RUN cat /in || echo no secret
FROM cakework/busybox
COPY --from=0 {tmp_path}/victim/file /
"""
    image = bench.image(order(dockerfile, {"file": "landed"}))
    assert list((tmp_path / "victim").iterdir()) == []
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "file").read_text() == "landed"
    bench.error(order(f"{BASE}RUN ln -s {secret} /in\nFROM cakework/busybox\nCOPY --from=0 /in /"))


def test_the_hosts_network_is_out_of_reach(bench: Bench) -> None:
    """A step, and ADD of an address, see the build's own network: no service of the host."""
    with _Listener() as listener:
        address = f"127.0.0.1:{listener.port}"
        wanted = order(f"{BASE}RUN wget -T 2 http://{address}/ || ls /sys/class/net /proc/net")
        bench.build(wanted)
        bench.error(order(f"{BASE}ADD http://{address}/file /"))
        bench.error(order(f"FROM {address}/image"))
        assert listener.accepted == 0


def test_root_in_a_build_is_nobody_outside(bench: Bench) -> None:
    """Ids are mapped, capabilities few, and system calls filtered."""
    wanted = order(
        f"{BASE}RUN cat /proc/self/uid_map; grep -E '^(CapEff|Seccomp):' /proc/self/status;"
        " mount -t tmpfs x /tmp || echo cannot mount; ls /usr/bin/buildah /b || echo no host"
    )
    bench.image(wanted)
    texts = [" ".join(text.split()) for text in bench.ledger.texts(wanted.build_id)]
    assert "0 1879048192 65536" in texts
    assert "CapEff: 00000000800400fb" in texts
    assert "Seccomp: 2" in texts
    assert "cannot mount" in texts
    assert "no host" in texts


def test_a_step_sees_no_other_process(bench: Bench) -> None:
    """Only its own processes are there."""
    wanted = order(f"{BASE}RUN ps -o pid,comm; echo end")
    bench.image(wanted)
    texts = bench.ledger.texts(wanted.build_id)
    assert len(texts[texts.index("PID   COMMAND") : texts.index("end")]) <= 3


def test_a_step_may_open_as_many_files_as_is_usual(bench: Bench) -> None:
    """Not as many as the node, maybe a million: there is software that counts to the limit."""
    wanted = order(f"{BASE}RUN ulimit -n")
    with open_files(4096):
        bench.image(wanted)
    assert "1024" in bench.ledger.texts(wanted.build_id)


def test_cancelling_leaves_nothing(bench: Bench) -> None:
    """A build that is cancelled in the middle of a step fails and leaves nothing behind."""
    wanted = order(f"{BASE}RUN echo runs; sleep 1000")

    async def run() -> None:
        async with bench.open() as builds:
            await builds.submit(wanted)
            await bench.ledger.printed(wanted.build_id, "runs")
            await builds.cancel(wanted.build_id)
            await builds.cancel(wanted.build_id)
            assert builds.known() == []

    asyncio.run(run())
    end = bench.ledger.end(wanted.build_id)
    assert isinstance(end, BuildFailed)
    assert end.error == "the build was cancelled"
    assert bench.leftovers() == NOTHING


def test_a_build_cancelled_before_it_has_begun_fails(bench: Bench) -> None:
    """At once, in the moment when it is taken and its task has not run; it is not run later."""
    wanted = order(f"{BASE}RUN echo runs")

    async def run() -> None:
        async with bench.open() as builds:
            await builds.submit(wanted)
            await builds.cancel(wanted.build_id)
            ends = [fact for fact in bench.ledger.facts if isinstance(fact, BuildFailed)]
            assert [end.error for end in ends] == ["the build was cancelled"]
        async with bench.open() as builds:
            assert builds.known() == []

    asyncio.run(run())
    assert bench.leftovers() == NOTHING


def test_a_build_cancelled_while_its_files_are_written_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is removed when the thread that writes there is done, and not under its hands."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(source: FilesSource, work: Path, limit: int) -> None:
        begun.set()
        assert go_on.wait(60)
        write_files(source, work, limit)

    monkeypatch.setattr("cakework.node.builds.run.write_files", slow)
    wanted = order(BASE)

    async def run() -> None:
        async with bench.open() as builds:
            await builds.submit(wanted)
            assert await asyncio.to_thread(begun.wait, 60)
            cancelling = asyncio.create_task(builds.cancel(wanted.build_id))
            # One that did not wait for the thread would be over after so many turns of the loop.
            for _ in range(20):
                await asyncio.sleep(0)
            assert not cancelling.done()
            go_on.set()
            await cancelling

    asyncio.run(run())
    end = bench.ledger.end(wanted.build_id)
    assert isinstance(end, BuildFailed)
    assert end.error == "the build was cancelled"
    assert bench.leftovers() == NOTHING


def test_layers_beyond_their_bound_go(bench: Bench) -> None:
    """When layers hold more than is to be kept, those of the account with most go; base images
    and what others have stays."""
    bench.image(order(f"{BASE}RUN echo small", account_id="another"))
    wanted = order(f"{BASE}RUN head -c 3000000 /dev/urandom > /f")

    async def run() -> None:
        async with bench.open(build_cache_mb=1) as builds:
            await builds.submit(wanted)
            await bench.ledger.ended(wanted.build_id)
            async with asyncio.timeout(60):
                while bench.store().folder.exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    asyncio.run(run())
    assert bench.store("another").folder.exists()
    assert bench.images().get(wanted.image_id) is not None
    again = order(f"{BASE}RUN true")
    bench.image(again)
    assert not any("making base image" in text for text in bench.ledger.texts(again.build_id))


class _Listener:
    """Counts who connects to a port of the host's loopback interface."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.accepted = 0
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> "_Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            connection.close()
