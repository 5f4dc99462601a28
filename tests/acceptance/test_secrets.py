"""What callers entrust to the platform is on no disk and in no log, at the most talkative level."""

import base64
import subprocess
from pathlib import Path
from uuid import uuid4

import httpx2

from cakework.node.builds.clone import USERNAME as GIT_USERNAME
from tests.acceptance.api import Api, Json
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.node.registries import PASSWORD, USERNAME
from tests.integration.node.repositories import TOKEN, GitServer

IMPORT, BUILD = "/v1/image/import", "/v1/image/build/github"
WRONG, WRONG_TOKEN = "entrusted-in-vain", "ghp_entrusted_in_vain"


def spellings(secret: str) -> list[str]:
    """Return a secret as it is, and as registries and git hosts are shown it."""
    pairs = (f"{user}:{secret}" for user in (USERNAME, GIT_USERNAME))
    return [secret, *(base64.b64encode(pair.encode()).decode().rstrip("=") for pair in pairs)]


def files_with(folder: Path, *marks: str, since: Path | None = None) -> list[str]:
    """Return the files below ``folder`` that have one of ``marks`` in them.

    Those that were changed ``since`` that file was, if it is given, and the memory of machines,
    which changes without being written.
    """
    wanted = [f"--regexp={mark}" for mark in marks]
    changed = ["(", "-newer", str(since), "-o", "-path", "*/machines/*", ")"] if since else []
    grep = ["grep", "--files-with-matches", "--fixed-strings", *wanted]
    found = subprocess.run(
        ["find", folder, "-type", "f", *changed, "-exec", *grep, "{}", "+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.splitlines()


def test_passwords_and_tokens_are_nowhere(
    platform: Platform, api: Api, git_host: GitServer, shell: str
) -> None:
    """Neither those that were taken nor those that were not; repeated requests included."""
    git_host.make("team/entrusted", {"here": "yes"})
    for password, status in ((PASSWORD, 200), (WRONG, 400)):
        body = {"imageUri": shell, "password": password}
        headers = {"Idempotency-Key": str(uuid4()), "X-Api-Key": api.key}
        url = f"{api.url}{IMPORT}"
        answers = [httpx2.post(url, json=body, headers=headers, timeout=120) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [status] * 2
        if status == 200:
            image = f"/v1/image/{answers[0].json()['imageId']}"
            until(lambda image=image: api.get(image)["state"] == "ready", 120, "the image is there")
    for token, status in ((TOKEN, "succeeded"), (WRONG_TOKEN, "failed")):
        wanted = {"repository": "team/entrusted", "branch": "main", "token": token}
        asked = {"dockerfile": "FROM cakework/busybox\nCOPY . /app\n", **wanted}
        build = f"/v1/image/build/{api.post(BUILD, asked)['buildId']}"
        until(lambda build=build: api.get(build)["status"] != "created", 250, "the build ends")
        assert api.get(build)["status"] == status
    broken: Json = {"imageUri": [PASSWORD], "password": [WRONG], "username": WRONG}
    assert api.http.post(IMPORT, json=broken).status_code == 400
    secrets = (PASSWORD, WRONG, TOKEN, WRONG_TOKEN)
    marks = [mark for secret in secrets for mark in spellings(secret)]
    assert files_with(platform.data_dir, *marks) == []
    assert files_with(platform.data_dir, shell)
    log = platform.log.read_text()
    assert platform.log.is_relative_to(platform.data_dir)
    assert '"level": "debug"' in log
    assert "import_refused" in log
