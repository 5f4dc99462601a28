"""Transactions of many that are committed at once.

What comes while one is being committed is done in the next, one after the other on one connection:
a disk's wait is shared, and so are the ways to the store and back.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError

MOST_AT_ONCE = 64
_T = TypeVar("_T")
_AFTER = "after_commit"
Work = Callable[[Session], _T]
"""What is done in a transaction. A CakeworkError is raised before anything is written; whatever
else is raised takes back what was written with it."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]


class _WorkFailed(Exception):
    """Work was broken off by what is its cause; the transaction is to be taken back."""


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Have ``call`` called, by the loop, when what ``session`` writes is committed; of what is done
    together once, however often it is asked for.
    """
    calls: dict[Callable[[], None], None] | None = session.info.get(_AFTER)
    if calls is not None:
        calls[call] = None
        return

    def committed(_: Session) -> None:
        call()

    event.listen(session, "after_commit", committed, once=True)


def let_go(error: BaseException) -> None:
    """Let go of what was held where ``error`` was raised, for as long as somebody has the error.

    Among that may be a result that was not read to its end. As long as there is one, SQLite goes on
    with what its connection saw then: it reads nothing newer, and writes nothing.
    """
    traceback.clear_frames(error.__traceback__)


class Together:
    """Does work in transactions, as much in each as has come meanwhile."""

    def __init__(
        self, transaction: Callable[[Callable[[Connection], list[Any]]], Awaitable[list[Any]]]
    ) -> None:
        """``transaction`` calls what it is given with a connection, and commits."""
        self._transaction = transaction
        self._waiting: deque[_Job] = deque()
        self._running: asyncio.Task[None] | None = None

    async def do(self, work: Work[_T]) -> _T:
        """Do ``work``, and return what that does when it is committed.

        It is done to its end, whoever waits for it.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(work, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await done

    async def close(self) -> None:
        """Return when all is done."""
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), MOST_AT_ONCE)
            jobs = [self._waiting.popleft() for _ in range(count)]
            if not await self._all(jobs):
                for job in jobs:
                    await self._all([job])

    async def _all(self, jobs: list[_Job]) -> bool:
        """Do jobs in one transaction; False: one failed of several, and none was done."""
        works = [job.work for job in jobs]
        after: dict[Callable[[], None], None] = {}
        try:
            outcomes = await self._transaction(lambda connection: _each(works, connection, after))
        except _WorkFailed as failed:
            if len(jobs) > 1:
                return False
            outcomes = [failed.__cause__]
        except Exception as error:  # whoever waits has it raised
            outcomes = [error] * len(jobs)
        else:
            for call in after:
                call()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.done.done():
                continue
            if isinstance(outcome, BaseException):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)
        return True


def _each(
    works: list[Work[Any]], connection: Connection, after: dict[Callable[[], None], None]
) -> list[Any]:
    return [_one(work, connection, after) for work in works]


def _one(work: Work[Any], connection: Connection, after: dict[Callable[[], None], None]) -> Any:
    with Session(
        connection,
        join_transaction_mode="rollback_only",
        expire_on_commit=False,
        autoflush=False,
        info={_AFTER: after},
    ) as session:
        try:
            result = work(session)
            session.flush()
        except CakeworkError as error:
            let_go(error)
            return error
        except Exception as error:
            let_go(error)
            raise _WorkFailed from error
        return result
