"""Types for functions that Cakework runs, for editors and for unit tests.

In a microVM the runtime brings this package; where you write and test, install it.
``cakework_functions.testing`` calls handlers without a server.
"""

from cakework_functions.context import Context, Event, Later, Signal
from cakework_functions.errors import NonRetriable, RetryAfter
from cakework_functions.http import Headers, Request, Response

__all__ = [
    "Context",
    "Event",
    "Headers",
    "Later",
    "NonRetriable",
    "Request",
    "Response",
    "RetryAfter",
    "Signal",
]
__version__ = "0.1.0"
