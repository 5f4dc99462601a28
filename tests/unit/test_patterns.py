"""No pattern takes much longer for text that is made to hold it up, as strangers' may be.

Each pattern of the product is tried, as its module uses it, on texts that are made from the pattern
itself: what each of its repetitions matches, very often, after what comes before it, and then
something that does not fit. A pattern that backtracks takes seconds for 16,000 characters where
others take a millisecond; what is asked of them leaves room for any machine.
"""

import ast
import importlib
import importlib.util
import pkgutil
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cakework

op: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

CHARS = 16_000
STEPS = (100, 1000, CHARS)
SECONDS = 0.25
METHODS = ("match", "fullmatch", "search", "findall", "finditer", "sub", "split")
MISFITS = ("", "\0", "\n", "!", " x", '"', "}")
SAMPLES = "a1 -_./\t\n\"'<>:=@{}[]$\\#,éA\0"
BOUNDED = {
    ("cakework.domain.image_references", "_REGISTRY"): 800,
    ("cakework.domain.image_references", "_NAME"): 800,
}
"""Patterns that are only asked about so many characters: who asks looks at the length first."""


def _modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(cakework.__path__, "cakework."):
        if not module.name.endswith("__main__") and ".rootfs" not in module.name:
            yield module.name


def _patterns() -> Iterator[tuple[str, str, re.Pattern[Any], set[str]]]:
    """Yield module, name, pattern and the methods that the module calls of it."""
    for name in _modules():
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text()
        if "import re" not in source:
            continue
        module = importlib.import_module(name)
        used: dict[str, set[str]] = {}
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, method = node.func.value, node.func.attr
            if not isinstance(owner, ast.Name) or method not in METHODS:
                continue
            if owner.id != "re":
                used.setdefault(owner.id, set()).add(method)
                continue
            text = node.args[0]
            written = getattr(module, text.id) if isinstance(text, ast.Name) else None
            written = text.value if isinstance(text, ast.Constant) else written
            assert isinstance(written, str | bytes), f"{name}: {ast.unparse(node)} cannot be tried"
            flags = re.MULTILINE if "MULTILINE" in ast.unparse(node) else 0
            yield name, f"line {node.lineno}", re.compile(written, flags), {method}
        for key, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield name, key, value, used.get(key, set(METHODS))


def _one(items: Any, choose: int) -> str:
    """Return a text that the parsed pattern ``items`` matches, or nearly: one of several."""
    made = ""
    for kind, value in items:
        if kind is op.LITERAL:
            made += chr(value)
        elif kind is op.NOT_LITERAL:
            made += next(each for each in SAMPLES if ord(each) != value)
        elif kind is op.ANY:
            made += SAMPLES[choose % len(SAMPLES)]
        elif kind is op.IN:
            fitting = [each for each in SAMPLES if re.fullmatch(_class(value), each)]
            fitting += [chr(first) for word, first in value if word is op.LITERAL]
            made += fitting[choose % len(fitting)] if fitting else "a"
        elif kind is op.BRANCH:
            made += _one(value[1][choose % len(value[1])], choose)
        elif kind is op.SUBPATTERN:
            made += _one(value[3], choose)
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            made += _one(value[2], choose) * max(value[0], 1 if choose % 2 else 0)
    return made


def _class(items: Any) -> str:
    words = {
        op.CATEGORY_DIGIT: r"\d",
        op.CATEGORY_NOT_DIGIT: r"\D",
        op.CATEGORY_SPACE: r"\s",
        op.CATEGORY_NOT_SPACE: r"\S",
        op.CATEGORY_WORD: r"\w",
        op.CATEGORY_NOT_WORD: r"\W",
    }
    made = ""
    for kind, value in items:
        if kind is op.NEGATE:
            made = "^" + made
        elif kind is op.LITERAL:
            made += re.escape(chr(value))
        elif kind is op.RANGE:
            made += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
        elif kind is op.CATEGORY:
            made += words[value]
    return f"[{made}]"


def _repetitions(items: Any, before: str, choose: int) -> Iterator[tuple[str, str]]:
    """Yield, of each repetition without a small bound, what comes before it and what it repeats."""
    for kind, value in items:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            if value[1] is op.MAXREPEAT or value[1] > 500:
                yield before, _one(value[2], choose)
            yield from _repetitions(value[2], before, choose)
        elif kind is op.SUBPATTERN:
            yield from _repetitions(value[3], before, choose)
        elif kind is op.BRANCH:
            for branch in value[1]:
                yield from _repetitions(branch, before, choose)
        before += _one([(kind, value)], choose)


def _texts(pattern: re.Pattern[Any]) -> Iterator[Callable[[int], str]]:
    """Yield makers of texts of about so many characters."""
    written = pattern.pattern
    tree = parser.parse(written if isinstance(written, str) else written.decode("latin-1"))
    seen: set[tuple[str, str]] = set()
    for choose in range(len(SAMPLES)):
        seen |= {each for each in _repetitions(tree, "", choose) if each[1]}
    for before, pump in sorted(seen):
        yield lambda size, b=before, p=pump: (b + p) * (size // len(b + p))
        for misfit in MISFITS:
            yield lambda size, b=before, p=pump, m=misfit: b + p * (size // len(p)) + m
        if before:
            yield lambda size, b=before: b * (size // len(b))


PATTERNS = list(_patterns())


def test_all_are_found() -> None:
    """Those that were a danger are among them."""
    found = {(module, name) for module, name, _, _ in PATTERNS}
    assert {*BOUNDED} <= found
    assert len(found) > 40


@pytest.mark.parametrize(
    ("module", "name", "pattern", "methods"),
    PATTERNS,
    ids=[f"{module}.{name}" for module, name, _, _ in PATTERNS],
)
def test_a_pattern_takes_its_time_from_the_length_alone(
    module: str, name: str, pattern: re.Pattern[Any], methods: set[str]
) -> None:
    """And not from the square of it, or worse."""
    most = BOUNDED.get((module, name), CHARS)
    for make in _texts(pattern):
        for size in STEPS:
            text: Any = make(min(size, most))
            if isinstance(pattern.pattern, bytes):
                text = text.encode("latin-1", "replace")
            for method in methods:
                began = time.process_time()
                _use(pattern, method, text)
                took = time.process_time() - began
                assert took < SECONDS, f"{method} takes {took:.2f} s for {text[:80]!r}… ({size})"
            if size >= most:
                break


def _use(pattern: Any, method: str, text: Any) -> None:
    if method == "sub":
        pattern.sub(text[:0], text)
    elif method == "finditer":
        deque(pattern.finditer(text), maxlen=0)
    else:
        getattr(pattern, method)(text)
