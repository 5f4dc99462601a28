"""The site: static files that set-up built, served as they lie, compressed where they are so.

What is not there is a page for a browser and a problem for a program.
"""

import mimetypes
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

ENCODINGS = {"br": ".br", "gzip": ".gz"}
"""Best first, and what their files' names end in."""
HASHED = "_astro/"
FOR_EVER = "public, max-age=31536000, immutable"
CHECKED = "no-cache"
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Styles are inline where code is coloured; WebAssembly is what the search is made of."""


class Site(StaticFiles):
    """Serves the files below ``folder``, which may not be there: then nothing is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True, check_dir=False)
        self.config_checked = True

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer a request for ``path``. Raises HTTPException(404)."""
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        accepted = Headers(scope=scope).get("accept", "")
        if response.status_code == 404 and "text/html" not in accepted:
            raise HTTPException(404)
        is_hashed = path.startswith(HASHED) and response.status_code < 300
        response.headers["Cache-Control"] = FOR_EVER if is_hashed else CHECKED
        response.headers.update(SECURITY)
        return response

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Answer with a file, or with the compressed one beside it that the caller takes."""
        headers = Headers(scope=scope)
        accepted = headers.get("accept-encoding", "")
        media_type = mimetypes.guess_type(full_path)[0] or "application/octet-stream"
        answered = {"Vary": "Accept-Encoding"}
        file = Path(full_path)
        for encoding, ending in ENCODINGS.items():
            beside = file.with_name(f"{file.name}{ending}")
            if encoding in accepted and beside.exists():
                file, stat_result = beside, beside.stat()
                answered["Content-Encoding"] = encoding
                break
        response = FileResponse(file, status_code, answered, media_type, stat_result=stat_result)
        if self.is_not_modified(response.headers, headers):
            return NotModifiedResponse(response.headers)
        return response
