"""What runs functions inside a microVM: one adapter for each language.

Data rather than code of this package: these folders are put into an image, or laid over it, and
run there by the image's own Python or Node. ``docs/dev/runtimes.md`` says how pid 1 speaks to them.
"""

from pathlib import Path

PYTHON = Path(__file__).with_name("python")
"""``python3 <this folder> --entry main.py`` serves a function. Python 3.11 or newer."""
NODE = Path(__file__).with_name("node")
"""``node <this folder>/adapter/main.mjs --entry main.ts`` serves one. Node 24 or newer."""

VISITORS_PORT = 8080
"""Direct work comes here, by HTTP, through the router."""
CONTROL_PORT = 8079
"""Orders of pid 1 come here, on loopback alone."""
