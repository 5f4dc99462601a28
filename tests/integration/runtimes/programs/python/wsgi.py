"""A WSGI application."""


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise ValueError("before")
    if path == "/silent":
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/echo":
        return echo(environ["wsgi.input"])
    return [b"hello"]


def echo(body):
    while part := body.read1(65_536):
        yield part
