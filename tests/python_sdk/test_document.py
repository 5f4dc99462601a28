"""The client against the API's own description: no call, field, word or error is missing."""

import inspect
import json
import re
import types
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import cakework_client
from cakework_client import Answer, AsyncCakeworkClient, CakeworkClient, FieldError, File, models
from cakework_client import errors as errors_module
from cakework_client._async.logs import LogQuery
from cakework_client.errors import ERRORS_BY_CODE, ERRORS_BY_STATUS
from cakework_client.wire import wire_name

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: operation
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
}
SECOND_NAMES = {
    "getBuildByPost": "getBuild",
    "listVMsUnversioned": "listVMs",
    "getFunctionBuildLogs": "getBuildLogs",
}
"""Operations that are others at a second address."""
OWN_WAYS = {"follow", "diskSize", "Last-Event-ID", "Idempotency-Key", "If-Match"}
"""Parameters that have a helper of their own, or are a second name of another."""
OTHER_FORMS = "application/cloudevents"
"""Of bodies that are sent as plain JSON."""
REQUESTS = {
    schema["$ref"].rpartition("/")[2]
    for operation in OPERATIONS.values()
    for media in operation.get("requestBody", {}).get("content", {}).values()
    for schema in media["schema"].get("anyOf", [media["schema"]])
    if "$ref" in schema
}
OTHER_SCHEMAS = {
    *("File", "HookBody", "HooksBody", "Problem", "ProblemField"),
    *("DeadLetterFilter", "FilesGiven", "GithubGiven", "SourceGiven"),
    *("VerifyGiven", "WebhookConfigGiven"),
}
ANSWERS = (
    {name for name, schema in SCHEMAS.items() if "properties" in schema} - REQUESTS - OTHER_SCHEMAS
)
WORDS = {name for name, schema in SCHEMAS.items() if "enum" in schema}


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("VM", "Vm")).lower()


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to, and of one that may be null the other."""
    for kind in schema.get("anyOf", ()):
        if kind != {"type": "null"}:
            return resolved(kind)
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def parameters_of(method: Any) -> set[str]:
    """Return the names, on the wire, of what a method takes."""
    signature = inspect.signature(method)
    names = {name for name in signature.parameters if name not in ("self", "options", "query")}
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            hints = get_type_hints(method)
            names |= set(get_type_hints(get_args(hints[parameter.name])[0]))
        elif parameter.name == "query":
            names.add("query")
    return {wire_name(name) for name in names}


@pytest.mark.parametrize("client", [CakeworkClient, AsyncCakeworkClient])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - set(SECOND_NAMES)))
def test_every_operation_is_a_method(client: type, name: str) -> None:
    """In snake_case, with all its parameters and all fields of its body."""
    operation = OPERATIONS[name]
    method = getattr(client, snake_case(name))
    parameters = operation.get("parameters", [])
    wanted = {parameter["name"] for parameter in parameters}
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        if not kind.startswith(OTHER_FORMS):
            wanted |= set(resolved(media["schema"]).get("properties", ()))
    wanted -= OWN_WAYS
    headers = {"Idempotency-Key": "idempotencyKey", "If-Match": "ifMatch"}
    wanted |= {headers[each["name"]] for each in parameters if each["name"] in headers}
    assert wanted - parameters_of(method) == set()


@pytest.mark.parametrize("name", sorted(SECOND_NAMES))
def test_second_names_are_still_there(name: str) -> None:
    """What is left out above is in the document, as is what it stands for."""
    assert name in OPERATIONS
    assert SECOND_NAMES[name] in OPERATIONS


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_every_answer_is_a_class(name: str) -> None:
    """With each field of its type, and None exactly where the document leaves a field out."""
    schema, kind = SCHEMAS[name], getattr(models, name)
    hints = get_type_hints(kind)
    found = {wire_name(field.name): hints[field.name] for field in fields(kind)}
    assert set(found) == set(schema["properties"])
    required = set(schema.get("required", ())) | with_default(schema)
    for field, type_ in found.items():
        optional = types.NoneType in get_args(type_)
        if type_ is Any:
            continue
        assert optional == (field not in required), f"{name}.{field}"
        assert_type(schema["properties"][field], get_args(type_)[0] if optional else type_)


def with_default(schema: dict[str, Any]) -> set[str]:
    """Return the fields that answers always have, though requests need not."""
    fields = schema["properties"].items()
    return {name for name, field in fields if field.get("default") is not None}


def assert_type(schema: dict[str, Any], type_: Any) -> None:
    """Check that a type is the one of a schema."""
    if get_origin(type_) is types.UnionType:
        kinds = {kind["$ref"].rpartition("/")[2] for kind in schema["anyOf"]}
        known = [kind for kind in get_args(type_) if get_origin(kind) is not dict]
        assert {kind.__name__ for kind in known} == kinds
        return
    wanted = resolved(schema)
    if "enum" in wanted or "const" in wanted:
        assert set(get_args(type_)) == set(wanted.get("enum", [wanted.get("const")]))
    elif "type" not in wanted:
        assert type_ is Any
    elif wanted["type"] == "array":
        assert get_origin(type_) is list
        assert_type(wanted["items"], get_args(type_)[0])
    elif "properties" in wanted:
        assert issubclass(type_, Answer)
    elif wanted["type"] == "object":
        assert get_origin(type_) is dict
    else:
        name = "date-time" if wanted.get("format") == "date-time" else wanted["type"]
        python = {"string": "str", "integer": "int", "boolean": "bool", "date-time": "datetime"}
        python["number"] = "float"
        assert type_.__name__ == python[name]


@pytest.mark.parametrize("name", sorted(WORDS))
def test_every_enumeration_has_its_words(name: str) -> None:
    """As a Literal of the same name."""
    found = getattr(models, name)
    assert get_origin(found) is Literal
    assert set(get_args(found)) == set(SCHEMAS[name]["enum"])


def test_files_and_faults_have_their_fields() -> None:
    """Those of a build's file, and of a field at fault."""
    assert set(get_type_hints(File)) == set(SCHEMAS["File"]["properties"])
    assert set(File.__required_keys__) == set(SCHEMAS["File"]["required"])
    assert {field.name for field in fields(FieldError)} == set(
        SCHEMAS["ProblemField"]["properties"]
    )


def test_log_queries_have_no_more_than_the_api() -> None:
    """A parameter that the server does not know would be passed over in silence."""
    known = {parameter["name"] for parameter in OPERATIONS["getVMLogs"]["parameters"]}
    assert {wire_name(name) for name in get_type_hints(LogQuery)} - {"timeout"} <= known


def test_every_error_code_is_a_class() -> None:
    """docs/errors.md and the table of classes name the same codes, with the same statuses."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    assert {code for code, _ in rows} == set(ERRORS_BY_CODE)
    for code, status in rows:
        assert issubclass(ERRORS_BY_CODE[code], ERRORS_BY_STATUS[int(status)])


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """The drawing names every class, and every code beside its class."""
    drawn = dict(re.findall(r"[├└]── (\w+)(?: +([a-z_]+)$)?", errors_module.__doc__ or "", re.M))
    classes = {
        name: kind
        for name, kind in vars(errors_module).items()
        if inspect.isclass(kind) and issubclass(kind, errors_module.CakeworkError)
    }
    assert set(drawn) == set(classes) - {"CakeworkError"}
    for code, kind in ERRORS_BY_CODE.items():
        assert drawn[kind.__name__] == code


def test_what_is_public_is_told() -> None:
    """Every public name is exported, is there, and has a docstring or is a plain type."""
    for name in cakework_client.__all__:
        assert hasattr(cakework_client, name)
    for kind in (CakeworkClient, AsyncCakeworkClient):
        methods = [name for name in dir(kind) if not name.startswith("_")]
        assert [name for name in methods if not inspect.getdoc(getattr(kind, name))] == []
        table = (ROOT / "sdk/python/README.md").read_text()
        told = set(methods) - {"url", "close", "aclose"}
        assert [name for name in sorted(told) if f"`{name}`" not in table] == []
