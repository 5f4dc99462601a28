"""``cakework deploy``: a folder's program, built, started and reachable; the old one replaced.

A folder with a ``cakework.toml`` is a function: ``function_deploys.py``. One with a Dockerfile:

build ──▶ cache ──▶ start ──▶ listens ──▶ the new VM serves ──▶ the old VM is destroyed
  │         └──────────┴─────────┴─ fails, Ctrl-C: the new VM is destroyed, the old one stays
  └─ fails, Ctrl-C: nothing was made
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from cakework.cli.builds import build_from_folder, built_by
from cakework.cli.client import open_client
from cakework.cli.deployments import Deployment, only_one_deploys
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_deploys import Asked, deploy_function
from cakework.cli.interrupts import held_interrupt
from cakework.cli.manifest import FILE, has_manifest
from cakework.cli.output import Json, Output, shown_on_stderr
from cakework.cli.values import Cpu, Memory, Port, Seconds
from cakework.cli.variables import read_variables
from cakework_client import CakeworkClient, CakeworkError, NotFound, ReachableVm, Vm, VmEnded

LISTEN_S = 120.0
VM = Group("For a VM", sort_key=2)
FUNCTION = Group("For a function", sort_key=1)
LAST_LINES = 20
EXPOSE = re.compile(
    r"^[ \t]*+EXPOSE[ \t]++(\d++)(?:/tcp)?[ \t]*+\r?$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Wanted:
    """How the program is to run."""

    port: int
    cpu: int | None
    memory: int | None
    variables: Mapping[str, str]


def deploy(
    folder: Path = Path(),
    /,
    *,
    port: Annotated[Port, Parameter(group=VM)] = None,
    cpu: Annotated[Cpu, Parameter(group=VM)] = None,
    memory: Annotated[Memory, Parameter(group=VM)] = None,
    env: Annotated[tuple[str, ...], Parameter(alias="-e", negative=(), group=VM)] = (),
    env_file: Annotated[tuple[Path, ...], Parameter(negative=(), group=VM)] = (),
    wait: Annotated[Seconds, Parameter(group=VM)] = LISTEN_S,
    name: Annotated[str | None, Parameter(group=FUNCTION)] = None,
    user: Annotated[str | None, Parameter(group=FUNCTION)] = None,
    message: Annotated[str | None, Parameter(alias="-m", group=FUNCTION)] = None,
    no_promote: Annotated[bool, Parameter(negative=(), show_default=False, group=FUNCTION)] = False,
    as_: Annotated[Literal["function", "vm"] | None, Parameter(name="--as")] = None,
    as_json: Json = False,
) -> int:
    """Deploy a folder: a function if it has a cakework.toml, a VM if it has a Dockerfile.

    Prints the URL. A function's new version is live once its code was imported. A new VM serves
    before the old one is destroyed, and has a hostname of its own. What fails, or is ended with
    Ctrl-C, leaves what was there before.

    Args:
        folder: Folder to deploy; the current one if absent.
        port: Port the program listens on; the Dockerfile's EXPOSE if absent.
        cpu: Virtual processors, 1 to 8 (the server's default is 1).
        memory: Memory in MB, 256 to 16384 (the server's default is 256).
        env: Variable for the program, K=V; K alone passes this shell's on. May be repeated.
        env_file: File of such variables, one a line; # starts a comment. May be repeated.
        wait: Seconds within which the program must listen.
        name: Name of the function, instead of the one in cakework.toml.
        user: End user whose the function is, instead of the one in cakework.toml.
        message: What this version is, for people.
        no_promote: Do not make the version live; `cakework promote` does later.
        as_: What to deploy of a folder that has both files.
    """
    output = Output(as_json=as_json)
    of_vm = {"--port": port, "--cpu": cpu, "--memory": memory, "--env": env, "--env-file": env_file}
    if (as_ or kind_of(folder)) == "function":
        refuse(of_vm, f"is for VMs; settings of a function are in its {FILE}")
        asked = Asked(name, user, message, promote=not no_promote)
        with open_client() as client:
            return deploy_function(client, folder, asked, output)
    refuse({"--name": name, "--user": user, "--message": message}, "is for functions")
    variables = read_variables(env, env_file)
    with open_client() as client:
        ask = build_from_folder(client, folder, None, output)
        wanted = Wanted(exposed_port(folder) if port is None else port, cpu, memory, variables)
        with only_one_deploys(folder):
            deployment = Deployment.read(folder, client.url)
            remove_leftover(client, deployment)
            image_id = built_by(client, ask, output).image_id
            with new_vm(client, deployment, image_id, wanted) as made:
                vm = listening(client, made.id, wait, output)
            replace(client, deployment, vm, output)
    output.result(vm.to_dict(), vm.url)
    return ExitCode.OK


def kind_of(folder: Path) -> Literal["function", "vm"]:
    """Return what a folder is, by the files that it has."""
    has_dockerfile = (folder / "Dockerfile").is_file()
    if not has_manifest(folder):
        if folder.is_dir() and not has_dockerfile:
            raise CommandFailed(
                f"{folder} has neither a {FILE}, of a function, nor a Dockerfile, of a VM. "
                "`cakework init` writes one.",
                ExitCode.USAGE,
                code="unusable_folder",
            )
        return "vm"
    if not has_dockerfile:
        return "function"
    raise CommandFailed(
        f"{folder} has a {FILE}, of a function, and a Dockerfile, of a VM. Say which is meant: "
        "--as function, or --as vm.",
        ExitCode.USAGE,
    )


def refuse(options: Mapping[str, object], why: str) -> None:
    """Raise CommandFailed when one of some options was given."""
    for name, value in options.items():
        if value:
            raise CommandFailed(f"{name} {why}.", ExitCode.USAGE)


def exposed_port(folder: Path) -> int:
    """Return the one port that a Dockerfile exposes."""
    ports = set(EXPOSE.findall((folder / "Dockerfile").read_text()))
    if len(ports) != 1:
        raise CommandFailed(
            "Which port does the program listen on? Give --port, or the Dockerfile an EXPOSE.",
            ExitCode.USAGE,
        )
    return int(ports.pop())


@contextmanager
def new_vm(
    client: CakeworkClient, deployment: Deployment, image_id: str, wanted: Wanted
) -> Generator[Vm]:
    """Start a VM; destroyed again if what follows fails or is interrupted."""
    try:
        with held_interrupt() as interrupted:
            vm = client.cache_vm(
                image_id,
                port=wanted.port,
                cpu=wanted.cpu,
                memory=wanted.memory,
                env_vars=wanted.variables,
            )
            deployment.leftover.append(vm.id)
            deployment.write()
        if interrupted:
            raise KeyboardInterrupt
        yield client.start_cached_vm(vm.id)
    except BaseException:
        with held_interrupt(), suppress(CakeworkError):
            remove_leftover(client, deployment)
        raise


def listening(client: CakeworkClient, vm_id: str, wait_s: float, output: Output) -> ReachableVm:
    """Return the VM once its program listens; show the end of its log if it does not."""
    output.progress(f"VM {vm_id} started, waiting for its program to listen")
    try:
        return client.wait_for_vm(vm_id, timeout=wait_s)
    except (VmEnded, TimeoutError) as error:
        last = list(client.iter_logs(vm_id))[-LAST_LINES:]
        for line in last:
            output.progress(f"  {shown_on_stderr(line.message)}")
        why = str(error) if isinstance(error, VmEnded) else f"It did not listen in {wait_s:g} s."
        raise CommandFailed(
            f"{why} What was deployed before is as it was.", code="not_listening"
        ) from error


def replace(
    client: CakeworkClient, deployment: Deployment, vm: ReachableVm, output: Output
) -> None:
    """Have a VM be the one that serves, and destroy the one that was."""
    with held_interrupt():
        old = deployment.vm_id
        deployment.vm_id = vm.id
        deployment.leftover = [] if old is None else [old]
        deployment.write()
        remove_leftover(client, deployment)
    if old is not None:
        output.progress(f"replaced VM {old}: the program has a new hostname, {vm.hostname}")


def remove_leftover(client: CakeworkClient, deployment: Deployment) -> None:
    """Destroy the VMs that are to go, and forget each once it is gone."""
    for vm_id in list(deployment.leftover):
        with suppress(NotFound):
            client.destroy_vm(vm_id)
        deployment.leftover.remove(vm_id)
        deployment.write()
