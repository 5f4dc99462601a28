"""What can be said of a Dockerfile by reading it: is it one at all?

Read as https://docs.docker.com/reference/dockerfile/ defines it: parser directives, comments,
continued lines, here-documents. What only a build can find (an image that does not exist,
a stage that is not there) is left to the build.
"""

import itertools
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
_MAY_HAVE_HEREDOC = _WITH_HEREDOC | {"ONBUILD"}
_BLANK = " \t"
"""What may come between the escape character and the end of a line that is continued: any other
space ends the instruction (imagebuilder's and BuildKit's lineContinuationRegex)."""
_WORD = re.compile(r"[a-z][a-z0-9]*")
_HEREDOC = re.compile(r"<<(-?)\s*(['\"]?)([a-zA-Z_][a-zA-Z0-9_.]*)\2")
_ANY_HEREDOC = re.compile(
    r"(?:^|\s)\d*<<-?((?:'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.|\\\Z|[^\s'\"\\<])++)", re.DOTALL
)
"""BuildKit's reHeredoc, whose word may be quoted and have any character but <."""
_NO_QUOTES = str.maketrans("", "", "'\"")
_SPACE = r"\t\n\v\f\r \x85\xa0"
"""What ends a flag, in Latin-1: builders look at a line's bytes one by one (unicode.IsSpace)."""
_ESCAPED = r"\\(?:.|\Z)"
_QUOTED = rf"'(?:[^'\\]|{_ESCAPED})*(?:'|\Z)|\"(?:[^\"\\]|{_ESCAPED})*(?:\"|\Z)"
_FLAG = re.compile(rf"[{_SPACE}]*(--(?:[^'\"\\{_SPACE}]|{_ESCAPED}|{_QUOTED})*)", re.DOTALL)
_PIECE = re.compile(rf"(?P<quoted>{_QUOTED})|(?P<plain>{_ESCAPED}|[^'\"\\]+)", re.DOTALL)
_CLOSED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_BACKSLASH = re.compile(r"\\(.|\Z)", re.DOTALL)
_SEPARATORS = re.compile(r"[\x1c-\x1f]")
"""Space to Python alone; no builder takes them for that."""
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
    if found := _SEPARATORS.search(text):
        line = text[: found.start()].count("\n") + 1
        raise DockerfileError(line, "there is a control character in it")
    lines = _lines(text)
    instructions = [
        _instruction(line, content)
        for line, content in _logical_lines(lines, _escape(lines), heredocs=True)
    ]
    if not instructions:
        raise DockerfileError(1, "there is no instruction in it")
    _check_order(instructions)
    for instruction in instructions:
        _check_arguments(instruction)
    return instructions


def possible_readings(text: str) -> Iterator[Iterator[Instruction]]:
    """Yield what a builder may read in a Dockerfile that parses, and perhaps otherwise than we do:
    one that knows no here-documents, such as buildah before 1.33, or that looks for directives in
    other places, or takes an escape character that is escaped for one that continues the line, or
    not. What is said in one reading says nothing about another.

    Raises:
        DockerfileError: a here-document ends with a line that goes on, or is passed over, where
            here-documents are not known; what follows it would be in no reading.
    """
    lines = _lines(text)
    for escape in sorted(_escapes(lines)):
        yield _possible_instructions(lines, escape)
        if any(line.rstrip(_BLANK).endswith(escape * 2) for line in lines):
            yield _possible_instructions(lines, escape, doubled=False)


def name_of(word: str) -> str:
    """Return the name of an instruction as builders know it, who read it in lower case: for Go the
    dotted İ is an i there."""
    return word.replace("\u0130", "I").upper()


def flags_of(arguments: str) -> tuple[list[str], str]:
    """Return the flags that an instruction begins with, without quotes and escapes, and the rest.

    As builders read them (moby's extractBuilderFlags): byte by byte, so that of a letter in UTF-8
    a byte may be a space; quotes may hold spaces, and what is not closed ends with the line.
    """
    text = arguments.encode(errors="replace").decode("latin-1")
    flags: list[str] = []
    at = 0
    while matched := _FLAG.match(text, at):
        at = matched.end()
        if matched[1] == "--":
            break
        flags.append(_utf8("".join(map(_unquoted, _PIECE.finditer(matched[1])))))
    return flags, _utf8(text[at:]).strip()


def _possible_instructions(
    lines: list[str], escape: str, *, doubled: bool = True
) -> Iterator[Instruction]:
    for line, content in _logical_lines(lines, escape, heredocs=False, doubled=doubled):
        word, *rest = content.split(maxsplit=1)
        name = name_of(word)
        if name not in INSTRUCTIONS or not rest:
            continue
        if name in _MAY_HAVE_HEREDOC and any(map(_is_odd, _ANY_HEREDOC.findall(content))):
            raise DockerfileError(line, "a here-document needs a plain word for its end")
        yield Instruction(line, name, rest[0].strip())


def _is_odd(end: str) -> bool:
    """Say whether a line with this word, as it is quoted, may be no line by itself."""
    plain = _BACKSLASH.sub(r"\1", end.translate(_NO_QUOTES)).strip()
    return bool(end) and (not plain or plain[0] == "#" or end.rstrip("'\" \t")[-1:] in ("\\", "`"))


def _unquoted(piece: re.Match[str]) -> str:
    plain = piece["plain"]
    if plain is None:
        quoted = piece["quoted"]
        # What closes it is the one quote in it that is not escaped.
        plain = quoted[1:-1] if _CLOSED.fullmatch(quoted) else quoted[1:]
    return _BACKSLASH.sub(r"\1", plain)


def _utf8(text: str) -> str:
    return text.encode("latin-1").decode(errors="replace")


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]


def _escapes(lines: list[str]) -> set[str]:
    """Return what may be the escape character: builders differ in where they look for it."""
    heads = itertools.takewhile(lambda line: not line.strip() or line.lstrip()[0] == "#", lines)
    return {"\\", "`"} if any("escape" in line.lower() for line in heads) else {"\\"}


def _logical_lines(
    lines: list[str], escape: str, *, heredocs: bool, doubled: bool = True
) -> Iterator[tuple[int, str]]:
    index = 0
    while index < len(lines):
        start = index
        if not lines[index].strip() or lines[index].lstrip().startswith("#"):
            index += 1
            continue
        content, index = _continued(lines, index, escape, doubled=doubled)
        if not heredocs:
            if content:
                yield start + 1, content
            continue
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


def _continued(lines: list[str], index: int, escape: str, *, doubled: bool) -> tuple[str, int]:
    """Return the instruction that begins at ``index`` on one line, and the line after it; with
    ``doubled`` a line goes on that ends with two escape characters."""
    parts: list[str] = []
    while index < len(lines):
        line = lines[index]
        index += 1
        if parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        stripped = line.rstrip(_BLANK)
        if not stripped.endswith(escape) or (stripped.endswith(escape * 2) and not doubled):
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
    plain = flags_of(arguments)[1]
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
