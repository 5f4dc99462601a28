"""The TypeScript client as it is published, made once for all tests."""

import fcntl
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "typescript"
NODE = ROOT / ".venv" / "bin" / "node"
_LAST = SDK / "dist" / "cjs" / "package.json"
"""What a build writes last."""


def build() -> None:
    """Make it, unless it is of the sources as they are: other tests go by it at the same time, and
    a build takes it away before it makes it anew."""
    with (SDK / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_new():
            subprocess.run([NODE, "tools/build.ts"], cwd=SDK, check=True)


def _is_new() -> bool:
    files = (SDK / "src", SDK / "tools")
    sources = [path for folder in files for path in folder.rglob("*") if path.is_file()]
    sources += [ROOT / "docs" / "openapi.json", *SDK.glob("*.json")]
    made = _LAST.stat().st_mtime if _LAST.exists() else 0.0
    return made >= max(path.stat().st_mtime for path in sources)
