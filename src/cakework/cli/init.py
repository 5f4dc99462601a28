"""``cakework init``: a small project that runs, to begin with."""

import os
from pathlib import Path
from typing import Literal

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output

TEMPLATES = Path(__file__).parent / "templates"


def init(
    folder: Path = Path(),
    /,
    *,
    template: Literal["python", "node"] = "python",
    as_json: Json = False,
) -> int:
    """Write a small web server to begin with: Dockerfile, program, .dockerignore.

    Nothing is overwritten.

    Args:
        folder: Folder to write to, made when it is not there; the current one if absent.
        template: Language of the program.
    """
    source = TEMPLATES / template
    files = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    refuse_to_overwrite(folder, files)
    try:
        write(folder, files)
    except OSError as error:
        raise CommandFailed(f"Cannot write the project: {error}", ExitCode.USAGE) from error
    output = Output(as_json=as_json)
    output.result({"folder": str(folder), "files": sorted(files)}, str(folder))
    output.progress(f"wrote {', '.join(sorted(files))}; now: cakework deploy {folder}")
    return ExitCode.OK


def refuse_to_overwrite(folder: Path, files: dict[str, bytes]) -> None:
    """Raise CommandFailed when a file to be written is there, in whatever form."""
    there = [name for name in sorted(files) if os.path.lexists(folder / name)]
    if there:
        raise CommandFailed(
            f"{folder} has {', '.join(there)} already; nothing was written.",
            code="already_there",
        )


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files, or none: what was written is taken away when one cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for name, content in sorted(files.items()):
            with (folder / name).open("xb") as file:
                written.append(folder / name)
                file.write(content)
    except BaseException:
        for path in written:
            path.unlink()
        raise
