"""Stores of layers and images, as containers/storage lays them out: whose they are, who is at
them, and how they are kept within bounds."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, cast

import structlog

from cakework.node.builds.identities import give
from cakework.node.cleanup import cleanup
from cakework.node.listing import entries, text_of

log = structlog.get_logger(__name__)


class LayerStore:
    """One store, in ``folder``.

    <folder>/storage/   images, layers, working containers
    <folder>/run/       its run-time state
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "storage"

    def prepare(self) -> None:
        """Make the folders, without the state of an earlier run. Nothing may be at it."""
        remove_tree(self.folder / "run")
        for name in ("storage", "run"):
            (self.folder / name).mkdir(exist_ok=True, parents=True)
            give(self.folder / name)

    def remove(self) -> None:
        """Remove all of it. Nothing may be at it; blocks as long as that takes."""
        remove_tree(self.folder)

    def containers_of(self, work_id: str) -> list[str]:
        """Return the working containers that a build left, known by the volume it was given."""
        return [folder.name for folder in self.container_folders(work_id)]

    def container_folders(self, work_id: str) -> list[Path]:
        """Return where those working containers have what is in no layer, such as volumes."""
        mark = f"/b/{work_id}/sys:"
        containers = entries(self.storage / "overlay-containers")
        return [
            container
            for container in containers
            if any(mark in text_of(below / "buildah.json") for below in entries(container))
        ]

    def size_mb(self) -> int:
        """Return how much all layers hold together, in MiB."""
        return sum(int(layer.get("diff-size", 0)) for layer in self._records("layers")) // 2**20

    def has_unused_layers(self) -> bool:
        """Say whether there are layers that no image or container has for its uppermost, and that
        no other layer lies on."""
        used = {layer.get("parent") for layer in self._records("layers")}
        for user in (*self._records("images"), *self._records("containers")):
            used |= {user.get("layer"), *(user.get("mapped-layers") or ())}
        return any(layer["id"] not in used for layer in self._records("layers"))

    def has_containers(self) -> bool:
        """Say whether there are working containers, or folders of such."""
        return bool(self._records("containers")) or bool(self._cut_off())

    def remove_cut_off(self) -> None:
        """Remove folders of working containers that were not on record yet when whoever made them
        was killed: nobody else knows of them. Nothing may be at it; blocks."""
        for folder in self._cut_off():
            remove_tree(folder)

    def _cut_off(self) -> list[Path]:
        known = {record.get("id") for record in self._records("containers")}
        there = entries(self.storage / "overlay-containers")
        return [entry for entry in there if entry.is_dir() and entry.name not in known]

    def _records(self, kind: Literal["layers", "images", "containers"]) -> list[dict[str, Any]]:
        file = self.storage / f"overlay-{kind}" / f"{kind}.json"
        records: object = json.loads(file.read_bytes()) if file.exists() else []
        if not isinstance(records, list):
            raise ValueError(f"no list of {kind}")
        if not all(isinstance(record, dict) for record in cast("list[object]", records)):
            raise ValueError(f"no record of {kind}")
        return cast("list[dict[str, Any]]", records)


Tidy = Callable[[LayerStore], Awaitable[None]]


class AccountLayers:
    """The stores of all accounts, below ``folder``: each for the builds of its account alone.

    They are caches. When they hold more together than they may, the largest goes first, so that
    who builds much takes from themselves and not from those who build little.
    """

    def __init__(self, folder: Path, limit_mb: int, tidy: Tidy) -> None:
        """Keep ``limit_mb`` in all; ``tidy`` removes what a build that was cut off left in one."""
        self._folder = folder
        self._limit_mb = limit_mb
        self._tidy = tidy
        self._gates: weakref.WeakValueDictionary[str, _Gate] = weakref.WeakValueDictionary()
        self._ready: set[str] = set()
        self._used: set[str] = set()

    @contextlib.asynccontextmanager
    async def used_for(self, account_id: str) -> AsyncGenerator[LayerStore]:
        """Give the store of an account to one of its builds, of which there may be many at once."""
        name = name_for(account_id)
        gate = self._gates.setdefault(name, _Gate())
        while True:
            async with gate.among_others():
                if name in self._ready:
                    try:
                        yield LayerStore(self._folder / name)
                    finally:
                        self._used.add(name)
                    return
            async with gate.alone():
                if name not in self._ready:
                    await self._make_ready(name)

    async def recover(self) -> None:
        """Make those ready that builds were at when the last run was cut off: few, as few builds
        run at once. The others need nothing until they are used."""
        for folder in entries(self._folder):
            if _is_cut_off(LayerStore(folder)):
                await self._make_ready(folder.name)

    async def trim(self) -> None:
        """See to it that they are within their bound, and rid of what no image is made of."""
        for name in [*self._used]:
            self._used.discard(name)
            with cleanup("layers", store=name):
                await self._trim_one(name)
        sizes = await asyncio.to_thread(self._sizes_mb)
        while sum(sizes.values()) > self._limit_mb:
            name = max(sizes, key=lambda each: sizes[each])
            before_mb = sizes.pop(name)
            async with self._gates.setdefault(name, _Gate()).alone():
                self._ready.discard(name)
                await asyncio.to_thread(LayerStore(self._folder / name).remove)
            log.info("layers_removed", store=name, size_mb=before_mb)

    async def _make_ready(self, name: str) -> None:
        """What cannot be made ready is begun anew: all that it costs is time."""
        store = LayerStore(self._folder / name)
        try:
            await asyncio.to_thread(store.prepare)
            if store.has_containers() or store.has_unused_layers():
                await self._tidy(store)
        except (OSError, ValueError) as error:
            log.warning("layers_begun_anew", store=name, error=str(error))
            await asyncio.to_thread(store.remove)
            await asyncio.to_thread(store.prepare)
        self._ready.add(name)

    async def _trim_one(self, name: str) -> None:
        """What builds left need not wait until there is too much of it, if nobody is held up."""
        gate, store = self._gates.setdefault(name, _Gate()), LayerStore(self._folder / name)
        if gate.is_free and (store.has_containers() or store.has_unused_layers()):
            async with gate.alone():
                await self._tidy(store)

    def _sizes_mb(self) -> dict[str, int]:
        return {each.name: LayerStore(each).size_mb() for each in entries(self._folder)}


def _is_cut_off(store: LayerStore) -> bool:
    try:
        store.size_mb()
        return store.has_containers()
    except (OSError, ValueError):
        return True


class _Gate:
    """Lets in either any number of tasks, or one alone; who waits to be alone lets no more in."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_free(self) -> bool:
        """Whether nobody is in, or waits to be."""
        return self._empty.is_set() and not self._door.locked()

    @contextlib.asynccontextmanager
    async def among_others(self) -> AsyncGenerator[None]:
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        async with self._door:
            await self._empty.wait()
            yield


def name_for(account_id: str) -> str:
    """Return the name of the folder with an account's store; any text may be an account's id."""
    return hashlib.sha256(account_id.encode()).hexdigest()[:32]


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` with whatever a build left in it: also folders in one another, so deep
    that a function which calls itself for each comes to its end."""
    subprocess.run(["rm", "-rf", "--", folder], check=True)
