"""docs/flow-control.md says what rules there may be, and its examples are some."""

import json
import re
from pathlib import Path

from pydantic.fields import FieldInfo

from cakework.cli.manifest import read_manifest
from cakework.domain import flow

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "flow-control.md").read_text()
RULES = (flow.Concurrency, flow.Throttle, flow.Rate, flow.Debounce, flow.Batch)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_are_understood(tmp_path: Path) -> None:
    """The file, and what the API takes, which is the same."""
    (example,) = blocks("toml")
    (tmp_path / "cakework.toml").write_text(example)
    told = [json.loads(each) for each in blocks("json")]
    assert len(told) == 2
    assert flow.given_limits(read_manifest(tmp_path).settings["limits"]) == flow.given_limits(
        told[0]
    )
    assert [rule.limit for rule in flow.given_limits(told[1])] == [1, 20]  # pyright: ignore


def test_the_table_has_every_rule_with_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \| ", PAGE, re.MULTILINE)
    told = {kind: set(re.findall(r"\w+", fields)) for kind, fields in rows}
    expected = {_type(rule.model_fields): _names(rule.model_fields) for rule in RULES}
    assert told == expected


def test_the_bounds_are_told() -> None:
    for number in (flow.LIMIT_MAX, flow.PERIOD_S_MAX, flow.BATCH_MAX):
        assert f"{number:,}" in PAGE
    assert f"{flow.BATCH_WAIT_S_MAX} seconds" in PAGE


def _type(fields: dict[str, FieldInfo]) -> str:
    return fields["type"].annotation.__args__[0]  # pyright: ignore


def _names(fields: dict[str, FieldInfo]) -> set[str]:
    return {field.alias or name for name, field in fields.items()} - {"type", "key"}
