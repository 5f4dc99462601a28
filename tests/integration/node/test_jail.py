"""What a program in the jail sees and may do."""

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cakework.node.network.namespaces import make_vm_namespace
from cakework.node.network.rules import Egress
from cakework.node.vms.processes import Jail
from tests.integration.node.vm_site import ARTIFACTS, Yard
from tests.integration.open_files import open_files

UID = 1_499_999
STATUS_FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A template's folder and a machine's, beside another machine's."""
    for name in ("template", "vm", "other", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "template" / "ram").write_text("the template's memory")
    (tmp_path / "template" / "ram").chmod(0o666)
    (tmp_path / "other" / "secret").write_text("another's")
    (tmp_path / "vm" / "scratch").write_text("mine")
    for path in (tmp_path / "vm", tmp_path / "vm" / "scratch"):
        os.chown(path, UID, UID)
    return tmp_path


def jail(folder: Path, netns: int = -1, **more: object) -> Jail:
    fields: dict[str, object] = {
        "program": ARTIFACTS.jail,
        "root": folder / "root",
        "uid": UID,
        "namespace_fd": netns,
        "procs": (),
        "binds": ((folder / "template", "/template"), (folder / "vm", "/vm,rw")),
    }
    return Jail(**(fields | more))  # type: ignore[arg-type]


@contextmanager
def own_network() -> Generator[int]:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def sh(folder: Path, script: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the jail."""
    with own_network() as fd:
        command = jail(folder, fd, **more).command(["/bin/busybox", "sh", "-c", script])
        return subprocess.run(command, pass_fds=(fd,), text=True, capture_output=True, timeout=60)


def listing(folder: Path, path: str) -> set[str]:
    done = sh(folder, f"/bin/busybox ls -A {path}")
    assert not done.returncode, done.stderr
    return set(done.stdout.split())


def test_there_is_nothing_but_what_it_needs(folder: Path) -> None:
    """No /etc but the linker's cache, no /root, /home, /proc, /sys, /tmp, no other machine."""
    usual = {"bin", "lib", "lib64", "lib32", "sbin"}
    assert listing(folder, "/") == {"usr", "etc", "dev", "template", "vm"} | usual
    assert listing(folder, "/etc") == {"ld.so.cache"}
    assert listing(folder, "/dev") == {"null"}
    assert listing(folder, "/vm") == {"scratch"}
    assert listing(folder, "/template") == {"ram"}


def test_it_writes_only_into_its_own_folder(folder: Path) -> None:
    """Everything else is on read-only mounts, whatever its mode says."""
    places = ("/usr/x", "/x", "/etc/x", "/dev/x", "/template/x", "/template/ram", "/usr/bin/env")
    for place in places:
        done = sh(folder, f"echo x > {place}")
        assert done.returncode, place
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
    assert sh(folder, "echo x > /template/ram").stderr.endswith("Read-only file system\n")
    assert sh(folder, "echo y > /vm/scratch && echo z > /vm/new").returncode == 0
    assert (folder / "vm" / "new").stat().st_uid == UID
    assert (folder / "template" / "ram").read_text() == "the template's memory"


def test_nothing_it_writes_can_be_run(folder: Path) -> None:
    """Its own folder is mounted noexec."""
    script = "/bin/busybox cp /bin/busybox /vm/b; /bin/busybox chmod 755 /vm/b; /vm/b true"
    done = sh(folder, script)
    assert done.returncode
    assert "Permission denied" in done.stderr


def test_it_has_no_rights(folder: Path) -> None:
    """Its own user and group, no capability in any set, no way to gain one, its own namespaces."""
    with own_network() as fd, open_files(4096):
        command = jail(folder, fd).command(["/bin/busybox", "cat"])
        pipe = subprocess.PIPE
        with subprocess.Popen(command, pass_fds=(fd,), stdin=pipe, stdout=pipe) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"up\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"up\n"
            proc = Path(f"/proc/{process.pid}")
            text = (proc / "status").read_text()
            status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            spaces = {name: (proc / "ns" / name).readlink() for name in ("mnt", "ipc", "uts")}
            descriptors = {int(path.name) for path in (proc / "fd").iterdir()}
            limits = (proc / "limits").read_text()
            session = os.getsid(process.pid)
            environment = (proc / "environ").read_bytes()
            process.stdin.close()
    assert all(int(status[field], 16) == 0 for field in STATUS_FIELDS)
    assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"].strip() == "1"
    assert all(space != Path(f"/proc/self/ns/{name}").readlink() for name, space in spaces.items())
    assert descriptors == {0, 1, 2}
    assert session == process.pid
    assert environment == b"LC_ALL=C\0"
    assert next(line for line in limits.splitlines() if "core" in line).split()[4] == "0"
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3] == "1024"


def test_descriptors_it_was_given_stay_open(folder: Path) -> None:
    """What is passed on is there, the network namespace's is not."""
    reading, writing = os.pipe()
    with own_network() as fd:
        command = jail(folder, fd).command(
            ["/bin/busybox", "sh", "-c", f"echo given >&{writing}; echo x >&{fd}"]
        )
        done = subprocess.run(command, pass_fds=(fd, writing), capture_output=True, text=True)
    os.close(writing)
    assert os.read(reading, 100) == b"given\n"
    os.close(reading)
    assert done.returncode
    assert "Bad file descriptor" in done.stderr


def test_devices_are_those_asked_for(folder: Path) -> None:
    """A device is there if it was named, and works."""
    done = sh(
        folder, "/bin/busybox head -c 5 /dev/zero | /bin/busybox wc -c", devices=("/dev/zero",)
    )
    assert done.stdout.strip() == "5"
    assert sh(folder, "/bin/busybox ls /dev/zero").returncode


def test_it_is_in_the_namespace_it_was_given(yard: Yard, folder: Path) -> None:
    """It sees the interfaces of its own network, not the host's."""
    slot = 1000
    namespace = make_vm_namespace(yard.territory, slot, Egress())
    try:
        command = jail(folder, namespace.fd).command(["/bin/busybox", "sleep", "600"])
        with subprocess.Popen(command, pass_fds=(namespace.fd,)) as process:
            inside = os.fstat(namespace.fd).st_ino
            deadline = time.monotonic() + 60
            while Path(f"/proc/{process.pid}/ns/net").stat().st_ino != inside:
                assert time.monotonic() < deadline
            process.kill()
    finally:
        namespace.close()


OPENER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
    int fd = open("/template/ram", O_RDWR);
    if (fd < 0)
        return perror("open"), 1;
    char *memory = mmap(0, 12, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    memory[0] = 'T';
    printf("%.12s\n", memory);
    if (write(fd, "x", 1) < 0)
        perror("write");
    return open("/vm/scratch", O_RDWR) < 0;
}
"""


def test_the_memory_of_a_template_opens_read_only(folder: Path) -> None:
    """Preloaded, a program that opens it for writing gets it for reading; others open as ever."""
    program = folder / "template" / "opener"
    compiler = ["gcc", "-D_FILE_OFFSET_BITS=64", "-x", "c", "-o", program, "-"]
    subprocess.run(compiler, input=OPENER.encode(), check=True)
    with own_network() as fd:
        without, preloaded = (
            subprocess.run(
                jail(folder, fd, preload=preload).command(["/template/opener"]),
                pass_fds=(fd,),
                capture_output=True,
                text=True,
            )
            for preload in (None, ARTIFACTS.preload)
        )
    assert (without.returncode, without.stderr) == (1, "open: Read-only file system\n")
    assert (preloaded.returncode, preloaded.stdout) == (0, "The template\n")
    assert preloaded.stderr == "write: Bad file descriptor\n"
    assert (folder / "template" / "ram").read_text() == "the template's memory"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--uid", "5", "--", "/bin/true"],
        ["--root", "/tmp", "--uid", "0", "--", "/bin/true"],
        ["--root", "/tmp", "--uid", "x", "--", "/bin/true"],
        ["--root", "/tmp", "--uid", "5", "--what", "x", "--", "/bin/true"],
        ["--root", "/tmp", "--uid", "5", "--"],
    ],
)
def test_wrong_arguments_run_nothing(arguments: list[str]) -> None:
    """Least of all as root."""
    done = subprocess.run([ARTIFACTS.jail, *arguments], capture_output=True, text=True)
    assert done.returncode == 126
    assert done.stderr.startswith("cakework-jail: ")


def test_no_mount_is_left(folder: Path) -> None:
    """When the program has ended, the host has none of its mounts."""
    sh(folder, "true")
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert list((folder / "root").iterdir()) == []
