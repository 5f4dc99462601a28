import pytest
from pydantic import ValidationError

from cakework.domain.functions import FunctionSettings, Isolation, isolation_of


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
