"""The images that a Dockerfile builds on: what has to be there before it is built.

They are fetched ahead, apart from the build itself, whose commands run on a network of their
own. Variables in FROM are filled in from the ARGs before the first FROM, where both are plain:
of what a builder might read in another way nothing is filled in, and no image is named by that.
"""

import re
from collections.abc import Iterable, Iterator

from cakework.domain.dockerfiles import (
    Instruction,
    flags_of,
    name_of,
    parse_dockerfile,
    possible_readings,
)

_VARIABLE = re.compile(
    r"\$(?:(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)(?!\w)"
    r"|\{(?P<braced>[a-zA-Z_][a-zA-Z0-9_]*+)(?::(?P<sign>[-+])(?P<word>[^{}]*))?\})"
)
_OF_NO_FILES = re.compile(r"\btype=(?:cache|tmpfs|secret|ssh)\b")
_ARG = re.compile(
    r"[\t ]*+(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)"
    r"(?:=(?:\"(?P<double>[^\"\\`]*+)\"|'(?P<single>[^'\\`$]*+)'|(?P<bare>[^\s\"'\\`]*+)))?+"
    r"(?=[\t ]|\Z)"
)
_STAGE = re.compile(r"[a-z][a-z0-9_.-]*", re.IGNORECASE | re.ASCII)
SCRATCH = "scratch"
CHARS_MAX = 1024
"""Of what variables are filled in with: more than the name of an image may have. Without a bound
each ARG could be twice the one before."""
_OF_THE_BUILDER = frozenset(
    f"{which}{what}"
    for which in ("TARGET", "BUILD")
    for what in ("PLATFORM", "OS", "ARCH", "VARIANT")
)
"""Variables that it fills in by itself."""


class _Arguments:
    """The ARGs before the first FROM: those whose values are known for certain."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._certain = True

    def declare(self, text: str) -> None:
        """Take the arguments of an ARG. If they are not plain, nothing is known from now on."""
        at = 0
        while matched := _ARG.match(text, at):
            at = matched.end()
            value = next(filter(None, matched.group("double", "single", "bare")), "")
            self._known[matched["name"]] = self.expand(value)
        self._certain = self._certain and not text[at:].strip()

    def expand(self, text: str) -> str:
        """Fill in what is known; the rest stays, as no name of an image has it: with its $."""
        if not self._certain:
            return text[: CHARS_MAX + 1]
        made: list[str] = []
        at = chars = 0
        for matched in _VARIABLE.finditer(text):
            made += (text[at : matched.start()], self._value(matched))
            at = matched.end()
            chars += len(made[-2]) + len(made[-1])
            if chars > CHARS_MAX:
                break
        return "".join((*made, text[at:]))[: CHARS_MAX + 1]

    def _value(self, matched: re.Match[str]) -> str:
        name, word = matched["name"] or matched["braced"], matched["word"]
        if name in _OF_THE_BUILDER or name not in self._known:
            return matched[0]
        found = self._known[name]
        if "$" in found:
            return matched[0]
        match matched["sign"]:
            case "-":
                return found or word
            case "+":
                return word if found else ""
            case _:
                return found


def base_images(dockerfile: str) -> list[str]:
    """Return the references of images from outside that ``dockerfile`` names, each once.

    Raises:
        DockerfileError: it does not parse.
    """
    return list(_named(parse_dockerfile(dockerfile)))


def hidden_images(dockerfile: str) -> list[str]:
    """Return what else a builder might take for the reference of an image in ``dockerfile``:
    in the instructions of ONBUILD, in here-documents, behind another escape character.

    Raises:
        DockerfileError: it does not parse.
    """
    known = _named(parse_dockerfile(dockerfile))
    found: dict[str, None] = {}
    for reading in possible_readings(dockerfile):
        # Each by itself: what is a stage in one is an image in another.
        found |= _named(reading, triggers=True)
    return [reference for reference in found if reference not in known]


def mounts_files(dockerfile: str) -> bool:
    """Say whether a RUN has files mounted, from the context, a stage or an image.

    What is in them does not count among what a finished step is known by again.

    Raises:
        DockerfileError: it does not parse.
    """
    runs = (each for each in parse_dockerfile(dockerfile) if each.name == "RUN")
    mounts = (mount for run in runs for mount in _flag(run, "mount"))
    return any("from=" in mount or not _OF_NO_FILES.search(mount) for mount in mounts)


def _named(instructions: Iterable[Instruction], *, triggers: bool = False) -> dict[str, None]:
    """Return the references in ``instructions``, those of ONBUILD too if they are asked for."""
    found: dict[str, None] = {}
    arguments = _Arguments()
    stages: set[str] = set()
    count = 0
    for instruction in instructions:
        if instruction.name == "ARG" and not count:
            arguments.declare(instruction.arguments)
        for reference in _references(instruction, arguments, triggers=triggers):
            if reference != SCRATCH and reference.lower() not in stages:
                found[reference] = None
        if instruction.name == "FROM":
            stages |= {str(count), _stage(instruction).lower()}
            count += 1
    return found


def _references(
    instruction: Instruction, arguments: _Arguments, *, triggers: bool
) -> Iterator[str]:
    match instruction.name:
        case "FROM":
            words = flags_of(instruction.arguments)[1].split()
            if len(words) in (1, 3):
                yield arguments.expand(words[0])
        case "COPY" | "ADD":
            yield from _flag(instruction, "from")
        case "RUN":
            for mount in _flag(instruction, "mount"):
                yield from _mounted(mount)
        case "ONBUILD" if triggers:
            word, *rest = instruction.arguments.split(maxsplit=1)
            if rest and (name := name_of(word)) != "ONBUILD":
                trigger = Instruction(instruction.line, name, rest[0].strip())
                yield from _references(trigger, arguments, triggers=False)
        case _:
            return


def _mounted(mount: str) -> Iterator[str]:
    """Yield the images of a mount, whose options are a line of CSV."""
    options = mount.replace('"', "").split(",")
    for option in options:
        name, _, value = option.partition("=")
        if name.strip().lower() == "from" and value:
            # Quotes may hold commas.
            yield mount if '"' in mount else value


def _flag(instruction: Instruction, name: str) -> Iterator[str]:
    """Yield the values of ``--name=value`` among the words that an instruction begins with."""
    for word in flags_of(instruction.arguments)[0]:
        flag, _, value = word.partition("=")
        if flag.lower() == f"--{name}":
            yield value


def _stage(instruction: Instruction) -> str:
    """Return the name of the stage that FROM begins, if it is one that no image outside of
    registries has."""
    words = flags_of(instruction.arguments)[1].split()
    return words[2] if len(words) == 3 and _STAGE.fullmatch(words[2]) else ""
