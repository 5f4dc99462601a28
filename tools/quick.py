#!/usr/bin/env python3
"""Checks and tests what a change touches, in under three minutes: ``make quick [BASE=<commit>]``.

A change is what differs from BASE, which is the commit that this branch left its upstream at, or
the last one. Tests that import what was changed, also indirectly, are run, nearest first, as long
as there is time by what `make test` last took; what is left out is told.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.grounds import ground_of  # noqa: E402

SECONDS = ROOT / ".build" / "test-seconds.json"
SOURCES = {"src": "cakework", "sdk/python/src": "cakework_client", ".": "tests"}
STARTED = {
    "tests.acceptance.platform": (
        *("cakework.cli.main", "cakework.node.app", "cakework.server.app"),
        "cakework.router.__main__",
    ),
    "tests.integration.node.node_process": ("cakework.node.app",),
    "tests.integration.faults.parts": (
        *("cakework.node.app", "cakework.server.app", "cakework.router.__main__"),
    ),
    "tests.integration.server.processes": ("cakework.server.app", "cakework.router.__main__"),
}
"""What modules of tests run in a process of its own, and so do not import."""
ELSEWHERE = {
    "guest/": ["make", "--silent", "-C", "guest", "test"],
    "sdk/typescript/": ["npm", "--silent", "--prefix", "sdk/typescript", "test"],
    "src/cakework/runtimes/": [
        *(".venv/bin/pytest", "-q", "--numprocesses=2", "--dist=loadscope"),
        "tests/integration/runtimes",
    ],
}
TIME_S = 160
"""Until the last test is to have ended, by what tests took before."""
PROCESSES = 2
COLLECTING_S = 10.0
GROUND_S = 20.0
"""For what the tests of a ground share, which one of its files is told to have taken."""
GUESS_S = 5.0
"""For a file of tests that has not been run here yet."""


def main() -> int:
    """Run it; return the exit status of what failed first, or 0."""
    started = time.monotonic()
    changed = sorted(changed_files(sys.argv[1] if len(sys.argv) > 1 else base()))
    if not changed:
        print("quick: nothing has changed; `make quick BASE=HEAD~1` looks at the last commit too")
        return 0
    print(f"quick: {len(changed)} changed files")
    for command in chain(checks(changed), tests(changed, started + TIME_S)):
        if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
            return status
    print(f"quick: done in {time.monotonic() - started:.0f} s; `make test` runs everything")
    return 0


def base() -> str:
    """Return the commit that changes are counted from."""
    found = git("merge-base", "HEAD", "@{upstream}", check=False)
    return found[0] if found else "HEAD"


def changed_files(since: str) -> set[str]:
    """Return the files that differ from ``since``, those that git does not know yet too."""
    differ = git("diff", "--name-only", "--no-renames", since, "--")
    return {*differ, *git("ls-files", "--others", "--exclude-standard")}


def git(*words: str, check: bool = True) -> list[str]:
    """Return the lines that git answers."""
    done = subprocess.run(["git", *words], cwd=ROOT, check=check, capture_output=True, text=True)
    return done.stdout.splitlines()


def checks(changed: Iterable[str]) -> Iterator[list[str]]:
    """Yield the commands that check what needs no test of Python's."""
    python = [file for file in changed if file.endswith(".py") and (ROOT / file).exists()]
    if python:
        yield [".venv/bin/ruff", "check", *python]
        yield [".venv/bin/ruff", "format", "--check", *python]
        yield [".venv/bin/pyright", *python]
    for folder, command in ELSEWHERE.items():
        if any(file.startswith(folder) for file in changed):
            yield command


def tests(changed: Iterable[str], until_s: float) -> Iterator[list[str]]:
    """Yield the command that runs the tests for which there is time, if there are any, by the
    monotonic clock of when it is asked for."""
    seconds: dict[str, float] = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    files = touched(changed)
    chosen, left_out = within(files, seconds, until_s - time.monotonic() - COLLECTING_S)
    if left_out:
        print(f"quick: left to `make test`, for want of time: {' '.join(left_out)}")
    if chosen:
        print(f"quick: tests in {len(chosen)} files")
        yield [".venv/bin/pytest", "-q", f"--numprocesses={PROCESSES}", "--dist=loadscope", *chosen]
    else:
        print("quick: no test imports what was changed")


def within(
    files: Iterable[str], seconds: dict[str, float], time_s: float
) -> tuple[list[str], list[str]]:
    """Part ``files`` into those that end within ``time_s``, the first ones, and the others.

    One process runs all of a ground.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    all_s = PROCESSES * time_s
    grounds_s: dict[str, float] = {}
    for file in files:
        ground, needed_s = ground_of(file), seconds.get(file, GUESS_S)
        if ground != file and ground not in grounds_s:
            needed_s += GROUND_S
        ground_s = grounds_s.get(ground, time_s)
        if needed_s > min(all_s, ground_s):
            left_out.append(file)
            continue
        chosen.append(file)
        all_s -= needed_s
        grounds_s[ground] = ground_s - needed_s
    return chosen, left_out


def touched(changed: Iterable[str]) -> list[str]:
    """Return the files of tests that import ``changed`` ones, those first that do so directly."""
    graph = imports()
    nearest = {module: 0 for file in changed for module in modules_of(file, graph)}
    reached = list(nearest)
    for module in reached:
        for importer in sorted(graph.find_modules_that_directly_import(module)):
            if importer not in nearest:
                nearest[importer] = nearest[module] + 1
                reached.append(importer)
    files = [module.replace(".", "/") + ".py" for module in reached if is_test(module)]
    return [file for file in files if (ROOT / file).exists()]


def modules_of(file: str, graph: grimp.ImportGraph) -> set[str]:
    """Return the modules that a changed file is, or that stand for it.

    For what nobody imports, such as a script, those beside it do, or else beside its folder.
    """
    path = ROOT / file
    if not path.exists():
        return set()
    for folder in SOURCES:
        if path.is_relative_to(home := ROOT / folder / SOURCES[folder]):
            module = module_name(path.relative_to(home.parent))
            if path.suffix == ".py" and (is_test(module) or is_imported(module, graph)):
                return {module}
            return beside(module.rpartition(".")[0], graph)
    return set()


def beside(package: str, graph: grimp.ImportGraph) -> set[str]:
    """Return the modules in ``package`` that are imported, or in the nearest one that has such."""
    while package:
        within = {name for name in graph.modules if name.rpartition(".")[0] == package}
        if imported := {name for name in within if is_imported(name, graph)}:
            return imported
        package = package.rpartition(".")[0]
    return set()


def imports() -> grimp.ImportGraph:
    """Return who imports whom: what pytest or a process of its own brings in counts as imported."""
    sys.path[:0] = [str(ROOT / folder) for folder in SOURCES]
    graph = grimp.build_graph(*SOURCES.values(), cache_dir=None)
    for module in sorted(graph.modules):
        package, _, name = module.rpartition(".")
        if name == "conftest":
            for other in sorted(graph.modules):
                if other.startswith(f"{package}.") and is_test(other):
                    graph.add_import(importer=other, imported=module)
    for starter, started in STARTED.items():
        for module in started:
            graph.add_import(importer=starter, imported=module)
    return graph


def is_test(module: str) -> bool:
    """Say whether a module is one that pytest collects."""
    return module.startswith("tests.") and module.rpartition(".")[2].startswith("test_")


def is_imported(module: str, graph: grimp.ImportGraph) -> bool:
    """Say whether anybody imports a module."""
    return module in graph.modules and bool(graph.find_modules_that_directly_import(module))


def module_name(path: Path) -> str:
    """Return the name that a file is imported by, or would be."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


if __name__ == "__main__":
    sys.exit(main())
