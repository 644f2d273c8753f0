"""The batcher: every caller gets its own answers whatever the interleaving, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UnavailableError
from services.batching import Batcher, BusyError


class Recorder:
    """Work that doubles numbers, fails on multiples of seven, and remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.seconds = seconds

    def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        time.sleep(self.seconds)
        if any(item % 7 == 0 for item in items):
            raise ValueError("a multiple of seven")
        return [2 * item for item in items]


def batcher(work, batch_cost=10, queue_cost=10_000, cost=lambda item: 1, at_once=1, batch_seconds=math.inf):
    bounds = {"batch_cost": batch_cost, "queue_cost": queue_cost, "at_once": at_once, "batch_seconds": batch_seconds}
    return Batcher(work, cost=cost, name="test", task="test", **bounds)


requests = st.lists(
    st.tuples(st.lists(st.integers(1, 10_000), max_size=12), st.integers(0, 3), st.booleans()), min_size=1, max_size=12
)


@given(requests, st.integers(1, 40), st.integers(1, 3), st.sampled_from([math.inf, 1e-3, 1e-9]))
def test_every_caller_gets_its_own_answers_and_errors_stay_with_their_items(calls, batch_cost, at_once, seconds):
    async def caller(pool, items, pauses):
        for _ in range(pauses):
            await asyncio.sleep(0)
        return await pool.submit(items)

    async def main():
        pool = batcher(Recorder(), batch_cost, cost=lambda item: item % 17, at_once=at_once, batch_seconds=seconds)
        tasks = [asyncio.ensure_future(caller(pool, items, pauses)) for items, pauses, _ in calls]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, calls, strict=True):
            if leaves:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()
        assert pool.queued_cost == 0
        return outcomes

    for (items, _, leaves), outcome in zip(calls, asyncio.run(main()), strict=True):
        if leaves and isinstance(outcome, asyncio.CancelledError):
            continue
        assert len(outcome) == len(items)
        for item, answer in zip(items, outcome, strict=True):
            assert isinstance(answer, ValueError) if item % 7 == 0 else answer == 2 * item


def test_batches_form_only_while_the_worker_is_busy():
    async def main():
        work = Recorder(0.05)
        pool = batcher(work, 100)
        await asyncio.gather(*(pool.submit([item]) for item in (1, 2, 3, 4)))
        await pool.submit([5])
        await pool.close()
        return work.batches

    # The callers of the same moment go together; the lone one after them is not kept waiting for company.
    assert asyncio.run(main()) == [[1, 2, 3, 4], [5]]


def test_the_cost_bounds_a_batch_and_a_large_item_goes_alone():
    async def main():
        work = Recorder()
        pool = batcher(work, 10, cost=lambda item: item)
        answers = await pool.submit([4, 5, 6, 50, 1])
        await pool.close()
        return work.batches, answers

    batches, answers = asyncio.run(main())
    assert batches == [[4, 5], [6], [50], [1]]
    assert answers == [8, 10, 12, 100, 2]


def test_a_small_request_overtakes_the_rest_of_a_large_one():
    async def main():
        work = Recorder(0.01)
        pool = batcher(work, 5)
        large = asyncio.ensure_future(pool.submit([1] * 200))
        await asyncio.sleep(0.03)
        await pool.submit([2])
        batches_until_answered = len(work.batches)
        await large
        await pool.close()
        return batches_until_answered, len(work.batches)

    until, total = asyncio.run(main())
    assert total == 41
    assert until <= 8


def test_a_steady_stream_of_small_requests_does_not_starve_a_large_one():
    async def main():
        pool = batcher(Recorder(0.001), 4)
        large = asyncio.ensure_future(pool.submit([1] * 50))

        async def stream():
            while not large.done():
                await pool.submit([2])

        streams = [asyncio.ensure_future(stream()) for _ in range(8)]
        answers = await asyncio.wait_for(large, 10)
        await asyncio.gather(*streams)
        await pool.close()
        return answers

    assert asyncio.run(main()) == [2] * 50


def test_a_full_queue_turns_calls_away_at_once_and_recovers():
    async def main():
        pool = batcher(Recorder(0.05), 1, queue_cost=3)
        first = asyncio.ensure_future(pool.submit([1] * 4))  # an empty queue takes any call
        await asyncio.sleep(0.02)
        with pytest.raises(BusyError) as caught:
            await pool.submit([2])
        assert 1 <= caught.value.retry_after <= 60
        assert caught.value.status == 429
        await first
        assert await pool.submit([3]) == [6]
        await pool.close()

    asyncio.run(main())


def test_the_items_of_a_cancelled_caller_are_not_worked_on():
    async def main():
        work = Recorder(0.05)
        pool = batcher(work, 1)
        leaving = asyncio.ensure_future(pool.submit([1] * 100))
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert pool.queued_cost == 0
        assert await pool.submit([2]) == [4]
        await pool.close()
        return work.batches

    assert asyncio.run(main()) == [[1], [2]]


def test_wrong_number_of_answers_is_an_error_of_each_item():
    async def main():
        pool = batcher(lambda items: [])
        answers = await pool.submit([1, 2])
        await pool.close()
        return answers

    assert [type(answer) for answer in asyncio.run(main())] == [RuntimeError, RuntimeError]


def test_closing_answers_those_who_wait_and_turns_away_the_rest():
    async def main():
        pool = batcher(Recorder(0.05), 1)
        waiting = [asyncio.ensure_future(pool.submit([item])) for item in (1, 2, 3)]
        await asyncio.sleep(0.02)
        await pool.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(UnavailableError):
            await pool.submit([4])
        return outcomes

    first, *others = asyncio.run(main())
    assert first == [2]  # it was being worked on
    assert all(isinstance(other, UnavailableError) for other in others)


def test_the_event_loop_stays_free_and_one_thread_does_the_work():
    names = set()

    def work(items):
        names.add(threading.current_thread().name)
        time.sleep(0.1)
        return items

    async def main():
        pool = batcher(work)
        task = asyncio.ensure_future(pool.submit([1]))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        await pool.close()
        return ticks

    assert asyncio.run(main()) >= 5
    assert names == {"test_0"}


def test_full_batches_are_worked_on_side_by_side_and_what_is_less_waits_to_be_one():
    together = threading.Barrier(2, timeout=20)
    sizes: list[int] = []
    busy = []

    def work(items):
        sizes.append(len(items))
        busy.append(None)
        if len(items) == 10 and items[0] < 20:
            together.wait()  # the first two are there at the same time, or this fails
        most = len(busy)
        time.sleep(0.02)
        busy.pop()
        return [most] * len(items)

    async def main():
        pool = batcher(work, at_once=2)
        full = await pool.submit(range(45))
        small = await asyncio.gather(*(pool.submit([number]) for number in range(9)))
        await pool.close()
        return full, small

    full, small = asyncio.run(main())
    assert sorted(sizes) == [5, 9, 10, 10, 10, 10]
    assert max(full) == 2
    assert small == [[1]] * 9


def test_nobody_waits_for_a_large_item_and_large_ones_take_turns():
    small_is_answered = threading.Event()
    at_work: list[int] = []
    most = []

    def work(items):
        if items[0] >= 50:
            at_work.append(items[0])
            most.append(len(at_work))
            assert small_is_answered.wait(20)
            at_work.remove(items[0])
        return items

    async def main():
        pool = batcher(work, cost=lambda item: item, at_once=2)
        large = [asyncio.ensure_future(pool.submit([number])) for number in (50, 60, 70)]
        await asyncio.sleep(0.02)
        for number in (1, 2, 3):
            assert await pool.submit([number]) == [number]
        assert not any(task.done() for task in large)
        small_is_answered.set()
        assert await asyncio.gather(*large) == [[50], [60], [70]]
        await pool.close()

    asyncio.run(main())
    assert most == [1, 1, 1]


def test_what_waits_already_does_not_wait_for_a_large_item():
    small_is_answered = threading.Event()

    def work(items):
        if items == [50]:
            assert small_is_answered.wait(20)
        return items

    async def main():
        pool = batcher(work, cost=lambda item: item, at_once=2)
        large, small = (asyncio.ensure_future(pool.submit([number])) for number in (50, 1))
        assert await asyncio.wait_for(small, 10) == [1]
        small_is_answered.set()
        assert await large == [50]
        await pool.close()

    asyncio.run(main())


def test_who_had_to_wait_for_a_large_item_does_not_hold_up_newcomers_afterwards():
    order: list[int] = []
    go = threading.Event()

    def work(items):
        assert items != [100] or go.wait(20)
        order.extend(items)
        time.sleep(0.001)
        return items

    async def main():
        pool = batcher(work, batch_cost=10, cost=lambda item: item, at_once=2)
        first = asyncio.ensure_future(pool.submit([100]))
        await asyncio.sleep(0.02)
        blocked = asyncio.ensure_future(pool.submit([50] + [1] * 400))
        for _ in range(100):
            await pool.submit([9])  # meanwhile others have their share
        go.set()
        await first
        await pool.submit([2])
        before = order.count(1)
        await blocked
        await pool.close()
        return before

    assert asyncio.run(main()) < 100
    assert order.count(1) == 400


def test_work_that_cannot_be_begun_is_an_error_and_the_next_is_done(monkeypatch):
    async def main():
        pool = batcher(Recorder(), cost=lambda item: item, at_once=2)
        with monkeypatch.context() as patch:
            patch.setattr(pool._threads, "submit", no_thread)
            [error] = await pool.submit([50])
        answers = await asyncio.wait_for(pool.submit([60, 1]), 10)
        await pool.close()
        return error, answers

    def no_thread(*_):
        raise RuntimeError("can't start new thread")

    error, answers = asyncio.run(main())
    assert isinstance(error, RuntimeError)
    assert answers == [120, 2]


@pytest.mark.parametrize("at_once", [1, 2])
def test_batches_of_slow_work_are_smaller(at_once):
    batches: list[int] = []

    def work(items):
        batches.append(len(items))
        time.sleep(0.002 * len(items))  # 500 a second at most, so 50 in a tenth of one
        return items

    async def main():
        pool = batcher(work, batch_cost=200, at_once=at_once, batch_seconds=0.1)
        await pool.submit(range(800))
        await pool.close()

    asyncio.run(main())
    assert batches[:at_once] == [200] * at_once
    assert len(batches) >= 8
    assert all(10 <= size <= 50 for size in batches[at_once + 1 : -1])


def test_nothing_is_kept_of_what_was_answered():
    async def main():
        pool = batcher(Recorder())
        for item in range(1, 500):
            await pool.submit([item])
        await pool.close()
        return len(pool._queue), pool.queued_cost

    assert asyncio.run(main()) == (0, 0)
