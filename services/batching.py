"""Adaptive batching across requests, for any kind of item.

BentoML has batchable endpoints of its own. They do not fit here: such an endpoint takes exactly one list argument (so no
``model`` beside the texts), one exception fails every request that happened to share the batch, and a request of 1,000 texts
goes through as one piece in front of everybody else's single sentence. A `Batcher` instead

- adds no waiting: whenever its worker thread is free it takes what is queued, so an idle service answers at once and a
  busy one forms larger batches by itself, but none that takes long, by the speed that was measured; where more than a batch
  waits, more threads may work beside it, each on a full one;
- lets nobody wait for a large item: one that is several batches by itself leaves a thread to the others;
- answers per item, with a value or an exception: a batch that fails is halved until the guilty items are alone;
- is fair by cost (after start-time fair queueing, Goyal et al. 1996): a small request overtakes the rest of a large one, and
  nobody starves;
- bounds what waits: past the bound a call is turned away at once with the time after which to come back (HTTP 429);
- drops the items of a caller who has gone away.

Everything except the work itself happens on the event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from models.errors import UnavailableError
from services import metrics, tracing

if TYPE_CHECKING:
    from opentelemetry.context import Context

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Work = Callable[[list[Item]], Sequence[Answer | Exception]]

_LONGEST_RETRY = 60
_LEAST_BATCH = 0.05  # of `batch_cost`, however slow the work is: together is cheaper
_LARGE = 4  # batches: an item that is more than that has company, and none of its kind beside it


class BusyError(UnavailableError):
    """The queue is full; `retry_after` is the number of seconds after which there should be room (HTTP 429)."""

    code, status = "busy", 429

    def __init__(self, problem: str, *, retry_after: int = 1, where: str = "", expected: str = "") -> None:
        super().__init__(problem, where=where, expected=expected, fix=f"Send the request again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(eq=False)
class _Request(Generic[Item, Answer]):
    """One call of `Batcher.submit`: what still waits, and the answers so far."""

    items: Sequence[Item]
    costs: list[int]
    done: asyncio.Future[list[Answer | Exception]]
    waiting: deque[int] = field(default_factory=deque)
    answers: dict[int, Answer | Exception] = field(default_factory=dict)
    trace: Context | None = field(default_factory=tracing.here)
    since: float = field(default_factory=time.perf_counter)  # when the wait that is traced began

    def settle(self, index: int, answer: Answer | Exception) -> None:
        self.answers[index] = answer
        if len(self.answers) == len(self.items) and not self.done.done():
            self.done.set_result([self.answers[position] for position in range(len(self.items))])


_Batch = list[tuple[_Request[Item, Answer], int]]  # items by their places in their requests
_Waiting = tuple[float, int, _Request[Item, Answer]]  # start tag, arrival, request


class Batcher(Generic[Item, Answer]):
    """Runs `work` on batches collected from all callers.

    Args:
        work: gets a list of items in a worker thread and returns as many answers; an answer may be an exception. Exceptions it
            raises are traced to the items that cause them.
        cost: the size of an item, e.g. its characters; at least 1 is counted.
        batch_cost: items are added to a batch up to this cost; an item above it runs alone.
        queue_cost: what may wait. A call on an empty queue is always accepted.
        name: of the worker threads, and in messages.
        at_once: batches that may be worked on at a time, where that many full ones wait; or a large item and what came after it.
        task: whose queue it is, in the metrics.
        batch_seconds: that a batch should take at most, by the speed that was measured: who comes meanwhile waits for its end.
    """

    def __init__(
        self,
        work: Work[Item, Answer],
        *,
        cost: Callable[[Item], int],
        batch_cost: int,
        queue_cost: int,
        name: str,
        task: str,
        at_once: int = 1,
        batch_seconds: float = 0.1,
    ) -> None:
        self._work, self._cost, self._batch_cost, self._queue_cost, self._name = work, cost, batch_cost, queue_cost, name
        self._waiting = partial(metrics.waiting, task)
        self._threads, self._at_once = ThreadPoolExecutor(at_once, thread_name_prefix=name), at_once
        self._batch_seconds = batch_seconds
        self._queue: list[_Waiting[Item, Answer]] = []  # a heap
        self._arrivals = itertools.count()
        self._virtual_time = 0.0  # the start tag of whoever arrives now
        self._queued_cost = 0
        self._speed = 0.0  # cost per second, of one thread
        self._large: _Batch[Item, Answer] = []  # the large item at work
        self._runners: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queued_cost(self) -> int:
        """Cost of everything that waits; what is being worked on is not counted."""
        return self._queued_cost

    async def submit(self, items: Sequence[Item]) -> list[Answer | Exception]:
        """Answers in the order of `items`, an exception standing for an item that failed.

        Raises:
            BusyError: the queue is full; nothing was accepted.
            UnavailableError: the batcher was closed.
        """
        if not items:
            return []
        request = self._enqueue(items)
        self._start_runners()
        try:
            return await request.done
        finally:
            self._drop(request)  # the caller may have been cancelled; no more than a flag otherwise

    async def close(self) -> None:
        """Turn away new calls, answer those that wait with `UnavailableError`, and let the batch at work finish."""
        self._closed = True
        for _, _, request in self._queue:
            if not request.done.done():
                request.done.set_exception(self._stopping())
            self._drop(request)
        self._queue.clear()
        if self._runners:
            await asyncio.wait(self._runners)
        self._threads.shutdown()

    def _stopping(self) -> UnavailableError:
        return UnavailableError("the service is stopping", where=self._name, fix="Send the request again in a moment.")

    def _enqueue(self, items: Sequence[Item]) -> _Request[Item, Answer]:
        if self._closed:
            raise self._stopping()
        costs = [max(1, self._cost(item)) for item in items]
        total = sum(costs)
        if self._queued_cost and self._queued_cost + total > self._queue_cost:
            raise self._full()
        request = _Request[Item, Answer](items, costs, asyncio.get_running_loop().create_future(), deque(range(len(items))))
        self._queued_cost += total
        self._waiting(len(items))
        heapq.heappush(self._queue, (self._virtual_time, next(self._arrivals), request))
        return request

    def _full(self) -> BusyError:
        seconds = math.ceil(self._queued_cost / (self._speed * len(self._runners))) if self._speed and self._runners else 1
        retry_after = min(max(seconds, 1), _LONGEST_RETRY)
        return BusyError("too much work is waiting", where=self._name, retry_after=retry_after)

    def _drop(self, request: _Request[Item, Answer]) -> None:
        if request.waiting:
            self._queued_cost -= sum(request.costs[index] for index in request.waiting)
            self._waiting(-len(request.waiting))
            request.waiting.clear()

    def _budget(self) -> int:
        """The cost of a full batch."""
        if not self._speed:
            return self._batch_cost
        least = max(1, int(self._batch_cost * _LEAST_BATCH))
        return max(least, int(min(self._batch_cost, self._speed * self._batch_seconds)))

    def _start_runners(self) -> None:
        """As many as what waits is worth."""
        while self._queue and len(self._runners) < min(
            self._at_once, max(1 + len(self._large), self._queued_cost // self._budget())
        ):
            self._runners.add(asyncio.get_running_loop().create_task(self._run()))

    def _take(self) -> _Batch[Item, Answer]:
        """The next batch: always the item with the smallest start tag; empty when nothing waits that may be worked on."""
        batch: _Batch[Item, Answer] = []
        later: list[_Waiting[Item, Answer]] = []  # a large item is at work already
        spent, budget = 0, self._budget()
        while self._queue:
            tag, arrival, request = self._queue[0]
            cost = request.costs[request.waiting[0]] if request.waiting else 0
            blocked = cost > _LARGE * budget and bool(self._large)
            if batch and spent + cost > budget and not blocked:
                break
            heapq.heappop(self._queue)
            if not request.waiting:  # its caller has gone
                continue
            if blocked:
                later.append((tag, arrival, request))
                continue
            batch.append((request, request.waiting.popleft()))
            spent += cost
            self._queued_cost -= cost
            self._virtual_time = max(self._virtual_time, tag)
            if request.waiting:
                heapq.heappush(self._queue, (tag + cost, arrival, request))
        # Time moves on by each waiting request's share, else a stream of newcomers would always be ahead of an old large request.
        self._virtual_time += spent / (len(self._queue) + len(later) + 1)
        for tag, arrival, request in later:  # with no credit for the time that it could not be worked on
            heapq.heappush(self._queue, (max(tag, self._virtual_time), arrival, request))
        if batch:
            self._waiting(-len(batch))
        if spent > _LARGE * budget:
            self._large = batch
        return batch

    async def _run(self) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while self._is_needed() and (batch := self._take()):
                self._start_runners()  # a large item needs somebody beside it
                started = time.perf_counter()
                answers = await self._answers([request.items[index] for request, index in batch])
                ended = time.perf_counter()
                self._large = [] if batch is self._large else self._large
                self._measure(sum(request.costs[index] for request, index in batch), ended - started)
                self._trace(batch, started, ended)
                for (request, index), answer in zip(batch, answers, strict=True):
                    request.settle(index, answer)
        finally:
            self._runners.discard(task)

    async def _answers(self, items: list[Item]) -> list[Answer | Exception]:
        """Of a thread; what it refuses is an answer too, else the next batch would never be taken."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, items)
        except RuntimeError as error:  # no thread can be started
            return [error] * len(items)

    def _is_needed(self) -> bool:
        """Whether one of the threads at work should take another batch."""
        return len(self._runners) <= 1 + len(self._large) or self._queued_cost >= self._budget()

    def _trace(self, batch: _Batch[Item, Answer], started: float, ended: float) -> None:
        for request in dict.fromkeys(request for request, _ in batch if request.trace is not None):
            tracing.past_span("queue", request.trace, request.since, started)
            tracing.past_span("predict", request.trace, started, ended, model=self._name, batch=len(batch))
            request.since = ended

    def _measure(self, cost: int, seconds: float) -> None:
        speed = cost / max(seconds, 1e-6)
        self._speed = 0.8 * self._speed + 0.2 * speed if self._speed else speed

    def _answer(self, items: list[Item]) -> list[Answer | Exception]:
        """Never raises: a batch that fails is halved, so that k guilty items of n cost about k·log2(n) further runs."""
        try:
            answers = list(self._work(items))
            if len(answers) != len(items):
                raise RuntimeError(f"{self._name}: {len(answers)} answers to {len(items)} items")
            return answers
        except Exception as error:  # noqa: BLE001 (whatever the work raises is the answer)
            if len(items) == 1:
                return [error]
        middle = len(items) // 2
        return self._answer(items[:middle]) + self._answer(items[middle:])
