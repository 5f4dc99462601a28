"""``python -m cakework.server.openapi`` writes the OpenAPI document to standard output."""

import functools
import json
import sys

from cakework.server.app import create_app
from cakework.settings import Settings


@functools.cache
def document() -> str:
    """Return the OpenAPI document as the repository keeps it in docs/openapi.json."""
    app = create_app(Settings.model_construct())
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
