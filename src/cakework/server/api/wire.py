"""What bodies have in common: camelCase names, exact types in, nothing absent out."""

import json
from collections.abc import Collection, Iterable
from functools import cache
from itertools import islice
from typing import Annotated, Any, TypeVar, cast, get_args

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
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                wire = field.alias or name
                _check_known(kind, fields.get(wire), (*place, wire))


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
    faults = [
        InitErrorDetails(
            type=PydanticCustomError("unknown_field", "{said}", {"said": unknown(name, known)}),
            loc=(*place, shown_name(name)),
            input=None,
        )
        for name in names
    ]
    return ValidationError.from_exception_data("body", faults)
