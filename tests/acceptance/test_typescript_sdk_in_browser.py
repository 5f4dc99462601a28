"""The TypeScript client in a browser, bundled as a web page would have it."""

import subprocess
from urllib.parse import urlsplit

from tests.acceptance.browsers import browser_for
from tests.acceptance.platform import Platform
from tests.acceptance.typescript import NODE, SDK, build

HAS_RUN = """async ([url, apiKey, imageId]) => {
  const client = new cakework.CakeworkClient({ url, apiKey });
  const vm = await client.startVM({ imageId, envVars: { SCRIPT: "echo one; echo two" } });
  const lines = [];
  for await (const line of client.followLogs({ vmId: vm.id })) lines.push(line.message);
  const refused = await client.getVm("0".repeat(14)).catch((error) => error);
  await client.stopVM(vm.id);
  return [lines, refused instanceof cakework.NotFoundError, refused.status];
}"""


def test_a_page_starts_a_vm_and_follows_its_log(platform: Platform, busybox: str) -> None:
    """Calls, a followed log and errors work with what a browser has."""
    build()
    bundle = subprocess.run(
        [
            *(NODE, "node_modules/esbuild/bin/esbuild", "dist/esm/index.js"),
            *("--bundle", "--platform=browser", "--format=iife", "--global-name=cakework"),
        ],
        cwd=SDK,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    parts = urlsplit(platform.url)
    assert parts.hostname
    assert parts.port
    with browser_for((parts.hostname, parts.port)) as browser:
        page = browser.new_page(bypass_csp=True)
        page.goto(platform.url)
        page.add_script_tag(content=bundle)
        found = page.evaluate(HAS_RUN, [platform.url, platform.key, busybox])
    assert found == [["one", "two"], True, 404]
