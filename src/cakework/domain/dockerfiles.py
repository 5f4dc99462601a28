"""What can be said of a Dockerfile by reading it: is it one at all?

Read as https://docs.docker.com/reference/dockerfile/ defines it: parser directives, comments,
continued lines, here-documents. What only a build can find (an image that does not exist,
a stage that is not there) is left to the build.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

INSTRUCTIONS = frozenset(
    {
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    }
)
_WITH_HEREDOC = frozenset({"ADD", "COPY", "RUN"})
_NO_TRIGGER = frozenset({"FROM", "MAINTAINER", "ONBUILD"})
CHARS_MAX = 512 * 1024
"""Of a whole Dockerfile: the largest in use are a tenth of that."""
LINE_CHARS_MAX = 128 * 1024
"""Of an instruction without its here-documents: Linux takes no longer argument (MAX_ARG_STRLEN)."""
_WORD = re.compile(r"[a-z][a-z0-9]*")
_HEREDOC = re.compile(r"<<(-?)\s*(['\"]?)([a-zA-Z_][a-zA-Z0-9_.]*)\2")
_FLAGS = re.compile(r"^(?:--[a-z][a-z-]*(?:=\S*)?\s+)+")
_AS = re.compile(r"^(\S+)(?:\s+as\s+([a-z][a-z0-9_.-]*))?$", re.IGNORECASE)


class DockerfileError(ValueError):
    """A Dockerfile that does not parse: which line, counted from 1, and why."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its line, counted from 1, its name in upper case, what follows it."""

    line: int
    name: str
    arguments: str


def parse_dockerfile(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile.

    Raises:
        DockerfileError: it is empty, has an unknown instruction or one without arguments,
            does not begin with FROM (only ARG may come before), ends in the middle, or is longer
            than any that is meant to be built.
    """
    if len(text) > CHARS_MAX:
        raise DockerfileError(1, f"there are over {CHARS_MAX} characters in it")
    if "\0" in text:
        raise DockerfileError(text[: text.index("\0")].count("\n") + 1, "there is a NUL in it")
    instructions = [_instruction(line, content) for line, content in _logical_lines(text)]
    if not instructions:
        raise DockerfileError(1, "there is no instruction in it")
    _check_order(instructions)
    for instruction in instructions:
        _check_arguments(instruction)
    return instructions


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    lines = text.removeprefix("\ufeff").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    escape = _escape(lines)
    index = 0
    while index < len(lines):
        start = index
        if not lines[index].strip() or lines[index].lstrip().startswith("#"):
            index += 1
            continue
        content, index = _continued(lines, index, escape)
        if not content:
            raise DockerfileError(start + 1, "there is nothing on this line but its continuation")
        if len(content) > LINE_CHARS_MAX:
            raise DockerfileError(start + 1, f"it has over {LINE_CHARS_MAX} characters")
        index = _after_heredocs(lines, start, content, index)
        yield start + 1, content


def _escape(lines: list[str]) -> str:
    for line in lines:
        name, sign, value = line.removeprefix("#").partition("=")
        name, value = name.strip().lower(), value.strip()
        if not (line.startswith("#") and sign and _WORD.fullmatch(name) and value):
            break
        if name == "escape":
            return value if value in ("\\", "`") else "\\"
    return "\\"


def _continued(lines: list[str], index: int, escape: str) -> tuple[str, int]:
    """Return the instruction that begins at ``index`` on one line, and the line after it."""
    parts: list[str] = []
    while index < len(lines):
        line = lines[index]
        index += 1
        if parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        stripped = line.rstrip()
        if not stripped.endswith(escape):
            parts.append(line)
            break
        parts.append(stripped[:-1])
    return "".join(parts).strip(), index


def _after_heredocs(lines: list[str], start: int, content: str, index: int) -> int:
    if content.split(maxsplit=1)[0].upper() not in _WITH_HEREDOC:
        return index
    for heredoc in _HEREDOC.finditer(content):
        strip_tabs, word = bool(heredoc[1]), heredoc[3]
        while index < len(lines) and lines[index].lstrip("\t" if strip_tabs else "") != word:
            index += 1
        if index == len(lines):
            raise DockerfileError(start + 1, f"the here-document {word} does not end")
        index += 1
    return index


def _instruction(line: int, content: str) -> Instruction:
    word = content.split(maxsplit=1)[0]
    name = word.upper()
    if name not in INSTRUCTIONS:
        raise DockerfileError(line, f"{_shown(word)} is not an instruction")
    arguments = content[len(word) :].strip()
    if not arguments:
        raise DockerfileError(line, f"{name} needs an argument")
    return Instruction(line, name, arguments)


def _check_order(instructions: list[Instruction]) -> None:
    first = next((each for each in instructions if each.name != "ARG"), None)
    if first is None:
        raise DockerfileError(instructions[-1].line, "there is no FROM in it")
    if first.name != "FROM":
        raise DockerfileError(first.line, f"{first.name} comes before the first FROM")


def _check_arguments(instruction: Instruction) -> None:
    line, arguments = instruction.line, instruction.arguments
    plain = _FLAGS.sub("", arguments + " ").strip()
    match instruction.name:
        case "FROM" if not _AS.match(plain):
            raise DockerfileError(line, "FROM takes one image, and AS with a stage's name")
        case "SHELL" if not _is_words(arguments):
            raise DockerfileError(line, "SHELL takes a JSON array of strings")
        case "COPY" | "ADD" if len(plain.split()) < 2 and not _is_words(plain):
            raise DockerfileError(line, f"{instruction.name} needs a source and a destination")
        case "ONBUILD":
            trigger = _instruction(line, arguments)
            if trigger.name in _NO_TRIGGER:
                raise DockerfileError(line, f"{trigger.name} is not allowed after ONBUILD")
            _check_arguments(trigger)
        case _:
            return


def _is_words(text: str) -> bool:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(
        isinstance(word, str) for word in cast("list[object]", value)
    )


def _shown(word: str) -> str:
    return word if len(word) <= 40 else word[:40] + "…"
