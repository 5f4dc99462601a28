"""What is done with namespaces that needs no kernel's help."""

import errno
import os
from pathlib import Path

import pytest

from cakework.node.network.namespaces import adopt_namespace


def test_files_that_a_process_closes_meanwhile_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tap is looked for among those that stay: a VM is not given up for another's sake."""
    readlink = Path.readlink

    def closed(path: Path) -> Path:
        if path.name == "0":
            raise FileNotFoundError(errno.ENOENT, "closed")
        return readlink(path)

    monkeypatch.setattr(Path, "readlink", closed)
    with pytest.raises(OSError, match="has no tap") as raised:
        adopt_namespace(0, os.getpid())
    assert raised.value.errno == errno.ENODEV
