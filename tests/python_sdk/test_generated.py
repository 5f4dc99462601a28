"""The client without asyncio is the other one, and nothing else."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from cakework_client import AsyncCakeworkClient, CakeworkClient

FOLDER = Path(__file__).resolve().parents[2] / "sdk" / "python"


def generator() -> ModuleType:
    """Return sdk/python/generate_sync.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_sync", FOLDER / "generate_sync.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_current() -> None:
    """What is committed is what the generator makes; no other file lies beside it."""
    made: dict[Path, str] = generator().generated()
    stale = [path.name for path, text in made.items() if path.read_text() != text]
    assert stale == [], f"run {sys.executable} sdk/python/generate_sync.py"
    folder = FOLDER / "src" / "cakework_client" / "_sync"
    assert set(folder.glob("*.py")) == {*made, folder / "waiting.py"}


def test_both_take_the_same() -> None:
    """The same methods with the same parameters."""

    def shape(kind: type) -> dict[str, list[str]]:
        names = [name for name in dir(kind) if not name.startswith("_") and name != "url"]
        return {
            name.replace("aclose", "close"): list(inspect.signature(getattr(kind, name)).parameters)
            for name in names
        }

    assert shape(CakeworkClient) == shape(AsyncCakeworkClient)
