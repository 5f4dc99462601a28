"""Whether the records and the machine agree, and what is left that nothing claims."""

import hashlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2

from cakework.node.cgroups import Cgroup
from tests.integration.faults.parts import Parts
from tests.integration.node.vm_site import processes_of

Row = dict[str, Any]


def rows(parts: Parts, table: str) -> list[Row]:
    """Return the records of a table."""
    path = f"file:{parts.settings.server_dir}/cakework.db?mode=ro"
    with closing(sqlite3.connect(path, uri=True, timeout=30)) as store:
        store.row_factory = sqlite3.Row
        return [dict(row) for row in store.execute(f"SELECT * FROM {table}")]


def disagreements(parts: Parts) -> list[str]:
    """Name everything that is unsettled, differs between record and machine, or is left over."""
    return [*_unsettled(parts), *_differing(parts), *_left(parts)]


def _unsettled(parts: Parts) -> Iterator[str]:
    yield from (f"VM {vm['id']} is {vm['state']}" for vm in rows(parts, "vms") if _is_moving(vm))
    yield from (
        f"build {build['id']} goes on"
        for build in rows(parts, "builds")
        if build["status"] == "created"
    )
    yield from (
        f"import {image['id']} goes on"
        for image in rows(parts, "imports")
        if image["status"] == "importing"
    )


def _is_moving(vm: Row) -> bool:
    if vm["state"] == "created" or (not vm["log_complete"] and vm["state"] == "stopped"):
        return True
    ending = vm["wanted"] == "destroyed" or (vm["cached"] and vm["wanted"] == "stopped")
    return bool(ending) and vm["state"] not in (vm["wanted"], "destroyed")


def _differing(parts: Parts) -> Iterator[str]:
    node = parts.settings.node_dir
    vms = rows(parts, "vms")
    started = {(vm["id"], vm["run"]) for vm in vms if vm["state"] == "started"}
    kept = {vm["id"] for vm in vms if _has_volume(vm)}
    on_node = {(vm["vm_id"], vm["run"]) for vm in _node(parts, "/v1/vms")}
    machines = set(_machines(node / "machines"))
    images = {image["id"] for image in rows(parts, "images") if image["deleted_ms"] is None}
    yield from _unlike("VMs of the node", on_node, started)
    yield from _unlike("machines", machines, started)
    yield from _unlike("volumes", _names(node / "volumes"), kept)
    yield from _unlike("images", _names(node / "images") - _gone(parts), images)
    yield from _unlike("builds of the node", {b["build_id"] for b in _node(parts, "/v1/builds")})


def _gone(parts: Parts) -> set[str]:
    """Return images on record as gone: their files go within a minute, or at a start."""
    return {
        *(row["id"] for row in rows(parts, "images") if row["deleted_ms"] is not None),
        *(row["id"] for row in rows(parts, "imports") if row["status"] == "failed"),
        *(row["image_id"] for row in rows(parts, "builds") if row["status"] == "failed"),
    }


def images_of_nobody(parts: Parts) -> set[str]:
    """Return the images on the node that are on record as gone."""
    return _names(parts.settings.node_dir / "images") & _gone(parts)


def _has_volume(vm: Row) -> bool:
    return bool(vm["cached"] and vm["run"] and vm["volume_gb"] and vm["state"] != "destroyed")


def _machines(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield whose machines there are, by VM and run; one that is nobody's is its folder's."""
    for machine in folder.iterdir():
        try:
            order = json.loads((machine / "record.json").read_bytes())["order"]
        except FileNotFoundError:
            order = None
        yield (order["vm_id"], order["run"]) if order else (machine.name, 0)


def _left(parts: Parts) -> Iterator[str]:
    settings, territory = parts.settings, parts.territory
    node, vms = settings.node_dir, sum(vm["state"] == "started" for vm in rows(parts, "vms"))
    for folder in ("builds/work", "imports/work"):
        yield from (f"{folder}/{name}" for name in _names(node / folder))
    yield from (f"spool/{name}" for name in _names(settings.server_dir / "spool"))
    yield from (str(path) for path in _half_made(settings.data_dir))
    for store in (node / "builds" / "bases", *(node / "builds" / "layers").iterdir()):
        yield from (f"container {container}" for container in _containers(store / "storage"))
    yield from (f"cgroup {name}" for name in _cgroups(node, territory.name, vms))
    yield from (
        f"mount {line}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(settings.data_dir) in line
    )
    yield from _unlike("processes of machines", len(processes_of(territory)), vms)
    yield from (f"process {command}" for command in _processes(parts))
    links = vms + settings.pool_networks
    yield from _unlike("links", len(_links(territory.interface_prefix)), links)
    yield from _unlike("fetching links", _fetching(territory.name))


def _half_made(data_dir: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(data_dir):
        path = Path(folder)
        if path.name == "storage":
            folders.clear()
            continue
        for name in (*folders, *files):
            if name.startswith((".making", ".removing", ".")) or name.endswith(
                (".part", ".partial", ".making")
            ):
                yield path / name


def _containers(storage: Path) -> list[str]:
    return [entry.name for entry in (storage / "overlay-containers").iterdir() if entry.is_dir()]


def _cgroups(node: Path, territory: str, vms: int) -> list[str]:
    machines = [cgroup.name for cgroup in Cgroup.existing(f"{territory}-")]
    kinds = [
        f"{name}-{hashlib.sha256(str(node / folder).encode()).hexdigest()[:8]}-"
        for name, folder in (("build", "builds"), ("import", "imports"))
    ]
    others = [cgroup.name for kind in kinds for cgroup in Cgroup.existing(kind)]
    return others if len(machines) == vms else [*machines, *others]


def _processes(parts: Parts) -> Iterator[str]:
    """Yield the commands of processes that work for this node or server, beside the two."""
    mark = f"CAKEWORK_DATA_DIR={parts.folder}".encode()
    sandbox = f"CW_HOME={parts.folder}".encode()
    own = {parts.node.pid, parts.server.pid, *processes_of(parts.territory)}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) in own:
            continue
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if (
            command
            and "faults.nursery" not in command
            and (mark in environment or sandbox in environment)
        ):
            yield command.replace("\0", " ")


def _links(prefix: str) -> list[str]:
    return [path.name for path in Path("/sys/class/net").glob(f"{prefix}*")]


def _fetching(table: str) -> list[str]:
    command = ["nft", "--json", "list", "set", "ip", table, "fetching"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [name for each in listed["nftables"] for name in each.get("set", {}).get("elem", [])]


def _node(parts: Parts, path: str) -> list[Row]:
    transport = httpx2.HTTPTransport(uds=str(parts.settings.node_socket))
    with httpx2.Client(transport=transport, base_url="http://node", timeout=30) as client:
        return client.get(path).raise_for_status().json()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _unlike(what: str, found: object, expected: object = None) -> Iterator[str]:
    if found != expected and (found or expected):
        yield f"{what}: {found or 'none'}, on record {expected or 'none'}"
