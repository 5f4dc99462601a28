"""Programs frozen and resumed as somebody else, hooks, and how a program says it is ready."""

import asyncio
import errno
import signal
import time
from pathlib import Path

import pytest

from cakework.node.guest.protocol import (
    Ack,
    Exited,
    Failed,
    Freeze,
    Frozen,
    Hooked,
    Line,
    PowerOff,
    Ready,
    Resume,
    Resumed,
    RunHook,
    Signal,
    Started,
)
from tests.integration.node.guest.machine import (
    Talk,
    Template,
    identity,
    restored,
    run_order,
    shell,
)
from tests.integration.node.guest.materials import compile_static, make_image

pytestmark = pytest.mark.anyio

SERVER = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* serve PORT STATUS | notify TEXT */
int main(int argc, char **argv)
{
    if (!strcmp(argv[1], "notify")) {
        struct sockaddr_un to = {AF_UNIX, "/run/cakework/notify"};
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        return sendto(fd, argv[2], strlen(argv[2]), 0, (void *)&to, sizeof to) < 0;
    }
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    char request[4096];
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 8))
        return 1;
    for (;;) {
        int client = accept(fd, NULL, NULL);
        ssize_t n = read(client, request, sizeof request - 1);
        request[n > 0 ? n : 0] = 0;
        printf("%.*s\n", (int)strcspn(request, "\r"), request);
        fflush(stdout);
        dprintf(client, "HTTP/1.1 %s X\r\nConnection: close\r\n\r\nbody", argv[3]);
        close(client);
    }
}
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Busybox and a server that answers everything with one status."""
    folder: Path = tmp_path_factory.mktemp("freeze")
    make_image(folder / "image", {"bin/serve": compile_static(folder / "serve", SERVER)})
    return folder / "image"


async def begin(talk: Talk, script: str, **changes: object) -> None:
    await talk.send(shell(script, **changes))
    assert isinstance(await talk.next(), Started), talk.frames


async def hook(talk: Talk, order: RunHook) -> Hooked:
    await talk.send(order)
    return await talk.until(Hooked)


async def freeze(talk: Talk) -> Frozen:
    await talk.send(Freeze())
    return await talk.until(Frozen)


async def test_nothing_runs_while_it_is_frozen(template: Template, tmp_path: Path) -> None:
    """A program in a tight loop prints no line between FROZEN and RESUMED, and none with a time
    between the moment it was frozen at and the one it was resumed in."""
    script = "i=0; while :; do i=$((i+1)); echo $i $(date +%s); done"
    jump_s = 1_000_000
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await begin(talk, script)
        while len(talk.lines) < 20:
            await talk.next()
        frozen = await freeze(talk)
        assert frozen.last == talk.lines[-1].number
        await talk.send(Ack(frozen.last))
        count, then_s = len(talk.lines), int(time.time())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(talk.channel.receive(), 0.3)
        await talk.send(Resume(identity(clock_ns=(then_s + jump_s) * 10**9)))
        assert await talk.until(Resumed)
        assert len(talk.lines) == count
        while len(talk.lines) < count + 20:
            await talk.next()
        told = [line.split() for line in talk.printed()]
        assert [int(number) for number, _ in told] == list(range(1, len(told) + 1))
        assert all(int(at) <= then_s + 1 or int(at) >= then_s + jump_s for _, at in told), told
        assert int(told[-1][1]) >= then_s + jump_s


async def test_a_resumed_program_is_somebody_else(template: Template, tmp_path: Path) -> None:
    """Host name, its files, the resolver and the ids are those of RESUME, whatever the program
    made of the files; links it left there lead nowhere else."""
    script = (
        "rm /etc/hostname; busybox ln -s /elsewhere /etc/hostname; cat /run/cakework/identity;"
        "while [ $(hostname) = one ]; do sleep 0.01; done;"
        "hostname; cat /etc/resolv.conf /elsewhere /run/cakework/identity;"
        "busybox tail -n 1 /etc/hosts"
    )
    one = {"hostname": "one", "vm_id": "a1", "domain": "one.example"}
    other = identity(hostname="two", vm_id="b2", domain="two.example", dns=("192.0.2.53",))
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await begin(talk, script, **one)
        while len(talk.lines) < 2:
            await talk.next()
        await freeze(talk)
        await talk.send(Resume(other))
        await talk.until(Exited)
    ids = ["CAKEWORK_VM_ID=a1", "CAKEWORK_HOSTNAME=one.example"]
    later = ["two", "nameserver 192.0.2.53", "two", "CAKEWORK_VM_ID=b2"]
    assert talk.printed() == [*ids, *later, "CAKEWORK_HOSTNAME=two.example", "10.0.2.15\ttwo"]


async def test_a_frozen_program_can_be_ended(template: Template, tmp_path: Path) -> None:
    """POWEROFF thaws it first, so that it hears SIGTERM; a node that connects sees it frozen."""
    script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done"
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await begin(talk, script)
            await talk.until(Line)
            await freeze(talk)
        async with machine.talk(acked=1) as talk:
            assert talk.channel.hello.state == "frozen"
            await talk.send(PowerOff(20_000))
            exited = await talk.until(Exited)
            assert (exited.value, talk.printed()) == (4, ["bye"])
            await talk.send(Ack(exited.last))
            await talk.ended()


async def test_readiness_is_told_once(template: Template, tmp_path: Path, image: Path) -> None:
    """By the port, or by the program's own word; not by another port or other words."""
    by_port = shell("sleep 0.2; echo up; exec serve serve 80 200", watch=True, port=80)
    by_word = shell(
        "serve notify STATUS=no; serve serve 81 200 & sleep 0.2; echo said;"
        "serve notify 'A=b\nREADY=1'; serve notify READY=1; sleep 600",
        watch=True,
        port=80,
    )
    for order, line in ((by_port, "up"), (by_word, "said")):
        async with restored(template, tmp_path, image=image) as machine, machine.talk() as talk:
            await talk.send(order)
            await talk.until(Ready)
            assert talk.printed() == [line]
            await freeze(talk)
            assert sum(isinstance(frame, Ready) for frame in talk.frames) == 1


async def test_hooks_run_beside_the_program(
    template: Template, tmp_path: Path, image: Path
) -> None:
    """A program as the image's user, in the program's files and environment with the VM's ids;
    a POST to its port; each ends as it ends, and what it prints is among the lines."""
    script = "id -u > /dev/shm/who; exec serve serve 80 204"
    order = shell(
        script, env=("A=b",), user="app", cwd="/tmp", watch=True, port=80, vm_id="v7", domain="d.e"
    )
    told = "cat /dev/shm/who; id -u; pwd; echo $A $HOME $CAKEWORK_VM_ID $CAKEWORK_HOSTNAME; exit 3"
    async with restored(template, tmp_path, image=image) as machine, machine.talk() as talk:
        await talk.send(order)
        await talk.until(Ready)
        assert await hook(talk, RunHook(60_000, ("sh", "-c", told))) == Hooked("done", 3)
        assert talk.printed("stderr") == ["1000", "1000", "/tmp", "b /home/app v7 d.e"]
        assert await hook(talk, RunHook(60_000, ("sh", "-c", "kill -9 $$"))) == Hooked("signal", 9)
        assert await hook(talk, RunHook(50, ("sleep", "600"))) == Hooked("timeout", 0)
        left = RunHook(60_000, ("sh", "-c", "sleep 600 & echo left"))
        assert await hook(talk, left) == Hooked("done", 0)
        assert await hook(talk, RunHook(60_000, (), 80, "/a?b")) == Hooked("done", 0)
        assert await hook(talk, RunHook(60_000, (), 81, "/a")) == Hooked("done", 1)
        for bad in (RunHook(60_000, ("no-such-program",)), RunHook(60_000, (), 80, "/a b")):
            await talk.send(bad)
            assert isinstance(await talk.next(), Failed)
        assert talk.printed() == ["POST /a?b HTTP/1.1"]
        assert "nothing answers" in talk.printed("stderr")[-1]
        await freeze(talk)


async def test_a_hook_is_told_what_the_server_answered(
    template: Template, tmp_path: Path, image: Path
) -> None:
    """An answer that is not 2xx fails the hook, and a line says which it was."""
    async with restored(template, tmp_path, image=image) as machine, machine.talk() as talk:
        await talk.send(run_order("serve", "serve", "80", "503", watch=True, port=80))
        await talk.until(Ready)
        assert await hook(talk, RunHook(60_000, (), 80, "/x")) == Hooked("done", 1)
        assert talk.printed("stderr") == ["[cakework: POST /x was answered 503]"]


async def test_orders_out_of_place_change_nothing(template: Template, tmp_path: Path) -> None:
    """What cannot be done in a state is refused with a reason, and the state stays."""

    async def refused(talk: Talk, order: Freeze | Resume | RunHook, error: int) -> None:
        await talk.send(order)
        answer = await talk.next()
        assert isinstance(answer, Failed), answer
        assert answer.error == error

    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await refused(talk, Freeze(), errno.EBUSY)
        await refused(talk, RunHook(1, ("true",)), errno.EBUSY)
        await begin(talk, "trap 'echo > /dev/shm/go' USR1; echo up; while :; do sleep 0.05; done")
        await talk.until(Line)
        await refused(talk, Resume(identity()), errno.EINVAL)
        await talk.send(
            RunHook(60_000, ("sh", "-c", "until [ -e /dev/shm/go ]; do sleep 0.05; done"))
        )
        await refused(talk, Freeze(), errno.EBUSY)
        await talk.send(Signal(signal.SIGUSR1))
        assert await talk.until(Hooked) == Hooked("done", 0)
        await freeze(talk)
        await refused(talk, Resume(identity(hostname="")), errno.EINVAL)
        await talk.send(Resume(identity()))
        assert await talk.next() == Resumed()
