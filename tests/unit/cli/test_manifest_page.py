"""docs/functions.md says what `cakework.toml` may have, and its example is one."""

import re
from pathlib import Path

from cakework.cli.manifest import HEAD, read_manifest
from cakework.domain.functions import FunctionSettings, RetryPolicy

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "functions.md").read_text()


def test_the_example_is_understood(tmp_path: Path) -> None:
    """Every key of it."""
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "cakework.toml").write_text(example)
    assert read_manifest(tmp_path).settings["retry"] == {"maxAttempts": 5}


def test_the_table_has_every_key_with_its_default() -> None:
    """None is missing, and there is none that it does not take."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|\s*([^|]*?)\s*\| (.*) \|$", PAGE, re.MULTILINE)
    told: dict[str, str] = {}
    for names, defaults, _ in rows:
        keys = re.findall(r"`(\w+)`", names)
        values = defaults.split(", ") if len(keys) > 1 and defaults else [defaults] * len(keys)
        told |= dict(zip(keys, (value.strip(" `") for value in values), strict=True))
    whole = FunctionSettings().model_dump(by_alias=True)
    assert told.keys() == HEAD.keys() | whole.keys()
    for name, default in whole.items():
        if isinstance(default, int | str):
            assert told[name] == str(default).lower(), name
    (retry,) = [text for names, _, text in rows if names == "`retry`"]
    for name, default in RetryPolicy().model_dump(by_alias=True, exclude={"on"}).items():
        assert f"`{name}` {default:g}" in retry
