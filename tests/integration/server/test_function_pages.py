"""The commands of docs/functions.md and docs/invocations.md do what the pages say."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from .rig import KEY
from .test_cli_functions import Commands, commands

pytestmark = pytest.mark.anyio
__all__ = ["commands"]

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- end of block"


def blocks() -> list[tuple[str, str | None]]:
    """Return the commands of the pages in order, and what the pages say that they print."""
    found: list[tuple[str, str | None]] = []
    for page in ("functions.md", "invocations.md"):
        told = [match.groups() for match in BLOCK.finditer((DOCS / page).read_text())]
        for (kind, text), (after, printed) in zip(told, [*told[1:], ("", "")], strict=True):
            if kind == "sh":
                found.append((text, printed if after == "text" else None))
    assert len(found) >= 5
    return found


async def test_commands_can_be_copied(commands: Commands, tmp_path: Path) -> None:
    """One after the other, in one shell. What needs the router, or never ends, is tested
    elsewhere."""
    (tmp_path / "cakework").write_text(f'#!/bin/sh\nexec {sys.executable} -m cakework.cli "$@"\n')
    (tmp_path / "cakework").chmod(0o755)
    shell = await asyncio.create_subprocess_exec(
        *(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            "\n".join(f"{text}\necho {MARK}" for text, _ in blocks()),
        ),
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CAKEWORK_CONFIG": os.devnull,
            "CAKEWORK_URL": str(commands.functions.rig.client.base_url),
            "CAKEWORK_API_KEY": KEY,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await shell.communicate()
    printed = output.decode().split(f"{MARK}\n")
    assert shell.returncode == 0, output.decode() + errors.decode()
    for (text, expected), shown in zip(blocks(), printed, strict=False):
        if expected is not None:
            assert shown.endswith(expected), text
