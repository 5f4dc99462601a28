from pathlib import Path

import pytest

from cakework.domain.errors import CakeworkError
from cakework.server.automations.doors import FORMER_MS, Doors, is_door
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.sealing import Sealer

NOW_MS = 1_800_000_000_000


def doors(folder: Path, now_ms: int = NOW_MS) -> Doors:
    sealer = Sealer(folder / "secret.key")
    sealer.open_key()
    return Doors(sealer, lambda: now_ms)


def test_a_door_is_32_characters_that_nobody_guesses(tmp_path: Path) -> None:
    """Each is another one, and all can stand in a URL."""
    made = {doors(tmp_path).new() for _ in range(100)}
    assert len(made) == 100
    assert all(len(door) == 32 and is_door(door) for door in made)


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "a" * 31 + "ä", "a" * 31 + "/", "a\n"])
def test_what_is_no_door(text: str) -> None:
    """Other lengths and other characters need not be looked up."""
    assert not is_door(text)
    assert not is_door("a" * 32 + "\n")


def test_a_door_is_known_by_its_mark(tmp_path: Path) -> None:
    """After a restart too; the mark says nothing of it, and another door has another."""
    door = doors(tmp_path).new()
    mark = doors(tmp_path).mark(door)
    assert mark == doors(tmp_path).mark(door)
    assert door.encode() not in mark
    assert mark != doors(tmp_path).mark(doors(tmp_path).new())


def test_what_is_sealed_opens_for_its_trigger_only(tmp_path: Path) -> None:
    """Neither for another trigger, nor a door as a secret."""
    made = doors(tmp_path)
    door, secret = made.seal_door("trg_a", "d" * 32), made.seal_secret("trg_a", "s" * 8)
    assert made.open_door("trg_a", door) == "d" * 32
    assert made.open_secret("trg_a", secret) == "s" * 8
    with pytest.raises(CakeworkError):
        made.open_door("trg_b", door)
    with pytest.raises(CakeworkError):
        made.open_secret("trg_b", secret)
    with pytest.raises(CakeworkError):
        made.open_secret("trg_a", door)


def test_the_secret_before_is_taken_for_a_day(tmp_path: Path) -> None:
    """Newest first; of the one before nothing is left when its time is over."""
    made = doors(tmp_path)
    row = TriggerRow(
        id="trg_a",
        secret_sealed=made.seal_secret("trg_a", "new secret"),
        former_sealed=made.seal_secret("trg_a", "old secret"),
        former_until_ms=NOW_MS + FORMER_MS,
    )
    assert made.secrets_of(row) == ("new secret", "old secret")
    last_ms = NOW_MS + FORMER_MS - 1
    assert doors(tmp_path, last_ms).secrets_of(row) == ("new secret", "old secret")
    assert doors(tmp_path, last_ms + 1).secrets_of(row) == ("new secret",)
    assert made.secrets_of(TriggerRow(id="trg_a")) == ()
