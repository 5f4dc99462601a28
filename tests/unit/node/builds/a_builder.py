"""A builder's own reading of a Dockerfile, apart from ours: that of buildah 1.28, Debian 12's.

Written after github.com/openshift/imagebuilder (dockerfile/parser, shell_parser.go), as plainly as
may be, and without what makes no difference to which images are named. It knows no here-documents.
"""

from collections.abc import Iterator

NAMES = frozenset(
    {
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    }
)
SPACES = "\t\n\v\f\r \x85\xa0"
BUILTIN = {"TARGETOS": "linux", "TARGETARCH": "amd64", "TARGETPLATFORM": "linux/amd64"}


class Broken(Exception):
    """The builder does not take it, and so builds nothing."""


def images_of(text: str) -> Iterator[str]:
    """Yield all that the builder would look for as an image. Raises Broken."""
    arguments = dict(BUILTIN)
    stages: set[str] = set()
    count = 0
    for name, rest in _instructions(text):
        flags, words = _flags(rest)
        if name == "ARG" and not count:
            for word in _words(rest):
                key, sign, value = word.partition("=")
                if sign or key not in arguments:
                    arguments[_filled(key, arguments)] = _filled(value, arguments)
        if name == "FROM":
            parts = [each for each in words.replace("\t", " ").split(" ") if each]
            if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].lower() != "as"):
                raise Broken("FROM")
            image = _filled(parts[0], arguments)
            if image not in stages | {"scratch"}:
                yield image
            stages |= {str(count), parts[2]} if len(parts) == 3 else {str(count)}
            count += 1
        if name == "ONBUILD":
            name, _, rest = rest.partition(" ")
            name, (flags, _) = name.upper(), _flags(rest.lstrip(SPACES))
        for flag in flags:
            key, _, value = flag.partition("=")
            if name in ("COPY", "ADD") and key == "--from" and value not in stages:
                yield value
            if name == "RUN" and key == "--mount":
                for option in _csv(value):
                    key, _, image = option.partition("=")
                    if key == "from" and image not in stages:
                        yield image


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    escape, looking, content = "\\", True, None
    for number, line in enumerate(text.split("\n")):
        line = line.removesuffix("\r")
        if number == 0:
            line = line.removeprefix("\ufeff")
        if content is None:
            line = _trimmed(line)
        elif not _trimmed(line) or _trimmed(line).startswith("#"):
            continue
        if looking:
            name, sign, value = line.removeprefix("#").partition("=")
            value = value.strip(" \t")
            looking = line.startswith("#") and sign == "=" and name.strip(" \t").lower() == "escape"
            if looking and value:
                if value[0] not in "\\`":
                    raise Broken("escape")
                escape = value[0]
        if content is None and (not line or line.startswith("#")):
            continue
        content = (content or "") + line
        bare = content.rstrip(" \t")
        if bare.endswith(escape):
            content = bare[:-1]
            continue
        yield _instruction(content)
        content = None
    if content:
        yield _instruction(content)


def _instruction(content: str) -> tuple[str, str]:
    at = next((at for at, char in enumerate(content) if char in "\t\v\f\r "), len(content))
    name = content[:at].upper()
    if name not in NAMES:
        raise Broken(name)
    return name, content[at:].strip(" \t\v\f\r")


def _trimmed(line: str) -> str:
    """Trim on the left what is space to Go: not the separators, which are so to Python."""
    at = 0
    while at < len(line) and line[at].isspace() and line[at] not in "\x1c\x1d\x1e\x1f":
        at += 1
    return line[at:]


def _flags(line: str) -> tuple[list[str], str]:
    """Read as extractBuilderFlags does, byte by byte."""
    raw = line.encode().decode("latin-1")
    flags: list[str] = []
    at = 0
    while True:
        while at < len(raw) and raw[at] in SPACES:
            at += 1
        if raw[at : at + 2] != "--":
            return flags, raw[at:].encode("latin-1").decode(errors="replace")
        word = quote = ""
        while at < len(raw) and (quote or raw[at] not in SPACES):
            char = raw[at]
            at += 1
            if char == quote:
                quote = ""
            elif char in "'\"" and not quote:
                quote = char
            else:
                if char == "\\":
                    char = raw[at : at + 1]
                    at += 1
                word += char
        if word == "--":
            return flags, raw[at:].encode("latin-1").decode(errors="replace")
        flags.append(word.encode("latin-1").decode(errors="replace"))


def _words(line: str) -> Iterator[str]:
    """Split at spaces that are not in quotes."""
    word = quote = ""
    for char in line:
        if not quote and char.isspace():
            if word:
                yield word
            word = ""
            continue
        if char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        word += char
    if word:
        yield word


def _filled(text: str, arguments: dict[str, str]) -> str:
    """Take out quotes and escapes, and fill variables in."""
    made, at, quote = "", 0, ""
    while at < len(text) and len(made) < 2000:
        char = text[at]
        at += 1
        if char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        elif char == "\\" and quote != "'":
            made += text[at : at + 1]
            at += 1
        elif char == "$" and quote != "'":
            value, at = _variable(text, at, arguments)
            made += value
        else:
            made += char
    return made


def _variable(text: str, at: int, arguments: dict[str, str]) -> tuple[str, int]:
    braced = text[at : at + 1] == "{"
    at += braced
    start = at
    while at < len(text) and (text[at].isalnum() or text[at] == "_"):
        at += 1
        if start + 1 == at and text[start].isdigit():
            break
    found = arguments.get(text[start:at], "")
    if not braced:
        return (found, at) if at > start else ("$", at)
    sign = text[at : at + 2]
    end = text.find("}", at)
    if end < 0 or (sign[:1] != "}" and sign not in (":-", ":+")):
        raise Broken("variable")
    word = _filled(text[at + 2 : end], arguments)
    if sign == ":-":
        found = found or word
    if sign == ":+":
        found = word if found else ""
    return found, end + 1


def _csv(text: str) -> Iterator[str]:
    field, quoted = "", False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            yield field
            field = ""
        else:
            field += char
    yield field
