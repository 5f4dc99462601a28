"""What the files that name dependencies may say, as far as can be told before they are installed.

They come with the code, from a stranger, and are carried out by a build, which is contained: what
is refused here would lead nowhere there. It is refused so that whoever sent it is told at once.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, cast

from cakework.domain.errors import InvalidRequest

_OPTIONS = frozenset(
    {
        *("-i", "--index-url", "--extra-index-url", "--hash", "--pre", "--prefer-binary"),
        *("--no-binary", "--only-binary", "--require-hashes"),
    }
)
_INDEXES = frozenset({"-i", "--index-url", "--extra-index-url"})
_OPTION = re.compile(r"(?:^|\s)(--?[A-Za-z][A-Za-z-]*)(?:[\s=]+(\S+))?")
_REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[|@|[<>=!~;(]|--|$)")
_URL = re.compile(r"^[A-Za-z0-9._\-\[\], ]+@\s*(\S+)|^([a-z+]+://\S+)")
_SCHEMES = ("https://", "http://", "git+https://")
_LOCAL = ("file:", "link:", "portal:", "./", "../", "/", "~")
_GROUPS = ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies")


def check_dependencies(files: Mapping[str, bytes]) -> None:
    """Check the files of dependencies, by name, of what a version brings.

    Raises:
        InvalidRequest: naming the file, and its line where it has lines.
    """
    checks = {
        "requirements.txt": _check_requirements,
        "pyproject.toml": _check_toml,
        "uv.lock": _check_toml,
        "package.json": _check_package,
        "package-lock.json": _check_json,
    }
    for name, content in files.items():
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _refused(name, "is not text in UTF-8") from error
        if "\0" in text:
            raise _refused(name, "has a NUL in it")
        if check := checks.get(name):
            check(name, text)


def _check_requirements(name: str, text: str) -> None:
    joined, start = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if not joined:
            start = number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        said = re.sub(r"(^|\s)#.*$", "", joined + line).strip()
        joined = ""
        if said:
            _check_line(f"{name}, line {start}", said)


def _check_line(place: str, line: str) -> None:
    for option, value in _OPTION.findall(line):
        if option not in _OPTIONS:
            raise _refused(place, f"has the option {option}, which is not taken here")
        if option in _INDEXES and not value.startswith(("https://", "http://")):
            raise _refused(place, f"has {option} of something other than https://")
    if line.startswith("-"):
        return
    if found := _URL.match(line):
        url = found[1] or found[2]
        if not url.startswith(_SCHEMES):
            raise _refused(place, "names a place that is no https:// or git+https://")
    elif not _REQUIREMENT.match(line):
        raise _refused(place, "is no requirement: a name, and versions of it")


def _check_toml(name: str, text: str) -> None:
    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _refused(name, f"is not TOML: {str(error)[:200]}") from error


def _check_json(name: str, text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"is not JSON: {str(error)[:200]}") from error
    if not isinstance(said, dict):
        raise _refused(name, "is no object")
    return cast("dict[str, Any]", said)


def _check_package(name: str, text: str) -> None:
    said = _check_json(name, text)
    for group in _GROUPS:
        wanted = said.get(group, {})
        if not isinstance(wanted, dict):
            raise _refused(name, f"has {group} that are no object")
        for package, where in cast("dict[str, object]", wanted).items():
            if not isinstance(where, str) or where.startswith(_LOCAL):
                raise _refused(
                    name, f"wants {package[:100]} from a place that is not with it: {where!s:.100}"
                )


def _refused(place: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The dependencies cannot be taken: {place} {why}.")
