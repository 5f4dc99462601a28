"""The OpenAPI document, held against every answer that the tests get."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx2
from jsonschema_rs import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
PROBLEM = "application/problem+json"
ANY_PROBLEM = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
Json = dict[str, Any]


class Document:
    """docs/openapi.json; ``answered`` has each operation that was answered, with the status."""

    def __init__(self) -> None:
        schema: Json = json.loads((ROOT / "docs" / "openapi.json").read_text())
        self._components = _closed(schema["components"])
        self._paths: list[tuple[re.Pattern[str], Json]] = [
            (_pattern(path), methods)
            for path, methods in sorted(schema["paths"].items(), key=lambda item: "{" in item[0])
        ]
        self.answered: set[tuple[str, int]] = set()

    def check(self, answer: httpx2.Response) -> None:
        """Hold an answer to what is declared: status, headers, and every field of its body."""
        request = answer.request
        what = f"{request.method} {request.url}: {answer.status_code}"
        request_id = answer.headers["X-Request-Id"]
        assert ULID.fullmatch(request_id), what
        if answer.status_code in (429, 503):
            assert int(answer.headers["Retry-After"]) > 0, what
        schemas = self._declared(answer)
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in schemas, f"{what} is not declared with {media_type}"
        if media_type == "text/event-stream":
            return
        answer.read()
        body = answer.json()
        self._fits(body, schemas[media_type]["schema"], what)
        if media_type == PROBLEM:
            assert (body["requestId"], body["status"]) == (request_id, answer.status_code), what

    def _declared(self, answer: httpx2.Response) -> Json:
        """Return the bodies that are declared for an answer, by media type."""
        operation = self._operation(answer.request)
        if operation is None:
            return ANY_PROBLEM if answer.status_code in (404, 405) else {}
        self.answered.add((operation["operationId"], answer.status_code))
        return operation["responses"].get(str(answer.status_code), {}).get("content", {})

    def _operation(self, request: httpx2.Request) -> Json | None:
        path = request.url.raw_path.decode().partition("?")[0]
        for pattern, methods in self._paths:
            if pattern.fullmatch(path):
                return methods.get(request.method.lower())
        return None

    def _fits(self, body: object, schema: Json, what: str) -> None:
        whole = {**schema, "components": self._components}
        errors = [str(error) for error in _validator(json.dumps(whole)).iter_errors(body)]
        assert not errors, f"{what}: {errors[0]}\n{json.dumps(body)[:1000]}"


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", path))


def _closed(schema: object) -> Any:
    """Return a schema in which objects have no fields but those declared."""
    if isinstance(schema, list):
        return [_closed(each) for each in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    closed: Json = {name: _closed(each) for name, each in cast("Json", schema).items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed["additionalProperties"] = False
    return closed


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema), validate_formats=True)
