"""How a handler says what is to become of the work that it could not do."""


class NonRetriable(Exception):
    """The work fails for good: no further attempt is made.

    Any exception with an attribute ``retriable`` that is False means the same.
    """

    retriable = False


class RetryAfter(Exception):
    """The work is tried again, in ``seconds`` at the earliest.

    Any exception with an attribute ``retry_after``, in seconds, means the same.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"to be tried again in {seconds:g} s")
        self.retry_after = seconds
