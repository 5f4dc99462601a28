"""Where the server is, who asks, and how patiently."""

import os
import platform
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8081"
TIMEOUT_S = 60.0
RETRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a client was made with. The key is not in its ``repr``."""

    url: str
    api_key: str = field(repr=False)
    timeout_s: float = TIMEOUT_S
    retries: int = RETRIES
    user_agent: str = ""

    @classmethod
    def of(
        cls,
        url: str | None,
        api_key: str | None,
        timeout_s: float,
        retries: int,
        user_agent: str | None,
    ) -> "Configuration":
        """Return what was given, filled up from the environment.

        Raises:
            ValueError: There is no key, or something given cannot be.
        """
        url = (url or os.environ.get("CAKEWORK_URL") or DEFAULT_URL).rstrip("/")
        api_key = api_key or os.environ.get("CAKEWORK_API_KEY")
        if not api_key:
            raise ValueError("no API key: give api_key, or set CAKEWORK_API_KEY")
        check(url, api_key, timeout_s, retries)
        own = f"cakework-python/{_version()} Python/{platform.python_version()}"
        return cls(
            url=url,
            api_key=api_key,
            timeout_s=timeout_s,
            retries=retries,
            user_agent=f"{user_agent} {own}" if user_agent else own,
        )

    @property
    def headers(self) -> dict[str, str]:
        """What every request says of itself."""
        return {"X-Api-Key": self.api_key, "User-Agent": self.user_agent}


def check(url: str, api_key: str, timeout_s: float, retries: int) -> None:
    """Raise ValueError for what can never work."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// or https:// URL (url, CAKEWORK_URL)")
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError("the API key has characters that no key has")
    if not timeout_s > 0:
        raise ValueError("timeout must be more than 0 seconds")
    if retries < 0:
        raise ValueError("retries must not be negative")


def _version() -> str:
    from cakework_client import __version__

    return __version__
