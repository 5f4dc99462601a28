import json

import h11

from cakework.router.refusals import AnswerForm, Refusal, render


def test_a_refusal_is_a_problem_document() -> None:
    """Status, code, sentence and request id are in the body and the head, correctly framed."""
    data = render(Refusal(502, "vm_stopped", "the VM is stopped"), AnswerForm("r1"))
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    answer, body, end = reader.next_event(), reader.next_event(), reader.next_event()
    assert isinstance(answer, h11.Response)
    assert isinstance(body, h11.Data)
    assert isinstance(end, h11.EndOfMessage)
    headers = dict(answer.headers)
    assert (answer.status_code, headers[b"x-request-id"]) == (502, b"r1")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body.data) == {
        "type": "urn:cakework:problem:vm_stopped",
        "title": "Bad Gateway",
        "status": 502,
        "detail": "the VM is stopped",
        "code": "vm_stopped",
        "requestId": "r1",
    }


def test_a_refusal_of_head_has_no_body() -> None:
    """The answer to HEAD is the head alone."""
    data = render(Refusal(404, "not_found", "no"), AnswerForm("r1", with_body=False))
    assert data.endswith(b"\r\n\r\n")
