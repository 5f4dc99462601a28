"""What bodies have in common: camelCase names, exact types in, nothing absent out."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


def _encodable(text: str) -> str:
    """Refuse half a surrogate pair: JSON can spell it, and no file or store can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be text that UTF-8 can hold") from error
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that has an encoding."""


class RequestBody(BaseModel):
    """A body that a caller sends. ``"1"`` and ``true`` are not 1; unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        strict=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )


class AnswerBody(BaseModel):
    """A body that we answer with. Absent fields are left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
        frozen=True,
    )
