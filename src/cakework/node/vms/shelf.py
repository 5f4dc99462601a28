"""The shelf: snapshots of programs, as folders that are whole or not there.

snapshots/<vm id>/ready/    a VM's program, up and ready; any number of starts resume it
snapshots/<vm id>/kept/     memory that a stop kept; one start resumes it
snapshots/.making-*/        not whole yet; removed at start
snapshots/.used-*/          kept memory that a start uses, or used; removed at start
snapshots/.removing-*/      on its way out; removed at start

What an account has on it is bounded. Beyond that, and where the disk is full, the memory of its own
that was kept first goes; then those VMs boot when they are started, and nothing else is lost.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from cakework.domain.errors import InvalidRequest, QuotaExceeded
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.cleanup import cleanup
from cakework.node.vms.manifest import NAME, Kind, Manifest, Mismatch, Needs, Seal, Stamps
from cakework.node.vms.qemu import MachineSpec
from cakework.node.vms.saved import Saved

RETRY_AFTER_S = 60
KINDS: tuple[Kind, ...] = ("ready", "kept")
MAKING, USED, REMOVING = ".making-", ".used-", ".removing-"
log = structlog.get_logger("cakework.node.snapshots")


@dataclass(frozen=True, slots=True)
class Snapshot(Saved):
    """A whole snapshot of a VM's program; one of an earlier version says nothing of whose it is."""

    kind: Kind = "ready"
    vm_id: str = ""
    size_bytes: int = 0
    account: str = ""


@dataclass(frozen=True, slots=True)
class _Item:
    """A snapshot, as its manifest says: whose, how large, and when it was made. One of an earlier
    version's is the VM's own."""

    account: str
    vm_id: str
    kind: Kind
    size: int
    made_ns: int


class Shelf:
    """The snapshots in one folder, of each account's so many as have ``most_bytes``."""

    def __init__(self, folder: Path, seal: Seal, most_bytes: int) -> None:
        self._folder = folder
        self._seal = seal
        self._most_bytes = most_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for prefix in (MAKING, USED, REMOVING):
            for leftover in folder.glob(f"{prefix}*"):
                shutil.rmtree(leftover)

    def ids(self) -> list[str]:
        """Return the ids of the VMs that have a snapshot of either kind."""
        return sorted(path.name for path in self._folder.iterdir() if path.name.isalnum())

    def get(
        self, kind: Kind, vm_id: str, needs: Needs, spec: MachineSpec, image: Path
    ) -> Snapshot | None:
        """Return the snapshot of ``vm_id``; None if there is none, or not one that fits. Blocks."""
        folder = self._path(vm_id) / kind
        try:
            manifest = self._seal.read(folder, kind, vm_id, needs)
        except FileNotFoundError:
            return None
        except Mismatch as error:
            log.warning("snapshot.not_used", vm_id=vm_id, snapshot=kind, reason=str(error))
            return None
        size, account = manifest.size_bytes, manifest.account
        return Snapshot(folder, spec, manifest.lines, image, kind, vm_id, size, account)

    @contextmanager
    def making(self, spec: MachineSpec, lines: int) -> Generator[Saved]:
        """Give a folder to make a snapshot in; what is left of it at the end goes."""
        folder = Path(tempfile.mkdtemp(prefix=MAKING, dir=self._folder))
        try:
            yield Saved(folder, spec, lines)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(
        self,
        kind: Kind,
        vm_id: str,
        account: str,
        needs: Needs,
        made: Saved,
        snapshot_id: str = "",
    ) -> int:
        """Take what was saved as the snapshot of ``vm_id``, in place of one of its kind.

        Returns the bytes it takes. From then on it is there also after a crash of the host.
        Where its account has more than it may then, other kept memory of the account's goes.
        Blocks.
        """
        for file in (made.ram, made.state, made.scratch):
            file.chmod(0o444)
            _sync(file)
        size = _size(made.folder)
        manifest = Manifest(
            kind=kind,
            vm_id=vm_id,
            account=account,
            needs=needs,
            lines=made.lines,
            size_bytes=size,
            files=Stamps.of(made.folder),
            snapshot_id=snapshot_id,
        )
        self._seal.write(made.folder, manifest)
        made.folder.chmod(0o755)
        _sync(made.folder)
        step(Step.NODE_SNAPSHOT_WRITTEN)
        self.remove(vm_id, kind)
        folder = self._path(vm_id)
        folder.mkdir(mode=0o711, exist_ok=True)
        made.folder.rename(folder / kind)
        _sync(folder)
        _sync(self._folder)
        step(Step.NODE_SNAPSHOT_NAMED)
        # It is there: what cannot be dropped for it makes no failure of that.
        with cleanup("kept memory", account=account):
            self._drop_beyond(account, vm_id)
        return size

    def check(self, account: str) -> None:
        """Refuse an account one more if it has as many that do not give way as it may. Blocks.

        Raises:
            QuotaExceeded: it has.
        """
        own = [each for each in self._items() if each.account == account]
        if sum(each.size for each in own if each.kind != "kept") >= self._most_bytes:
            raise QuotaExceeded(
                "the account's snapshots take as much of the host's disk as one account's may",
                retry_after_s=RETRY_AFTER_S,
            )

    def kept_sizes(self) -> Mapping[str, int]:
        """Return the bytes that kept memory takes of each account that has any. Blocks."""
        sizes: Counter[str] = Counter()
        for each in self._items():
            if each.kind == "kept":
                sizes[each.account] += each.size
        return sizes

    def drop_oldest(self, account: str) -> None:
        """Remove the memory that was kept first of an account's. Blocks."""
        kept = [each for each in self._items() if (each.account, each.kind) == (account, "kept")]
        self._drop_oldest(kept, 1, "the host's disk is full")

    def use_up(self, kept: Snapshot) -> Snapshot:
        """Take kept memory away for good, durably; return it as what one start may still use.

        From then on no other start finds it, whatever becomes of this one. Blocks.
        """
        used = Path(tempfile.mkdtemp(prefix=USED, dir=self._folder))
        folder = used / kept.kind
        kept.folder.rename(folder)
        _sync(used)
        _sync(kept.folder.parent)
        _sync(self._folder)
        step(Step.NODE_SNAPSHOT_USED)
        self._tidy(kept.vm_id)
        return Snapshot(
            folder, kept.spec, kept.lines, kept.image, kept.kind, kept.vm_id, kept.size_bytes
        )

    def clear(self, used: Snapshot) -> None:
        """Remove what a start has used; its machine keeps the files as long as it needs them."""
        with cleanup("used snapshot", vm_id=used.vm_id):
            shutil.rmtree(used.folder.parent)

    def remove(self, vm_id: str, kind: Kind) -> None:
        """Remove a snapshot; one that is not there is no error. Machines keep its files."""
        gone = Path(tempfile.mkdtemp(prefix=REMOVING, dir=self._folder))
        try:
            with suppress(FileNotFoundError):
                (self._path(vm_id) / kind).rename(gone / kind)
                _sync(self._path(vm_id))
        finally:
            with cleanup("snapshot", vm_id=vm_id):
                shutil.rmtree(gone)
        self._tidy(vm_id)

    def remove_all(self, vm_id: str) -> list[Path]:
        """Remove both kinds; return where they were."""
        for kind in KINDS:
            self.remove(vm_id, kind)
        return [self.folder_of(vm_id, kind) for kind in KINDS]

    def has(self, vm_id: str, kind: Kind) -> bool:
        """Whether there is a snapshot, one that fits or not."""
        return (self.folder_of(vm_id, kind) / NAME).exists()

    def taken(self, vm_id: str, snapshot_id: str) -> int | None:
        """Return the bytes of the "ready" snapshot of ``vm_id``, if it was taken by the order of
        that id. Blocks."""
        folder = self.folder_of(vm_id, "ready")
        try:
            manifest = self._seal.manifest(folder)
        except (FileNotFoundError, Mismatch):
            return None
        return manifest.size_bytes if manifest.snapshot_id == snapshot_id else None

    def size(self, vm_id: str, kind: Kind) -> int | None:
        """Return the bytes that a snapshot takes; None if there is none."""
        try:
            return _size(self.folder_of(vm_id, kind))
        except FileNotFoundError:
            return None

    def folder_of(self, vm_id: str, kind: Kind) -> Path:
        """Return where a snapshot lies, if it is there."""
        return self._path(vm_id) / kind

    def _drop_beyond(self, account: str, but: str) -> None:
        """Remove an account's kept memory, the oldest first, as far as it has more than it may;
        that of the VM ``but`` stays."""
        own = [each for each in self._items() if each.account == account]
        over = sum(each.size for each in own) - self._most_bytes
        kept = [each for each in own if each.kind == "kept" and each.vm_id != but]
        self._drop_oldest(kept, over, "the account has more than it may")

    def _drop_oldest(self, items: Iterable[_Item], enough: int, why: str) -> None:
        for each in sorted(items, key=lambda each: each.made_ns):
            if enough <= 0:
                break
            enough -= each.size
            log.info("snapshot.dropped", vm_id=each.vm_id, size_mb=each.size >> 20, reason=why)
            self.remove(each.vm_id, each.kind)

    def _items(self) -> Iterator[_Item]:
        """Look at what is there; what goes meanwhile is left out."""
        for vm_id in self.ids():
            for kind in KINDS:
                folder = self.folder_of(vm_id, kind)
                with suppress(FileNotFoundError):
                    made_ns = (folder / NAME).stat().st_mtime_ns
                    if manifest := self._seal.glance(folder):
                        account, size = manifest.account or vm_id, manifest.size_bytes
                        yield _Item(account, vm_id, kind, size, made_ns)

    def _tidy(self, vm_id: str) -> None:
        with suppress(OSError):
            self._path(vm_id).rmdir()

    def _path(self, vm_id: str) -> Path:
        if not vm_id.isalnum():
            raise InvalidRequest(f"{vm_id!r} is not the id of a VM")
        return self._folder / vm_id


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_blocks * 512 for name in ("ram", "state", "scratch"))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
