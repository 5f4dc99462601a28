"""``cakework init``: a small project that runs, to begin with."""

import os
import re
import shlex
from pathlib import Path
from typing import Literal

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output
from cakework.runtimes import NODE, PYTHON

TEMPLATES = Path(__file__).parent / "templates"
FUNCTION_TEMPLATES = Path(__file__).parent / "function_templates"
NAME = b"{name}"
"""What stands for the function's name in templates."""
NAME_CHARS_MAX = 63
TESTS = {
    "python": f"PYTHONPATH={PYTHON} python3 -m unittest",
    "typescript": "node --test",
}
"""How a function's unit tests are run, in its folder."""
TYPES = Path("node_modules", "@cakework", "functions")
"""Where editors and Node look for what `@cakework/functions` has."""


def init(
    folder: Path = Path(),
    /,
    *,
    function: Literal["python", "typescript"] | None = None,
    template: Literal["python", "node"] = "python",
    as_json: Json = False,
) -> int:
    """Write a small project to begin with: a web server with a Dockerfile, or a function.

    Nothing is overwritten.

    Args:
        folder: Folder to write to, made when it is not there; the current one if absent.
        function: Write a function in this language, with a cakework.toml and a unit test.
        template: Language of the web server.
    """
    source = FUNCTION_TEMPLATES / function if function else TEMPLATES / template
    files = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    if function:
        name = function_name(folder).encode()
        files = {path: content.replace(NAME, name) for path, content in files.items()}
    refuse_to_overwrite(folder, files)
    try:
        write(folder, files)
    except OSError as error:
        raise CommandFailed(f"Cannot write the project: {error}", ExitCode.USAGE) from error
    output = Output(as_json=as_json)
    output.result({"folder": str(folder), "files": sorted(files)}, str(folder))
    following = shlex.join(["cakework", "deploy", str(folder)])
    output.progress(f"wrote {', '.join(sorted(files))}; now: {following}")
    if function == "typescript":
        link_types(folder)
    if function:
        output.progress(f"its unit test, in {folder}: {TESTS[function]}")
    return ExitCode.OK


def function_name(folder: Path) -> str:
    """Return a name for the function of a folder: the folder's, of letters that names have."""
    letters = re.sub("[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return letters[:NAME_CHARS_MAX].strip("-") or "hello"


def link_types(folder: Path) -> None:
    """Have editors and unit tests find `@cakework/functions`, which instances have anyway."""
    path = folder / TYPES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.symlink_to(NODE / "functions")
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error}", ExitCode.USAGE) from error


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
