"""Base64 of texts, in pieces."""

import base64
import binascii

import pytest

from cakework.server.api import base64_texts

PIECE = 48 * 1024
SIZES = [0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 2]


@pytest.mark.parametrize("size", SIZES)
def test_pieces_make_what_one_call_makes(size: int) -> None:
    """Also where a character lies across two of them."""
    for text in ("x" * size, "\U0001f600" * (size // 4) + "é"):
        made = base64_texts.encoded(text)
        assert made == base64.b64encode(text.encode()).decode()
        base64_texts.check(made)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA==AAAA",
        "AA A",
        "A" * (PIECE // 3 * 4 - 4) + "AA==" + "AAAA",
        "A" * (PIECE // 3 * 4) + "A",
        "\n" + "A" * PIECE * 2,
        "é",
        "=" * 8,
    ],
)
def test_what_is_no_base64_is_none_in_pieces(text: str) -> None:
    """As the one call has it."""
    with pytest.raises(ValueError, match=r"."):
        base64.b64decode(text, validate=True)
    with pytest.raises((binascii.Error, ValueError)):
        base64_texts.check(text)
