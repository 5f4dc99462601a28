"""What a builder machine says, which a stranger may have taken over: turns, bounds, ends."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.node.builds.builder.exchange import (
    PIECE_BYTES,
    Exchange,
    ExchangeError,
    Head,
    TooLarge,
    parse_head,
)


def test_a_head_is_read() -> None:
    """Word, status, size."""
    assert parse_head(b"built 7 12\n", "built", 12) == Head(7, 12)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"built 0 1",
        b"loaded 0 1\n",
        b"built 0 1\n\n",
        b"built 0  1\n",
        b"built -1 1\n",
        b"built 0 -1\n",
        b"built 0 1e3\n",
        b"built 0 1 1\n",
        b"built 0 \xd9\xa1\n",
        b"built 0 1111111111111111\n",
        b"built 1000 1\n",
    ],
)
def test_another_is_refused(line: bytes) -> None:
    """Whatever is not exactly the head of the record whose turn it is."""
    with pytest.raises(ExchangeError):
        parse_head(line, "built", 1000)


def test_a_size_beyond_its_bound_is_refused() -> None:
    """Before anything of it is read."""
    with pytest.raises(TooLarge):
        parse_head(b"image 0 1001\n", "image", 1000)


@given(st.binary(max_size=40))
def test_any_line_is_read_or_refused(line: bytes) -> None:
    """Never anything else."""
    try:
        head = parse_head(line + b"\n", "id", 100)
    except ExchangeError:
        return
    assert 0 <= head.size <= 100


def test_records_are_taken_in_turn(tmp_path: Path) -> None:
    """What one holds is its own bytes, newlines and all; a file is written as it comes."""

    async def talk(exchange: Exchange) -> None:
        assert await exchange.record("built", 10) == (3, b"a\nb")
        await exchange.save("image", tmp_path / "image", 4 << 20)
        assert (tmp_path / "image").stat().st_size == 3 << 20

    answer(b"built 3 3\na\nbimage 0 %d\n" % (3 << 20) + bytes(3 << 20), talk)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "went away"),
        (b"id 0 5\nab", "3 bytes too early"),
        (b"id 0", "went away"),
        (b"x" * (3 << 20), "line without end"),
        (b"config 0 1\nx", "instead of 'id'"),
    ],
)
def test_a_machine_that_breaks_off_is_given_up(said: bytes, why: str) -> None:
    """With a sentence for the node's log."""

    async def talk(exchange: Exchange) -> None:
        with pytest.raises(ExchangeError, match=why):
            await exchange.record("id", 100)

    answer(said, talk)


def test_a_file_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    """The result is always a new file."""
    (tmp_path / "image").write_bytes(b"old")

    async def talk(exchange: Exchange) -> None:
        with pytest.raises(FileExistsError):
            await exchange.save("image", tmp_path / "image", 10)

    answer(b"image 0 1\nx", talk)
    assert (tmp_path / "image").read_bytes() == b"old"


def test_input_goes_in_pieces() -> None:
    """One line, then pieces with their sizes, then the word that it is whole."""
    data = bytes(range(256)) * (PIECE_BYTES // 256) + b"rest"

    async def talk(exchange: Exchange) -> None:
        await exchange.order("b1", 7, 8)
        for start in range(0, len(data), 65_536):
            await exchange.feed(data[start : start + 65_536])
        await exchange.end_input()

    sent = answer(b"", talk)
    head, rest = sent.split(b"\n", 1)
    assert head == b"b1 7 8"
    found = b""
    while not rest.startswith(b"0\n"):
        size, rest = rest.split(b"\n", 1)
        found, rest = found + rest[: int(size)], rest[int(size) :]
    assert found == data
    assert rest == b"0\n"


def answer(said: bytes, talk: Callable[[Exchange], Awaitable[None]]) -> bytes:
    """Have ``talk`` done with a machine that says ``said`` and no more; return what it heard."""

    async def run() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        heard = asyncio.create_task(reader.read())
        speaking = asyncio.create_task(_speak(writer, said))
        async with asyncio.timeout(60), Exchange.over(ours) as exchange:
            await talk(exchange)
        # Whoever is given up in the middle of a word finds the connection reset.
        _, result = await asyncio.gather(speaking, heard, return_exceptions=True)
        writer.close()
        return b"" if isinstance(result, BaseException) else result

    return asyncio.run(run())


async def _speak(writer: asyncio.StreamWriter, said: bytes) -> None:
    writer.write(said)
    await writer.drain()
    writer.write_eof()
