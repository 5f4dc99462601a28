"""The name that was meant, most likely, by one that nobody knows."""

from collections.abc import Iterable

CHARS_MAX = 40
"""A longer name is near to none: no name that is known comes to this, and comparing takes time."""
_LIKENESS = 0.6
"""As :func:`difflib.get_close_matches` has it: `env` is as near to `envVars` as may be."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that is most like ``name``; None when none is like it.

    Upper and lower case, ``_`` and ``-`` make no difference.
    """
    if len(name) > CHARS_MAX:
        return None
    # Wanted by faults alone.
    from difflib import get_close_matches

    by_letters = {_letters(each): each for each in known}
    found = get_close_matches(_letters(name), by_letters, 1, _LIKENESS)
    return by_letters[found[0]] if found else None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
