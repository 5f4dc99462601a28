"""Inbound webhooks: deliveries of every provider are taken, and nothing else ever is."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from cakework.domain.signatures import (
    HEADER_CHARACTERS_MAX,
    KEPT_HEADERS,
    Arrived,
    Refused,
    Verify,
    arrived,
    check_secret,
    new_secret,
    verify,
)
from tests.properties import examples

NOW = 1_700_000_000
UTF_8 = '{"type":"order.paid","note":"Grüße, 世界 🎂"}'.encode()
CRLF = b'{\r\n  "type": "order.paid"\r\n}\r\n'
STANDARD = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
STRIPE = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
GITHUB = "It's a Secret to Everybody"
SLACK = "8f742231b10e8888abcd99yyyzzz85a5"
SHOPIFY = "hush-hush-shopify"
SLASH_COMMAND = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
    b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
    b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
    b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)


@dataclass(frozen=True)
class Delivery:
    """A delivery that was signed, and all that is needed to check it."""

    verify: Verify
    secret: str
    headers: Mapping[str, str]
    body: bytes
    now_s: float = NOW

    def check(self, *secrets: str) -> None:
        verify(self.verify, secrets or (self.secret,), self.headers, self.body, self.now_s)

    def with_header(self, name: str, value: str) -> "Delivery":
        return replace(self, headers={**self.headers, name: value})

    def without_header(self, name: str) -> "Delivery":
        return replace(self, headers={n: v for n, v in self.headers.items() if n != name})

    def why(self, *secrets: str) -> str:
        with pytest.raises(Refused) as refused:
            self.check(*secrets)
        return refused.value.why


def standard(signature: str, body: bytes) -> Delivery:
    headers = {
        "webhook-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
        "webhook-timestamp": str(NOW),
        "webhook-signature": signature,
    }
    return Delivery(Verify(scheme="standard"), STANDARD, headers, body)


def stripe(signature: str, body: bytes) -> Delivery:
    return Delivery(Verify(scheme="stripe"), STRIPE, {"stripe-signature": signature}, body)


def github(signature: str, body: bytes) -> Delivery:
    return Delivery(Verify(scheme="github"), GITHUB, {"x-hub-signature-256": signature}, body)


def slack(signature: str, body: bytes, time_s: int = NOW) -> Delivery:
    headers = {"x-slack-signature": signature, "x-slack-request-timestamp": str(time_s)}
    return Delivery(Verify(scheme="slack"), SLACK, headers, body, time_s)


def shopify(signature: str, body: bytes) -> Delivery:
    headers = {"x-shopify-hmac-sha256": signature}
    return Delivery(Verify(scheme="shopify"), SHOPIFY, headers, body)


VECTORS = {
    # standardwebhooks 1.1.0 (PyPI), Webhook.sign
    "standard utf-8": standard("v1,d2f0eb4MgWRAc4Vu2RRZB7u7D3i03qka9gsrgfB3Xfs=", UTF_8),
    "standard crlf": standard("v1,OIMQ+2qJUwz64r3RwyKQwZzcxxGXEmfdkKjiZINvVnI=", CRLF),
    # stripe 16.1.0 (PyPI), WebhookSignature.generate_signature_header; stripe 23.1.0 (npm),
    # webhooks.generateTestHeaderString makes the same
    "stripe utf-8": stripe(
        "t=1700000000,v1=f5a204df3cdbb0eeff4e7e8d80ea886413adc2a8432b135173ddd29c35c64a51", UTF_8
    ),
    "stripe crlf": stripe(
        "t=1700000000,v1=c285af699d34fbc94626614e533aeaba17030f88b83b2ce137c2fe226e042719", CRLF
    ),
    # @octokit/webhooks-methods 6.0.0 (npm), sign
    "github utf-8": github(
        "sha256=c034b0ff83ba42336baf2a08d19d0bbaad8de475f8be78d853b8112374dc3797", UTF_8
    ),
    "github crlf": github(
        "sha256=3a201836d96f994ccb658732a9574dd6fe2392679f68c699f5a4c629c3c376d2", CRLF
    ),
    # docs.github.com, "Validating webhook deliveries"
    "github docs": github(
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", b"Hello, World!"
    ),
    # slack_sdk 3.48.0 (PyPI), SignatureVerifier.generate_signature
    "slack utf-8": slack(
        "v0=93bbc80cd56e728dd80ca587d34335423ca939050f0901798a3536447d5f4ef9", UTF_8
    ),
    "slack crlf": slack(
        "v0=ea7fe2d5731bafaeeac9609143b837685082254bf20b8367aab42b88a2b47b20", CRLF
    ),
    # docs.slack.dev, "Verifying requests from Slack"
    "slack docs": slack(
        "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        SLASH_COMMAND,
        1_531_420_618,
    ),
    # @shopify/shopify-api 13.1.0 (npm), createSHA256HMAC; its webhooks.validate takes them
    "shopify utf-8": shopify("plwQ5Dv1nc2H+0igp/VA4X28NOrWRpgPrfr07lp3CKk=", UTF_8),
    "shopify crlf": shopify("eOijHKWrKeXOlqwwlQSVMTCj4oqgAwEnBKq8P0He53A=", CRLF),
    # openssl 3.0 (dgst -sha256 -hmac, -sha512 -hmac … -binary | base64)
    "hmac": Delivery(
        Verify(scheme="hmac"),
        "hush-hush-hmac",
        {"x-signature": "b2ed7b48b82b2b5c2a4afda8fd4dfb897f0fc73c1fa86e8e868e6b52efdfc09a"},
        UTF_8,
    ),
    "hmac sha512": Delivery(
        Verify(
            scheme="hmac",
            header="X-Acme-Signature",
            encoding="base64",
            algorithm="sha512",
            prefix="HMAC ",
        ),
        "hush-hush-hmac",
        {
            "x-acme-signature": "HMAC k5LOHJVQBNhGaJuAc0U543gJr9/qla6ydC76QalO3Q60"
            "EQ5Mqy9LKLvJKC7bKfagx5mWvgLDOy0A1fns9mHGUw=="
        },
        CRLF,
    ),
    "header": Delivery(
        Verify(scheme="header", header="X-Gitlab-Token"),
        "hush-hush-header",
        {"x-gitlab-token": "hush-hush-header"},
        UTF_8,
    ),
    # RFC 7617, section 2
    "basic": Delivery(
        Verify(scheme="basic"),
        "Aladdin:open sesame",
        {"authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
        UTF_8,
    ),
}
TIMED = [name for name in VECTORS if name.startswith(("standard", "stripe", "slack"))]
SIGNED = [name for name in VECTORS if name not in ("header", "basic")]
CHANGES: list[Callable[[bytes], bytes]] = [
    lambda body: body + b"\n",
    lambda body: body[:-1],
    lambda body: body.replace(b"\r\n", b"\n") + b" ",
    lambda body: b"",
]
EVERY = pytest.mark.parametrize("name", VECTORS)
EVERY_TIMED = pytest.mark.parametrize("name", TIMED)


@EVERY
def test_what_a_providers_own_library_signed_is_taken(name: str) -> None:
    VECTORS[name].check()


@EVERY
def test_without_the_secret_nothing_is_taken(name: str) -> None:
    delivery = VECTORS[name]
    wrong = delivery.secret[:-2] + ("A=" if name.startswith("standard") else "!?")
    assert delivery.why(wrong).endswith("does not match")
    with pytest.raises(Refused):
        verify(delivery.verify, (), delivery.headers, delivery.body, delivery.now_s)


@EVERY
def test_either_of_two_secrets_will_do(name: str) -> None:
    """As after a rotation, whichever of them is the older one."""
    delivery = VECTORS[name]
    other = new_secret(delivery.verify) or "another:secret than that"
    delivery.check(other, delivery.secret)
    delivery.check(delivery.secret, other)
    assert delivery.why(other, other).endswith("does not match")


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("changed", CHANGES)
def test_a_changed_body_is_refused(name: str, changed: Callable[[bytes], bytes]) -> None:
    delivery = VECTORS[name]
    why = replace(delivery, body=changed(delivery.body)).why()
    assert why == "the signature does not match"


@EVERY
def test_a_missing_or_empty_or_endless_header_is_refused(name: str) -> None:
    """And the owner is told which, by the name that the provider has for it."""
    delivery = VECTORS[name]
    for header in delivery.headers:
        missing = delivery.without_header(header).why()
        assert missing.lower() == f"header {header} is missing"
        assert delivery.with_header(header, "").why() == missing
        endless = delivery.headers[header] + " " * HEADER_CHARACTERS_MAX
        assert "more than 4096 characters" in delivery.with_header(header, endless).why()


@EVERY
def test_every_character_of_the_headers_counts(name: str) -> None:
    """But for the case of hexadecimal digits, and of the word Basic."""
    delivery = VECTORS[name]
    for header, value in delivery.headers.items():
        for index, old in enumerate(value):
            new = next(c for c in "0Az" if c.lower() != old.lower())
            delivery.with_header(header, value[:index] + new + value[index + 1 :]).why()


@EVERY_TIMED
@pytest.mark.parametrize(("off_s", "why"), [(-301, "301 s ahead"), (412, "412 s old")])
def test_what_was_signed_at_another_time_is_refused(name: str, off_s: int, why: str) -> None:
    delivery = VECTORS[name]
    late = replace(delivery, now_s=delivery.now_s + off_s)
    assert late.why() == f"the timestamp is {why}"


@EVERY_TIMED
@pytest.mark.parametrize("off_s", [-300, -30.5, 29.5, 300])
def test_clocks_may_differ_as_much_as_is_tolerated(name: str, off_s: float) -> None:
    delivery = VECTORS[name]
    replace(delivery, now_s=delivery.now_s + off_s).check()
    strict = Verify(scheme=delivery.verify.scheme, tolerance=30)
    narrow = replace(delivery, verify=strict, now_s=delivery.now_s + off_s)
    if abs(off_s) > 30:
        assert narrow.why().startswith("the timestamp is")


@pytest.mark.parametrize(
    "time",
    [
        *("1e999", "nan", "-1700000000", "+1700000000", "1700000000.0", " 1700000000"),
        *("1_700_000_000", "٠١٢", "1²", "9" * 4000, "0x6553f100", "1700000000\n"),
        "1700000000;t=1",
    ],
)
def test_a_timestamp_is_digits(time: str) -> None:
    """Whatever else would be a number to Python."""
    VECTORS["standard crlf"].with_header("webhook-timestamp", time).why()
    VECTORS["slack crlf"].with_header("x-slack-request-timestamp", time).why()
    signature = VECTORS["stripe crlf"].headers["stripe-signature"].replace(str(NOW), time)
    VECTORS["stripe crlf"].with_header("stripe-signature", signature).why()


def test_one_of_many_signatures_will_do() -> None:
    """Senders sign with the old and the new secret while one is replaced by the other."""
    good = VECTORS["standard crlf"]
    signature = good.headers["webhook-signature"]
    for header in (f"v1,AAAA {signature}", f"{signature} v1,AAAA", f"v1a,BBBB v2,C  {signature}"):
        good.with_header("webhook-signature", header).check()
    good = VECTORS["stripe crlf"]
    time, _, signature = good.headers["stripe-signature"].partition(",")
    for header in (
        f"{time},v1=00,{signature},v0=11",
        f"{signature},{time}",
        f"{time}, {signature}",
        f"x,,=,{time},{signature.upper().replace('V1', 'v1')}",
    ):
        good.with_header("stripe-signature", header).check()


def test_only_so_many_signatures_are_looked_at() -> None:
    for name, header, sep, other in (
        ("standard crlf", "webhook-signature", " ", "v1,AAAA"),
        ("stripe crlf", "stripe-signature", ",", "v1=00"),
    ):
        good = VECTORS[name]
        signature = good.headers[header]
        good.with_header(header, sep.join([signature] + [other] * 15)).check()
        many = good.with_header(header, sep.join([signature] + [other] * 16))
        assert many.why() == "there are 17 signatures, and 16 are looked at"


def test_signatures_of_another_version_are_none() -> None:
    """Stripe's v0 is of test events alone, and v1a is of another kind of key."""
    good = VECTORS["standard crlf"]
    signature = good.headers["webhook-signature"]
    for header in (signature.replace("v1", "v1a"), signature.removeprefix("v1,")):
        assert "no signature" in good.with_header("webhook-signature", header).why()
    good = VECTORS["stripe crlf"]
    other = good.headers["stripe-signature"].replace("v1", "v0")
    assert "no signature" in good.with_header("stripe-signature", other).why()


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("standard crlf", "webhook-signature", "v1,"),
        ("stripe crlf", "stripe-signature", f"t={NOW},v1="),
        ("github crlf", "x-hub-signature-256", "sha256="),
        ("slack crlf", "x-slack-signature", "v0="),
        ("hmac sha512", "x-acme-signature", "HMAC "),
        ("header", "x-gitlab-token", " "),
        ("basic", "authorization", "Basic "),
        ("basic", "authorization", "Basic"),
    ],
)
def test_an_empty_proof_proves_nothing(name: str, header: str, value: str) -> None:
    assert VECTORS[name].with_header(header, value).why().endswith("does not match")


def test_a_stripe_header_has_one_time() -> None:
    """Else it could be read as another one than what was signed."""
    good = VECTORS["stripe crlf"]
    signature = good.headers["stripe-signature"]
    for header in (f"{signature},t={NOW}", f"t={NOW + 1},{signature}", signature[13:]):
        assert "no time, or several" in good.with_header("stripe-signature", header).why()


def test_parts_of_a_message_cannot_pass_for_parts_of_another() -> None:
    """``a . 1 . 2.b`` is not taken as ``a.1 . 2 . b``: an old message would be new again."""
    signed = Webhook(STANDARD).sign("a", datetime.fromtimestamp(1, UTC), f"{NOW}.b")
    headers = {"webhook-id": "a.1", "webhook-timestamp": str(NOW), "webhook-signature": signed}
    forged = Delivery(Verify(scheme="standard"), STANDARD, headers, b"b")
    assert "full stop" in forged.why()


def test_what_our_own_sender_signs_is_taken() -> None:
    """And the other way round: their library takes what is taken here, when it is of now."""
    now = datetime.now(UTC)
    signature = Webhook(STANDARD).sign("evt_1", now, UTF_8.decode())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    Webhook(STANDARD).verify(UTF_8, headers)
    Delivery(Verify(scheme="standard"), STANDARD, headers, UTF_8, now.timestamp()).check()


def test_without_a_scheme_everything_is_taken() -> None:
    verify(Verify(scheme="none"), (), {}, b"anything", NOW)


HOSTILE = st.one_of(
    st.lists(
        st.sampled_from(
            [
                *("t=", "v1=", "v1,", "v0=", "sha256=", "Basic ", "Bearer ", ",", " ", "=", "."),
                *("t=1e999", f"t={NOW}", str(NOW), "٣", "²", "é", "\udcff", "\x00", "\r\n", "%00"),
                *("0" * 64, "A" * 43 + "=", "9" * 5000, "QWxhZGRpbjo=", ":", "-1", "nan", "v1"),
            ]
        ),
        max_size=40,
    ).map("".join),
    st.text(max_size=80),
)


@given(name=st.sampled_from(sorted(VECTORS)), data=st.data())
@settings(max_examples=examples(1000))
def test_hostile_headers_are_refused_and_break_nothing(name: str, data: st.DataObject) -> None:
    """One or more of a good delivery's headers in place of what was signed."""
    good = VECTORS[name]
    replaced = data.draw(
        st.dictionaries(st.sampled_from(sorted(good.headers)), HOSTILE, min_size=1)
    )
    if any(good.headers[header] != value for header, value in replaced.items()):
        why = replace(good, headers={**good.headers, **replaced}).why()
        assert len(why) < 200


@given(
    name=st.sampled_from(sorted(VECTORS)),
    header=HOSTILE,
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | HOSTILE,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "type", "event", "action", "challenge", "event_id"]), inner
            )
        ),
        max_leaves=8,
    ),
)
@settings(max_examples=examples(300))
@example("slack docs", "", {"type": "url_verification", "challenge": ["a"], "event": "x"})
def test_whatever_a_delivery_says_is_small_and_clean(name: str, header: str, value: object) -> None:
    headers = dict.fromkeys(
        [
            *("webhook-id", "x-github-delivery", "x-github-event"),
            *("x-shopify-topic", "x-shopify-webhook-id"),
        ],
        header,
    )
    said = arrived(VECTORS[name].verify, headers, value)
    for text, most in (
        (said.delivery_id, 255),
        (said.provider_type, 128),
        (said.challenge, 255),
    ):
        assert text is None or (0 < len(text) <= most and text.isprintable())
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert set(said.provider_type or "") <= allowed


@pytest.mark.parametrize(
    ("scheme", "headers", "value", "said"),
    [
        ("standard", {"webhook-id": "msg_1"}, {"type": "a.b"}, Arrived("msg_1", "a.b")),
        ("standard", {"webhook-id": "m" * 256}, {"type": 5}, Arrived()),
        ("stripe", {}, {"id": "evt_1", "type": "charge.paid"}, Arrived("evt_1", "charge.paid")),
        ("stripe", {}, None, Arrived()),
        (
            "github",
            {"x-github-delivery": "72d3162e-cc78", "x-github-event": "issues"},
            {"action": "opened"},
            Arrived("72d3162e-cc78", "issues.opened"),
        ),
        ("github", {"x-github-event": "push"}, {"ref": "main"}, Arrived(None, "push")),
        ("github", {}, {"action": "opened"}, Arrived()),
        (
            "shopify",
            {"x-shopify-webhook-id": "b54557e4", "x-shopify-topic": "orders/paid"},
            [],
            Arrived("b54557e4", "orders.paid"),
        ),
        (
            "slack",
            {},
            {"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention"}},
            Arrived("Ev1", "app_mention"),
        ),
        (
            "slack",
            {},
            {"type": "url_verification", "challenge": "3eZbrw1aBm2rZ"},
            Arrived(None, "url_verification", "3eZbrw1aBm2rZ"),
        ),
        ("slack", {}, {"type": "other", "challenge": "c"}, Arrived(None, "other")),
        ("hmac", {"webhook-id": "1"}, {"id": "2", "type": "t"}, Arrived()),
        ("standard", {}, {"type": "../a b//*.ü."}, Arrived(None, "a_b._._")),
    ],
)
def test_what_providers_say(
    scheme: str, headers: dict[str, str], value: object, said: Arrived
) -> None:
    """Ids and types are where each provider has them; what is too long or not clean is none."""
    assert arrived(Verify.model_validate({"scheme": scheme}), headers, value) == said


def test_settings_tell_what_is_used() -> None:
    told = Verify(scheme="hmac").model_dump(exclude_none=True)
    assert told == {
        "scheme": "hmac",
        "header": "X-Signature",
        "encoding": "hex",
        "algorithm": "sha256",
    }
    assert Verify(scheme="stripe", tolerance=None).tolerance == 300
    assert Verify(scheme="header").header == "X-Webhook-Secret"
    assert Verify(scheme="github").model_dump(exclude_none=True) == {"scheme": "github"}


@EVERY
def test_settings_are_the_same_after_they_were_kept(name: str) -> None:
    settings = VECTORS[name].verify
    assert Verify.model_validate_json(settings.model_dump_json(by_alias=True)) == settings


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "required"),
        ({"scheme": "gitlab"}, "scheme"),
        ({"scheme": ["hmac"]}, "scheme"),
        ({"scheme": "none", "secret": None}, "secret"),
        ({"scheme": "stripe", "header": "X-A"}, "header does not belong to scheme stripe"),
        ({"scheme": "github", "tolerance": 60}, "tolerance does not belong to scheme github"),
        ({"scheme": "header", "prefix": "a"}, "prefix does not belong to scheme header"),
        ({"scheme": "standard", "algorithm": "sha512"}, "algorithm does not belong"),
        ({"scheme": "hmac", "algorithm": "sha1"}, "algorithm"),
        ({"scheme": "hmac", "encoding": "base32"}, "encoding"),
        ({"scheme": "hmac", "header": "X Y"}, "header"),
        ({"scheme": "hmac", "header": "X" * 65}, "header"),
        ({"scheme": "hmac", "prefix": "a\n"}, "prefix"),
        ({"scheme": "header", "header": "X-GitHub-Event"}, "events tell of X-GitHub-Event"),
        ({"scheme": "slack", "tolerance": 29}, "tolerance"),
        ({"scheme": "slack", "tolerance": 3601}, "tolerance"),
    ],
)
def test_settings_that_are_none_are_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Verify.model_validate(fields)


class WithSecret(Verify):
    """As a request has it."""

    secret: str | None = None


def test_what_a_request_has_beside_them_is_no_field_of_another_scheme() -> None:
    told = WithSecret.model_validate({"scheme": "stripe", "secret": STRIPE})
    assert told.secret == STRIPE and told.tolerance == 300
    with pytest.raises(ValidationError, match="prefix does not belong"):
        WithSecret.model_validate({"scheme": "stripe", "secret": STRIPE, "prefix": "a"})


def whsec(size: int) -> str:
    return f"whsec_{base64.b64encode(b'k' * size).decode()}"


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [
        ("standard", whsec(24)),
        ("standard", whsec(64)),
        ("standard", whsec(25).rstrip("=")),
        ("stripe", STRIPE),
        ("github", GITHUB),
        ("slack", SLACK),
        ("hmac", "x" * 1024),
        ("hmac", "schlüssel"),
        ("header", "Bearer hush-hush"),
        ("basic", "us:er:password"),
        ("basic", "user:pässwörd"),
        ("none", None),
    ],
)
def test_secrets_of_a_scheme(scheme: str, secret: str | None) -> None:
    check_secret(Verify.model_validate({"scheme": scheme}), secret)


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [
        ("standard", None),
        ("standard", whsec(23)),
        ("standard", whsec(65)),
        ("standard", whsec(32)[6:]),
        ("standard", whsec(32) + "\n"),
        ("standard", whsec(32).replace("a", "é")),
        ("standard", "whsec_" + "A" * 41),
        ("standard", "whsec_" + "-_" * 20),
        ("standard", "whsec_" + "A" * 100_000),
        ("stripe", ""),
        ("github", "short-1"),
        ("hmac", "x" * 1025),
        ("hmac", "hush-hush\n"),
        ("hmac", " hush-hush"),
        ("hmac", "hush-hush\udcff"),
        ("header", "schlüssel"),
        ("basic", "no-colon-here"),
        ("basic", ":a-password"),
        ("basic", "user:short"),
        ("none", "hush-hush"),
        *((scheme, None) for scheme in ("stripe", "github", "slack", "shopify", "hmac", "basic")),
    ],
)
def test_secrets_that_are_none_are_refused(scheme: str, secret: str | None) -> None:
    """In a sentence that does not tell them."""
    with pytest.raises(ValueError, match=r"^(must|has|is|scheme) ") as refused:
        check_secret(Verify.model_validate({"scheme": scheme}), secret)
    assert not secret or len(secret) < 8 or secret not in str(refused.value)


@pytest.mark.parametrize("scheme", ["standard", "github", "hmac", "header"])
def test_new_secrets_are_good_and_never_the_same(scheme: str) -> None:
    settings = Verify.model_validate({"scheme": scheme})
    made = {new_secret(settings) for _ in range(20)}
    assert len(made) == 20
    for secret in made:
        check_secret(settings, secret)


@pytest.mark.parametrize("scheme", ["stripe", "slack", "shopify", "basic", "none"])
def test_secrets_that_the_provider_makes_are_not_made_here(scheme: str) -> None:
    assert new_secret(Verify.model_validate({"scheme": scheme})) is None


def test_events_tell_of_no_header_that_proves_something() -> None:
    for delivery in VECTORS.values():
        proofs = {name for name in delivery.headers if "timestamp" not in name} - {"webhook-id"}
        assert not proofs & KEPT_HEADERS
    for word in ("signature", "hmac", "authorization", "cookie", "token", "secret"):
        assert not any(word in name for name in KEPT_HEADERS)
