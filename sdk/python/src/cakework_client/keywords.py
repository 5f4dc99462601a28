"""Keywords of the client's methods: one that there is none of is a TypeError, with the one meant.

Methods take some of their keywords as ``**options: Unpack[…]``, which type checkers look at, and
Python does not.
"""

from collections.abc import Callable, Mapping
from functools import cache, wraps
from inspect import Parameter, iscoroutinefunction, isfunction, signature
from types import FunctionType
from typing import Any, TypeVar, cast, get_args, get_type_hints

C = TypeVar("C", bound=Callable[..., Any])
_NAMELESS = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def check_methods(kind: type) -> None:
    """Have the public methods that a class of this package defines check their keywords."""
    for name, method in list(vars(kind).items()):
        if not name.startswith("_") and isfunction(method) and _is_own(method):
            setattr(kind, name, checked(method))


def checked(method: C) -> C:
    """Return a method that refuses keywords which it does not name.

    Raises:
        TypeError: when it is called with one.
    """

    @wraps(method)
    def check(*args: Any, **keywords: Any) -> Any:
        if keywords and not keywords.keys() <= keywords_of(method).keys():
            raise _unknown(method, keywords)
        return method(*args, **keywords)

    @wraps(method)
    async def check_and_await(*args: Any, **keywords: Any) -> Any:
        return await check(*args, **keywords)

    # What makes mocks of clients asks for it.
    return cast("C", check_and_await if iscoroutinefunction(method) else check)


@cache
def keywords_of(method: Callable[..., Any]) -> Mapping[str, None]:
    """Return the keywords that a method takes, those of its options among them; in order."""
    parameters = signature(method).parameters.values()
    names = [each.name for each in parameters if each.kind not in _NAMELESS]
    for each in parameters:
        if each.kind is Parameter.VAR_KEYWORD:
            names += get_type_hints(get_args(get_type_hints(method)[each.name])[0])
    return dict.fromkeys(name for name in names if name != "self")


def _is_own(method: FunctionType) -> bool:
    return method.__module__.partition(".")[0] == __package__


def _unknown(method: Callable[..., Any], keywords: Mapping[str, Any]) -> TypeError:
    # Wanted by mistakes alone.
    from difflib import get_close_matches

    known = keywords_of(method)
    wrong = next(name for name in keywords if name not in known)
    letters = {name.replace("_", ""): name for name in known}
    near = get_close_matches(wrong.replace("_", "").lower(), letters, 1, cutoff=0.6)
    told = f"did you mean {letters[near[0]]!r}?" if near else f"it takes {', '.join(known)}"
    return TypeError(f"{method.__name__}() has no keyword {wrong!r}; {told}")
