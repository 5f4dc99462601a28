"""An ASGI application, with a lifespan and a WebSocket."""

import asyncio
from pathlib import Path

STATE = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["since"] = "start"
        await send({"type": "lifespan.startup.complete"})
        await receive()
    elif scope["type"] == "websocket":
        await socket(scope, receive, send)
    else:
        await request(scope, receive, send)


async def request(scope, receive, send):
    path = scope["path"]
    if path == "/raises":
        raise ValueError("before")
    if path == "/silent":
        return
    if path == "/state":
        await answer(send, scope["state"]["since"].encode())
    elif path == "/gone":
        file = Path(scope["query_string"].decode().removeprefix("file="))
        file.write_text("begun")
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            file.write_text("gone")
    elif path == "/later":
        await answer(send, b"answered")
        gate = Path(scope["query_string"].decode().removeprefix("gate="))
        while not gate.exists():
            await asyncio.sleep(0.005)
        gate.with_name("done").touch()
    elif path == "/count":
        while (await receive()).get("more_body"):
            pass
        await answer(send, b"counted")
    elif path == "/echo":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            body = message.get("body", b"")
            await send({"type": "http.response.body", "body": body, "more_body": more})
    else:
        await answer(send, b"hello")


async def answer(send, body):
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def socket(scope, receive, send):
    await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked"})
            return
        kept = {key: message[key] for key in ("text", "bytes") if key in message}
        await send({"type": "websocket.send", **kept})
    STATE.append(message["code"])
