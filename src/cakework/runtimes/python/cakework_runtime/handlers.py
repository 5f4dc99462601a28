"""Importing a function's module, and finding what it handles."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from cakework_functions.calling import is_async, parameters
from cakework_runtime.failure import Failure

Function = Callable[..., Any]
NAMES: dict[str, tuple[str, ...]] = {
    "event": ("handler", "event"),
    "scheduled": ("scheduled",),
    "failed": ("failed",),
    "transform": ("transform",),
    "transformBatch": ("transformBatch", "transform_batch"),
    "beforeSnapshot": ("beforeSnapshot", "before_snapshot"),
    "afterResume": ("afterResume", "after_resume"),
}
FORMS: dict[tuple[str, ...], str] = {
    ("scope", "receive", "send"): "asgi",
    ("environ", "start_response"): "wsgi",
}
HOOKS = ("beforeSnapshot", "afterResume")


@dataclass(slots=True)
class Handlers:
    """What a module handles. ``http_form`` is asgi, wsgi, plain or rest."""

    functions: dict[str, Function] = field(default_factory=dict[str, Function])
    http: Function | None = None
    http_form: str = ""

    @property
    def names(self) -> list[str]:
        """Return what can be triggered."""
        found = [name for name in self.functions if name not in HOOKS]
        return (["http"] if self.http else []) + found

    @property
    def hooks(self) -> list[str]:
        """Return the hooks around the snapshot that there are."""
        return [name for name in HOOKS if name in self.functions]

    def get(self, *names: str) -> Function | None:
        """Return the first of these that is there."""
        return next((self.functions[name] for name in names if name in self.functions), None)


def load(folder: Path, entry: str, rest: bool) -> Handlers:
    """Import ``entry`` (``main.py``, ``pkg/mod.py``, ``main.py:name``) of ``folder``.

    Raises:
        BaseException: whatever the module raises.
        Failure: it handles nothing, or is not there.
    """
    file, _, name = entry.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _imported(folder, file)
    if name and not callable(getattr(module, name, None)):
        raise Failure("NoHandler", f"{file} has no {name} that can be called")
    found = _found(module, name, rest)
    if not found.names:
        raise Failure("NoHandler", f"{file} handles nothing: it has no handler, app, http or other")
    return found


def _imported(folder: Path, file: str) -> ModuleType:
    path = folder / file
    if not path.is_file():
        raise Failure("NoEntry", f"there is no file {file}")
    parts = list(Path(file).with_suffix("").parts)
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        importlib.import_module(".".join(parts[:-1]))
        name = ".".join(parts)
    else:
        name = parts[-1] if parts[-1] not in sys.modules else f"entry_{parts[-1]}"
    if name in sys.modules:  # Its package has imported it.
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Failure("NoEntry", f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _found(module: ModuleType, name: str, rest: bool) -> Handlers:
    handlers = Handlers()
    for kind, names in NAMES.items():
        for each in names:
            value = getattr(module, each, None)
            if callable(value) and kind not in handlers.functions:
                handlers.functions[kind] = value
    chosen = getattr(module, name) if name else None
    if rest:
        handlers.http, handlers.http_form = chosen or handlers.functions.get("event"), "rest"
        handlers.functions.pop("event", None)
        return handlers
    _find_http(module, handlers)
    if chosen is not None and (form := application_form(chosen)):
        handlers.http, handlers.http_form = chosen, form
    elif chosen is not None:
        handlers.functions["event"] = chosen
    return handlers


def _find_http(module: ModuleType, handlers: Handlers) -> None:
    app, http = getattr(module, "app", None), getattr(module, "http", None)
    if callable(app) and (form := application_form(app, named=True)):
        handlers.http, handlers.http_form = app, form
    elif callable(http) and not inspect.ismodule(http):
        handlers.http, handlers.http_form = http, "plain"


def application_form(value: Function, named: bool = False) -> str:
    """Return ``asgi`` or ``wsgi`` if an object is such an application, else nothing.

    A plain function that is not ``named`` as one is one if its parameters have the names that the
    standards give them.
    """
    if inspect.isfunction(value) and not named:
        names = tuple(inspect.signature(value).parameters)
        return FORMS.get(names, "")
    if is_async(value):
        return "asgi" if parameters(value) >= 3 else ""
    return "wsgi" if parameters(value) >= 2 and not inspect.isclass(value) else ""
