"""HTTP as bare as it can be, so that what is timed is not the client."""

import socket
import time

RETRY_S = 0.002
DEADLINE_S = 120.0
ANSWER_BYTES = 65_536


def first_answer(address: tuple[str, int], host: str) -> None:
    """Ask ``address`` for ``/`` until ``host`` there answers with status 200.

    Raises TimeoutError after two minutes.
    """
    deadline = time.monotonic() + DEADLINE_S
    while (status := ask(address, host)) != 200:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host} at {address} does not answer; at last: {status}")
        time.sleep(RETRY_S)


def ask(address: tuple[str, int], host: str) -> int | None:
    """Send one GET; return the status of the answer, None if there was none."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(request.encode())
            head = b""
            while b"\r\n" not in head:
                head += (chunk := connection.recv(ANSWER_BYTES))
                if not chunk:
                    return None
    except ConnectionError:
        return None
    return int(head.split(b" ", 2)[1])
