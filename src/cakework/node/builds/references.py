"""The images that a Dockerfile builds on: what has to be there before it is built.

They are fetched ahead, apart from the build itself, whose commands run on a network of their
own. Variables in FROM are filled in from the ARGs before the first FROM.
"""

import re
from collections.abc import Iterator

from cakework.domain.dockerfiles import Instruction, parse_dockerfile

_VARIABLE = re.compile(
    r"\$(?:(?P<name>\w+)|\{(?P<braced>\w+)(?::(?P<sign>[-+])(?P<word>[^{}]*))?\})"
)
_FROM = re.compile(r"^(?:--\S+\s+)*(?P<image>\S+)(?:\s+as\s+(?P<stage>\S+))?\s*$", re.IGNORECASE)
_QUOTES = str.maketrans("", "", "\"'\\")
_OF_NO_FILES = re.compile(r"\btype=(?:cache|tmpfs|secret|ssh)\b")
_ARG = re.compile(r"(?P<name>\w+)(?:=(?P<value>\"[^\"]*\"|'[^']*'|\S*))?")
SCRATCH = "scratch"


def base_images(dockerfile: str) -> list[str]:
    """Return the references of images from outside that ``dockerfile`` names, each once.

    Raises:
        DockerfileError: it does not parse.
    """
    found: dict[str, None] = {}
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    count = 0
    for instruction in parse_dockerfile(dockerfile):
        if instruction.name == "ARG" and not count:
            _declare(instruction.arguments, arguments)
        for reference in _references(instruction, arguments):
            if reference != SCRATCH and reference.lower() not in stages:
                found[reference] = None
        if instruction.name == "FROM":
            stages |= {str(count), _stage(instruction).lower()}
            count += 1
    return list(found)


def mounts_files(dockerfile: str) -> bool:
    """Say whether a RUN has files mounted, from the context, a stage or an image.

    What is in them does not count among what a finished step is known by again.

    Raises:
        DockerfileError: it does not parse.
    """
    runs = (each for each in parse_dockerfile(dockerfile) if each.name == "RUN")
    mounts = (mount for run in runs for mount in _flag(run, "mount"))
    return any("from=" in mount or not _OF_NO_FILES.search(mount) for mount in mounts)


def _references(instruction: Instruction, arguments: dict[str, str]) -> Iterator[str]:
    match instruction.name:
        case "FROM":
            if (matched := _FROM.match(instruction.arguments)) and (
                image := _expand(matched["image"], arguments)
            ):
                yield image
        case "COPY" | "ADD":
            yield from _flag(instruction, "from")
        case "RUN":
            for mount in _flag(instruction, "mount"):
                for option in mount.split(","):
                    name, _, value = option.partition("=")
                    if name.strip().lower() == "from" and value:
                        yield value
        case _:
            return


def _flag(instruction: Instruction, name: str) -> Iterator[str]:
    """Yield the values of ``--name=value`` among the words that an instruction begins with."""
    for word in instruction.arguments.split():
        # As the builder reads it, which takes quotes and escapes out.
        flag, _, value = word.translate(_QUOTES).partition("=")
        if not flag.startswith("--"):
            return
        if flag.lower() == f"--{name}":
            yield value


def _stage(instruction: Instruction) -> str:
    matched = _FROM.match(instruction.arguments)
    return (matched and matched["stage"]) or ""


def _declare(text: str, arguments: dict[str, str]) -> None:
    for matched in _ARG.finditer(text):
        value = (matched["value"] or "").strip("\"'")
        arguments[matched["name"]] = _expand(value, arguments)


def _expand(text: str, arguments: dict[str, str]) -> str:
    def value(matched: re.Match[str]) -> str:
        found = arguments.get(matched["name"] or matched["braced"], "")
        if matched["sign"] == "-":
            return found or matched["word"]
        if matched["sign"] == "+":
            return matched["word"] if found else ""
        return found

    return _VARIABLE.sub(value, text)
