"""What runs functions inside a microVM: one adapter for each language.

Data rather than code of this package: these folders are put into an image, or laid over it, and
run there by the image's own Python or Node. ``docs/dev/runtimes.md`` says how pid 1 speaks to them.
"""

from pathlib import Path

from cakework.domain.functions import Runtime

PYTHON = Path(__file__).with_name("python")
"""``python3 <this folder> --entry main.py`` serves a function. Python 3.11 or newer."""
NODE = Path(__file__).with_name("node")
"""``node <this folder>/adapter/main.mjs --entry main.ts`` serves one. Node 24 or newer."""

VISITORS_PORT = 8080
"""Direct work comes here, by HTTP, through the router."""
CONTROL_PORT = 8079
"""Orders of the platform come here."""


def adapter_files(runtime: Runtime) -> dict[str, bytes]:
    """Return the files of a runtime's adapter, by path. Blocks."""
    folder = NODE if runtime is Runtime.NODE_24 else PYTHON
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
