"""The codec written in Python and the guest's, in C, are one protocol."""

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cakework.node.guest import protocol as p
from cakework.node.guest.codec import decode_guest, encode
from tests.properties import examples

from .frames import guest_frames, host_frames

GUEST = Path(__file__).parents[4] / "guest"

few = partial(
    settings,
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C codec, built under the sanitizers."""
    build = tmp_path_factory.mktemp("guest")
    make = ["make", "-s", "-C", str(GUEST), f"BUILD={build}", str(build / "codec")]
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    subprocess.run(make, check=True, env=environment)
    return build / "codec"


def text(value: str | bytes) -> str:
    return "x" + (value.encode() if isinstance(value, str) else value).hex()


def words(values: Sequence[str]) -> str:
    return " ".join([str(len(values)), *map(text, values)])


def identity(i: p.Identity) -> str:
    names = f"{text(i.vm_id)} {text(i.domain)}"
    return f"{i.clock_ns} {text(i.seed)} {text(i.hostname)} {words(i.dns)} {names}"


def told(frame: p.HostFrame) -> str:
    """Return the line by which the C codec tells of ``frame``."""
    match frame:
        case p.HostHello(token, acked, version):
            return f"hello {version} {token} {acked}"
        case p.Rehearse(argv):
            return f"rehearse {words(argv)}"
        case p.Run():
            head = f"run {identity(frame.identity)} {text(frame.cwd)} {text(frame.user)}"
            end = f"{int(frame.volume)} {int(frame.watch)} {frame.port}"
            return f"{head} {words(frame.argv)} {words(frame.env)} {end}"
        case p.RunHook(timeout_ms, argv, port, path):
            return f"hook {timeout_ms} {words(argv)} {port} {text(path)}"
        case p.Freeze():
            return "freeze"
        case p.Resume():
            return f"resume {identity(frame.identity)}"
        case p.Ack(number):
            return f"ack {number}"
        case p.Signal(number):
            return f"signal {number}"
        case p.PowerOff(grace_ms):
            return f"poweroff {grace_ms}"
        case p.Ping(token):
            return f"ping {token}"
        case p.Mark(token):
            return f"mark {token}"


def script(frame: p.GuestFrame) -> str:
    """Return the line that makes the C codec send ``frame``."""
    match frame:
        case p.GuestHello(token, state, last, build):
            number = ["waiting", "running", "exited", "failed", "frozen"].index(state)
            return f"hello {token} {number} {last} {text(build)}"
        case p.Started(pid):
            return f"started {pid}"
        case p.Failed(error, what):
            return f"failed {error} {text(what)}"
        case p.Line(number, time_ns, stream, content, goes_on):
            code = 1 if stream == "stdout" else 2
            return f"line {number} {time_ns} {code} {int(goes_on)} {text(content)}"
        case p.Exited(by_signal, value, out_of_memory, last):
            return f"exited {int(by_signal)} {value} {int(out_of_memory)} {last}"
        case p.Rehearsed():
            return "rehearsed"
        case p.Pong(token):
            return f"pong {token}"
        case p.Ready():
            return "ready"
        case p.Hooked(end, value):
            return f"hooked {['done', 'signal', 'timeout'].index(end)} {value}"
        case p.Frozen(last):
            return f"frozen {last}"
        case p.Resumed():
            return "resumed"
        case p.Marked(token, last):
            return f"marked {token} {last}"


@few()
@given(frames=st.lists(host_frames, max_size=30))
def test_the_guest_reads_what_the_node_sends(codec: Path, frames: list[p.HostFrame]) -> None:
    """Every field of every order arrives in C as it was in Python."""
    wire = b"".join(map(encode, frames))
    ran = subprocess.run([codec, "decode"], input=wire, capture_output=True, check=True)
    assert ran.stdout.decode().splitlines() == [told(frame) for frame in frames]


@few()
@given(frames=st.lists(guest_frames, max_size=30))
def test_the_node_reads_what_the_guest_sends(codec: Path, frames: list[p.GuestFrame]) -> None:
    """Every field of every answer arrives in Python as it was in C."""
    lines = "".join(f"{script(frame)}\n" for frame in frames).encode()
    ran = subprocess.run([codec, "encode"], input=lines, capture_output=True, check=True)
    *pieces, rest = ran.stdout.split(p.MARK)
    assert [decode_guest(piece) for piece in pieces] == frames
    assert rest == b""


@few()
@given(frames=st.lists(host_frames, max_size=5), noise=st.binary(min_size=1, max_size=50))
def test_the_guest_survives_noise(codec: Path, frames: list[p.HostFrame], noise: bytes) -> None:
    """After any bytes and a mark, whole frames are read again."""
    wire = noise + p.MARK + b"".join(map(encode, frames))
    ran = subprocess.run([codec, "decode"], input=wire, capture_output=True, check=True)
    read = ran.stdout.decode().splitlines()
    assert read[len(read) - len(frames) :] == [told(frame) for frame in frames]
