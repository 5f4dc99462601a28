"""Values of options: what is known to be wrong with them before anybody is asked."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from cakework.domain.functions import OURS, UPPER_CASE_PATTERN
from cakework.domain.image_references import whole_reference
from cakework.domain.invocations import Reason
from cakework.domain.repositories import checked_branch, checked_repository
from cakework.domain.snapshots import (
    FORKS_MAX,
    FORKS_MIN,
    IDLE_TIMEOUT_S_MAX,
    IDLE_TIMEOUT_S_MIN,
)
from cakework.domain.times import parse_time
from cakework.domain.vms import (
    CPU_MAX,
    CPU_MIN,
    MEMORY_MB_MAX,
    MEMORY_MB_MIN,
    PORT_MAX,
    PORT_MIN,
    VOLUME_GB_MAX,
    VOLUME_GB_MIN,
)
from cakework.nearest import nearest


def _between(least: int, most: int) -> Parameter:
    return Parameter(validator=Number(gte=least, lte=most))


def _checked(check: Callable[[str], object]) -> Parameter:
    def validate(_type: object, value: Any) -> None:
        if value is None:
            return
        try:
            check(value)
        except ValueError as error:
            said = str(error)
            raise ValueError(f"{said[:1].upper()}{said[1:]}.") from error

    return Parameter(validator=validate)


def _url(text: str) -> None:
    if not text.startswith(("https://", "http://")):
        raise ValueError("must begin with https://")


def _reason(text: str) -> None:
    if text not in tuple(Reason):
        meant = nearest(text, Reason)
        raise ValueError(f"there is no such reason{f'; did you mean {meant}?' if meant else ''}")


def _zone(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", text):
        raise ValueError("a zone is named like Europe/Berlin")


def _secret_name(text: str) -> None:
    if not re.fullmatch(UPPER_CASE_PATTERN, text) or text.startswith(OURS):
        raise ValueError(
            f"names are of upper-case letters, digits and _, and do not begin with {OURS}"
        )


Cpu = Annotated[int | None, _between(CPU_MIN, CPU_MAX)]
Memory = Annotated[int | None, _between(MEMORY_MB_MIN, MEMORY_MB_MAX)]
Port = Annotated[int | None, Parameter(alias="-p"), _between(PORT_MIN, PORT_MAX)]
Volume = Annotated[int | None, _between(VOLUME_GB_MIN, VOLUME_GB_MAX)]
IdleTimeout = Annotated[int | None, _between(IDLE_TIMEOUT_S_MIN, IDLE_TIMEOUT_S_MAX)]
Forks = Annotated[int, _between(FORKS_MIN, FORKS_MAX)]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Time = Annotated[str | None, _checked(parse_time)]
Zone = Annotated[str | None, _checked(_zone)]
Reference = Annotated[str, _checked(whole_reference)]
Repository = Annotated[str | None, _checked(checked_repository)]
Branch = Annotated[str | None, _checked(checked_branch)]
WhyEnded = Annotated[str | None, _checked(_reason)]
JsonText = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""JSON, ``@FILE``, or ``-``: see :func:`cakework.cli.invoke.read_json`."""
SecretName = Annotated[str, _checked(_secret_name)]
Url = Annotated[str, _checked(_url)]
