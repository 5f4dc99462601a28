"""What people configure, in one shape of what is asked and of what is answered."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Configured(BaseModel):
    """Fields in camelCase, with defaults; unknown ones are refused, and no error repeats a value.

    What is answered has all fields, so what is asked may leave out those with a default.
    """

    model_config = ConfigDict(
        json_schema_mode_override="validation",
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )
