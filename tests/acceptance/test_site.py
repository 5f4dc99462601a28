"""The site in a real browser, as the server serves it to somebody who comes by."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Response, ViewportSize, expect

from tests.acceptance.browsers import browser_for
from tests.acceptance.platform import Platform

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
LOOKS_MS = 60_000
PHONE: ViewportSize = {"width": 390, "height": 844}
WIDE: ViewportSize = {"width": 1440, "height": 900}
PAGES = (
    "/",
    "/thanks/",
    "/docs/",
    "/docs/functions/",
    "/docs/functions/handlers/",
    "/docs/functions/invocations/",
    "/docs/functions/urls/",
    "/docs/functions/secrets/",
    "/docs/automations/",
    "/docs/automations/schedules/",
    "/docs/automations/events/",
    "/docs/automations/webhooks-in/",
    "/docs/automations/flow-control/",
    "/docs/automations/transforms/",
    "/docs/reference/rest/",
    "/docs/reference/typescript/",
    "/docs/reference/python/",
    "/docs/reference/cli/",
    "/docs/webhooks/",
    "/docs/reference/errors/",
    "/docs/reference/settings/",
    "/docs/operating/",
    "/docs/reference/security/",
    "/docs/how-it-works/",
    "/404.html",
)


@pytest.fixture(scope="module")
def browser(platform: Platform) -> Iterator[Browser]:
    """A browser that sees the platform and nothing else."""
    parts = urlsplit(platform.url)
    assert parts.hostname
    assert parts.port
    expect.set_options(timeout=LOOKS_MS)
    with browser_for((parts.hostname, parts.port)) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, platform: Platform) -> Iterator[Page]:
    """A new visitor's tab, which must have nothing to complain about."""
    context = browser.new_context(base_url=platform.url, viewport=WIDE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints = _complaints(page)
    yield page
    context.close()
    assert not complaints


def test_a_visitor_finds_how_to_import_an_image(page: Page) -> None:
    """Docs, Next REST, importImage: the address says so, the heading is in view, all is told."""
    page.goto("/")
    page.get_by_role("link", name="Docs", exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Getting Started")
    page.get_by_role("link", name="Next REST").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("REST")
    contents = page.get_by_role("navigation", name="On this page")
    contents.get_by_role("link", name="importImage", exact=True).click()
    expect(page).to_have_url(re.compile(r"/docs/reference/rest/#importimage$"))
    expect(page.get_by_role("heading", name="importImage", exact=True)).to_be_in_viewport()
    for text in ("/v1/image/import", "imageUri", "imageId"):
        expect(page.get_by_text(text, exact=False).first).to_be_attached()


def test_code_is_copied(page: Page) -> None:
    """The button at a block of code puts the code on the clipboard."""
    page.goto("/docs/")
    block = page.locator(".expressive-code", has_text="make serve")
    block.hover()
    block.get_by_role("button", name="Copy code to clipboard").click()
    page.wait_for_function(
        "navigator.clipboard.readText().then(text => text.includes('make serve'))"
    )


def test_the_switch_says_which_mode_it_is_in(page: Page) -> None:
    """Light and dark are chosen and shown by one switch, and kept."""
    page.goto("/docs/")
    switch = page.get_by_role("combobox", name="Select theme").first
    for name, mode in (("Dark", "dark"), ("Light", "light")):
        switch.select_option(label=name)
        expect(page.locator("html")).to_have_attribute("data-theme", mode)
        page.reload()
        expect(switch.locator("option:checked")).to_have_text(name)


@pytest.mark.parametrize("path", ["/", "/docs/"])
def test_the_keyboard_gets_to_the_content_at_once(page: Page, path: str) -> None:
    """The first stop of the tab key is the link that skips what comes before the content."""
    page.goto(path)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text(re.compile(r"\s*Skip to content\s*"))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#"))


def test_the_search_finds_a_call(page: Page) -> None:
    """Searching for startVM leads to where it is described, with no service outside."""
    page.goto("/docs/")
    page.get_by_role("button", name="Search").click()
    page.get_by_placeholder("Search").fill("startVM")
    result = page.locator("dialog").get_by_role("link", name=re.compile("startVM")).first
    result.click()
    expect(page).to_have_url(re.compile("/docs/reference/.*#startvm$"))


def test_joining_the_waitlist_stays_on_the_page(page: Page, platform: Platform) -> None:
    """The form says thank you, to who is on the list as well; the browser checks addresses too."""
    page.goto("/")
    form = page.locator("form").first
    for _ in range(2):
        form.get_by_label("E-mail address").fill("Visitor@example.com")
        form.get_by_role("button", name="Join the waitlist").click()
        expect(form.get_by_role("status")).to_have_text("Thank you. We will write to you.")
        expect(form.get_by_label("E-mail address")).to_have_value("")
        page.reload()
    form.get_by_label("E-mail address").fill("not an address")
    form.get_by_role("button", name="Join the waitlist").click()
    assert form.get_by_label("E-mail address").evaluate("field => field.validity.typeMismatch")


def test_joining_works_without_scripts(browser: Browser, platform: Platform) -> None:
    """All is shown, and the form sent, in a browser that runs no script."""
    context = browser.new_context(base_url=platform.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_role("heading", name="Enable Custom User Code")).to_be_visible()
    page.get_by_label("E-mail address").first.fill("noscript@example.com")
    page.get_by_role("button", name="Join the waitlist").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    page.goto("/docs/reference/rest/")
    expect(page.get_by_role("heading", name="importImage", exact=True)).to_be_visible()
    context.close()


@pytest.mark.parametrize(
    ("scheme", "viewport"), [("dark", PHONE), ("light", WIDE)], ids=["phone", "wide"]
)
def test_every_page_is_for_everybody(
    browser: Browser, platform: Platform, scheme: Any, viewport: Any
) -> None:
    """No page has a fault that axe knows, nor complains, nor is wider than its window."""
    context = browser.new_context(
        base_url=platform.url, color_scheme=scheme, viewport=viewport, bypass_csp=True
    )
    page = context.new_page()
    complaints = _complaints(page)
    faults: list[str] = []
    for path in PAGES:
        page.goto(path)
        page.add_script_tag(path=AXE)
        found = page.evaluate("axe.run().then(found => found.violations)")
        faults += [f"{path}: {each['id']} {each['nodes'][0]['html'][:200]}" for each in found]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append(f"{path}: wider than the window")
    context.close()
    assert not faults
    assert not complaints


@pytest.mark.parametrize(("path", "most_kb"), [("/docs/reference/rest/", 300), ("/", 150)])
def test_pages_are_light(browser: Browser, platform: Platform, path: str, most_kb: int) -> None:
    """What is transferred for a page, all in all, is bounded."""
    context = browser.new_context(base_url=platform.url)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")  # pyright: ignore[reportUnknownMemberType]
    sizes: list[float] = []

    def note(event: dict[str, Any]) -> None:
        sizes.append(event["encodedDataLength"])

    session.on("Network.loadingFinished", note)
    page.goto(path, wait_until="networkidle")
    context.close()
    assert 0 < sum(sizes) < most_kb * 1000


def test_every_link_leads_somewhere(browser: Browser, platform: Platform) -> None:
    """Every internal link and anchor resolves, and nothing is fetched from elsewhere."""
    context = browser.new_context(base_url=platform.url)
    page = context.new_page()
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    anchors: dict[str, set[str]] = {}
    wanted: set[tuple[str, str, str]] = set()
    for path in PAGES:
        page.goto(path)
        anchors[urljoin(platform.url, path)] = set(
            page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
        )
        links: list[str] = page.evaluate("[...document.links].map(link => link.href)")
        for link in links:
            target, anchor = urldefrag(link)
            if urlsplit(target).netloc == urlsplit(platform.url).netloc:
                wanted.add((path, target, anchor))
    context.close()
    assert asked == {urlsplit(platform.url).netloc}
    lost = [
        f"{path} → {target}#{anchor}"
        for path, target, anchor in wanted
        if (anchor and anchor not in anchors.get(target, set()))
        or not httpx2.get(target, follow_redirects=True, timeout=60).is_success
    ]
    assert not lost


def _complaints(page: Page) -> list[str]:
    """Return a list that fills with errors of scripts, of the console, and failed requests."""
    said: list[str] = []

    def note_answer(answer: Response) -> None:
        if answer.status >= 400:
            said.append(f"{answer.status} {answer.url}")

    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type == "error" else None,
    )
    page.on("response", note_answer)
    return said
