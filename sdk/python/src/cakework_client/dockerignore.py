"""Which paths a .dockerignore names, by Docker's rules.

Patterns start at the root, a pattern that names a folder names all that is in it, and the last
one that names a path wins. ``**`` is any folders or none; the rest is as in Go's path.Match.
"""

import re
from dataclasses import dataclass
from itertools import accumulate

from cakework_client.errors import FolderError

TOKEN = re.compile(r"\*\*/?|\*|\?|\[\^?(?:\\.|[^\]\\])+\]|\\.|.", re.DOTALL)
MEMBER = re.compile(r"\\(.)|([\[^&~|])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern; ``takes_back`` is whether it had a ``!``."""

    pattern: re.Pattern[str]
    takes_back: bool


class Dockerignore:
    """Tells whether a path, relative with slashes, is ignored."""

    def __init__(self, text: str) -> None:
        """Read the text of a .dockerignore.

        Raises:
            FolderError: A line is no pattern.
        """
        lines = text.removeprefix("\ufeff").split("\n")
        self._rules = [rule for line in lines if (rule := read_rule(line))]

    @property
    def takes_back(self) -> bool:
        """Whether something in an ignored folder may not be ignored."""
        return any(rule.takes_back for rule in self._rules)

    def ignores(self, path: str) -> bool:
        """Return whether a path is ignored, by itself or for a folder that it is in."""
        above = list(accumulate(path.split("/"), lambda folder, name: f"{folder}/{name}"))
        ignored = False
        for rule in self._rules:
            if ignored == rule.takes_back and any(map(rule.pattern.fullmatch, above)):
                ignored = not rule.takes_back
        return ignored


def read_rule(line: str) -> Rule | None:
    """Return what a line says; None for a comment or nothing."""
    text = line.strip()
    if not text or line.startswith("#"):
        return None
    pattern = clean(text.removeprefix("!").strip())
    try:
        if text == "!":
            raise ValueError("it names nothing")
        return Rule(compile_pattern(pattern), text.startswith("!")) if pattern else None
    except (ValueError, re.error) as error:
        raise FolderError(f"In .dockerignore, {text!r} is no pattern: {error}.") from error


def clean(pattern: str) -> str:
    """Return a pattern without the parts that lead nowhere; ``""`` is the root."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts and parts[-1] != "..":
            parts.pop()
        elif not pattern.startswith("/"):
            parts.append(part)
    return "/".join(parts)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a regular expression for the paths that a pattern names."""

    def translate(found: re.Match[str]) -> str:
        token = found.group()
        if token.startswith("**"):
            return ".*" if found.end() == len(pattern) else "(?:.*/)?"
        if token in ("[", "\\"):
            raise ValueError(f"{token} is not ended")
        wild = {"*": "[^/]*", "?": "[^/]"}.get(token)
        return wild or (character_class(token) if len(token) > 2 else re.escape(token[-1]))

    return re.compile(TOKEN.sub(translate, pattern), re.DOTALL)


def character_class(token: str) -> str:
    """Return a class such as ``[^a-z]`` as a regular expression."""
    head = "[^" if token.startswith("[^") else "["
    members = MEMBER.sub(lambda found: re.escape(found[1] or found[2]), token[len(head) : -1])
    return f"{head}{members}]"
