"""Completion, as a shell does it."""

import shlex
import subprocess
import sys
from typing import cast

import pytest

CAKEWORK = [sys.executable, "-m", "cakework.cli"]


def script(shell: str) -> str:
    return subprocess.run(
        [*CAKEWORK, "completion", shell], check=True, capture_output=True, text=True
    ).stdout


def completed(completion: str, *words: str) -> set[str]:
    """Return what bash offers for the last of some words."""
    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}"
    ask = f"{completion}\n{line}\n_cakework\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    shown = subprocess.run(["bash", "-c", ask], check=True, capture_output=True, text=True)
    return {word.strip() for word in shown.stdout.splitlines()}


@pytest.fixture(scope="module")
def bash() -> str:
    """The script for bash."""
    return script("bash")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("cakework", "de"), {"dead", "deploy", "destroy", "dev"}),
        (("cakework", "dead", "re"), {"replay"}),
        (("cakework", "triggers", "re"), {"remove", "resume"}),
        (("cakework", "events", "e"), {"emit"}),
        (("cakework", "init", "--function", ""), {"python", "typescript"}),
        (("cakework", "webhooks", "de"), {"delete", "deliveries"}),
        (("cakework", "vms", "--st"), {"--status"}),
        (("cakework", "vms", "--status", "st"), {"started", "stopped"}),
        (("cakework", "init", "--template", ""), {"node", "python"}),
    ],
)
def test_bash_completes(bash: str, words: tuple[str, ...], offered: set[str]) -> None:
    """Commands, those below them, options, and the words that an option takes."""
    assert completed(bash, *words) == offered


@pytest.mark.parametrize(("shell", "marks"), [("zsh", "#compdef cakework"), ("fish", "complete")])
def test_other_shells_have_scripts(shell: str, marks: str) -> None:
    """In their own language, with every command."""
    from cakework.cli.main import COMMANDS

    found = script(shell)
    assert marks in found
    assert [name for name in cast("dict[str, object]", COMMANDS) if name not in found] == []
