"""Dependencies: what a version's code imports and did not bring, as an image of its own.

They are installed by a build like any other, FROM the runtime's base image, with the runtime's
adapter beside them. What goes into that build is the digest that images are shared by, among the
versions and functions of one account: so a change of code alone builds nothing.

| Language | Found as | Installed by |
|---|---|---|
| Python | `uv.lock` with `pyproject.toml` | `uv export --frozen`, every hash checked |
| | `requirements.txt` | `uv pip install` |
| | `pyproject.toml` | `uv pip install`, of what the project depends on |
| Node | `package.json` with `package-lock.json` | `npm ci` |
| | `package.json` | `npm install` |

No script of a package is run when it is installed, but for building a Python package that has
no wheel.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cakework.domain.errors import InvalidRequest
from cakework.domain.functions import Runtime
from cakework.server.functions.requirements import check_dependencies
from cakework.server.functions.sources import Source, digest_of

FOLDER = "/opt/cakework"
"""Where the adapter and dependencies lie in an instance."""
PYTHON_PACKAGES = f"{FOLDER}/packages"

_BASES = {
    Runtime.PYTHON_313: "cakework/python:3.13",
    Runtime.PYTHON_311: "cakework/python:3.11",
    Runtime.NODE_24: "cakework/node:24",
}
_PYTHON = ("uv.lock", "requirements.txt", "pyproject.toml")
_NODE = ("package.json", "package-lock.json")
LOCKS = {"uv.lock": "pyproject.toml", "package-lock.json": "package.json"}
"""Files that say what exactly is installed, and what each of them locks."""
_OPTIONS = '"--folder", "/app", "--control-host", "0.0.0.0"'
_UV = f"uv pip install --no-cache --quiet --python /usr/bin/python3 --target {PYTHON_PACKAGES}"


@dataclass(frozen=True, slots=True)
class Layer:
    """What is built: files of the context by path, and the Dockerfile over them.

    ``digest`` (``sha256:<hex>``) tells it from every other.
    """

    runtime: Runtime
    files: Mapping[str, bytes]
    dockerfile: str

    @property
    def digest(self) -> str:
        """What tells this layer from every other, of any runtime."""
        head = json.dumps([self.runtime, self.dockerfile, digest_of(self.files)])
        return f"sha256:{hashlib.sha256(head.encode()).hexdigest()}"


def layer_of(
    runtime: Runtime, source: Source, adapter: Mapping[str, bytes], fresh: str | None = None
) -> Layer:
    """Return the layer that ``source`` needs; ``adapter`` are the runtime's files, by path.

    ``fresh`` is a day: what is not locked is installed anew for it.

    Raises:
        InvalidRequest: a lock is there without what it locks; or what names dependencies cannot.
    """
    names = _NODE if runtime is Runtime.NODE_24 else _PYTHON
    found = {name: source.files[name] for name in names if name in source.files}
    check_dependencies(found)
    steps = _node_steps(found) if runtime is Runtime.NODE_24 else _python_steps(found)
    files = {f"adapter/{path}": content for path, content in adapter.items()}
    files |= {f"dependencies/{name}": found[name] for name in found if steps}
    lines = [f"FROM {_BASES[runtime]}", f"COPY adapter {FOLDER}/adapter", *steps]
    if steps and fresh is not None and not found.keys() & LOCKS.keys():
        lines.insert(0, f"# dependencies as of {fresh}")
    return Layer(runtime, files, "\n".join([*lines, *_ending(runtime)]) + "\n")


def _python_steps(found: Mapping[str, bytes]) -> list[str]:
    copy = "COPY dependencies /tmp/dependencies"
    if "uv.lock" in found:
        if "pyproject.toml" not in found:
            raise InvalidRequest("The source has a uv.lock, but not the pyproject.toml it locks.")
        export = (
            "uv export --frozen --no-dev --no-emit-project --quiet "
            "--directory /tmp/dependencies -o /tmp/locked.txt"
        )
        install = f"{_UV} --require-hashes -r /tmp/locked.txt"
        return [copy, f"RUN {export} && {install} && rm -r /tmp/locked.txt /tmp/dependencies"]
    for name in ("requirements.txt", "pyproject.toml"):
        if name in found:
            install = f"{_UV} -r /tmp/dependencies/{name}"
            return [copy, f"RUN {install} && rm -r /tmp/dependencies"]
    return []


def _node_steps(found: Mapping[str, bytes]) -> list[str]:
    if "package.json" not in found:
        if found:
            raise InvalidRequest("The source has a package-lock.json, but no package.json.")
        return []
    verb = "ci" if "package-lock.json" in found else "install"
    install = f"npm {verb} --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error"
    # Where the resolver finds it from any folder of the code's.
    return [
        f"COPY dependencies {FOLDER}/dependencies",
        f"RUN cd {FOLDER}/dependencies && {install} && mkdir -p node_modules && "
        "mv node_modules /node_modules",
    ]


def _ending(runtime: Runtime) -> list[str]:
    if runtime is Runtime.NODE_24:
        return [
            "RUN mkdir -p /app && chown 1000:1000 /app",
            "USER 1000:1000",
            "WORKDIR /tmp",
            f'CMD ["node", "{FOLDER}/adapter/adapter/main.mjs", {_OPTIONS}]',
        ]
    return [
        f"ENV PYTHONPATH={FOLDER}/adapter:{PYTHON_PACKAGES}",
        "RUN mkdir -p /app && chown 1000:1000 /app",
        "USER 1000:1000",
        "WORKDIR /tmp",
        f'CMD ["python3", "{FOLDER}/adapter", {_OPTIONS}]',
    ]
