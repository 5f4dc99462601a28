"""File systems of builder machines, lent from one test process of a run to others.

To make one takes a minute of a processor. The tests of builds in machines make theirs, as a node
does; who only needs one takes a copy, if it is there by then.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

FOLDER = Path("builds") / "builders"


def lend(run: Path, node_dir: Path) -> None:
    """Have what the builds of ``node_dir`` have made there for the rest of the run."""
    with tempfile.TemporaryDirectory(prefix="builders-", dir=run) as making:
        for made in (node_dir / FOLDER).glob("*.erofs"):
            copy = shutil.copyfile(made, Path(making) / made.name)
            _lent(run).mkdir(exist_ok=True)
            copy.rename(_lent(run) / made.name)


def borrow(run: Path, node_dir: Path) -> None:
    """Give the builds of ``node_dir`` what the run has."""
    folder = node_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for lent in _lent(run).glob("*.erofs"):
        copy = shutil.copyfile(lent, folder / lent.name)
        copy.chmod(0o444)


def run_of(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all test processes of a run have."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def _lent(run: Path) -> Path:
    return run / "builders"
