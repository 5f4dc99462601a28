"""What is no setting is refused wherever it is said, and the nearest one named."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from cakework.nearest import CHARS_MAX, nearest
from cakework.settings import OTHER_VARIABLES, Settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of settings, and an environment without any."""
    for name in [name for name in os.environ if name.startswith("CAKEWORK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CAKEWORK_CONFIG", str(tmp_path / "c.toml"))
    return tmp_path / "c.toml"


def refused() -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Settings()
    return {str(fault["loc"][0]): fault["msg"] for fault in caught.value.errors()}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_misspelt_setting_is_refused(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a variable, in upper or lower case, and as a key of the file."""
    wrong = f"{name}x"
    config.write_text(f"{wrong} = 1")
    monkeypatch.setenv(f"cakework_{wrong}", "1")
    assert refused() == {
        wrong: f"is no setting; did you mean {name}?",
        f"CAKEWORK_{wrong.upper()}": f"is no setting; did you mean CAKEWORK_{name.upper()}?",
    }


def test_a_setting_that_is_like_none_is_refused_too(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And told without a guess."""
    monkeypatch.setenv("CAKEWORK_QQQQ", "1")
    assert refused() == {"CAKEWORK_QQQQ": "is no setting"}


def test_other_variables_are_left_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with our prefix that are no settings, tests' own, and other programs'."""
    for name in (*OTHER_VARIABLES.keys() - {"CAKEWORK_CONFIG"}, "CAKEWORK_TEST_X", "CAKEWORKS_X"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("cakework_port", "81")
    assert Settings().port == 81


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("env", ["cpu", "envVars"], "envVars"),
        ("IMAGEID", ["imageId"], "imageId"),
        ("image_id", ["imageId"], "imageId"),
        ("state", ["imageId", "status", "pagination"], "status"),
        ("limit", ["imageId", "status", "pagination"], None),
        ("", ["a"], None),
        ("imageId" + "x" * CHARS_MAX, ["imageId" + "x" * 50], None),
        ("anything", [], None),
    ],
)
def test_the_nearest_name(name: str, known: list[str], meant: str | None) -> None:
    """The one that was meant, most likely, or none."""
    assert nearest(name, known) == meant
