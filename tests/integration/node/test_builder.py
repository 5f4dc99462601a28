"""Builds in microVMs of their own, under emulation: real QEMU, real buildah inside."""

from pathlib import Path

import pytest

from tests.integration.node.build_bench import Bench, mounted, order
from tests.integration.node.builder_site import BuilderBench, builder_bench
from tests.integration.node.vm_site import Yard

BASE = "FROM cakework/busybox\n"


@pytest.fixture(scope="session")
def vm_bench(bench: Bench, yard: Yard) -> BuilderBench:
    return builder_bench(bench, yard)


def test_an_image_is_built_from_files(vm_bench: BuilderBench, tmp_path: Path) -> None:
    dockerfile = f"{BASE}COPY . /srv\nRUN cat /proc/sys/kernel/random/boot_id; echo made >/srv/made; uname -r; id; cat /proc/self/uid_map /proc/self/status; cat /etc/resolv.conf\nCMD [\"sh\"]\n"
    wanted = order(dockerfile, {"run.sh": "#!/bin/sh\n", "lib/data.bin": bytes(range(256))})
    image = vm_bench.image(wanted)
    print("\n".join(vm_bench.ledger.texts(wanted.build_id)))
    assert image.config.argv == ("sh",)
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "srv/lib/data.bin").read_bytes() == bytes(range(256))
        assert (rootfs / "srv/made").read_text() == "made\n"
    assert vm_bench.leftovers() == {}
