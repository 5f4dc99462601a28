"""``cakework cache``, ``start`` and ``fork``: VMs that are started again and again."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.interrupts import held_interrupt
from cakework.cli.output import Json, Output
from cakework.cli.values import Cpu, Forks, IdleTimeout, Memory, Port, Volume
from cakework.cli.variables import read_variables
from cakework.cli.vms import Ids, for_each
from cakework_client import CakeworkClient, SnapshotKind


def cache(
    image: str,
    /,
    *,
    cpu: Cpu = None,
    memory: Memory = None,
    port: Port = None,
    env: Annotated[tuple[str, ...], Parameter(alias="-e", negative=())] = (),
    env_file: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    volume: Volume = None,
    snapshot: SnapshotKind | None = None,
    auto_start: Annotated[bool, Parameter(negative=())] = False,
    idle_timeout: IdleTimeout = None,
    as_json: Json = False,
) -> int:
    """Make a VM that can be started and stopped again and again; print its id.

    Args:
        image: Id of the image, as `cakework build` prints it.
        cpu: Virtual processors, 1 to 8 (the server's default is 1).
        memory: Memory in MB, 256 to 16384 (the server's default is 256).
        port: Port the program listens on, to be reached through the router.
        env: Variable for the program, K=V; K alone passes this shell's on. May be repeated.
        env_file: File of such variables, one a line; # starts a comment. May be repeated.
        volume: Size in GB of a disk mounted at /data, kept until the VM is destroyed.
        snapshot: What starts begin with: boot (the program afresh; the default), or ready (a
            snapshot of the program, taken once its port accepts).
        auto_start: A request to its hostname starts it.
        idle_timeout: Seconds without a request after which it is stopped, with its memory kept.
    """
    if port is None and (auto_start or idle_timeout is not None):
        raise CommandFailed("--auto-start and --idle-timeout need --port.", ExitCode.USAGE)
    if snapshot == "ready" and volume is not None:
        raise CommandFailed("--snapshot ready does not go with --volume.", ExitCode.USAGE)
    variables = read_variables(env, env_file)
    with open_client() as client, held_interrupt() as interrupted:
        vm = client.cache_vm(
            image,
            cpu=cpu,
            memory=memory,
            port=port,
            env_vars=variables,
            volume_gb=volume,
            snapshot=snapshot,
            auto_start=auto_start or None,
            idle_timeout=idle_timeout,
        )
        if interrupted:
            client.destroy_cached_vm(vm.id)
            raise KeyboardInterrupt
    Output(as_json=as_json).result(vm.to_dict(), vm.id)
    return ExitCode.OK


def start(ids: Ids, /, *, as_json: Json = False) -> int:
    """Start cached VMs, with the environment, port, hostname and volume they were made with.

    Args:
        ids: Ids of the VMs.
    """
    return for_each(ids, CakeworkClient.start_cached_vm, as_json=as_json)


def fork(
    vm_id: Annotated[str, Parameter(name="id")], /, *, count: Forks, as_json: Json = False
) -> int:
    """Start VMs from a cached VM's snapshot, all of them or none; print their ids.

    Args:
        vm_id: Id of the cached VM, made with `--snapshot ready`.
        count: How many VMs, 1 to 100.
    """
    with open_client() as client, held_interrupt() as interrupted:
        forks = client.fork_cached_vm(vm_id, count)
        if interrupted:
            for vm in forks.vms:
                client.stop_vm(vm.id)
            raise KeyboardInterrupt
    Output(as_json=as_json).result(forks.to_dict(), "\n".join(vm.id for vm in forks.vms))
    return ExitCode.OK
