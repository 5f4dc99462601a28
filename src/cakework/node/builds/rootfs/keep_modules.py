"""Removes the Node modules below ROOT/usr/share/nodejs that none of the given ones needs.

Usage: keep_modules.py ROOT MODULE…
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path


def closure(modules: Path, names: list[str]) -> set[Path]:
    """Return the folders of ``names`` and of all modules that they depend on."""
    found: set[Path] = set()
    waiting = [modules / name for name in names]
    while waiting:
        module = waiting.pop()
        if module in found or not (module / "package.json").is_file():
            continue
        found.add(module)
        package = json.loads((module / "package.json").read_text())
        for name in {**package.get("dependencies", {}), **package.get("optionalDependencies", {})}:
            waiting += candidates(modules, module, name)
    return found


def candidates(modules: Path, module: Path, name: str) -> Iterator[Path]:
    """Yield where Node looks for ``name`` when ``module`` asks for it."""
    for folder in (module, *module.parents):
        yield folder / "node_modules" / name
        if folder == modules:
            break
    yield modules / name


def top(modules: Path, module: Path) -> str:
    """Return the module of the first level that ``module`` is in: ``npm`` or ``@npmcli/fs``."""
    parts = module.relative_to(modules).parts
    return "/".join(parts[:2] if parts[0].startswith("@") else parts[:1])


def main() -> None:
    """Remove what is not needed."""
    modules = Path(sys.argv[1]) / "usr/share/nodejs"
    keep = {top(modules, module) for module in closure(modules, sys.argv[2:])}
    folders = [entry for entry in modules.iterdir() if not entry.name.startswith("@")]
    folders += [entry for scope in modules.glob("@*") for entry in scope.iterdir()]
    for folder in folders:
        if str(folder.relative_to(modules)) in keep or folder.name == "node_modules":
            continue
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink()
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
