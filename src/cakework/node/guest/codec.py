"""The bytes of the guest protocol's frames. No input or output.

A frame is a type and a payload; on the wire its bytes FE and FF are escaped, and FF ends it.
Encoding gives a whole frame with its closing FF; decoding takes what stood between two FF.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from cakework.node.guest.protocol import (
    FRAME_MAX,
    LIST_MAX,
    MARK,
    SEED_SIZE,
    TEXT_MAX,
    WHAT_CHARS_MAX,
    Ack,
    Exited,
    Failed,
    Freeze,
    Frozen,
    GuestError,
    GuestFrame,
    GuestHello,
    GuestState,
    Hooked,
    HookEnd,
    HostFrame,
    HostHello,
    Identity,
    Line,
    Mark,
    Marked,
    Ping,
    Pong,
    PowerOff,
    Ready,
    Rehearse,
    Rehearsed,
    Resume,
    Resumed,
    Run,
    RunHook,
    Signal,
    Started,
    Stream,
)

F = TypeVar("F")

_STATES: tuple[GuestState, ...] = ("waiting", "running", "exited", "failed", "frozen")
_HOOK_ENDS: tuple[HookEnd, ...] = ("done", "signal", "timeout")
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_STREAM_CODES: dict[Stream, int] = {name: code for code, name in _STREAMS.items()}


def encode(frame: HostFrame | GuestFrame) -> bytes:
    """Return the bytes of ``frame`` on the wire, with the FF that ends it.

    Raises:
        ValueError: the frame cannot be sent: a NUL in a text, a number out of range, too long.
    """
    plain = _plain(frame)
    if len(plain) > FRAME_MAX:
        raise ValueError(f"a frame of {len(plain)} bytes is more than {FRAME_MAX}")
    return plain.replace(b"\xfe", b"\xfe\x00").replace(b"\xff", b"\xfe\x01") + MARK


def decode_guest(wire: bytes) -> GuestFrame:
    """Return the frame of the guest's whose bytes stood between two FF.

    Raises:
        GuestError: the bytes are no frame.
    """
    return _decode(wire, _GUEST_FRAMES)


def decode_host(wire: bytes) -> HostFrame:
    """Return the frame of the node's whose bytes stood between two FF.

    Raises:
        GuestError: the bytes are no frame.
    """
    return _decode(wire, _HOST_FRAMES)


def _plain(frame: HostFrame | GuestFrame) -> bytes:
    try:
        if isinstance(frame, HostFrame):
            return _plain_host(frame)
        return _plain_guest(frame)
    except struct.error as error:
        raise ValueError(f"{type(frame).__name__} holds a number out of range") from error


def _plain_host(frame: HostFrame) -> bytes:
    match frame:
        case HostHello(token, acked, version):
            return struct.pack("<BHQQ", 1, version, token, acked)
        case Rehearse(argv):
            return b"\x02" + _list(argv)
        case Run():
            return _run(frame)
        case Ack(number):
            return struct.pack("<BQ", 4, number)
        case Signal(number):
            return struct.pack("<BI", 5, number)
        case PowerOff(grace_ms):
            return struct.pack("<BI", 6, grace_ms)
        case Ping(token):
            return struct.pack("<BQ", 7, token)
        case RunHook(timeout_ms, argv, port, path):
            head = struct.pack("<BI", 8, timeout_ms)
            return head + _list(argv) + struct.pack("<H", port) + _str(path)
        case Freeze():
            return b"\x09"
        case Resume(identity):
            return b"\x0a" + _identity(identity)
        case Mark(token):
            return struct.pack("<BQ", 11, token)


def _plain_guest(frame: GuestFrame) -> bytes:
    match frame:
        case GuestHello(token, state, last, build, version):
            number = _STATES.index(state)
            return struct.pack("<BHQBQ", 129, version, token, number, last) + _str(build)
        case Started(pid):
            return struct.pack("<BI", 130, pid)
        case Failed(error, what):
            return struct.pack("<BI", 131, error) + _str(what)
        case Line(number, time_ns, stream, text, goes_on):
            code = _STREAM_CODES[stream]
            return struct.pack("<BQQBB", 132, number, time_ns, code, goes_on) + _bytes(text)
        case Exited(by_signal, value, out_of_memory, last):
            return struct.pack("<BBIBQ", 133, by_signal, value, out_of_memory, last)
        case Rehearsed():
            return b"\x86"
        case Pong(token):
            return struct.pack("<BQ", 135, token)
        case Ready():
            return b"\x88"
        case Hooked(end, value):
            return struct.pack("<BBI", 137, _HOOK_ENDS.index(end), value)
        case Frozen(last):
            return struct.pack("<BQ", 138, last)
        case Resumed():
            return b"\x8b"
        case Marked(token, last):
            return struct.pack("<BQQ", 140, token, last)


def _run(run: Run) -> bytes:
    if len(run.argv) + len(run.env) + len(run.identity.dns) > LIST_MAX:
        raise ValueError(f"arguments and environment are more than {LIST_MAX}")
    return b"".join(
        (
            b"\x03",
            _identity(run.identity),
            _str(run.cwd),
            _str(run.user),
            _list(run.argv),
            _list(run.env),
            struct.pack("<BBH", run.volume, run.watch, run.port),
        )
    )


def _identity(identity: Identity) -> bytes:
    if len(identity.seed) != SEED_SIZE:
        raise ValueError(f"the seed is not {SEED_SIZE} bytes")
    return b"".join(
        (
            struct.pack("<Q", identity.clock_ns),
            _bytes(identity.seed),
            _str(identity.hostname),
            _list(identity.dns),
            _str(identity.vm_id),
            _str(identity.domain),
        )
    )


def _bytes(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def _str(value: str) -> bytes:
    encoded = value.encode()
    if b"\0" in encoded:
        raise ValueError("a text holds a NUL")
    return _bytes(encoded)


def _list(values: Sequence[str]) -> bytes:
    if len(values) > LIST_MAX:
        raise ValueError(f"a list is longer than {LIST_MAX}")
    return struct.pack("<I", len(values)) + b"".join(map(_str, values))


class _Reader:
    """Takes a payload apart; what is not there raises struct.error."""

    def __init__(self, plain: bytes) -> None:
        self._plain = plain
        self._at = 1

    def take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._plain, self._at)
        self._at += struct.calcsize(layout)
        return values

    def bytes(self) -> bytes:
        (size,) = self.take("<I")
        start, self._at = self._at, self._at + size
        if self._at > len(self._plain):
            raise ValueError("a text is cut short")
        return self._plain[start : self._at]

    def str(self) -> str:
        value = self.bytes()
        if b"\0" in value:
            raise ValueError("a text holds a NUL")
        return value.decode(errors="replace")

    def list(self) -> "tuple[str, ...]":
        (count,) = self.take("<I")
        if count > LIST_MAX:
            raise ValueError("a list is too long")
        return tuple(self.str() for _ in range(count))

    def flag(self) -> bool:
        (value,) = self.take("<B")
        if value > 1:
            raise ValueError("a flag is neither 0 nor 1")
        return value == 1

    def done(self) -> bool:
        return self._at == len(self._plain)


def _decode_identity(r: _Reader) -> Identity:
    (clock_ns,), seed = r.take("<Q"), r.bytes()
    if len(seed) != SEED_SIZE:
        raise ValueError("the seed has another size")
    return Identity(
        clock_ns=clock_ns,
        seed=seed,
        hostname=r.str(),
        dns=r.list(),
        vm_id=r.str(),
        domain=r.str(),
    )


def _decode_run(r: _Reader) -> Run:
    identity, cwd, user = _decode_identity(r), r.str(), r.str()
    argv, env, volume, watch = r.list(), r.list(), r.flag(), r.flag()
    (port,) = r.take("<H")
    return Run(identity, argv, env, cwd, user, volume, watch, port)


def _decode_hook(r: _Reader) -> RunHook:
    (timeout_ms,), argv, (port,) = r.take("<I"), r.list(), r.take("<H")
    return RunHook(timeout_ms, argv, port, r.str())


def _decode_host_hello(r: _Reader) -> HostHello:
    version, token, acked = r.take("<HQQ")
    return HostHello(token, acked, version)


def _decode_hello(r: _Reader) -> GuestHello:
    version, token, state, last = r.take("<HQBQ")
    return GuestHello(token, _STATES[state], last, r.str(), version)


def _decode_failed(r: _Reader) -> Failed:
    (error,) = r.take("<I")
    # It becomes part of what others are told, who have no room for a whole frame.
    return Failed(error, r.str()[:WHAT_CHARS_MAX])


def _decode_line(r: _Reader) -> Line:
    number, time_ns, stream = r.take("<QQB")
    goes_on, text = r.flag(), r.bytes()
    if len(text) > TEXT_MAX:
        raise ValueError("a line is too long")
    return Line(number, time_ns, _STREAMS[stream], text, goes_on)


def _decode_exited(r: _Reader) -> Exited:
    by_signal, (value,), out_of_memory, (last,) = r.flag(), r.take("<I"), r.flag(), r.take("<Q")
    return Exited(by_signal, value, out_of_memory, last)


def _decode_hooked(r: _Reader) -> Hooked:
    end, value = r.take("<BI")
    return Hooked(_HOOK_ENDS[end], value)


_HOST_FRAMES: dict[int, Callable[[_Reader], HostFrame]] = {
    1: _decode_host_hello,
    2: lambda r: Rehearse(r.list()),
    3: _decode_run,
    4: lambda r: Ack(*r.take("<Q")),
    5: lambda r: Signal(*r.take("<I")),
    6: lambda r: PowerOff(*r.take("<I")),
    7: lambda r: Ping(*r.take("<Q")),
    8: _decode_hook,
    9: lambda _: Freeze(),
    10: lambda r: Resume(_decode_identity(r)),
    11: lambda r: Mark(*r.take("<Q")),
}

_GUEST_FRAMES: dict[int, Callable[[_Reader], GuestFrame]] = {
    129: _decode_hello,
    130: lambda r: Started(*r.take("<I")),
    131: _decode_failed,
    132: _decode_line,
    133: _decode_exited,
    134: lambda _: Rehearsed(),
    135: lambda r: Pong(*r.take("<Q")),
    136: lambda _: Ready(),
    137: _decode_hooked,
    138: lambda r: Frozen(*r.take("<Q")),
    139: lambda _: Resumed(),
    140: lambda r: Marked(*r.take("<QQ")),
}


def _unescape(wire: bytes) -> bytes:
    escapes = wire.count(b"\xfe")
    if not escapes:
        return wire
    if wire.count(b"\xfe\x00") + wire.count(b"\xfe\x01") != escapes:
        raise ValueError("an escape is broken")
    return wire.replace(b"\xfe\x01", b"\xff").replace(b"\xfe\x00", b"\xfe")


def _decode(wire: bytes, frames: dict[int, Callable[[_Reader], F]]) -> F:
    try:
        plain = _unescape(wire)
        reader = _Reader(plain)
        frame = frames[plain[0]](reader)
    except (ValueError, LookupError, struct.error) as error:
        raise GuestError(f"what the guest sent is no frame: {error}") from error
    if not reader.done():
        raise GuestError("what the guest sent is no frame: it is too long")
    return frame
