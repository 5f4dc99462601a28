"""Made of _async/vms.py by generate_sync.py; edit that.

Calls about VMs of both kinds."""

from collections.abc import Generator, Mapping
from typing import Unpack

from cakework_client._sync.transport import Transport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import ForkedVms, Hooks, Keep, SnapshotKind, Vm, VmPage, VmState
from cakework_client.wire import given


class Vms(Transport):
    """Calls about VMs: those of ``start_vm``, which end for good when they end, and cached ones."""

    def start_vm(
        self,
        image_id: str,
        *,
        cpu: int | None = None,
        memory: int | None = None,
        port: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        volume_gb: int | None = None,
        **options: Unpack[PostOptions],
    ) -> Vm:
        """Start a VM; returns when its program was started. Stopping it destroys it.

        Args:
            image_id: The image: of a succeeded build, or of an import.
            cpu: Number of CPUs, 1 to 8; 1 if absent.
            memory: Memory in MB, 256 to 16384; 256 if absent.
            port: Port that the program listens on, which the VM's URL leads to.
            env_vars: Environment of the program, over the image's.
            volume_gb: Size in GB of a disk at /data, 1 to 500; none if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            image_id=image_id,
            cpu=cpu,
            memory=memory,
            port=port,
            env_vars=env_vars,
            volume_gb=volume_gb,
        )
        return self._call(Vm, "POST", "/v1/vm/start", options, body=body)

    def stop_vm(self, vm_id: str, **options: Unpack[PostOptions]) -> Vm:
        """Stop and destroy a VM of ``start_vm``; its log stays."""
        return self._call(Vm, "POST", f"/v1/vm/{segment(vm_id)}/stop", options)

    def destroy_vm(self, vm_id: str, **options: Unpack[PostOptions]) -> Vm:
        """End a VM of either kind for good, its volume too; its log stays."""
        return self._call(Vm, "POST", f"/v1/vm/{segment(vm_id)}/destroy", options)

    def get_vm(self, vm_id: str, **options: Unpack[Options]) -> Vm:
        """Return a VM."""
        return self._call(Vm, "GET", f"/v1/vm/{segment(vm_id)}", options)

    def list_vms(
        self,
        *,
        image_id: str | None = None,
        status: VmState | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> VmPage:
        """Return a page of VMs, newest first; see :meth:`iter_vms` for all of them."""
        params = given(image_id=image_id, status=status, pagination=pagination)
        return self._call(VmPage, "GET", "/v1/vms", options, params=params)

    def iter_vms(
        self,
        *,
        image_id: str | None = None,
        status: VmState | None = None,
        **options: Unpack[Options],
    ) -> Generator[Vm]:
        """Yield all VMs, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_vms(image_id=image_id, status=status, pagination=pagination, **options)
            yield from page.vms
            pagination = page.pagination
            if pagination is None:
                return

    def cache_vm(
        self,
        image_id: str,
        *,
        cpu: int | None = None,
        memory: int | None = None,
        port: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        volume_gb: int | None = None,
        snapshot: SnapshotKind | None = None,
        hooks: Hooks | None = None,
        auto_start: bool | None = None,
        idle_timeout: int | None = None,
        **options: Unpack[PostOptions],
    ) -> Vm:
        """Make a VM that can be started and stopped again and again; nothing runs yet.

        Takes what :meth:`start_vm` takes, and more; the volume stays until the VM is destroyed.

        Args:
            image_id: The image: of a succeeded build, or of an import.
            cpu: As of :meth:`start_vm`, like the next four.
            memory: See there.
            port: See there.
            env_vars: See there.
            volume_gb: See there; not together with ``snapshot="ready"``.
            snapshot: What starts begin with: ``boot``, the program afresh, if absent; ``ready``,
                a snapshot of the program once its port accepted.
            hooks: What runs in the VM right before its snapshot, and when it is resumed.
            auto_start: Whether a request to its hostname starts it; needs a port.
            idle_timeout: Seconds without a request, 1 to 86400, after which it is stopped with
                its memory kept; needs a port.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            image_id=image_id,
            cpu=cpu,
            memory=memory,
            port=port,
            env_vars=env_vars,
            volume_gb=volume_gb,
            snapshot=snapshot,
            hooks=hooks,
            auto_start=auto_start,
            idle_timeout=idle_timeout,
        )
        return self._call(Vm, "POST", "/v1/vm/cache", options, body=body)

    def start_cached_vm(self, vm_id: str, **options: Unpack[PostOptions]) -> Vm:
        """Start a cached VM; one that runs is left as it is."""
        return self._call(Vm, "POST", f"/v1/vm/cached/{segment(vm_id)}/start", options)

    def stop_cached_vm(
        self, vm_id: str, *, keep: Keep | None = None, **options: Unpack[PostOptions]
    ) -> Vm:
        """Stop a cached VM, which can be started again.

        With ``keep="memory"`` its next start goes on where it was; if its memory cannot be kept,
        it is not stopped.
        """
        path = f"/v1/vm/cached/{segment(vm_id)}/stop"
        return self._call(Vm, "POST", path, options, params=given(keep=keep))

    def fork_cached_vm(self, vm_id: str, count: int, **options: Unpack[PostOptions]) -> ForkedVms:
        """Start 1 to 100 VMs from the snapshot of a cached one; ``stop_vm`` ends each.

        All of them are started, or none.
        """
        path = f"/v1/vm/cached/{segment(vm_id)}/fork"
        return self._call(ForkedVms, "POST", path, options, body=given(count=count))

    def destroy_cached_vm(self, vm_id: str, **options: Unpack[PostOptions]) -> Vm:
        """End a cached VM for good, its volume too; its log stays."""
        return self._call(Vm, "POST", f"/v1/vm/cached/{segment(vm_id)}/destroy", options)
