"""Transactions of many that are committed at once.

What comes while one is being committed is done in the next, one after the other on one connection:
a disk's wait is shared, and so are the ways to the store and back.

Accounts have as much of the time, however much each asks for: what is done next is that of whose
work took least of late, and a transaction that took long has no more put into it.
"""

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError

MOST_AT_ONCE = 64
LONG_S = 0.1
"""After which a transaction is committed: what is left is for the next."""
NOBODY = ""
"""For whom work is done that is of no one account."""
_USUAL_S = 0.001
_T = TypeVar("_T")
_AFTER = "after_commit"
Work = Callable[[Session], _T]
"""What is done in a transaction. A CakeworkError is raised before anything is written; whatever
else is raised takes back what was written with it."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]
    whose: str


@dataclass(slots=True)
class _Share:
    """What of one account waits, how long its work took in all, and each of it at last."""

    spent_s: float
    each_s: float = _USUAL_S
    jobs: deque[_Job] = field(default_factory=deque[_Job])


class _Line:
    """What waits. Whoever comes has had as much time as who of those that wait had least: nobody
    saves any, and nothing is kept of who owes none."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._now_s = 0.0

    def __bool__(self) -> bool:
        return any(share.jobs for share in self._shares.values())

    def add(self, job: _Job) -> None:
        """Have a job wait."""
        self._of(job.whose).jobs.append(job)

    def next(self, most: int) -> list[_Job]:
        """Take the jobs that are to be done next; of each it is supposed how long it takes."""
        jobs: list[_Job] = []
        waiting = [share for share in self._shares.values() if share.jobs]
        while waiting and len(jobs) < most:
            share = min(waiting, key=lambda share: share.spent_s)
            share.spent_s += share.each_s
            jobs.append(share.jobs.popleft())
            if not share.jobs:
                waiting.remove(share)
        return jobs

    def took(self, jobs: Sequence[_Job], times_s: Sequence[float]) -> None:
        """Count how long the first of some jobs took; the others wait again, as before."""
        for job, time_s in zip(jobs, times_s, strict=False):
            share = self._of(job.whose)
            share.spent_s += time_s - share.each_s
        for job in reversed(jobs[len(times_s) :]):
            share = self._of(job.whose)
            share.spent_s -= share.each_s
            share.jobs.appendleft(job)
        for job, time_s in zip(jobs, times_s, strict=False):
            self._of(job.whose).each_s = time_s
        waiting = [share.spent_s for share in self._shares.values() if share.jobs]
        self._now_s = max(self._now_s, min(waiting, default=self._now_s))
        self._shares = {
            whose: share
            for whose, share in self._shares.items()
            if share.jobs or share.spent_s > self._now_s
        }

    def _of(self, whose: str) -> _Share:
        share = self._shares.setdefault(whose, _Share(self._now_s))
        if not share.jobs:
            share.spent_s = max(share.spent_s, self._now_s)
        return share


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
        self._line = _Line()
        self._alone = 0
        """So many are to be done by themselves, since one of several failed."""
        self._running: asyncio.Task[None] | None = None

    async def do(self, work: Work[_T], whose: str = NOBODY) -> _T:
        """Do ``work`` of the account ``whose``, and return what that does when it is committed.

        It is done to its end, whoever waits for it.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._line.add(_Job(work, done, whose))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await done

    async def close(self) -> None:
        """Return when all is done."""
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        while self._line:
            jobs = self._line.next(1 if self._alone else MOST_AT_ONCE)
            self._alone = max(0, self._alone - 1)
            self._line.took(jobs, await self._all(jobs))

    async def _all(self, jobs: list[_Job]) -> list[float]:
        """Do jobs in one transaction, as many as there is time for; return how long each took that
        was done. Where one of several fails, none was."""
        works = [job.work for job in jobs]
        after: dict[Callable[[], None], None] = {}
        times_s: list[float] = []
        try:
            outcomes = await self._transaction(
                lambda connection: _each(works, connection, after, times_s)
            )
        except _WorkFailed as failed:
            if len(jobs) > 1:
                self._alone = len(times_s)
                return []
            outcomes = [failed.__cause__]
        except Exception as error:  # whoever waits has it raised
            outcomes = [error] * len(times_s or jobs)
        else:
            for call in after:
                call()
        for job, outcome in zip(jobs, outcomes, strict=False):
            if job.done.done():
                continue
            if isinstance(outcome, BaseException):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)
        return (times_s + [_USUAL_S] * len(outcomes))[: len(outcomes)]


def _each(
    works: list[Work[Any]],
    connection: Connection,
    after: dict[Callable[[], None], None],
    times_s: list[float],
) -> list[Any]:
    """Do work until that took long; ``times_s`` gets what each took."""
    times_s.clear()
    outcomes: list[Any] = []
    began_s = time.monotonic()
    for work in works:
        since_s = time.monotonic()
        if outcomes and since_s - began_s > LONG_S:
            break
        try:
            outcomes.append(_one(work, connection, after))
        finally:
            times_s.append(time.monotonic() - since_s)
    return outcomes


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
