"""Files and folders that go away just after their folder was listed, as when others remove them."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCANDIR, LISTDIR = os.scandir, os.listdir
"""As they are, also where a test has replaced them before."""


def vanish_once_listed(monkeypatch: pytest.MonkeyPatch, *victims: Path) -> None:
    """Have each of ``victims`` removed when what lists its folder has read that it is there."""

    def remove_from(folder: Path) -> None:
        for victim in victims:
            if victim.parent == folder and victim.is_dir():
                shutil.rmtree(victim)
            elif victim.parent == folder:
                victim.unlink(missing_ok=True)

    def scanned(folder: Any = ".") -> contextlib.nullcontext[Iterator[os.DirEntry[str]]]:
        with SCANDIR(str(folder)) as found:
            read = list(found)
        with monkeypatch.context() as real:
            real.setattr(os, "scandir", SCANDIR)
            real.setattr(os, "listdir", LISTDIR)
            remove_from(Path(str(folder)))
        return contextlib.nullcontext(iter(read))

    def listed(folder: Any = ".") -> list[str]:
        read = LISTDIR(str(folder))
        with monkeypatch.context() as real:
            real.setattr(os, "scandir", SCANDIR)
            real.setattr(os, "listdir", LISTDIR)
            remove_from(Path(str(folder)))
        return read

    monkeypatch.setattr(os, "scandir", scanned)
    monkeypatch.setattr(os, "listdir", listed)
