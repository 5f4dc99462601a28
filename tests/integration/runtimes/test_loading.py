"""An adapter without a function, which is given one."""

import base64
from pathlib import Path
from typing import Any

import pytest

from .adapters import LANGUAGES, adapter

SOURCES = {
    "python": {
        "main.py": "import os\nfrom lib.words import WORD\nREGION = os.environ['REGION']\n"
        "def handler(event, context):\n    return [WORD, REGION, os.getcwd()]\n"
        "def http(request):\n    return 'a visit'\n",
        "lib/words.py": "WORD = 'loaded'\n",
    },
    "node": {
        "main.ts": 'import { WORD } from "./lib/words.mjs";\n'
        "const region: string = process.env.REGION!;\n"
        "export default { event: () => [WORD, region, process.cwd()],"
        " fetch: () => new Response('a visit') };\n",
        "lib/words.mjs": "export const WORD = 'loaded';\n",
    },
}
BROKEN = {"python": "import nothing_there\n", "node": "import './nothing_there.mjs';\n"}
ENTRIES = {"python": "main.py", "node": "main.ts"}


def order(language: str, files: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    given = files or SOURCES[language]
    return {
        "files": [
            {"path": path, "content": base64.b64encode(text.encode()).decode()}
            for path, text in given.items()
        ],
        "entry": ENTRIES[language],
        "signature": "",
        "concurrency": 1,
        "env": {"REGION": "here"},
        **more,
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_function_is_given_and_served(language: str, tmp_path: Path) -> None:
    with adapter(language, None, folder=tmp_path) as a:
        assert a.order("GET", "/ready")["state"] == "empty"
        told = a.order("POST", "/load", order(language))
        assert (told["state"], sorted(told["handlers"])) == ("ready", ["event", "http"])
        assert a.result() == ["loaded", "here", str(tmp_path.resolve())]
        with a.visit("GET", "/") as response:
            assert response.read() == b"a visit"
        with a.asked("POST", "/load", order(language)) as response:
            assert response.status == 409


@pytest.mark.parametrize("language", LANGUAGES)
def test_why_a_function_is_none_is_told(language: str, tmp_path: Path) -> None:
    broken = {ENTRIES[language]: BROKEN[language]}
    with adapter(language, None, folder=tmp_path) as a:
        told = a.order("POST", "/load", order(language, broken))
        assert told["state"] == "failed"
        assert "nothing_there" in told["error"]["message"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out"])
def test_no_file_leads_out_of_its_folder(language: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with adapter(language, None, folder=folder) as a:
        with a.asked("POST", "/load", order(language, {path: "x"})) as response:
            assert response.status == 400
        assert list(tmp_path.iterdir()) == [folder]


AT_IMPORT = {
    "python": "import os\nkey = os.environ.get('KEY')\n"
    "def handler(event, context):\n    return [key, os.environ.get('KEY'), context.secrets]\n",
    "node": "const key = process.env.KEY;\n"
    "export default { event: (_: unknown, ctx: any) => [key, process.env.KEY, ctx.secrets] };\n",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_secrets_that_come_before_the_function_are_there_at_its_import(
    language: str, tmp_path: Path
) -> None:
    with adapter(language, None, folder=tmp_path) as a:
        a.order("POST", "/secrets", {"secrets": {"KEY": "k1"}})
        files = {ENTRIES[language]: AT_IMPORT[language]}
        assert a.order("POST", "/load", order(language, files))["state"] == "ready"
        assert a.result() == ["k1", "k1", {"KEY": "k1"}]
        a.order("POST", "/secrets", {"secrets": {}})
        assert a.result() == ["k1", None, {}]
