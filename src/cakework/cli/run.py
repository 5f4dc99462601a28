"""``cakework run``: start a VM and stay with it until it ends."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter

from cakework.cli.client import Client, Vm, open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.logs import follow_log, vm_log
from cakework.cli.output import Json, Output

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


def run(
    image: str,
    /,
    *,
    cpu: int | None = None,
    memory: int | None = None,
    port: Annotated[int | None, Parameter(alias="-p")] = None,
    env: Annotated[tuple[str, ...], Parameter(alias="-e", negative=())] = (),
    env_file: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    volume: int | None = None,
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
    client = open_client()
    wanted = {"cpu": cpu, "memory": memory, "port": port, "volumeGB": volume}
    body: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
    body |= {"imageId": image, "envVars": read_variables(env, env_file)}
    began = time.monotonic()
    with held_interrupt() as interrupted:
        vm = cast("Vm", client.call("POST", "/v1/vm/start", body=body))
    if interrupted:
        client.stop_vm(vm["id"])
        raise KeyboardInterrupt
    if detach:
        output.result(vm, vm["id"])
        return ExitCode.OK
    output.progress(f"VM {vm['id']} started in {time.monotonic() - began:.2f} s")
    if url := vm.get("url"):
        output.progress(f"reach it at {url}")
    return stay(client, vm["id"], output)


@contextmanager
def held_interrupt() -> "Generator[list[int]]":
    """Hold Ctrl-C and SIGTERM back, listing them, so that a VM cannot be left without its id."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _frame: caught.append(got)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def stay(client: Client, vm_id: str, output: Output) -> int:
    """Show the VM's output until it ends; return its program's exit code.

    Interrupted, destroys the VM and raises on.
    """
    try:
        for line in follow_log(client, vm_log(vm_id), {}):
            output.line(line["message"], level=line["level"])
    except (KeyboardInterrupt, BrokenPipeError):
        output.progress(f"stopping VM {vm_id}")
        client.stop_vm(vm_id)
        raise
    return report_end(client.get_vm(vm_id), output)


def report_end(vm: Vm, output: Output) -> int:
    """Say how the VM ended and return the exit code for the shell."""
    if output.as_json:
        output.result(vm, "")
    exit_code = vm.get("exitCode")
    if exit_code != 0:
        output.progress(f"VM {vm['id']} ended: {vm.get('reason') or vm['state']}")
    return ExitCode.FAILED if exit_code is None else exit_code


def read_variables(given: "Iterable[str]", files: "Iterable[Path]") -> dict[str, str]:
    """Return the variables of files and options; options win.

    Raises:
        CommandFailed: A file cannot be read, or a variable has no name or no value.
    """
    variables: dict[str, str] = {}
    for path in files:
        variables |= dict(filter(None, map(parse_variable, read_lines(path))))
    return variables | dict(filter(None, map(parse_variable, given)))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of variables, without comments and blank ones."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"Cannot read {path}: {error}", ExitCode.USAGE) from error
    return [line for line in lines if line and not line.startswith("#")]


def parse_variable(text: str) -> tuple[str, str] | None:
    """Return ``K=V`` as a pair, and ``K`` with this process's value; None if it has none."""
    name, equals, value = text.partition("=")
    if not name:
        raise CommandFailed(f"{text!r} is not K=V.", ExitCode.USAGE)
    if equals:
        return name, value
    return (name, os.environ[name]) if name in os.environ else None
