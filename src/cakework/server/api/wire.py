"""What bodies have in common: camelCase names, exact types in, nothing absent out."""

import json
from collections.abc import Collection, Iterable
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal, LiteralString, TypeVar, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from cakework.nearest import nearest

M = TypeVar("M", bound=BaseModel)
NAME_CHARS_MAX = 100
"""Of a name that is told back to whoever sent it."""
FAULTS_MAX = 20
"""Told of one request: who mends these is told of the next."""


def _encodable(text: str) -> str:
    """Refuse half a surrogate pair: JSON can spell it, and no file or store can hold it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be text that UTF-8 can hold") from error
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that has an encoding."""


def shown_name(name: str) -> str:
    """Return a stranger's name as it can be told: cut, and in text that has an encoding."""
    return name[:NAME_CHARS_MAX].encode(errors="replace").decode()


def unknown(name: str, known: Collection[str]) -> str:
    """Return what is said of a name that is none of ``known``: the one meant, or all there are."""
    meant = nearest(name, known)
    if meant is not None:
        return f"is unknown; did you mean {meant}?"
    return f"is unknown; there are {', '.join(known)}" if known else "is unknown; none are taken"


@cache
def names_of(model: type[BaseModel]) -> dict[str, None]:
    """Return the names that the fields of a body, or of a query, have on the wire; in order."""
    return dict.fromkeys(field.alias or name for name, field in model.model_fields.items())


def given(model: type[M], value: object) -> M:
    """Return an object in a body as ``model``, which is not a :class:`RequestBody` itself: as
    strictly, and with unknown names told as of those.

    Raises:
        ValidationError: it is none.
    """
    _check_known(model, value, ())
    return model.model_validate_json(json.dumps(value), strict=True)


def _check_known(model: type[BaseModel], value: object, place: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        return
    fields, names = cast("dict[str, object]", value), names_of(model)
    if not fields.keys() <= names.keys():
        others = (name for name in fields if name not in names)
        raise _unknown_fields(islice(others, FAULTS_MAX), names, place)
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is tuple:
            wire = field.alias or name
            items = get_args(field.annotation)[0]
            check_each(
                get_args(items)[0] if get_args(items) else items, fields.get(wire), (*place, wire)
            )
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                wire = field.alias or name
                _check_known(kind, fields.get(wire), (*place, wire))


def check_each(union: object, value: object, place: tuple[str, ...] = ()) -> None:
    """Check that each object in a list is one of a union's that are told apart by their ``type``,
    with names that this one has; of another union, or what is no list, nothing is said.

    Raises:
        ValidationError: one is not.
    """
    models = _by_type(union)
    if not models or not isinstance(value, list):
        return
    for number, each in enumerate(cast("list[object]", value)[:FAULTS_MAX]):
        if not isinstance(each, dict):
            continue
        kind, at = cast("dict[str, object]", each).get("type"), (*place, str(number))
        if not isinstance(kind, str) or kind not in models:
            said = f"should be one of {', '.join(models)}"
            raise _faults([((*at, "type"), "unknown_type", said)])
        _check_known(models[kind], cast("object", each), at)


@cache
def _by_type(union: object) -> dict[str, type[BaseModel]]:
    """Return the models of a union by what the type of each may be; none, where it is another."""
    found: dict[str, type[BaseModel]] = {}
    for model in get_args(union):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return {}
        field = model.model_fields.get("type")
        if field is None or get_origin(field.annotation) is not Literal:
            return {}
        found.update(dict.fromkeys(get_args(field.annotation), model))
    return found


class RequestBody(BaseModel):
    """A body that a caller sends. ``"1"`` and ``true`` are not 1; unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        strict=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, fields: Any) -> Any:
        # Before pydantic does, which would tell of each of a hundred thousand.
        names = names_of(cls)
        if isinstance(fields, dict) and not fields.keys() <= names.keys():
            others = (name for name in cast("dict[str, object]", fields) if name not in names)
            raise _unknown_fields(islice(others, FAULTS_MAX), names)
        return cast("object", fields)


class AnswerBody(BaseModel):
    """A body that we answer with. Absent fields are left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
        frozen=True,
    )


def _unknown_fields(
    names: Iterable[str], known: Collection[str], place: tuple[str, ...] = ()
) -> ValidationError:
    return _faults(
        ((*place, shown_name(name)), "unknown_field", unknown(name, known)) for name in names
    )


def _faults(told: Iterable[tuple[tuple[str, ...], LiteralString, str]]) -> ValidationError:
    """Return faults, each with its place, its type and what is said of it."""
    faults = [
        InitErrorDetails(
            type=PydanticCustomError(kind, "{said}", {"said": said}), loc=place, input=None
        )
        for place, kind, said in told
    ]
    return ValidationError.from_exception_data("body", faults)
