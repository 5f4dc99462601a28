"""Calls the handlers without a server."""

import unittest

from main import handler, http

from cakework_functions import Request
from cakework_functions.testing import call, fetch, make_event


class Tests(unittest.TestCase):
    def test_an_event_is_answered(self) -> None:
        self.assertEqual(call(handler, make_event({"name": "Ada"})), {"hello": "Ada"})

    def test_a_request_is_answered(self) -> None:
        response = fetch(http, Request("GET", "/?name=Ada"))
        self.assertEqual(response.status, 200)
        self.assertEqual(response.body, b'{"hello": "Ada"}')


if __name__ == "__main__":
    unittest.main()
