"""Whether KVM works here, found out by booting: the device can be there and not work.

The verdict is remembered for as long as the host stays up with the same QEMU.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.vms import Shape
from cakework.node.vms.artifacts import qemu_version
from cakework.node.vms.host import Host
from cakework.node.vms.workshop import Workshop

KVM = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TRIAL = "trial-"
TRIAL_DISK_GB = 1
TRIAL_S = 20.0
"""How long a guest may take to answer: with KVM that takes a second or two. There are hosts where
it never does, as where a hypervisor below offers what it cannot do."""
log = structlog.get_logger("cakework.node.accelerator")


async def choose_accelerator(wanted: str, folder: Path, host: Host) -> str:
    """Return ``kvm`` or ``tcg``: what is ``wanted``, or for ``auto`` what works."""
    if wanted in ("kvm", "tcg"):
        return wanted
    if wanted != "auto":
        raise Unavailable(f"accelerator: {wanted!r} is none of auto, kvm, tcg")
    verdict, why = read_verdict(folder) or await _try_kvm(folder, host)
    log.info("accelerator.chosen", accelerator=verdict, why=why)
    return verdict


def read_verdict(folder: Path) -> tuple[str, str] | None:
    """Return what was found out before, and why; None if that does not count any more."""
    try:
        remembered = json.loads((folder / "accelerator.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    if remembered["circumstances"] != _circumstances():
        return None
    return remembered["accelerator"], remembered["why"]


async def _try_kvm(folder: Path, host: Host) -> tuple[str, str]:
    accelerator, why = "tcg", "/dev/kvm is not there"
    _remove_trials(folder)
    if os.access(KVM, os.F_OK):
        try:
            await _trial(folder, host)
            accelerator, why = "kvm", "a VM booted with it"
        except CakeworkError as error:
            why = f"/dev/kvm is there, but no VM boots with it: {error.detail}"
    verdict = {"accelerator": accelerator, "why": why, "circumstances": _circumstances()}
    (folder / "accelerator.json").write_text(json.dumps(verdict))
    return accelerator, why


def _remove_trials(folder: Path) -> None:
    """Remove what a node left that was killed during a trial."""
    for leftover in folder.glob(f"{TRIAL}*"):
        shutil.rmtree(leftover)


async def _trial(folder: Path, host: Host) -> None:
    with tempfile.TemporaryDirectory(prefix=TRIAL, dir=folder) as trial:
        path = Path(trial)
        workshop = Workshop(path, host, "kvm", disk_gb=TRIAL_DISK_GB, most=1, boots_s=(TRIAL_S,))
        await workshop.template(Shape())


def _circumstances() -> str:
    return f"{BOOT_ID.read_text().strip()} {qemu_version()}"
