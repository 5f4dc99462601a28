"""Images from registries of every kind: how they ask who one is, and where they send one."""

import asyncio
import base64
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cakework.domain.errors import CakeworkError, RegistryDenied, RegistryUnreachable
from cakework.domain.facts import ImportFailed
from tests.integration.node.build_bench import Bench, mounted
from tests.integration.node.import_bench import ImportBench
from tests.integration.node.registries import (
    PASSWORD,
    Entry,
    Layout,
    Registry,
    make_certificate,
    serving,
    tar_of,
)
from tests.integration.node.registry_front import (
    BASIC,
    SERVICE,
    Front,
    Reply,
    Rule,
    giving_tokens,
    send,
    standing_before,
)

CONTENT = tar_of([Entry("here", b"yes")])
ECR_PASSWORD = "eyJwYXlsb2FkIjoi" + "0123456789+/abcd" * 160 + "=="
"""As long as those are that ECR gives, and of the same letters."""


@pytest.fixture(scope="module")
def imports(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportBench]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield ImportBench(tmp_path_factory.mktemp("imports"), bench.netns, registry)


@pytest.fixture
def front(imports: ImportBench) -> Iterator[Front]:
    with standing_before(imports.registry) as front:
        yield front


@pytest.fixture(scope="module")
def app(imports: ImportBench, tmp_path_factory: pytest.TempPathFactory) -> str:
    return pushed(imports.registry, tmp_path_factory.mktemp("app"))


def pushed(registry: Registry, folder: Path) -> str:
    layout = Layout(folder / "layout")
    return registry.push(layout.index(layout.image([(CONTENT, "gzip")])), "team/app:1")


def refusal(
    imports: ImportBench, reference: str, password: str, **changes: object
) -> CakeworkError:
    """Return the error that an order for ``reference`` is refused with at once."""
    order = imports.order(reference, password)

    async def run() -> CakeworkError:
        async with imports.open(**changes) as opened:
            with pytest.raises(CakeworkError) as refused:
                await opened.take(order)
            return refused.value

    return asyncio.run(run())


def test_a_registry_that_wants_tokens(imports: ImportBench, tmp_path: Path) -> None:
    """The password goes to the token server alone, for the image that is wanted and no more than
    reading it; the registry gets the token. A wrong password is told at once."""
    certificate, _ = make_certificate(tmp_path)
    with (
        giving_tokens(certificate) as (token, asked),
        serving(tmp_path, token=token) as registry,
        standing_before(registry) as front,
    ):
        reference = front.named(pushed(registry, tmp_path))
        asked.clear()
        realm = token["realm"].split("/")[2]
        reach: dict[str, object] = {"fetch_allow": [front.address, realm], "extra_ca": certificate}
        image = imports.image(imports.order(reference), **reach)
        with mounted(image, tmp_path / "rootfs") as root:
            assert (root / "here").read_text() == "yes"
        scopes = [each for each in asked if "scope" in each]
        assert scopes
        assert {each["scope"] for each in scopes} == {"repository:team/app:pull"}
        assert {each["service"] for each in asked} == {SERVICE}
        assert not [path for path, shown in front.asked if (shown or "").startswith("Basic")]
        assert [path for path, shown in front.asked if (shown or "").startswith("Bearer ")]
        assert isinstance(refusal(imports, reference, "wrong", **reach), RegistryDenied)
        assert isinstance(refusal(imports, reference, "", **reach), RegistryDenied)


def test_a_password_as_long_as_ecrs(
    imports: ImportBench, app: str, front: Front, tmp_path: Path
) -> None:
    """It arrives as it is, with the user name AWS; the answer to another is told at once."""
    expected = f"Basic {base64.b64encode(f'AWS:{ECR_PASSWORD}'.encode()).decode()}"

    def like_ecr(front: Front, handler: BaseHTTPRequestHandler) -> bool:
        if handler.headers["Authorization"] == expected:
            handler.headers.replace_header("Authorization", BASIC)
            return False
        challenge = {"WWW-Authenticate": f'Basic realm="https://{front.address}/",service="ecr"'}
        send(handler, Reply(401, {**challenge, "Content-Length": "15"}, b"Not Authorized\n"))
        return True

    front.rule = like_ecr
    reach: dict[str, object] = {"fetch_allow": [front.address]}
    imports.image(imports.order(front.named(app), ECR_PASSWORD), **reach)
    assert isinstance(
        refusal(imports, front.named(app), ECR_PASSWORD[:-1], **reach), RegistryDenied
    )


def test_a_token_server_that_must_not_be_reached(
    imports: ImportBench, app: str, front: Front
) -> None:
    """Wherever a registry says that tokens are had: what no setting names gets no connection."""
    with socket.create_server(("127.0.0.1", 0)) as forbidden:
        realm = f"https://127.0.0.1:{forbidden.getsockname()[1]}/token"

        def elsewhere(_: Front, handler: BaseHTTPRequestHandler) -> bool:
            challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
            send(handler, Reply(401, {**challenge, "Content-Length": "0"}, b""))
            return True

        front.rule = elsewhere
        error = refusal(imports, front.named(app), PASSWORD, fetch_allow=[front.address])
        assert isinstance(error, RegistryUnreachable)
        assert front.asked
        forbidden.setblocking(False)
        with pytest.raises(BlockingIOError):
            forbidden.accept()


def test_blobs_that_are_elsewhere(
    imports: ImportBench, app: str, front: Front, tmp_path: Path
) -> None:
    """A registry may send one to another host for them, which is not shown the password."""
    with standing_before(imports.registry) as store:

        def stored(_: Front, handler: BaseHTTPRequestHandler) -> bool:
            handler.headers["Authorization"] = BASIC
            return False

        store.rule = stored
        front.rule = sending_to(store.address.replace("127.0.0.1", "localhost"))
        reach = [front.address, store.address]
        image = imports.image(imports.order(front.named(app)), fetch_allow=reach)
        with mounted(image, tmp_path / "rootfs") as root:
            assert (root / "here").read_text() == "yes"
        assert store.asked
        assert {shown for _, shown in store.asked} == {None}
        store.asked.clear()
        front.asked.clear()
        error = refusal(imports, front.named(app), PASSWORD, fetch_allow=[front.address])
        assert isinstance(error, RegistryUnreachable)
        assert [path for path, _ in front.asked if "/blobs/" in path]
        assert store.asked == []


def test_layers_that_must_not_be_fetched_from_where_they_are(
    imports: ImportBench, app: str, front: Front
) -> None:
    """Also when its configuration is had, the fetch fails, and what is forbidden is not asked."""
    with socket.create_server(("127.0.0.1", 0)) as forbidden:
        redirect = sending_to(f"127.0.0.1:{forbidden.getsockname()[1]}")

        def all_but_the_first(front: Front, handler: BaseHTTPRequestHandler) -> bool:
            blobs = [path for path, _ in front.asked if "/blobs/" in path]
            return len(blobs) > 1 and redirect(front, handler)

        front.rule = all_but_the_first
        end = imports.end(imports.order(front.named(app)), fetch_allow=[front.address])
        assert isinstance(end, ImportFailed)
        assert "does not answer" in end.error
        forbidden.setblocking(False)
        with pytest.raises(BlockingIOError):
            forbidden.accept()


def sending_to(host: str) -> Rule:
    """Return the rule that blobs are at ``host``."""

    def rule(_: Front, handler: BaseHTTPRequestHandler) -> bool:
        if "/blobs/" not in handler.path:
            return False
        location = {"Location": f"https://{host}{handler.path}", "Content-Length": "0"}
        send(handler, Reply(307, location, b""))
        return True

    return rule
