"""The landing page's form. It is no call of the API, and needs no key."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from cakework.domain.errors import TooLarge, TooSlow
from cakework.server.services.waitlist import Waitlist

BODY_BYTES_MAX = 4096
BODY_S = 15.0
THANKS = "/thanks/"
IPV6_PREFIX = 64
"""One household's, at the least: who has one address of it has them all."""


@dataclass(frozen=True, slots=True)
class WaitlistForm:
    """Takes the form, from a browser as it is or from the page's script."""

    waitlist: Waitlist

    def router(self) -> APIRouter:
        """Return the one route."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/waitlist", self.join, methods=["POST"])
        return router

    async def join(self, request: Request) -> Response:
        """Put an address on the list; a browser is led to a page that says thank you."""
        fields = parse_qs((await _body(request)).decode(errors="replace"))
        email = fields.get("email", [""])[0]
        await self.waitlist.join(email, _caller(request))
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({})
        return RedirectResponse(THANKS, HTTPStatus.SEE_OTHER)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise TooLarge("The form is larger than what is taken.")
    except TimeoutError as error:
        raise TooSlow("The form did not come to its end in time.") from error
    return body


def _caller(request: Request) -> str:
    """Return who asks: whoever connects, or whom a trusted proxy names (``trusted_proxies``)."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return host
