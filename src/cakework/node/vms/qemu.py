"""QEMU's command lines: the one machine, as it is booted for a template and restored from it.

What makes up the machine must be the same in both (else its state does not load); what lies
behind it (files, sockets, the tap) differs. Inside the jail the machine's own folder is
``/vm`` and its template's is ``/template``.
"""

from dataclasses import dataclass

from cakework.domain.vms import Shape
from cakework.node.network.namespaces import GATEWAY, GUEST_ADDRESS, GUEST_PREFIX

QEMU = "/usr/bin/qemu-system-x86_64"
TRANSLATION_CACHE_MB = 128
"""Of address space, taken as needed. When it is full QEMU throws all away and translates anew,
which in 32 MB happens to a small Python service five times until it is up."""
MAC = "02:63:77:00:00:01"
"""The same for every guest: each is alone on its link, and a restored one must keep its own."""
PORT_NAME = "cakework"
PLACEHOLDER_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What QEMU inherits: two listening sockets, the tap, the state to load and the socket for
    requests to be forked, if any. In QEMU they have the same numbers."""

    qmp: int
    guest: int
    tap: int
    state: int | None = None
    fork: int | None = None

    def all(self) -> tuple[int, ...]:
        """Return every descriptor to be passed on."""
        every = (self.qmp, self.guest, self.tap, self.state, self.fork)
        return tuple(fd for fd in every if fd is not None)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is, apart from what it is given: part of a template's fingerprint."""

    accelerator: str
    shape: Shape
    tsc_khz: int
    role: str = ""
    """What the guest is told it is for: see guest/PROTOCOL.md, Life."""

    def common(self) -> list[str]:
        """Return the arguments that a boot and a restore share."""
        return [
            QEMU,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=ram"),
            *("-accel", self._accel(), "-cpu", self._cpu()),
            *("-smp", str(self.shape.cpu), "-m", str(self.shape.memory_mb)),
            *("-object", f"main-loop,id=main-loop,thread-pool-max={DISK_WORKERS}"),
            *("-sandbox", SANDBOX),
            *_disk_device("image"),
            *_disk_device("scratch"),
            *_disk_device("volume"),
            *("-device", "virtio-serial-device"),
            *("-device", f"virtserialport,chardev=guest,name={PORT_NAME}"),
            *("-device", f"virtio-net-device,netdev=net,mac={MAC}"),
        ]

    def kernel_arguments(self) -> str:
        """Return the kernel's command line; what begins with CW_ is the guest's environment."""
        role = f" CW_ROLE={self.role} {UNGROUPED}" if self.role else ""
        emulated = "" if self.accelerator == "kvm" else " CW_EMULATED=1"
        return (
            "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t nokaslr "
            f"tsc_early_khz={self.tsc_khz} tsc=reliable init_on_alloc=0 mitigations=off "
            "random.trust_cpu=on rcupdate.rcu_expedited=1 nowatchdog psi=0 "
            f"CW_ADDRESS={GUEST_ADDRESS}/{GUEST_PREFIX} CW_GATEWAY={GATEWAY}{emulated}{role}"
        )

    def _accel(self) -> str:
        if self.accelerator == "kvm":
            return "kvm"
        return f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MB}"

    def _cpu(self) -> str:
        return "host" if self.accelerator == "kvm" else "max"


UNGROUPED = "cgroup_disable=memory,cpuset"
"""For a machine that has one thing to do. The first group of either kind has the kernel rewrite its
own code where it allocates pages. QEMU before 8.1 reads code that it translates without holding the
page, and so may go on with the half-written code for ever when another processor writes it: two
processors of an emulated machine were seen to take the same breakpoint until they were killed."""
DISK_WORKERS = 16
"""Threads that read and write disks at once. QEMU's own bound, 64, is above what its cgroup allows,
and one that cannot make a thread ends."""
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
FORKABLE_SANDBOX = "on,obsolete=deny,resourcecontrol=deny"
"""For one that is to be forked, and whose forks become others; jail/rights.c forbids the rest."""
PLACEHOLDER_VOLUME = (
    f"driver=null-co,node-name=volume-file-0,size={PLACEHOLDER_BYTES},read-zeroes=on"
)


def boot_command(machine: MachineSpec, fds: Descriptors) -> list[str]:
    """Return the command that boots a template: kernel from ``/template``, RAM shared with a file.

    The console goes to stdout.
    """
    return [
        *machine.common(),
        *("-kernel", "/template/vmlinuz", "-initrd", "/template/initramfs"),
        *("-append", machine.kernel_arguments()),
        *("-object", _ram(machine.shape)),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *_disks("/template/rehearsal.erofs"),
        *_links(fds),
    ]


def restore_command(
    machine: MachineSpec, fds: Descriptors, image: str, volume: str | None
) -> list[str]:
    """Return the command that restores a machine from ``/template``, with its RAM private.

    It waits for the monitor to have the state loaded, which starts it. It can be forked if ``fds``
    has a socket for that.

    ``image`` and ``volume`` are the paths in the jail of the files behind these disks; a guest
    that has not looked at its volume may get it later. The console is kept in a ring of 16 KiB,
    so that a guest that writes to it fills nothing.
    """
    common = machine.common()
    if fds.fork is not None:
        common[common.index(SANDBOX)] = FORKABLE_SANDBOX
    return [
        *common,
        *("-object", _ram(machine.shape)),
        *("-chardev", "ringbuf,id=console,size=16384", "-serial", "chardev:console"),
        *_disks(image, volume),
        *_links(fds),
        *("-incoming", "defer"),
    ]


def _disk_device(name: str) -> tuple[str, str]:
    """A disk that tells its guest of errors; else QEMU pauses a guest when the host is full."""
    device = f"virtio-blk-device,drive={name},serial={name}"
    return "-device", f"{device},werror=report,rerror=report"


def _ram(shape: Shape) -> str:
    """Shared with the file, or so QEMU thinks: see jail/readonly.c."""
    return (
        f"memory-backend-file,id=ram,size={shape.memory_mb}M,mem-path=/template/ram,"
        "share=on,readonly=off,prealloc=off"
    )


def _disks(image: str, volume: str | None = None) -> list[str]:
    behind_volume = f"driver=file,node-name=volume-file-0,filename={volume}"
    return [
        *("-blockdev", f"driver=file,node-name=image-file-0,filename={image},read-only=on"),
        *("-blockdev", "driver=raw,node-name=image,file=image-file-0,read-only=on"),
        *("-blockdev", "driver=file,node-name=scratch-file,filename=/vm/scratch,discard=unmap"),
        *("-blockdev", "driver=raw,node-name=scratch,file=scratch-file,discard=unmap"),
        *("-blockdev", behind_volume if volume else PLACEHOLDER_VOLUME),
        *("-blockdev", "driver=raw,node-name=volume,file=volume-file-0"),
    ]


def _links(fds: Descriptors) -> list[str]:
    return [
        *("-chardev", f"socket,id=qmp,fd={fds.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=guest,fd={fds.guest},server=on,wait=off"),
        *("-netdev", f"tap,id=net,fd={fds.tap},vhost=off"),
    ]
