import hashlib

import pytest
from pydantic import ValidationError

from cakework.domain.functions import (
    FunctionKind,
    FunctionSettings,
    Isolation,
    isolation_of,
    settings_for,
)


def parsed(**fields: object) -> FunctionSettings:
    return FunctionSettings.model_validate(fields)


def test_settings_have_the_names_and_defaults_of_the_contract() -> None:
    told = FunctionSettings().model_dump(mode="json", by_alias=True)
    assert told["maxInstances"] == 10
    assert told["retry"]["maxAttempts"] == 4
    assert sorted(told["retry"]["on"]) == ["crash", "error", "interrupted", "timeout"]


@pytest.mark.parametrize(
    "fields",
    [
        {"memry": 512},
        {"memory": 255},
        {"concurrency": 0},
        {"minInstances": 5, "maxInstances": 4},
        {"secrets": ["lower"]},
        {"secrets": ["CAKEWORK_KEY"]},
        {"secrets": ["A"] * 101},
        {"envVars": {"A": "x" * 65_536}},
        {"retry": {"minDelay": 10, "maxDelay": 5}},
        {"retry": {"on": ["luck"]}},
        {"retry": {"max": 3}},
        {"labels": {"": "x"}},
        {"egress": "some"},
        {"egress": None},
    ],
)
def test_settings_that_are_none_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parsed(**fields)


def test_a_change_changes_what_it_names_and_nothing_else() -> None:
    before = parsed(memory=512, timeout=30, retry={"maxAttempts": 2})
    after = before.changed(parsed(timeout=None, cpu=2))
    assert after == parsed(memory=512, cpu=2, retry={"maxAttempts": 2})


def test_a_change_is_checked_with_what_stays() -> None:
    with pytest.raises(ValidationError):
        parsed(minInstances=5).changed(parsed(maxInstances=2))


@pytest.mark.parametrize(
    ("chosen", "owner", "user", "isolation"),
    [
        (None, "", "", Isolation.FUNCTION),
        (None, "cust", "cust", Isolation.FUNCTION),
        (None, "", "cust", Isolation.USER),
        (Isolation.FUNCTION, "", "cust", Isolation.USER),
        (Isolation.USER, "cust", "cust", Isolation.USER),
        (Isolation.INVOCATION, "", "cust", Isolation.INVOCATION),
    ],
)
def test_end_users_of_one_function_are_kept_apart(
    chosen: Isolation | None, owner: str, user: str, isolation: Isolation
) -> None:
    assert isolation_of(FunctionSettings(isolation=chosen), owner, user) is isolation


@pytest.mark.parametrize(
    ("kind", "given", "egress"),
    [
        (FunctionKind.FUNCTION, {}, "internet"),
        (FunctionKind.FUNCTION, {"egress": "none"}, "none"),
        (FunctionKind.TRANSFORM, {"memory": 512}, "none"),
        (FunctionKind.TRANSFORM, {"egress": "internet"}, "internet"),
    ],
)
def test_transforms_reach_nothing_unless_they_are_to(
    kind: FunctionKind, given: dict[str, object], egress: str
) -> None:
    """Nothing else of what was given changes, and a later change of something else keeps it."""
    made = settings_for(kind, parsed(**given))
    assert made == parsed(**given, **({} if "egress" in given else {"egress": egress}))
    assert made.changed(parsed(cpu=2)).egress == egress


def test_what_was_made_with_egress_is_not_what_is_made_without() -> None:
    """And what was made before there was the setting goes on as it is."""
    told = "[1, 256, 1, [], false]"
    assert FunctionSettings().made_with == hashlib.sha256(told.encode()).hexdigest()
    assert parsed(egress="internet").made_with == FunctionSettings().made_with
    assert parsed(egress="none").made_with != FunctionSettings().made_with
