"""Inbound webhooks: whether one was sent by who knows the secret, and what its sender says of it.

    scheme     signed, with HMAC              where it is                          says when
    standard   id "." seconds "." body        webhook-signature: v1,BASE64 …       yes
    stripe     seconds "." body               Stripe-Signature: t=…,v1=HEX,…       yes
    github     body                           X-Hub-Signature-256: sha256=HEX      no
    slack      "v0:" seconds ":" body         X-Slack-Signature: v0=HEX            yes
    shopify    body                           X-Shopify-Hmac-Sha256: BASE64        no
    hmac       body                           as told                              no
    header     nothing: the secret is sent    as told                              no
    basic      nothing: the secret is sent    Authorization: Basic BASE64          no

Where no time is signed, nor an id, whoever has seen a delivery can send it again.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints, model_validator

from cakework.domain.configured import Configured

Scheme = Literal[
    "standard", "stripe", "github", "slack", "shopify", "hmac", "header", "basic", "none"
]

SECRET_CHARACTERS_MIN = 8
SECRET_CHARACTERS_MAX = 1024
STANDARD_BYTES_MIN = 24
STANDARD_BYTES_MAX = 64
HEADER_CHARACTERS_MAX = 4096
"""A longer header is refused before anything of it is looked at."""
SIGNATURES_MAX = 16
TIME_DIGITS_MAX = 12
ID_CHARACTERS_MAX = 255
TYPE_CHARACTERS_MAX = 128
CHALLENGE_CHARACTERS_MAX = 255

KEPT_HEADERS = frozenset(
    {
        *("content-type", "user-agent", "idempotency-key", "x-request-id"),
        *("webhook-id", "webhook-timestamp"),
        *("x-github-delivery", "x-github-event", "x-github-hook-id"),
        *("x-github-hook-installation-target-id", "x-github-hook-installation-target-type"),
        *("x-github-enterprise-host", "x-github-enterprise-version"),
        *("x-gitlab-event", "x-gitlab-event-uuid", "x-gitlab-instance", "x-gitlab-webhook-uuid"),
        *("x-shopify-api-version", "x-shopify-event-id", "x-shopify-name"),
        *("x-shopify-shop-domain", "x-shopify-sub-topic", "x-shopify-topic"),
        *("x-shopify-triggered-at", "x-shopify-webhook-id"),
        *("x-slack-request-timestamp", "x-slack-retry-num", "x-slack-retry-reason"),
    }
)
"""Headers that an event may tell of, in lower case: none that proves or authorizes anything."""

_DEFAULTS: dict[str, dict[str, object]] = {
    "standard": {"tolerance": 300},
    "stripe": {"tolerance": 300},
    "slack": {"tolerance": 300},
    "hmac": {"header": "X-Signature", "encoding": "hex", "algorithm": "sha256"},
    "header": {"header": "X-Webhook-Secret"},
}
_OWN = {scheme: frozenset(fields) for scheme, fields in _DEFAULTS.items()} | {
    "hmac": frozenset({"header", "encoding", "algorithm", "prefix"})
}
_OWNED = frozenset[str]().union(*_OWN.values())
_HEX = frozenset({"stripe", "github", "slack"})
_STANDARD_PREFIX = "whsec_"

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^[!-~][ -~]{0,31}$")]


class Verify(Configured):
    """How deliveries to a webhook's URL are told from forgeries. The secret is not in it.

    Fields that are absent have the defaults of the scheme; those of other schemes are None.
    """

    scheme: Scheme = Field(description="Whose way of signing it is; `none`: all are taken.")
    header: HeaderName | None = Field(
        default=None,
        description="`hmac`: which header has the signature, `X-Signature` if absent. `header`: "
        "which has the secret, `X-Webhook-Secret` if absent.",
    )
    encoding: Literal["hex", "base64"] | None = Field(
        default=None, description="`hmac`: how the signature is spelled, `hex` if absent."
    )
    algorithm: Literal["sha256", "sha512"] | None = Field(
        default=None, description="`hmac`: the hash, `sha256` if absent."
    )
    prefix: Prefix | None = Field(
        default=None,
        description="`hmac`: what is before the signature in its header, like `sha256=`.",
    )
    tolerance: int | None = Field(
        default=None,
        ge=30,
        le=3600,
        description="`standard`, `stripe` and `slack`: how many seconds the sender's time may "
        "differ from ours, 300 if absent.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        fields = cast("Mapping[object, object]", given)
        scheme = fields.get("scheme")
        defaults = _DEFAULTS.get(scheme, {}) if isinstance(scheme, str) else {}
        empty = {name for name in defaults if fields.get(name) is None}
        return {**fields, **{name: defaults[name] for name in empty}}

    @model_validator(mode="after")
    def _check(self) -> "Verify":
        # Only of these: a request's form of this has a secret beside them.
        given = {name for name in _OWNED if getattr(self, name) is not None}
        if others := given - _OWN.get(self.scheme, frozenset()):
            raise ValueError(f"{min(others)} does not belong to scheme {self.scheme}; leave it out")
        if self.header is not None and self.header.lower() in KEPT_HEADERS:
            raise ValueError(f"events tell of {self.header}, so it cannot hold what is secret")
        return self


class Refused(Exception):
    """A delivery that nobody who knows the secret has sent now; ``why`` is for the owner only."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a provider says of a delivery beside its body.

    ``delivery_id`` is the same when it comes again; ``provider_type`` has letters, digits and
    ``. _ -`` only; ``challenge`` has to be the answer, as plain text, instead of anything else.
    """

    delivery_id: str | None = None
    provider_type: str | None = None
    challenge: str | None = None


def check_secret(verify: Verify, secret: str | None) -> None:
    """Check that ``secret`` can be one of the scheme's.

    Raises:
        ValueError: it cannot, in a sentence that does not have it.
    """
    if verify.scheme == "none":
        if secret is not None:
            raise ValueError("scheme none has no secret; leave it out")
        return
    if secret is None:
        raise ValueError(f"scheme {verify.scheme} needs a secret")
    if verify.scheme == "standard":
        _standard_key(secret)
        return
    if not SECRET_CHARACTERS_MIN <= len(secret) <= SECRET_CHARACTERS_MAX:
        raise ValueError(f"must have {SECRET_CHARACTERS_MIN} to {SECRET_CHARACTERS_MAX} characters")
    if not secret.isprintable() or secret != secret.strip():
        raise ValueError("has a line break, a blank at its end or the like; remove it")
    if verify.scheme == "header" and not secret.isascii():
        raise ValueError("is sent in a header, so it can have ASCII characters only")
    if verify.scheme == "basic":
        _check_basic(secret)


def new_secret(verify: Verify, drawn: bytes | None = None) -> str | None:
    """Return a secret of 256 random bits, or of those that were ``drawn``; None if the provider
    makes it, or there is none."""
    bits = secrets.token_bytes(32) if drawn is None else drawn
    if verify.scheme == "standard":
        return _STANDARD_PREFIX + base64.b64encode(bits).decode()
    if verify.scheme in ("github", "hmac", "header"):
        return base64.urlsafe_b64encode(bits).rstrip(b"=").decode()
    return None


def verify(
    verify: Verify, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float
) -> None:
    """Check that who sent ``body`` knows one of ``secrets``, which :func:`check_secret` passed.

    ``headers`` have lower-case names; ``now_s`` is in seconds since 1970. It takes as long as
    hashing the body once for each secret.

    Raises:
        Refused: nobody who knows one has sent it, or not now.
    """
    if verify.scheme == "none":
        return
    claim = _CLAIMS[verify.scheme](verify, headers, now_s)
    matches = False
    for secret in secrets:
        expected = _expected(verify, secret, claim.before, body)
        for given in claim.given:
            matches |= hmac.compare_digest(expected, given)
    if not matches:
        what = "secret" if verify.scheme in ("header", "basic") else "signature"
        raise Refused(f"the {what} does not match")


def arrived(verify: Verify, headers: Mapping[str, str], value: object) -> Arrived:
    """Return what the provider says of a delivery; ``value`` is its body as JSON, or None."""
    fields = _object(value)
    match verify.scheme:
        case "standard":
            return Arrived(_id(headers.get("webhook-id")), _type(fields.get("type")))
        case "stripe":
            return Arrived(_id(fields.get("id")), _type(fields.get("type")))
        case "github":
            event = _type(headers.get("x-github-event"), fields.get("action"))
            return Arrived(_id(headers.get("x-github-delivery")), event)
        case "shopify":
            topic = _type(headers.get("x-shopify-topic"))
            return Arrived(_id(headers.get("x-shopify-webhook-id")), topic)
        case "slack":
            return _arrived_from_slack(fields)
        case _:
            return Arrived()


def _check_basic(secret: str) -> None:
    user, colon, password = secret.partition(":")
    if not (user and colon and len(password) >= SECRET_CHARACTERS_MIN):
        raise ValueError(
            f"must be user:password, with a password of {SECRET_CHARACTERS_MIN} characters or more"
        )


def _standard_key(secret: str) -> bytes:
    """Return the key that ``whsec_…`` spells; the padding may be missing."""
    fault = (
        f"must be {_STANDARD_PREFIX} and the base64 of "
        f"{STANDARD_BYTES_MIN} to {STANDARD_BYTES_MAX} bytes"
    )
    spelled = secret.removeprefix(_STANDARD_PREFIX)
    if spelled == secret or len(secret) > SECRET_CHARACTERS_MAX:
        raise ValueError(fault)
    try:
        key = base64.b64decode(spelled + "=" * (-len(spelled) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(fault) from error
    if not STANDARD_BYTES_MIN <= len(key) <= STANDARD_BYTES_MAX:
        raise ValueError(fault)
    return key


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a delivery claims: ``given`` is sent as proof; ``before`` is signed before the body."""

    given: tuple[bytes, ...]
    before: bytes = b""


def _expected(verify: Verify, secret: str, before: bytes, body: bytes) -> bytes:
    """Return what is given by who knows ``secret``, spelled as it is given."""
    if verify.scheme == "header":
        return secret.encode()
    if verify.scheme == "basic":
        return base64.b64encode(secret.encode())
    key = _standard_key(secret) if verify.scheme == "standard" else secret.encode()
    code = hmac.new(key, before, verify.algorithm or hashlib.sha256)
    code.update(body)
    if verify.scheme in _HEX or verify.encoding == "hex":
        return code.hexdigest().encode()
    return base64.b64encode(code.digest())


def _claim_standard(verify: Verify, headers: Mapping[str, str], now_s: float) -> _Claim:
    message_id = _header(headers, "webhook-id")
    if "." in message_id:
        # With dots, parts of one message could pass for parts of another.
        raise Refused("header webhook-id has a full stop, which ids must not have")
    time = _checked_time(verify, _header(headers, "webhook-timestamp"), now_s)
    pieces = _header(headers, "webhook-signature").split(" ")
    parts = [(version, given) for version, _, given in (piece.partition(",") for piece in pieces)]
    return _Claim(_signatures(parts), f"{message_id}.{time}.".encode())


def _claim_stripe(verify: Verify, headers: Mapping[str, str], now_s: float) -> _Claim:
    pieces = _header(headers, "Stripe-Signature").split(",")
    parts = [(name.strip(), given) for name, _, given in (piece.partition("=") for piece in pieces)]
    times = [given for name, given in parts if name == "t"]
    if len(times) != 1:
        raise Refused("header Stripe-Signature has no time, or several")
    time = _checked_time(verify, times[0], now_s)
    return _Claim(_lower(_signatures(parts)), f"{time}.".encode())


def _claim_github(_verify: Verify, headers: Mapping[str, str], _now_s: float) -> _Claim:
    return _Claim(_lower(_after(headers, "X-Hub-Signature-256", "sha256=")))


def _claim_slack(verify: Verify, headers: Mapping[str, str], now_s: float) -> _Claim:
    time = _checked_time(verify, _header(headers, "X-Slack-Request-Timestamp"), now_s)
    return _Claim(_lower(_after(headers, "X-Slack-Signature", "v0=")), f"v0:{time}:".encode())


def _claim_shopify(_verify: Verify, headers: Mapping[str, str], _now_s: float) -> _Claim:
    return _Claim(_after(headers, "X-Shopify-Hmac-Sha256"))


def _claim_hmac(verify: Verify, headers: Mapping[str, str], _now_s: float) -> _Claim:
    given = _after(headers, verify.header or "", verify.prefix or "")
    return _Claim(_lower(given) if verify.encoding == "hex" else given)


def _claim_header(verify: Verify, headers: Mapping[str, str], _now_s: float) -> _Claim:
    return _Claim(_after(headers, verify.header or ""))


def _claim_basic(_verify: Verify, headers: Mapping[str, str], _now_s: float) -> _Claim:
    kind, _, given = _header(headers, "Authorization").partition(" ")
    if kind.lower() != "basic":
        raise Refused("header Authorization is not of kind Basic")
    return _Claim((given.strip().encode(),))


_CLAIMS: dict[Scheme, Callable[[Verify, Mapping[str, str], float], _Claim]] = {
    "standard": _claim_standard,
    "stripe": _claim_stripe,
    "github": _claim_github,
    "slack": _claim_slack,
    "shopify": _claim_shopify,
    "hmac": _claim_hmac,
    "header": _claim_header,
    "basic": _claim_basic,
}


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return a header that is there, not too long, and ASCII."""
    value = headers.get(name.lower(), "")
    if not value:
        raise Refused(f"header {name} is missing")
    if len(value) > HEADER_CHARACTERS_MAX:
        raise Refused(f"header {name} has more than {HEADER_CHARACTERS_MAX} characters")
    if not value.isascii():
        raise Refused(f"header {name} has characters that are not ASCII")
    return value


def _after(headers: Mapping[str, str], name: str, prefix: str = "") -> tuple[bytes, ...]:
    value = _header(headers, name)
    if not value.startswith(prefix):
        raise Refused(f"header {name} does not begin with {prefix}")
    return (value[len(prefix) :].encode(),)


def _signatures(parts: Sequence[tuple[str, str]]) -> tuple[bytes, ...]:
    given = tuple(value.encode() for version, value in parts if version == "v1")
    if not given:
        raise Refused("there is no signature of version v1")
    if len(given) > SIGNATURES_MAX:
        raise Refused(f"there are {len(given)} signatures, and {SIGNATURES_MAX} are looked at")
    return given


def _lower(given: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(one.lower() for one in given)


def _checked_time(verify: Verify, text: str, now_s: float) -> str:
    """Return ``text``, which is ASCII, if it is whole seconds since 1970 and not far from now."""
    if not (text.isdigit() and len(text) <= TIME_DIGITS_MAX):
        raise Refused("the timestamp is no number of seconds")
    age_s = now_s - int(text)
    if abs(age_s) > (verify.tolerance or 0):
        word = "old" if age_s > 0 else "ahead"
        raise Refused(f"the timestamp is {abs(age_s):.0f} s {word}")
    return text


def _arrived_from_slack(fields: Mapping[str, object]) -> Arrived:
    kind = fields.get("type")
    event = _object(fields.get("event"))
    challenge = fields.get("challenge") if kind == "url_verification" else None
    return Arrived(
        _id(fields.get("event_id")),
        _type(event.get("type")) or _type(kind),
        _plain(challenge, CHALLENGE_CHARACTERS_MAX),
    )


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _id(value: object) -> str | None:
    return _plain(value, ID_CHARACTERS_MAX)


def _plain(value: object, characters_max: int) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        return None
    return value if value.isprintable() else None


def _type(*parts: object) -> str | None:
    """Return the texts among ``parts``, up to the first that is none, as one event's type."""
    words: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            break
        shown = part[: TYPE_CHARACTERS_MAX * 2].replace("/", ".")
        words += [_cleaned(word) for word in shown.split(".") if word]
    return ".".join(words)[:TYPE_CHARACTERS_MAX].strip(".") or None


def _cleaned(word: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in word)
