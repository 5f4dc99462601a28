"""Every call of the API has a test of its contract: computed from what is declared."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
OPERATIONS = [
    operation["operationId"]
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
]


def contracts(path: Path) -> Iterator[str]:
    """Yield the operations that tests of a module say they are the contract of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(
                    "contract"
                ):
                    yield from (ast.literal_eval(each) for each in decorator.args)


@pytest.fixture(scope="module")
def all_contracts() -> set[str]:
    return {name for path in (ROOT / "tests").rglob("test_*.py") for name in contracts(path)}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_call_has_a_test_of_its_contract(operation: str, all_contracts: set[str]) -> None:
    """Some test has the mark ``contract("<operation>")``."""
    assert operation in all_contracts, f'mark a test of it: @pytest.mark.contract("{operation}")'


def test_no_contract_is_of_a_call_that_is_not(all_contracts: set[str]) -> None:
    """Names in the marks are operations, so none is misspelled or left over."""
    assert set(OPERATIONS) >= all_contracts
