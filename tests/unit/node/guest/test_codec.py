import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.node.guest.codec import decode_guest, decode_host, encode
from cakework.node.guest.protocol import (
    FRAME_MAX,
    LIST_MAX,
    MARK,
    TEXT_MAX,
    WHAT_CHARS_MAX,
    Ack,
    Failed,
    GuestError,
    GuestFrame,
    HostFrame,
    Identity,
    Line,
    Rehearse,
    Run,
    Signal,
)

from .frames import guest_frames, host_frames


def run(**changes: object) -> Run:
    own = {name: changes.pop(name) for name in ("clock_ns", "seed", "hostname") if name in changes}
    identity = Identity(**({"clock_ns": 1, "seed": bytes(32), "hostname": "h"} | own))  # type: ignore[arg-type]
    return Run(**({"identity": identity, "argv": ("a",)} | changes))  # type: ignore[arg-type]


@given(host_frames)
def test_host_frames_come_back(frame: HostFrame) -> None:
    """What is decoded is what was encoded, and the mark stands at its end alone."""
    wire = encode(frame)
    assert wire.index(MARK) == len(wire) - 1
    assert decode_host(wire[:-1]) == frame


@given(guest_frames)
def test_guest_frames_come_back(frame: GuestFrame) -> None:
    """What is decoded is what was encoded, and the mark stands at its end alone."""
    wire = encode(frame)
    assert wire.index(MARK) == len(wire) - 1
    assert decode_guest(wire[:-1]) == frame


def test_what_failed_is_taken_in_short() -> None:
    """A guest that was taken over may say much, and it is told on."""
    told = decode_guest(encode(Failed(1, "x" * 500_000))[:-1])
    assert told == Failed(1, "x" * WHAT_CHARS_MAX)


@given(guest_frames, st.data())
def test_cut_frames_are_refused(frame: GuestFrame, data: st.DataObject) -> None:
    """No beginning of a frame is a frame."""
    wire = encode(frame)[:-1]
    cut = data.draw(st.integers(0, len(wire) - 1))
    with pytest.raises(GuestError):
        decode_guest(wire[:cut])


@given(st.binary(max_size=200) | guest_frames.map(lambda frame: encode(frame)[:-1] + b"\0"))
def test_any_bytes_are_a_frame_or_refused(wire: bytes) -> None:
    """A guest's bytes give a frame or GuestError, nothing else; a frame encodes to them."""
    try:
        frame = decode_guest(wire)
    except GuestError:
        return
    assert encode(frame) == wire + MARK or "�" in repr(frame)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x86\xfe\x02",
        b"\x86\xfe",
        b"\x84" + bytes(16) + b"\x03\0" + bytes(4),
        b"\x84" + bytes(16) + b"\x01\x02" + bytes(4),
        b"\x81\x01\0" + bytes(8) + b"\x05" + bytes(12),
        b"\x83" + bytes(4) + b"\x01\0\0\0\0",
        encode(Line(1, 1, "stdout", b"x" * (TEXT_MAX + 1)))[:-1],
        encode(Ack(1))[:-1],
    ],
)
def test_bad_values_are_refused(wire: bytes) -> None:
    """Broken escapes, unknown streams, flags and states, a NUL in a text, a line too long."""
    with pytest.raises(GuestError):
        decode_guest(wire)


@pytest.mark.parametrize(
    "frame",
    [
        run(hostname="a\0b"),
        run(env=("A=\ud800",)),
        run(seed=b"short"),
        run(clock_ns=-1),
        run(argv=("x" * FRAME_MAX,)),
        run(argv=("",) * LIST_MAX, env=("",)),
        Rehearse(("",) * (LIST_MAX + 1)),
        Signal(2**32),
    ],
)
def test_what_cannot_be_sent_is_refused(frame: HostFrame) -> None:
    """A frame the guest would not take is a ValueError here."""
    with pytest.raises(
        ValueError, match=r"a (frame|text|number|list)|can't encode|the seed|arguments"
    ):
        encode(frame)


def test_secrets_are_not_shown() -> None:
    """The seed and the environment are in no log that prints a frame."""
    shown = repr(run(env=("PASSWORD=hunter2",), seed=b"s" * 32))
    assert "hunter2" not in shown
    assert "sss" not in shown
