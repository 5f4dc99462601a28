"""A restored machine's memory, read from outside: the file it maps, and what it has written since.

A QEMU that was restored maps a file privately. The kernel knows which pages it has changed: they
belong to the process and no longer to the file (``/proc/<pid>/pagemap``). So its memory is that
file with these pages in it, and is written without QEMU taking part; it must be stopped.
"""

import array
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cakework.node.vms.disks import clone_sparse, punch_hole

PAGE = 4096
PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61
"""Bits of an entry of pagemap; see the kernel's admin-guide/mm/pagemap."""
MOST_AT_ONCE = 8 << 20
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (rw.p) ([0-9a-f]+) \S+ (\d+) ++(.*)")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of the file that is the memory: where it lies in the process, where in the file."""

    start: int
    end: int
    offset: int

    @property
    def name(self) -> str:
        """What it is called below ``/proc/<pid>/map_files``."""
        return f"{self.start:x}-{self.end:x}"


def save_memory(pid: int, target: Path) -> int:
    """Write the memory of the stopped machine ``pid`` to the new file ``target``.

    Returns how many bytes of it the machine had for itself. Blocks.

    Raises:
        OSError: the process is gone, or has no such memory; or the disk is full.
    """
    mappings = find_memory(pid)
    if not mappings:
        raise OSError("its memory is no private mapping of a file")
    base = Path(f"/proc/{pid}/map_files/{mappings[0].name}")
    clone_sparse(base, target)
    with target.open("r+b", buffering=0) as file, Path(f"/proc/{pid}/mem").open("rb", 0) as mem:
        own = sum(_copy(pid, mapping, mem.fileno(), file.fileno()) for mapping in mappings)
        os.fdatasync(file.fileno())
    return own


def find_memory(pid: int) -> list[Mapping]:
    """Return where process ``pid`` maps the file ``ram`` that it was restored from."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    found = (_MAPPING.fullmatch(line) for line in lines)
    return [
        Mapping(int(match[1], 16), int(match[2], 16), int(match[4], 16))
        for match in found
        if match and match[6].removesuffix(" (deleted)").endswith("/ram")
    ]


def _copy(pid: int, mapping: Mapping, mem: int, target: int) -> int:
    own = 0
    for start, end in _own_pages(pid, mapping):
        content = os.pread(mem, end - start, start)
        if len(content) != end - start:
            raise OSError("the machine's memory could not be read")
        _write(target, content, start - mapping.start + mapping.offset)
        own += end - start
    return own


def _own_pages(pid: int, mapping: Mapping) -> Iterator[tuple[int, int]]:
    """Yield where pages lie that are the process's own: (start, end), of a bounded length."""
    with Path(f"/proc/{pid}/pagemap").open("rb", 0) as pagemap:
        count = (mapping.end - mapping.start) // PAGE
        entries = array.array("Q", os.pread(pagemap.fileno(), count * 8, mapping.start // PAGE * 8))
    if len(entries) != count:
        raise OSError("the machine's memory could not be looked at")
    first = None
    for index, entry in enumerate(entries):
        own = entry & (PRESENT | SWAPPED) and not entry & OF_FILE
        if first is not None and (not own or (index - first) * PAGE >= MOST_AT_ONCE):
            yield mapping.start + first * PAGE, mapping.start + index * PAGE
            first = None
        if own and first is None:
            first = index
    if first is not None:
        yield mapping.start + first * PAGE, mapping.end


def _write(target: int, content: bytes, at: int) -> None:
    """Write pages; those that are nothing but zeros become holes."""
    zeros = bytes(PAGE)
    start = 0
    while start < len(content):
        empty = content[start : start + PAGE] == zeros
        end = start + PAGE
        while end < len(content) and (content[end : end + PAGE] == zeros) == empty:
            end += PAGE
        if empty:
            punch_hole(target, at + start, end - start)
        else:
            _write_all(target, memoryview(content)[start:end], at + start)
        start = end


def _write_all(target: int, view: memoryview, at: int) -> None:
    while view:
        written = os.pwrite(target, view, at)
        view, at = view[written:], at + written
