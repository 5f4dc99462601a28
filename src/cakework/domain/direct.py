"""Direct work: requests to a function's own URL, whose callers wait.

An instance is lent to a router, which gives it requests without asking anybody. Its row names the
router and until when; who does not say in time that it still holds it has lost it, and the instance
is ended, so that it is never in two hands.
"""

LEASE_MS = 30_000
HOLD_EVERY_S = 5.0
GONE_MS = 3_000
"""How long a router that is not connected any more has to come back to what it holds."""
WAIT_S = 10.0
"""How long a request waits for an instance."""
ABORTED_S = 5.0
"""How long a handler whose caller went away may go on, until its instance is ended."""
LATER_S = 30.0
"""How long what a handler left to ``waitUntil`` may go on after its answer."""
SETTLED = b"HTTP/1.1 102 Settled\r\n\r\n"
"""What an adapter says after an answer, on the same connection, when nothing of it runs any more,
if the request asks for that (docs/dev/runtimes.md)."""
