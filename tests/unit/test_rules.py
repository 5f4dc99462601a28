"""Rules of the repository: what must be documented, who may import whom, what no file names."""

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from cyclopts import App

from cakework.cli.exits import ExitCode
from cakework.cli.main import COMMANDS, app
from cakework.domain.errors import ERRORS_BY_CODE
from cakework.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "cakework"

FORBIDDEN_IMPORTS = {
    "domain": (
        *("cakework.server", "cakework.node", "cakework.router", "cakework.cli"),
        "cakework.settings",
        "cakework_client",
    ),
    "node": ("cakework.server", "cakework.router", "cakework.cli", "cakework_client"),
    "server": ("cakework.node", "cakework.router", "cakework.cli", "cakework_client"),
    "router": ("cakework.node", "cakework.server", "cakework.cli", "cakework_client"),
    "cli": ("cakework.node", "cakework.router"),
}
FORBIDDEN_MODULES = {"utils", "helpers", "common", "manager"}
DEEP_IMPORT_OF_SERVER = {"cakework.server.keys_admin", "cakework.server.services.keys"}

REGISTRY_HOSTS = re.compile(
    r"(?<![\w.-])("
    + "|".join(
        map(re.escape, ("pypi.org", "pythonhosted.org", "npmjs.org", "npmjs.com", "debian.org"))
    )
    + r")\b"
)
MACHINE_PATHS = re.compile(rf"{re.escape(str(ROOT))}\b")


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0], path


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tracked_text() -> Iterator[tuple[Path, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            yield path, path.read_text(errors="replace")


def test_layers_hold() -> None:
    """Server and node never import each other, the domain imports neither, nobody imports cli."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer, path in sources()
        for name in imports(path)
        if name.startswith(FORBIDDEN_IMPORTS.get(layer, ("cakework.cli",)))
    ]
    assert wrong == []


def test_the_command_line_knows_little_of_the_server() -> None:
    """It speaks HTTP; only keys are made straight on the store, through one module."""
    found = {
        ".".join(name.split(".")[:4]).removesuffix(f".{name.rsplit('.', 1)[1]}")
        for layer, path in sources()
        if layer == "cli"
        for name in imports(path)
        if name.startswith("cakework.server")
    }
    assert found <= {"cakework.server", *DEEP_IMPORT_OF_SERVER}


def test_modules_are_named_after_what_they_hold() -> None:
    """A module called utils holds what nobody found a name for."""
    assert [path for _, path in sources() if path.stem in FORBIDDEN_MODULES] == []


def written(value: object) -> str:
    """Return a setting's value as the environment would have it."""
    if isinstance(value, list):
        return ",".join(map(str, cast("list[object]", value)))
    shown = str(value).replace(f"{ROOT}/", "")
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else shown


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    """docs/settings.md has a row for it with its default and its description."""
    field = Settings.model_fields[name]
    text = written(field.get_default(call_default_factory=True, validated_data={}))
    row = f"| `CAKEWORK_{name.upper()}` | {f'`{text}`' if text else '-'} | {field.description} |"
    assert row in (ROOT / "docs" / "settings.md").read_text().splitlines()


@pytest.mark.parametrize("code", ERRORS_BY_CODE)
def test_every_error_code_is_documented(code: str) -> None:
    """docs/errors.md has a row for it."""
    assert f"\n| `{code}` |" in (ROOT / "docs" / "errors.md").read_text()


def test_every_promise_of_security_is_attacked() -> None:
    """Each row of its table names tests, and they are there."""
    table = (ROOT / "SECURITY.md").read_text().partition("| Attacked by |\n|---|---|---|---|\n")[2]
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()))
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(rows) > 20
    for row in rows:
        named = set(re.findall(r"`(test_[a-z_]+\.py)`", row.rsplit("|", 2)[1]))
        assert named and named <= there, row


def commands(parent: App, prefix: str = "cakework") -> Iterator[tuple[str, App]]:
    for name in parent:
        if not name.startswith("-"):
            yield f"{prefix} {name}", parent[name]
            yield from commands(parent[name], f"{prefix} {name}")


COMMAND_NAMES = dict(commands(app))


def test_no_command_is_missed_by_these_tests() -> None:
    """Every command that is registered is looked at below."""
    assert {f"cakework {name}" for name in COMMANDS} <= set(COMMAND_NAMES)


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_command_and_option_is_documented(name: str) -> None:
    """docs/cli.md names the command, and every option of it."""
    text = (ROOT / "docs" / "cli.md").read_text()
    assert f"`{name}" in text
    command = COMMAND_NAMES[name]
    arguments = command.assemble_argument_collection() if command.default_command else ()
    options = {
        option for argument in arguments for option in argument.names if option.startswith("--")
    }
    assert [option for option in sorted(options) if option not in text] == []


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_documented(code: ExitCode) -> None:
    """docs/cli.md has a row for it."""
    assert f"\n| {code.value} |" in (ROOT / "docs" / "cli.md").read_text()


def test_make_lists_every_target() -> None:
    """`make` alone shows each target with a line about it."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make ([\w-]+) +\S", shown, re.MULTILINE) == phony.group(1).split()


def test_no_file_names_a_registry_or_this_machine() -> None:
    """Where packages come from, and where a checkout lies, is for each machine to say."""
    wrong = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path, text in tracked_text()
        for found in (*REGISTRY_HOSTS.finditer(text), *MACHINE_PATHS.finditer(text))
    ]
    assert wrong == []
