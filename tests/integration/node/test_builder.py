"""Builds in microVMs of their own, under emulation: real QEMU, real buildah inside."""

import asyncio
import json
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed, BuildLine
from cakework.domain.orders import GithubSource
from cakework.node.builds.context import MTIME_S
from cakework.node.builds.share import group_of_builds
from cakework.node.cgroups import Cgroup
from cakework.node.images import Image
from tests.integration.node import builder_roots
from tests.integration.node.build_bench import mounted, order
from tests.integration.node.builder_site import BuilderBench
from tests.integration.node.neighbours import HOST_SIDE, PRIVATE, greeting_on, neighbouring
from tests.integration.node.registries import Entry, Layout, serving, tar_of
from tests.integration.node.repositories import TOKEN, Link
from tests.integration.node.repositories import serving as git_server
from tests.integration.node.vm_site import ARTIFACTS

BASE = "FROM cakework/busybox\n"
LOOK = (
    "RUN cat /proc/sys/kernel/random/boot_id; uname -r; grep MemTotal: /proc/meminfo;"
    " grep -E '^(CapEff|Seccomp):' /proc/self/status;"
    " if unshare -U true; then echo nested; fi; ps -o pid,comm; echo end"
)
FILES: dict[str, bytes | str] = {
    "run.sh": "#!/bin/sh\n",
    "lib/data.bin": bytes(range(256)),
    ".dockerignore": "*.txt\n",
    "not.txt": "",
}


@dataclass(frozen=True, slots=True)
class Looked:
    """What a build printed that looked around, and its image. ``addresses`` are the host's and
    its neighbour's other ones, which it tried."""

    image: Image
    lines: list[BuildLine]
    addresses: list[str]

    @property
    def texts(self) -> list[str]:
        return [" ".join(line.text.split()) for line in self.lines]


@pytest.fixture(scope="module")
def looked(vm_bench: BuilderBench, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """One build for all that is asked of it."""
    vm_bench.names = {"public.example": ["93.184.216.34"], "private.example": ["10.9.9.9"]}
    with (
        neighbouring() as near,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        greeting_on(everywhere) as port,
    ):
        ends = [vm_bench.territory.addresses(slot)[0] for slot in range(2)]
        addresses = [HOST_SIDE, *ends, "127.0.0.1", "172.31.255.1"]
        tried = "".join(f"; try {address} {port}" for address in addresses)
        dockerfile = (
            f"{BASE}WORKDIR /srv\nENV GREETING=hello\nCOPY . .\n"
            f"{LOOK}; chown 1234 run.sh; echo e >&2; "
            "try() { echo $1 $(nc -w ${3-1} $1 $2 </dev/null || echo no); }; "
            f"try {PRIVATE} {near} 60{tried}; "
            "nslookup public.example; nslookup private.example || echo unknown\n"
            'USER nobody\nEXPOSE 8080\nENTRYPOINT ["./run.sh"]\nCMD ["world"]\n'
        )
        wanted = order(dockerfile, FILES)
        image = vm_bench.image(wanted, egress_allow=[f"{PRIVATE}/32"])
    vm_bench.clean()
    builder_roots.lend(builder_roots.run_of(tmp_path_factory), vm_bench.settings().node_dir)
    return Looked(image, vm_bench.ledger.lines(wanted.build_id), addresses)


def test_an_image_is_what_the_dockerfile_says(looked: Looked, tmp_path: Path) -> None:
    """Files with their owners and modes, and how it is run; the log has every line in order."""
    config = looked.image.config
    assert config.argv == ("./run.sh", "world")
    assert "GREETING=hello" in config.env
    assert (config.cwd, config.user, config.ports) == ("/srv", "nobody", ("8080/tcp",))
    assert config.digest.startswith("sha256:")
    with mounted(looked.image, tmp_path / "rootfs") as rootfs:
        script = (rootfs / "srv/run.sh").stat()
        assert (script.st_uid, stat.S_IMODE(script.st_mode)) == (1234, 0o755)
        assert (rootfs / "srv/lib/data.bin").read_bytes() == bytes(range(256))
        assert not (rootfs / "srv/not.txt").exists()
        assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert [line.seq for line in looked.lines] == list(range(1, len(looked.lines) + 1))
    assert [line.stream for line in looked.lines if line.text == "e"] == ["stderr"]


def test_a_build_runs_on_a_kernel_of_its_own(looked: Looked) -> None:
    """Its steps see no kernel, memory or process of the host's, and have as few rights in their
    machine as in a container."""
    texts = looked.texts
    release = (ARTIFACTS.folder / "kernel" / "release").read_text().strip()
    at = texts.index(release)
    assert texts[at - 1] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(texts[at + 1].split()[1]) < 512 << 10
    assert texts[at + 2] == "CapEff: 00000000800400fb"
    assert texts[at + 3] == "Seccomp: 2"
    assert "nested" not in texts
    assert "unshare: unshare(0x10000000): No space left on device" in texts
    # What is said of a fault comes by another pipe, and may come between.
    listed = texts[texts.index("PID COMMAND") + 1 : texts.index("end")]
    assert len([text for text in listed if text.split()[0].isdigit()]) <= 2


def test_a_build_reaches_what_builds_may(looked: Looked) -> None:
    """A range that is allowed; not the host, at none of its addresses, nor other private ones;
    names as builds are told them."""
    texts = looked.texts
    assert f"{PRIVATE} hello" in texts
    assert [f"{each} no" for each in looked.addresses] == [t for t in texts if t.endswith(" no")]
    assert any("93.184.216.34" in text for text in texts)
    assert not any("10.9.9.9" in text for text in texts)
    assert "unknown" in texts


def test_what_is_fetched_is_unpacked_in_the_machine(vm_bench: BuilderBench, tmp_path: Path) -> None:
    """FROM a digest, also that of a list for several platforms, and COPY --from a tag; a
    repository, with its links and the one time that all files get, without what is git's."""
    base = tar_of([Entry("base", b"of the registry", uid=7), Entry("gone"), Entry("run", b"#!")])
    layout = Layout(tmp_path / "layout")
    ours = layout.image([(base, "gzip"), (tar_of([Entry(".wh.gone")]), "zstd")])
    index = layout.index(layout.image([(base, "none")], "arm64"), ours)
    digest = json.loads((index / "index.json").read_text())["manifests"][0]["digest"]
    with serving(tmp_path, password=False) as registry, git_server(tmp_path) as server:
        server.make("team/app", {"lib/a": "1", "to-host": Link("/etc/hostname")})
        name = registry.push(index, "team/app:1")
        changes = {
            "github_url": server.url,
            "fetch_allow": [server.address, registry.address],
            "extra_ca": registry.ca,
        }
        wanted = order(
            f"FROM {name.removesuffix(':1')}@{digest}\nCOPY --from={name} /base /copied\n"
            "FROM cakework/busybox\nCOPY --from=0 / /\nCOPY . /app\n"
        )
        source = GithubSource(repository="team/app", branch="main", token=TOKEN)
        image = vm_bench.image(wanted.model_copy(update={"source": source}), **changes)
        missing = vm_bench.error(order(f"FROM {registry.address}/none"), **changes)
    assert missing.startswith(f"base image {registry.address}/none was not found")
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "base").stat().st_uid == 7
        assert (rootfs / "copied").read_text() == "of the registry"
        assert not (rootfs / "gone").exists()
        assert (rootfs / "app/to-host").readlink() == Path("/etc/hostname")
        assert (rootfs / "app/lib/a").stat().st_mtime == MTIME_S
        assert not (rootfs / "app/.git").exists()
    vm_bench.clean()


@pytest.mark.parametrize(
    ("step", "error", "changes"),
    [
        ("RUN exit 7", "step “RUN exit 7” failed with exit status 7", {}),
        (
            "RUN dd if=/dev/zero of=/dev/null bs=600M count=1",
            "step “RUN dd if=/dev/zero of=/dev/null bs=600M count=1” ran out of memory"
            " (builds have 256 MB)",
            {},
        ),
        (
            "RUN yes | head -n 20000; while :; do i=$((i+1)); head -c 8000000 /dev/zero >/$i; done",
            "the build wrote more than 16 MB",
            {"image_size_mb": 16, "build_output_mb": 1},
        ),
        (
            "RUN truncate -s 16500000 /larger-with-the-base",
            "the image is larger than 16 MB",
            {"image_size_mb": 16},
        ),
    ],
    ids=["status", "memory", "disk", "image"],
)
def test_a_failure_says_why(
    vm_bench: BuilderBench, step: str, error: str, changes: dict[str, object]
) -> None:
    """The same sentences as in a container; output beyond its bound is dropped, and said to be."""
    wanted = order(BASE + step)
    assert vm_bench.error(wanted, **changes) == error
    texts = vm_bench.ledger.texts(wanted.build_id)
    assert not any("/b/" in text for text in texts)
    if "build_output_mb" in changes:
        assert texts[-1] == "[cakework: the build prints more than is kept; the rest is dropped]"
        assert len(texts) * 100 < 2**20
    vm_bench.clean()


def test_cancelling_ends_the_machine(vm_bench: BuilderBench) -> None:
    """A build that is cancelled in the middle of a step fails and leaves nothing behind. Its
    machine was among what all builds have of the processors."""
    wanted = order(f"{BASE}RUN echo runs; sleep 1000")
    group_name = group_of_builds(vm_bench.settings().node_dir)

    async def run() -> None:
        async with vm_bench.open() as builds:
            await builds.submit(wanted)
            await vm_bench.ledger.printed(wanted.build_id, "runs")
            assert len(vm_bench.leftovers()["machines"]) == 1
            (group,) = Cgroup.existing(group_name)
            (machine,) = Cgroup.existing(f"{vm_bench.territory.name}-")
            assert [folder.parent for folder in machine.folders] == list(group.folders)
            assert machine.pids()
            await builds.cancel(wanted.build_id)
            assert builds.known() == []

    asyncio.run(run())
    end = vm_bench.ledger.end(wanted.build_id)
    assert isinstance(end, BuildFailed)
    assert end.error == "the build was cancelled"
    vm_bench.clean()


def test_a_machine_that_dies_fails_its_build(vm_bench: BuilderBench) -> None:
    """When its process is killed, the build says so at once."""
    wanted = order(f"{BASE}RUN echo runs; sleep 1000")

    async def run() -> None:
        async with vm_bench.open() as builds:
            await builds.submit(wanted)
            await vm_bench.ledger.printed(wanted.build_id, "runs")
            for pid in vm_bench.leftovers()["processes"]:
                os.kill(int(pid), 9)
            end = await vm_bench.ledger.ended(wanted.build_id)
            assert isinstance(end, BuildFailed)
            assert end.error == "the build's machine was killed by SIGKILL"

    asyncio.run(run())
    vm_bench.clean()
