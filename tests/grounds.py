"""What tests stand on: those that share something which takes long to make stay together."""

GROUNDS = (
    *(
        (f"tests/integration/node/test_{noun}", "builds")
        for noun in ("base", "build", "github", "import")
    ),
    ("tests/acceptance/", "a platform"),
    ("tests/integration/node/", "machines"),
    ("tests/integration/faults/", "a node and a server that are killed"),
    ("tests/python_sdk/", "a server of the client's"),
)
"""By how the names of the tests begin. The longest first: what is begun late is what all wait for
in the end."""


def ground_of(nodeid: str) -> str:
    """Return the ground of a test, or of a file of tests; most files are one of their own."""
    file = nodeid.partition("::")[0]
    return next((ground for start, ground in GROUNDS if file.startswith(start)), file)


def place_of(nodeid: str) -> int:
    """Return at which place the ground of a test is; files of their own come last."""
    grounds = list(dict.fromkeys(ground for _, ground in GROUNDS))
    ground = ground_of(nodeid)
    return grounds.index(ground) if ground in grounds else len(grounds)
