"""The examples of docs/secrets.md, one after the other, on one server."""

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from .function_node import FunctionNode
from .rig import settings_for
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "secrets.md").read_text()
CODE = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CALL = re.compile(
    r"^```http\n(\w+) (\S+)\n(.*?)```\n\n```text\n(\d+) (.*?)\n```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture
async def functions(
    folder: Path, tmp_path: Path, database_url: str | None
) -> AsyncGenerator[Functions]:
    async with (
        FunctionNode(settings_for(folder, None), tmp_path).hosting() as node,
        served(folder, node, database_url) as made,
    ):
        yield made


def told(answer: Any, said: Any) -> bool:
    """Whether an answer has what the page says, which leaves some out."""
    if isinstance(said, dict):
        fields = cast("dict[str, Any]", said)
        return all(name in answer and told(answer[name], fields[name]) for name in fields)
    if isinstance(said, list):
        some = cast("list[Any]", said)
        return len(answer) == len(some) and all(map(told, answer, some))
    return answer == said


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_each_call_is_answered_as_the_page_says(functions: Functions) -> None:
    assert CODE is not None
    calls = CALL.findall(PAGE)
    assert len(calls) == PAGE.count("```http") >= 10
    function_id = await functions.made(CODE[1])
    for method, path, body, status, said in calls:
        response = await functions.rig.client.request(
            method,
            path.replace("FUNCTION", function_id),
            json=json.loads(body) if body else None,
        )
        assert response.status_code == int(status), (path, response.text)
        wanted = json.loads(said.replace("FUNCTION", function_id))
        assert told(response.json(), wanted), (path, response.text)
