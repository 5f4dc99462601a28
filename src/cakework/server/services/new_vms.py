"""What is asked for when a VM is made, and the record that it begins with."""

from dataclasses import dataclass, field

from cakework.domain.ids import AccountId, ImageId, VmId, new_host_label
from cakework.domain.orders import Hooks
from cakework.domain.snapshots import SnapshotKind, SnapshotState
from cakework.domain.vms import Shape, VmRole, VmState
from cakework.server.clock import Clock, now_ms
from cakework.server.services.vm_admission import VmAdmission
from cakework.server.services.vm_orders import VmOrders
from cakework.server.store.models import VmRow


@dataclass(frozen=True, slots=True)
class Warm:
    """What is asked of a cached VM beyond being there: what its starts begin with, what runs
    around its snapshot, and who starts and stops it besides its account; seconds."""

    snapshot: SnapshotKind = SnapshotKind.BOOT
    hooks: Hooks = field(default_factory=Hooks)
    auto_start: bool = False
    idle_timeout_s: int | None = None


@dataclass(frozen=True, slots=True)
class NewVm:
    """What is asked for: sizes in MB and GB, 0 GB for no volume."""

    image_id: ImageId
    shape: Shape
    port: int | None = None
    env: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    volume_gb: int = 0
    warm: Warm = field(default_factory=Warm)


@dataclass(frozen=True, slots=True)
class VmRules:
    """What VMs are made by: who may have one, how orders are made, where hostnames end."""

    admission: VmAdmission
    orders: VmOrders
    base_domain: str
    clock: Clock = now_ms

    def new_row(self, account: AccountId, vm_id: VmId, new: NewVm) -> VmRow:
        """Return the record of a VM that is to be started once, not yet stored."""
        now = self.clock()
        return VmRow(
            id=vm_id,
            account_id=account,
            image_id=new.image_id,
            role=VmRole.OWN,
            hostname=f"{new_host_label()}.{self.base_domain}",
            cpu=new.shape.cpu,
            memory_mb=new.shape.memory_mb,
            port=new.port,
            volume_gb=new.volume_gb,
            cached=False,
            run=1,
            env_sealed=self.orders.seal_env(vm_id, new.env),
            state=VmState.CREATED,
            wanted=VmState.STARTED,
            log_complete=False,
            snapshot=SnapshotKind.BOOT,
            auto_start=False,
            memory_kept=False,
            egress="internet",
            created_ms=now,
            updated_ms=now,
        )

    def new_cached_row(self, account: AccountId, vm_id: VmId, new: NewVm) -> VmRow:
        """Return the record of a cached VM, not yet stored: no run of it has begun."""
        row = self.new_row(account, vm_id, new)
        row.cached, row.run, row.log_complete = True, 0, True
        row.state = row.wanted = VmState.STOPPED
        row.snapshot = new.warm.snapshot
        if row.snapshot == SnapshotKind.READY:
            row.snapshot_state = SnapshotState.MAKING
        row.hooks = new.warm.hooks.model_dump_json() if new.warm.hooks != Hooks() else None
        row.auto_start = new.warm.auto_start
        row.idle_timeout_s = new.warm.idle_timeout_s
        return row

    def fork_row(self, parent: VmRow, vm_id: VmId, batch: str) -> VmRow:
        """Return the record of a fork of a cached VM, not yet stored."""
        shape = Shape(cpu=parent.cpu, memory_mb=parent.memory_mb)
        new = NewVm(ImageId(parent.image_id), shape, parent.port, self.orders.env_of(parent))
        row = self.new_row(AccountId(parent.account_id), vm_id, new)
        row.hooks, row.fork_of, row.fork_batch = parent.hooks, parent.id, batch
        return row
