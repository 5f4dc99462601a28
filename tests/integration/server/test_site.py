"""The site as the server serves it, and the form of its landing page."""

import gzip
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import select

from cakework.domain.errors import QuotaExceeded
from cakework.server.services.waitlist import CALLER_MOST, WITHIN_S, Waitlist
from cakework.server.store.models import WaitlistRow

from .fake_node import FakeNode
from .rig import Rig, as_problem, running, settings_for

pytestmark = pytest.mark.anyio
BROWSER = {"Accept": "text/html,*/*"}
FILES = {
    "index.html": b"<h1>Landing</h1>",
    "docs/index.html": b"<h1>Docs</h1>",
    "404.html": b"<h1>Lost</h1>",
    "_astro/page.1a2b.js": b"1",
}


@pytest.fixture
async def site(folder: Path, node: FakeNode) -> AsyncGenerator[Rig]:
    """A server with a small site, one page of which is compressed."""
    root = folder / "site"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "index.html.gz").write_bytes(gzip.compress(FILES["index.html"]))
    settings = settings_for(folder, None).model_copy(update={"site_dir": root})
    async with running(settings, node) as served:
        yield served


async def test_pages_are_served_guarded_and_checked(site: Rig) -> None:
    """A page comes with the policies for browsers, and again only when it has changed."""
    landing = await site.client.get("/", headers=BROWSER)
    assert landing.content == FILES["index.html"]
    assert landing.headers["Content-Encoding"] == "gzip"
    assert landing.headers["Vary"] == "Accept-Encoding"
    assert "script-src 'self' 'wasm-unsafe-eval';" in landing.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in landing.headers["Content-Security-Policy"]
    assert landing.headers["X-Content-Type-Options"] == "nosniff"
    assert landing.headers["Cache-Control"] == "no-cache"
    again = await site.client.get("/", headers={"If-None-Match": landing.headers["ETag"]})
    assert again.status_code == 304
    plain = await site.client.get("/", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == FILES["index.html"]


async def test_what_never_changes_is_kept_for_ever(site: Rig) -> None:
    """Files whose names change with what is in them need not be asked for again."""
    script = await site.client.get("/_astro/page.1a2b.js")
    assert "immutable" in script.headers["Cache-Control"]
    assert script.headers["Content-Type"].startswith("text/javascript")


async def test_folders_are_pages(site: Rig) -> None:
    """A folder's page is at its name with a slash, to which the name without leads."""
    redirected = await site.client.get("/docs", headers=BROWSER)
    assert redirected.status_code == 307
    assert redirected.headers["Location"].endswith("/docs/")
    assert (await site.client.get("/docs/")).content == FILES["docs/index.html"]


async def test_what_is_not_there_is_a_page_or_a_problem(site: Rig) -> None:
    """A browser gets a page that helps on, a program a problem; nothing outside is reached."""
    lost = await site.client.get("/nowhere", headers=BROWSER)
    assert (lost.status_code, lost.content) == (404, FILES["404.html"])
    for path in ("/nowhere", "/v1/nowhere", "/%2e%2e/%2e%2e/etc/passwd"):
        answer = await site.client.get(path)
        assert (answer.status_code, as_problem(answer)["code"]) == (404, "not_found")
    answer = await site.client.post("/nowhere", headers=BROWSER)
    assert (answer.status_code, as_problem(answer)["code"]) == (404, "not_found")
    answer = await site.client.delete("/v1/vms")
    assert (answer.status_code, as_problem(answer)["code"]) == (405, "method_not_allowed")


async def test_a_server_without_a_site_serves_the_api(folder: Path, node: FakeNode) -> None:
    """The site is not needed for anything else."""
    settings = settings_for(folder, None).model_copy(update={"site_dir": folder / "nowhere"})
    async with running(settings, node) as served:
        answer = await served.client.get("/docs/", headers=BROWSER)
        assert (answer.status_code, as_problem(answer)["code"]) == (404, "not_found")
        assert (await served.client.get("/healthz")).is_success


async def test_each_address_is_kept_once_and_nobody_learns_of_it(rig: Rig) -> None:
    """An address that is on the list, however it is spelt, is answered as a new one."""
    program = {"Accept": "application/json"}
    for email in ("a@example.com", " A@Example.com", "b@example.com"):
        answer = await rig.client.post("/waitlist", data={"email": email}, headers=program)
        assert (answer.status_code, answer.json()) == (200, {})
    browser = await rig.client.post("/waitlist", data={"email": "a@example.com"})
    assert (browser.status_code, browser.headers["Location"]) == (303, "/thanks/")
    assert await _listed(rig) == {"a@example.com", "b@example.com"}


@pytest.mark.parametrize(
    "email",
    ["", "a", "@example.com", "a@b", "a@b@example.com", "a@ex ample.com", f"{'a' * 250}@b.com"],
)
async def test_what_is_no_address_is_refused(rig: Rig, email: str) -> None:
    """The server checks as the browser does, and keeps nothing then."""
    answer = await rig.client.post("/waitlist", data={"email": email})
    assert answer.status_code == 400
    assert as_problem(answer)["errors"][0]["field"] == "email"
    assert await _listed(rig) == set()


async def test_a_form_that_is_too_large_is_refused(rig: Rig) -> None:
    """Nobody without a key has more than some kilobytes read."""
    answer = await rig.client.post("/waitlist", content=b"email=" + b"a" * 5000)
    assert answer.status_code == 413


async def test_one_caller_cannot_fill_the_list(rig: Rig) -> None:
    """Beyond a few a minute a caller is told to wait; others, and the same one later, are not."""
    now = [0.0]
    waitlist = Waitlist(rig.server.database, lambda: 1, lambda: now[0])
    for number in range(CALLER_MOST):
        await waitlist.join(f"{number}@example.com", "192.0.2.1")
    with pytest.raises(QuotaExceeded) as refused:
        await waitlist.join("more@example.com", "192.0.2.1")
    assert refused.value.retry_after_s == WITHIN_S + 1
    await waitlist.join("other@example.com", "192.0.2.2")
    now[0] += WITHIN_S
    await waitlist.join("more@example.com", "192.0.2.1")
    assert len(await _listed(rig)) == CALLER_MOST + 2


async def _listed(rig: Rig) -> set[str]:
    async with rig.server.database.reading() as session:
        return set(await session.scalars(select(WaitlistRow.email)))
