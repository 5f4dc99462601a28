"""Repositories to build from: their names, names of branches, tokens.

Branches are named by the rules of https://git-scm.com/docs/git-check-ref-format.
"""

import re

BRANCH_BYTES_MAX = 255
TOKEN_CHARS_MAX = 4096
_OWNER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
_REPOSITORY = re.compile(rf"^{_OWNER}/(?!\.{{1,2}}\Z)[A-Za-z0-9._-]{{1,100}}\Z")
_NOT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_TOKEN = re.compile(r"^[\x21-\x7e]*\Z")
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?"
_ADDRESS = re.compile(rf"^https://{_HOST}(?:/[A-Za-z0-9._~-]+)*/?\Z")


class RepositoryError(ValueError):
    """No such thing can be; ``str()`` of it says why, for people, without repeating it."""


def checked_repository(text: str) -> str:
    """Return ``text`` if it can be the name of a repository, ``org/repo``.

    Raises:
        RepositoryError: it cannot.
    """
    if not _REPOSITORY.match(text):
        raise RepositoryError("must be org/repo, of letters, digits, dots, - and _")
    if text.endswith(".git"):
        raise RepositoryError("must be org/repo, without .git")
    return text


def checked_branch(text: str) -> str:
    """Return ``text`` if it can be the name of a branch.

    Raises:
        RepositoryError: it cannot.
    """
    parts = text.split("/")
    if (
        not all(parts)
        or text in ("@", "HEAD")
        or text.startswith("-")
        or text.endswith(".")
        or _NOT_IN_BRANCH.search(text)
        or any(part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise RepositoryError("must be the name of a branch")
    if len(text.encode()) > BRANCH_BYTES_MAX:
        raise RepositoryError(f"must not be longer than {BRANCH_BYTES_MAX} bytes")
    return text


def checked_token(text: str) -> str:
    """Return ``text`` if it can be a token; an empty one is for public repositories.

    Raises:
        RepositoryError: it cannot.
    """
    if not _TOKEN.match(text):
        raise RepositoryError("must be of printable ASCII characters, without spaces")
    if len(text) > TOKEN_CHARS_MAX:
        raise RepositoryError(f"must not be longer than {TOKEN_CHARS_MAX} characters")
    return text


def checked_address(text: str) -> str:
    """Return where repositories are, ``https://host[:port][/path]``, without a slash at its end.

    Raises:
        RepositoryError: it is something else: a token goes only where TLS hides it.
    """
    if not _ADDRESS.match(text):
        raise RepositoryError("must be https://host[:port][/path]")
    return text.rstrip("/")
