"""What is remembered of builds."""

import os
import time
from pathlib import Path

from cakework.domain.facts import BuildFailed
from cakework.domain.ids import new_build_id, new_image_id
from cakework.domain.orders import BuildOrder, FilesSource, GithubSource
from cakework.node.builds.records import KEEP_S, BuildRecords


def _order() -> BuildOrder:
    return BuildOrder(
        build_id=new_build_id(),
        image_id=new_image_id(),
        dockerfile="FROM scratch",
        source=FilesSource(files=[]),
    )


def _records(folder: Path) -> BuildRecords:
    records = BuildRecords(folder)
    records.prepare()
    return records


def test_an_order_is_kept_once(tmp_path: Path) -> None:
    """A second one of the same id is known; the first comes back as it was."""
    order = _order()
    records = _records(tmp_path)
    assert records.add(order) is not None
    assert records.add(order) is None
    (record,) = _records(tmp_path).unfinished()
    assert record.order() == order


def test_an_end_is_remembered_until_it_is_told_and_after(tmp_path: Path) -> None:
    """Untold ends come up again; told ones do not, and their orders stay known."""
    order = _order()
    record = _records(tmp_path).add(order)
    assert record is not None
    assert (record.begin(), record.begin()) == (1, 2)
    outcome = BuildFailed(build_id=order.build_id, error="why", at_ms=1)
    record.end(outcome)
    (again,) = _records(tmp_path).unfinished()
    assert again.outcome() == outcome
    again.tell()
    records = _records(tmp_path)
    assert list(records.unfinished()) == []
    assert records.add(order) is None


def test_half_made_records_are_none(tmp_path: Path) -> None:
    """A node killed while it took an order has not taken it."""
    (tmp_path / ".half").mkdir()
    assert list(_records(tmp_path).unfinished()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_not_remembered(tmp_path: Path) -> None:
    """That there is one is; the order comes back without it, and no file has it."""
    source = GithubSource(repository="team/app", branch="main", token="ghp_of_the_test")
    order = _order().model_copy(update={"source": source})
    assert _records(tmp_path).add(order) is not None
    (record,) = _records(tmp_path).unfinished()
    assert record.wants_token()
    assert record.order() == order.with_token("")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if b"ghp_of_the_test" in file.read_bytes()]
    record.end(BuildFailed(build_id=order.build_id, error="why", at_ms=1))
    assert not record.wants_token()


def test_an_end_that_was_told_is_forgotten_after_a_week(tmp_path: Path) -> None:
    """Not before, and not the build that has not ended, however old it is."""
    records = _records(tmp_path)
    told, fresh, unended = (records.add(_order()) for _ in range(3))
    assert told is not None
    assert fresh is not None
    assert unended is not None
    for record in (told, fresh):
        record.tell()
    week_ago = time.time() - KEEP_S - 60
    for record in (told, unended):
        os.utime(tmp_path / record.build_id, (week_ago, week_ago))
    records.forget_old()
    assert {path.name for path in tmp_path.iterdir()} == {fresh.build_id, unended.build_id}
