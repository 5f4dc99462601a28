"""What is found of a secret in what a program prints."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from cakework.server.functions.masking import FEW, SPELLINGS_MAX, Mask

SECRET = 'pä"ss/w+rd & m\\ore'
MANY = [f"{n:05}-something" for n in range(2 * FEW)]
KEY = "\n".join(("-----BEGIN KEY-----", "Zm9vYmFyZm9vYmFyZm9vYmFy", "cXV4cXV4", "short"))
LONG = "".join(f"{n:04x}" for n in range(1_000))


def with_user(secret: str, user: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    "spelt",
    [
        SECRET,
        json.dumps({"key": SECRET}),
        json.dumps({"key": SECRET}, ensure_ascii=False),
        repr({"key": SECRET}),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="!'()*"),
        quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        *(with_user(SECRET, "u" * count) for count in range(1, 4)),
    ],
)
def test_a_secret_is_found_however_it_is_spelt(spelt: str) -> None:
    line = f"before {spelt} after"
    (masked,) = Mask([SECRET]).lines([line])
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "***" in masked
    # In base64 a character at each end has bits of what is beside the secret, too.
    assert max(map(len, masked.split("***"))) <= len("before {'key': 'uuuu") + 4
    for part in ("ss/w", "w+rd", "ss%2F", "w%2B", spelt[8:14]):
        assert part not in masked


def test_other_text_stays_as_it_is() -> None:
    lines = ["", "nothing of it", "pä", SECRET[:-1], SECRET[1:], "\x00", "* *** *"]
    assert Mask([SECRET]).lines(lines) == lines
    assert Mask(["short", ""]).lines(["a short one"]) == ["a short one"]
    assert Mask([]).lines(lines) == lines


def test_each_line_of_a_secret_is_found_by_itself() -> None:
    mask = Mask([KEY])
    assert mask.lines(KEY.split("\n")) == ["***", "***", "***", "short"]
    assert mask.lines(["\tcXV4cXV4\r"]) == ["\t***\r"]
    assert (
        mask.text(f"ValueError: {KEY}\n  in main") == "ValueError: ***\n***\n***\nshort\n  in main"
    )
    # As JSON has it, and read from that.
    in_json = json.dumps({"private_key": KEY})
    assert "Zm9v" not in mask.lines([in_json])[0]
    assert Mask([in_json]).lines(["Zm9vYmFyZm9vYmFyZm9vYmFy"]) == ["***"]


def test_what_overlaps_is_masked_whole() -> None:
    mask = Mask(["abcdefghij", "ghijklmnop", "cdefghij"])
    assert mask.lines(["<abcdefghijklmnop>", "abcdefghijabcdefghij"]) == ["<***>", "***"]


def test_a_long_secret_is_found_where_it_is_wrapped() -> None:
    mask = Mask([LONG])
    assert mask.lines([f"<{LONG}>"]) == ["<***>"]
    lines = [LONG[at : at + 76] for at in range(0, len(LONG), 76)]
    masked = mask.lines(lines)
    assert set(masked) == {"***"}


@pytest.mark.parametrize("at", [4, 10, len(SECRET) - 4])
def test_a_secret_over_the_end_of_a_piece_is_found_on_both_sides(at: int) -> None:
    mask = Mask([SECRET, LONG, *MANY])
    assert mask.end(f"so it begins {SECRET[:at]}") == "so it begins ***"
    assert mask.begin(f"{SECRET[at:]} so it ends") == "*** so it ends"
    assert mask.end("so it begins") == "so it begins"
    assert mask.begin("so it ends") == "so it ends"
    for cut in (50, 999, 2_020):
        (end,), (begin,) = mask.lines([LONG[:cut]]), mask.lines([LONG[cut:]])
        assert mask.end(f"x{end}") == "x***"
        assert mask.begin(f"{begin}x") == "***x"


def test_one_of_many_secrets_is_found() -> None:
    mask = Mask(MANY)
    assert len(mask) > FEW
    assert mask.lines(["x", f"<{MANY[7]}>", MANY[-1][:-1]]) == ["x", "<***>", MANY[-1][:-1]]


def test_a_program_that_prints_all_of_many_costs_no_more() -> None:
    """Where thousands may be, lines go as a whole; what has none of them stays."""
    text = ["".join(MANY[at : at + 100]) for at in range(0, len(MANY), 100)]
    assert Mask(MANY).lines([*text, "and this stays"]) == ["***"] * len(text) + ["and this stays"]


def test_spellings_are_bounded() -> None:
    """Those of all values as they are come first: none is left out."""
    values = ["\n".join(f"{v}-{n:06}" for n in range(3_600)) for v in range(8)]
    mask = Mask(values)
    assert len(mask) <= SPELLINGS_MAX
    assert mask.lines(["7-003599", "7-003600"]) == ["***", "7-003600"]
