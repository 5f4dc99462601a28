"""The memory of a process that maps a file privately, read from outside."""

import subprocess
import sys
from pathlib import Path

from cakework.node.vms.memory import PAGE, save_memory

PAGES = 600
CHILD = """
import mmap, sys
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
for page in range(0, len(memory), 4096):
    memory[page]
memory[4096 * 3] = ord("a")
memory[4096 * 10 : 4096 * 30] = b"b" * 4096 * 20
memory[4096 * 500 : 4096 * 501] = bytes(4096)
print("done", flush=True)
sys.stdin.read()
"""


def test_what_was_changed_is_saved_over_what_was_mapped(tmp_path: Path) -> None:
    """Pages that were only read are the file's; written ones are the process's, and those that
    became zeros are holes. The file itself stays as it was."""
    base, target = tmp_path / "ram", tmp_path / "saved"
    with base.open("wb") as file:
        file.truncate(PAGES * PAGE)
        for page in (3, 10, 100, 500):
            file.seek(page * PAGE)
            file.write(bytes([page % 256]) * PAGE)
    before = base.read_bytes()
    command = [sys.executable, "-c", CHILD, base]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        own = save_memory(child.pid, target)
        child.communicate()
    expected = bytearray(before)
    expected[3 * PAGE] = ord("a")
    expected[10 * PAGE : 30 * PAGE] = b"b" * 20 * PAGE
    expected[500 * PAGE : 501 * PAGE] = bytes(PAGE)
    assert target.read_bytes() == expected
    assert own == 22 * PAGE
    assert target.stat().st_blocks * 512 == 22 * PAGE
    assert base.read_bytes() == before
