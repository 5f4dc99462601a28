"""The spool: what is done with it is told by others, and none of them fails because of it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cakework.domain.ids import new_build_id
from cakework.server.services.spool import Spool
from cakework.server.store.sealing import Sealer


def test_an_order_that_cannot_be_thrown_away_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build is not told as failed for that, nor do others wait: it is kept, and logged."""

    def fails(_: Path, *, missing_ok: bool = False) -> None:
        raise OSError("not now")

    spool, build_id = Spool(tmp_path, Sealer(tmp_path / "key")), new_build_id()
    (tmp_path / f"{build_id}.sealed").touch()
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(Path, "unlink", fails)
        spool.remove(build_id)
    assert [(each["event"], each["build_id"]) for each in logs] == [("spool.not_removed", build_id)]
    assert list(spool.kept()) == [build_id]
    for _ in range(2):
        spool.remove(build_id)
        assert list(spool.kept()) == []
