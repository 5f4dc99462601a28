"""What is tried again, how often, when, and what never is."""

import time

import pytest

from cakework_client import (
    ApiError,
    CakeworkClient,
    ConnectionFailed,
    InternalError,
    NoRoom,
    NotFound,
    QuotaExceeded,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
)
from cakework_client.calls import PAUSE_MAX_S, pause_s
from tests.python_sdk.clients import Kind, client_of
from tests.python_sdk.server import VM, Script, good, hang, hang_up, problem, trickle

IMAGE = "01M84JAQ6RGNRXKE5TFB8SJJJE"


def test_a_post_is_repeated_with_the_same_key(server: Script, client: CakeworkClient) -> None:
    """A connection that breaks leaves doubt; the key says that both are one request."""
    server.steps = [hang_up, hang_up, good()]
    assert client.start_vm(IMAGE).id == VM["id"]
    [key] = set(server.keys())
    assert key
    assert len(server.asked) == 3


def test_each_post_has_a_key_of_its_own(server: Script, client: CakeworkClient) -> None:
    """Two calls are two pieces of work; a key that the caller gives is taken."""
    server.steps = [good(), good(), good(), good()]
    client.start_vm(IMAGE)
    client.start_vm(IMAGE)
    client.start_vm(IMAGE, idempotency_key="mine")
    client.get_vm(VM["id"])
    first, second, third, fourth = server.keys()
    assert first != second
    assert (third, fourth) == ("mine", None)


def test_retry_after_is_waited_for(server: Script, client: CakeworkClient, kind: Kind) -> None:
    """The next try comes no sooner than the server asked for; with either status."""
    status, code = {"sync": (429, "quota_exceeded"), "async": (503, "no_room")}[kind]
    server.steps = [problem(status, code, Retry_After="1"), good()]
    began = time.monotonic()
    client.start_vm(IMAGE)
    assert time.monotonic() - began >= 1
    assert len(server.asked) == 2


def test_it_gives_up_with_the_servers_own_words(server: Script, client: CakeworkClient) -> None:
    """After the first try and three more the last refusal is raised."""
    server.steps = [problem(503, "no_room", Retry_After="0") for _ in range(4)]
    with pytest.raises(NoRoom) as failure:
        client.start_vm(IMAGE)
    assert (failure.value.code, failure.value.status) == ("no_room", 503)
    assert failure.value.request_id == "req_1"
    assert len(server.asked) == 4


def test_a_pause_that_would_be_too_long_is_not_begun(
    server: Script, client: CakeworkClient
) -> None:
    """When Retry-After goes beyond the timeout, the refusal is raised at once."""
    server.steps = [problem(429, "quota_exceeded", Retry_After="30")]
    with pytest.raises(QuotaExceeded) as failure:
        client.start_vm(IMAGE, timeout=20)
    assert failure.value.retry_after_s == 30


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(404, "not_found", NotFound), (500, "internal_error", InternalError)],
)
def test_what_would_not_help_is_not_repeated(
    server: Script, client: CakeworkClient, status: int, code: str, error: type[ApiError]
) -> None:
    """Refusals that stay, and faults of the server's, are raised at once."""
    server.steps = [problem(status, code)]
    with pytest.raises(error):
        client.get_vm(VM["id"])
    assert len(server.asked) == 1


def test_a_delete_is_not_repeated_in_doubt(server: Script, client: CakeworkClient) -> None:
    """Done twice it would say that nothing is there; where it was refused it is tried again."""
    server.steps = [problem(503, "unavailable", Retry_After="0"), hang_up]
    with pytest.raises(ConnectionFailed) as failure:
        client.delete_webhook("ep_1")
    assert failure.value.sent
    assert len(server.asked) == 2


def test_a_change_is_not_repeated_in_doubt(server: Script, client: CakeworkClient) -> None:
    """Enabling begins anew, each time it is asked for."""
    server.steps = [hang_up]
    with pytest.raises(ConnectionFailed):
        client.update_webhook("ep_1", enabled=True)
    assert len(server.asked) == 1


def test_a_gateways_failure_is_tried_again(server: Script, client: CakeworkClient) -> None:
    """502 from a proxy whose server is being restarted, with a page that is no problem."""
    server.steps = [lambda handler: handler.send_json(502, "<html>"), good()]
    client.get_vm(VM["id"])
    server.steps = [lambda handler: handler.send_json(502, "<html>") for _ in range(4)]
    with pytest.raises(UnexpectedAnswer) as failure:
        client.get_vm(VM["id"])
    assert failure.value.status == 502


def test_an_unknown_code_is_its_statuss_class(server: Script, client: CakeworkClient) -> None:
    """An older client understands a newer server as well as it can."""
    server.steps = [problem(404, "moved_to_the_moon"), problem(418, "teapot")]
    with pytest.raises(NotFound) as failure:
        client.get_vm(VM["id"])
    assert failure.value.code == "moved_to_the_moon"
    with pytest.raises(ApiError) as other:
        client.get_vm(VM["id"])
    assert type(other.value) is ApiError


@pytest.mark.parametrize("answer", [[], "text", {**VM, "createdAt": "yesterday"}, {"id": "1"}])
def test_an_answer_that_is_none_is_named(
    server: Script, client: CakeworkClient, answer: object
) -> None:
    """Another server at the address does not end in a KeyError."""
    server.steps = [good(answer)]
    with pytest.raises(UnexpectedAnswer, match="not as Cakework does"):
        client.get_vm(VM["id"])


def test_a_newer_servers_answer_is_read(server: Script, client: CakeworkClient) -> None:
    """Fields that are new are passed over, words that are new are handed on."""
    server.steps = [good({**VM, "state": "dreaming", "mood": "fine"})]
    assert client.get_vm(VM["id"]).to_dict() == {**VM, "state": "dreaming"}


@pytest.mark.parametrize("step", [hang, trickle])
def test_the_timeout_is_for_the_whole_call(
    server: Script, client: CakeworkClient, step: object
) -> None:
    """A server that is silent, or sends for ever, is left when the time is over."""
    # A busy machine may not come to the second try in half a second.
    for timeout_s in (0.5, 5, 30):
        server.asked.clear()
        server.steps = [hang_up, trickle if step is trickle else hang]
        with pytest.raises(TimedOut) as failure:
            client.get_vm(VM["id"], timeout=timeout_s)
        assert isinstance(failure.value, TimeoutError)
        if len(server.asked) == 2:
            return
    raise AssertionError("there was no second try")


def test_a_clients_timeout_is_its_calls(server: Script, kind: Kind) -> None:
    """What is given to the client is for each of its calls."""
    server.steps = [hang]
    options = {"url": server.url, "api_key": "cw_x", "timeout": 0.2}
    with client_of(kind, **options) as client, pytest.raises(TimedOut):
        client.readyz()


def test_a_server_that_is_not_there(kind: Kind, quick: None) -> None:
    """The address is named, and that nothing was sent."""
    with (
        client_of(kind, url="http://127.0.0.1:9", api_key="cw_x") as client,
        pytest.raises(ConnectionFailed, match=r"http://127\.0\.0\.1:9") as failure,
    ):
        client.delete_webhook("ep_1")
    assert not failure.value.sent


def test_no_retries(server: Script, kind: Kind) -> None:
    """With retries=0 the first failure is the last."""
    server.steps = [problem(503, "unavailable", Retry_After="0")]
    options = {"url": server.url, "api_key": "cw_x", "retries": 0}
    with client_of(kind, **options) as client, pytest.raises(Unavailable):
        client.readyz()


def test_pauses_grow_and_differ() -> None:
    """Half to all of a span that doubles up to eight seconds."""
    for failures in range(1, 12):
        longest = min(0.25 * 2 ** (failures - 1), PAUSE_MAX_S)
        some = {pause_s(failures) for _ in range(20)}
        assert len(some) > 1
        assert all(longest / 2 <= each <= longest for each in some)
