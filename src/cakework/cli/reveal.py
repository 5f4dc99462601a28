"""Opens a way to a few paths below closed folders, for one program.

    python -m cakework.cli.reveal COVER:PATH … -- PROGRAM …

Run as root in a mount namespace of its own. Each folder COVER is covered by an empty one in
which only the given paths appear, and then PROGRAM takes this process's place.
"""

import os
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Reveal the paths and become the program."""
    split = arguments.index("--")
    pairs = [argument.split(":", 1) for argument in arguments[:split]]
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for _, path in pairs}
    for cover in dict.fromkeys(cover for cover, _ in pairs):
        mount("-t", "tmpfs", "-o", "mode=0755,size=1m", "tmpfs", cover)
    for path in sorted(opened):
        reveal(Path(path), opened[path])
    program = arguments[split + 1 :]
    os.execvp(program[0], program)  # noqa: S606


def reveal(path: Path, descriptor: int) -> None:
    """Mount what ``descriptor`` is open on at ``path``, unless an outer mount shows it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if Path(f"/proc/self/fd/{descriptor}").is_dir():
        path.mkdir()
    else:
        path.touch()
    mount("--bind", f"/proc/self/fd/{descriptor}", str(path), descriptor=descriptor)


def mount(*arguments: str, descriptor: int | None = None) -> None:
    """Run mount(8) with paths as they are: resolving a descriptor's would name what is covered."""
    kept = () if descriptor is None else (descriptor,)
    subprocess.run(["mount", "--no-canonicalize", *arguments], check=True, pass_fds=kept)


if __name__ == "__main__":
    main(sys.argv[1:])
