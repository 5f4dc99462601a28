"""Inside its machine, a program of root's cannot get at what is the guest's."""

from pathlib import Path

import pytest

from tests.integration.node.guest.machine import (
    Template,
    restored,
    run_order,
    run_to_end,
    shell,
)
from tests.integration.node.guest.materials import compile_static, make_image

pytestmark = pytest.mark.anyio

ESCAPE = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void)
{
    mkdir("/tmp/cell", 0700);
    if (chroot("/tmp/cell"))
        return 1;
    for (int i = 0; i < 50; i++)
        if (chdir(".."))
            return 2;
    if (chroot("."))
        return 3;
    puts(access("/init", F_OK) ? "no init" : "init");
    puts(access("/vm", F_OK) ? "no vm" : "vm");
    puts(access("/bin/busybox", F_OK) ? "no image" : "image");
    return 0;
}
"""


async def test_a_chroot_escape_leads_nowhere(template: Template, tmp_path: Path) -> None:
    """The way out of a chroot, open to root, leads to the image's own root."""
    escape = compile_static(tmp_path / "escape", ESCAPE)
    make_image(tmp_path / "image", {"bin/escape": escape})
    async with (
        restored(template, tmp_path, image=tmp_path / "image") as machine,
        machine.talk() as talk,
    ):
        exited = await run_to_end(talk, run_order("escape"))
    assert exited.value == 0
    assert talk.printed() == ["no init", "no vm", "image"]


async def test_the_guest_is_out_of_reach(template: Template, tmp_path: Path) -> None:
    """Root may not mount, unmount, make devices, look into pid 1 or change the kernel."""
    script = """
        t() { "$@" > /dev/null 2>&1 && echo "did: $*"; }
        t mount -t tmpfs none /tmp
        t umount -l /
        t umount /proc/kcore
        t mount -o remount,rw /sys
        t busybox mknod /tmp/port c 10 1
        t busybox mknod /dev/vda b 254 0
        t ls /proc/1/root/
        t busybox readlink /proc/1/fd/0
        t cat /proc/1/environ
        t busybox nsenter -t 1 -m true
        t busybox unshare -m true
        t busybox reboot -f
        t busybox insmod /bin/busybox
        t busybox ip link set eth0 down
        t busybox dmesg
        t sh -c 'echo b > /proc/sysrq-trigger'
        t sh -c 'echo x > /proc/sys/kernel/core_pattern'
        t sh -c 'echo -1000 > /proc/self/oom_score_adj'
        t ls /dev/console /dev/vport* /dev/mem
        ls /proc/self/fd | wc -l
        grep -e CapBnd -e NoNewPrivs /proc/self/status
    """
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        exited = await run_to_end(talk, shell(script))
    assert not exited.by_signal
    assert talk.printed() == ["4", "CapBnd:\t00000000a00425fb", "NoNewPrivs:\t0"]
