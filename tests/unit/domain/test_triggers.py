"""What triggers are told."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from cakework.domain.triggers import LIFECYCLE_TYPES, EventConfig, LifecycleConfig

PAGE = Path(__file__).resolve().parents[3] / "docs" / "triggers.md"


def test_the_page_has_what_the_platform_tells() -> None:
    """All of it, and nothing else."""
    rows = re.findall(r"^\| (`cakework\..*?) \|", PAGE.read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(?:cakework)?\.(.*?)`", row)]
    assert sorted(f"cakework.{name}" for name in names) == sorted(LIFECYCLE_TYPES)


@pytest.mark.parametrize("kind", ["*", "cakework.*", "cakework.build.*", *LIFECYCLE_TYPES])
def test_all_or_some_of_it_can_be_wanted(kind: str) -> None:
    """By a lifecycle trigger; what is emitted never begins so."""
    assert LifecycleConfig(types=(kind,)).types == (kind,)
    if kind != "*":
        with pytest.raises(ValidationError, match="a lifecycle trigger is told of them"):
            EventConfig(types=(kind,))


def test_what_the_platform_never_tells_is_refused() -> None:
    """With the type that was meant, or all that there are."""
    for kind in ("cakework.invocation.fail", "invocation.failed"):
        with pytest.raises(ValidationError, match=r"did you mean cakework\.invocation\.failed\?"):
            LifecycleConfig(types=(kind,))
    with pytest.raises(ValidationError, match=r"there are cakework\.build\.failed, "):
        LifecycleConfig(types=("order.*",))
