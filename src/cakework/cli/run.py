"""``cakework run``: start a VM and stay with it until it ends."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.interrupts import held_interrupt
from cakework.cli.output import Json, Output
from cakework.cli.values import Cpu, Memory, Port, Volume
from cakework.cli.variables import read_variables
from cakework.cli.vms import stop_vm
from cakework_client import CakeworkClient, Vm


def run(
    image: str,
    /,
    *,
    cpu: Cpu = None,
    memory: Memory = None,
    port: Port = None,
    env: Annotated[tuple[str, ...], Parameter(alias="-e", negative=())] = (),
    env_file: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    volume: Volume = None,
    detach: Annotated[bool, Parameter(alias="-d", negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Start a VM from an image and show its output until it ends, with its exit code.

    Ctrl-C stops and destroys the VM.

    Args:
        image: Id of the image, as `cakework build` prints it.
        cpu: Virtual processors, 1 to 8 (the server's default is 1).
        memory: Memory in MB, 256 to 16384 (the server's default is 256).
        port: Port the program listens on, to be reached through the router.
        env: Variable for the program, K=V; K alone passes this shell's on. May be repeated.
        env_file: File of such variables, one a line; # starts a comment. May be repeated.
        volume: Size in GB of a disk mounted at /data.
        detach: Print the VM's id and leave it running.
    """
    output = Output(as_json=as_json)
    variables = read_variables(env, env_file)
    began = time.monotonic()
    with open_client() as client:
        with held_interrupt() as interrupted:
            vm = client.start_vm(
                image, cpu=cpu, memory=memory, port=port, env_vars=variables, volume_gb=volume
            )
        if interrupted:
            stop_vm(client, vm.id)
            raise KeyboardInterrupt
        if detach:
            output.result(vm.to_dict(), vm.id)
            return ExitCode.OK
        output.progress(f"VM {vm.id} started in {time.monotonic() - began:.2f} s")
        if vm.url:
            output.progress(f"reach it at {vm.url}")
        return stay(client, vm.id, output)


def stay(client: CakeworkClient, vm_id: str, output: Output) -> int:
    """Show the VM's output until it ends; return its program's exit code.

    Interrupted, destroys the VM and raises on.
    """
    try:
        for line in client.follow_logs(vm_id):
            output.line(line.message, level=line.level)
    except (KeyboardInterrupt, BrokenPipeError):
        output.progress(f"stopping VM {vm_id}")
        stop_vm(client, vm_id)
        raise
    return report_end(client.get_vm(vm_id), output)


def report_end(vm: Vm, output: Output) -> int:
    """Say how the VM ended and return the exit code for the shell."""
    if output.as_json:
        output.result(vm.to_dict(), "")
    if vm.exit_code != 0:
        output.progress(f"VM {vm.id} ended: {vm.reason or vm.state}")
    return ExitCode.FAILED if vm.exit_code is None else vm.exit_code
