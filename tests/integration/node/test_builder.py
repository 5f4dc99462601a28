"""Builds in microVMs of their own, under emulation: real QEMU, real buildah inside."""

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed
from cakework.domain.ids import new_build_id, new_image_id
from cakework.domain.orders import BuildOrder, GithubSource
from cakework.node.builds.context import MTIME_S
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
    " grep -E '^(CapEff|Seccomp):' /proc/self/status; ps -o pid,comm; echo end"
)


def test_a_build_runs_on_a_kernel_of_its_own(vm_bench: BuilderBench, tmp_path: Path) -> None:
    """The image is what the Dockerfile says; its steps saw no kernel, memory or process of the
    host's, and had as few rights in their machine as in a container; nothing is left."""
    dockerfile = (
        f"{BASE}WORKDIR /srv\nENV GREETING=hello\nCOPY . .\n{LOOK}; chown 1234 run.sh; echo e >&2\n"
        'USER nobody\nEXPOSE 8080\nENTRYPOINT ["./run.sh"]\nCMD ["world"]\n'
    )
    files = {
        "run.sh": "#!/bin/sh\n",
        "lib/data.bin": bytes(range(256)),
        ".dockerignore": "*.txt\n",
        "not.txt": "",
    }
    wanted = order(dockerfile, files)
    image = vm_bench.image(wanted)

    assert vm_bench.leftovers() == {}
    assert image.config.argv == ("./run.sh", "world")
    assert "GREETING=hello" in image.config.env
    assert (image.config.cwd, image.config.user) == ("/srv", "nobody")
    assert image.config.ports == ("8080/tcp",)
    assert image.config.digest.startswith("sha256:")
    with mounted(image, tmp_path / "rootfs") as rootfs:
        script = (rootfs / "srv/run.sh").stat()
        assert (script.st_uid, stat.S_IMODE(script.st_mode)) == (1234, 0o755)
        assert (rootfs / "srv/lib/data.bin").read_bytes() == bytes(range(256))
        assert not (rootfs / "srv/not.txt").exists()
        assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777
    _check_kernel([" ".join(text.split()) for text in vm_bench.ledger.texts(wanted.build_id)])
    lines = vm_bench.ledger.lines(wanted.build_id)
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    assert [line.stream for line in lines if line.text == "e"] == ["stderr"]


def test_a_build_reaches_what_builds_may(vm_bench: BuilderBench) -> None:
    """A range that is allowed; not the host, at none of its addresses, nor other private ones;
    names as builds are told them."""
    vm_bench.names = {"public.example": ["93.184.216.34"], "private.example": ["10.9.9.9"]}
    with (
        neighbouring() as near,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        greeting_on(everywhere) as port,
    ):
        ends = [vm_bench.territory.addresses(slot)[0] for slot in range(2)]
        addresses = [HOST_SIDE, *ends, "127.0.0.1", "172.31.255.1"]
        tried = "".join(f"; try {address} {port}" for address in addresses)
        wanted = order(
            f"{BASE}RUN try() {{ echo $1 $(nc -w 1 $1 $2 </dev/null || echo no); }}; "
            f"try {PRIVATE} {near}{tried}; "
            "nslookup public.example; nslookup private.example || echo unknown"
        )
        vm_bench.image(wanted, egress_allow=[f"{PRIVATE}/32"])
    texts = vm_bench.ledger.texts(wanted.build_id)
    assert f"{PRIVATE} hello" in texts
    assert [f"{address} no" for address in addresses] == [t for t in texts if t.endswith(" no")]
    assert any("93.184.216.34" in text for text in texts)
    assert not any("10.9.9.9" in text for text in texts)
    assert "unknown" in texts


def test_images_of_registries_are_unpacked_in_the_machine(
    vm_bench: BuilderBench, tmp_path: Path
) -> None:
    """FROM a digest, also that of a list for several platforms, and COPY --from a tag."""
    base = tar_of([Entry("base", b"of the registry", uid=7), Entry("gone"), Entry("run", b"#!")])
    layout = Layout(tmp_path / "layout")
    ours = layout.image([(base, "gzip"), (tar_of([Entry(".wh.gone")]), "zstd")])
    index = layout.index(layout.image([(base, "none")], "arm64"), ours)
    digest = json.loads((index / "index.json").read_text())["manifests"][0]["digest"]
    with serving(tmp_path, password=False) as registry:
        name = registry.push(index, "team/app:1")
        wanted = order(
            f"FROM {name.removesuffix(':1')}@{digest}\nCOPY --from={name} /base /copied\n"
            f"FROM cakework/busybox\nCOPY --from=0 / /"
        )
        image = vm_bench.image(wanted, extra_ca=registry.ca, fetch_allow=[registry.address])
        missing = order(f"FROM {registry.address}/none")
        assert vm_bench.error(
            missing, extra_ca=registry.ca, fetch_allow=[registry.address]
        ).startswith(f"base image {registry.address}/none was not found")
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "base").stat().st_uid == 7
        assert (rootfs / "copied").read_text() == "of the registry"
        assert not (rootfs / "gone").exists()
    assert vm_bench.leftovers() == {}


def test_a_repository_comes_into_the_machine_as_it_is(
    vm_bench: BuilderBench, tmp_path: Path
) -> None:
    """With its links, and the one time that all files get; without what is git's."""
    files = {"run.sh": "#!/bin/sh\n", "lib/a": "1", "to-host": Link("/etc/hostname")}
    with git_server(tmp_path) as server:
        server.make("team/app", files)
        wanted = BuildOrder(
            build_id=new_build_id(),
            image_id=new_image_id(),
            dockerfile=f"{BASE}COPY . /app\n",
            source=GithubSource(repository="team/app", branch="main", token=TOKEN),
        )
        image = vm_bench.image(
            wanted, github_url=server.url, fetch_allow=[server.address], extra_ca=server.ca
        )
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "app/to-host").readlink() == Path("/etc/hostname")
        assert (rootfs / "app/lib/a").read_text() == "1"
        assert (rootfs / "app/lib/a").stat().st_mtime == MTIME_S
        assert not (rootfs / "app/.git").exists()
    assert vm_bench.leftovers() == {}


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
            "the build wrote more than 64 MB",
            {"image_size_mb": 64, "build_output_mb": 1},
        ),
        (
            "RUN truncate -s 66000000 /larger-with-the-base",
            "the image is larger than 64 MB",
            {"image_size_mb": 64},
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
    assert vm_bench.leftovers() == {}


def test_cancelling_ends_the_machine(vm_bench: BuilderBench) -> None:
    """A build that is cancelled in the middle of a step fails and leaves nothing behind."""
    wanted = order(f"{BASE}RUN echo runs; sleep 1000")

    async def run() -> None:
        async with vm_bench.open() as builds:
            builds.submit(wanted)
            await vm_bench.ledger.printed(wanted.build_id, "runs")
            assert len(vm_bench.leftovers()["machines"]) == 1
            await builds.cancel(wanted.build_id)
            assert builds.known() == []

    asyncio.run(run())
    end = vm_bench.ledger.end(wanted.build_id)
    assert isinstance(end, BuildFailed)
    assert end.error == "the build was cancelled"
    assert vm_bench.leftovers() == {}


def test_a_machine_that_dies_fails_its_build(vm_bench: BuilderBench) -> None:
    """When its process is killed, the build says so at once."""
    wanted = order(f"{BASE}RUN echo runs; sleep 1000")

    async def run() -> None:
        async with vm_bench.open() as builds:
            builds.submit(wanted)
            await vm_bench.ledger.printed(wanted.build_id, "runs")
            for pid in vm_bench.leftovers()["processes"]:
                os.kill(int(pid), 9)
            end = await vm_bench.ledger.ended(wanted.build_id)
            assert isinstance(end, BuildFailed)
            assert end.error == "the build's machine was killed by SIGKILL"

    asyncio.run(run())
    assert vm_bench.leftovers() == {}


def _check_kernel(texts: list[str]) -> None:
    release = (ARTIFACTS.folder / "kernel" / "release").read_text().strip()
    at = texts.index(release)
    assert texts[at - 1] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(texts[at + 1].split()[1]) < 512 << 10
    assert texts[at + 2] == "CapEff: 00000000800400fb"
    assert texts[at + 3] == "Seccomp: 2"
    assert len(texts[texts.index("PID COMMAND") : texts.index("end")]) <= 3
