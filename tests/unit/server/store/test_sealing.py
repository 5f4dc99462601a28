from pathlib import Path

import pytest

from cakework.domain.errors import CakeworkError
from cakework.server.store.sealing import Sealer

SECRET = b"correct horse battery staple"


def opened(path: Path) -> Sealer:
    sealer = Sealer(path)
    sealer.open_key()
    return sealer


def test_a_mark_is_known_again(tmp_path: Path) -> None:
    """With the same key, after a restart too; for nothing else, and by nobody with another."""
    mark = opened(tmp_path / "key").mark(SECRET, "a")
    again = opened(tmp_path / "key")
    assert again.mark(SECRET, "a") == mark
    assert len(mark) == 32
    others = {again.mark(SECRET, "b"), again.mark(SECRET + b"!", "a"), again.mark(SECRET, "a\0")}
    assert mark not in others | {opened(tmp_path / "other").mark(SECRET, "a")}
    with pytest.raises(CakeworkError):
        Sealer(tmp_path / "key").mark(SECRET, "a")


def test_what_is_drawn_comes_out_the_same(tmp_path: Path) -> None:
    """For one name, after a restart too; not for another, not with another key, and no mark is
    like it."""
    drawn = opened(tmp_path / "key").draw("a")
    again = opened(tmp_path / "key")
    assert again.draw("a") == drawn
    assert len(drawn) == 32
    others = {again.draw("b"), again.mark(b"", "a"), again.mark(b"a", ""), again.draw("a\0")}
    assert drawn not in others | {opened(tmp_path / "other").draw("a")}
    with pytest.raises(CakeworkError):
        Sealer(tmp_path / "key").draw("a")


def test_what_is_sealed_opens_only_where_it_belongs(tmp_path: Path) -> None:
    """Not for something else, not with another key, not when a bit of it was changed."""
    sealer = opened(tmp_path / "key")
    sealed = sealer.seal(SECRET, "a")
    assert SECRET not in sealed
    assert opened(tmp_path / "key").unseal(sealed, "a") == SECRET
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for who, what, belongs_to in (
        (sealer, sealed, "b"),
        (opened(tmp_path / "other"), sealed, "a"),
        (sealer, changed, "a"),
        (sealer, b"", "a"),
    ):
        with pytest.raises(CakeworkError):
            who.unseal(what, belongs_to)
