"""Processes of this machine: each loads the bundles once, on its own threads, and works on one item at a time.

A process that dies takes one item with it: that is recorded as failed, and another process takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path
from typing import Any

from models.runtime import one_thread_a_run
from models.runtime import threads as usable
from services.batch.records import Assignment, Ledger, Record, WorkerDiedError
from services.batch.sources import Item
from services.batch.storage import Storage
from services.batch.work import Handler, open_handler, process

_LOOK_SECONDS = 0.2
_FIRST_PROCESSES = 0xEFFFFFFC  # Linux's number of the namespace of processes that is no container's


@dataclass(frozen=True)
class Shares:
    """How the processors are shared out: `processes`, each with `threads`."""

    processes: int
    threads: int

    @staticmethod
    def of(items: int, processes: int | None = None) -> Shares:
        """One process a processor, or as many as there are items; what is left over goes to their threads."""
        cores = usable()
        count = max(1, min(processes or cores, items))
        return Shares(count, max(1, cores // count))


_AtWork = dict[Future[Record], tuple[Item, int]]  # items that are with the pool, and their places among the parts


class Processes:
    """A pool of processes for an assignment.

    Args:
        assignment: what is done with each item.
        shares: how many there are, and their threads.
        runs: that may be under way at a time, each in a thread of its own.
    """

    def __init__(self, assignment: Assignment, shares: Shares, runs: int = 1) -> None:
        from pebble import ProcessPool

        context = multiprocessing.get_context("spawn")
        self._assignment = assignment
        many = 2 * shares.processes  # items of a run that are with the pool: each process finds its next one waiting
        self._places = [list(range(run * many, (run + 1) * many)) for run in range(runs)]
        self._parts: Any = context.Array("d", runs * many, lock=False)
        self._runs: dict[int, _AtWork] = {}  # by their first place
        given = (assignment, shares.threads, self._parts)
        self._pool = ProcessPool(shares.processes, initializer=_begin, initargs=given, context=context)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: object, *others: object) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()

    def run(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        """Records as they are made, in any order; None now and then, for whoever shows how far it is.

        What is with the pool when nobody wants another record is broken off.

        Raises:
            StorageError, BundleError: the run cannot go on.
        """
        places = self._places.pop()
        at_work = self._runs[places[0]] = {}
        try:
            yield from self._records(items, at_work, list(places))
        finally:
            for future in at_work:
                future.cancel()
            del self._runs[places[0]]
            self._places.append(places)

    def _records(self, items: Iterable[Item], at_work: _AtWork, free: list[int]) -> Iterator[Record | None]:
        waiting = iter(items)
        while True:
            while free and (item := next(waiting, None)) is not None:
                place = free.pop()
                self._parts[place] = 0.0
                at_work[self._pool.schedule(_work, args=(item, place))] = (item, place)
            if not at_work:
                return
            for future in wait(at_work, _LOOK_SECONDS, FIRST_COMPLETED).done:
                item, place = at_work.pop(future)
                free.append(place)
                self._parts[place] = 0.0
                yield self._outcome(future, item)
            yield None

    def under_way(self) -> float:
        """Bytes of items that are done in part, added up."""
        return float(sum(self._parts[place] * item.size for run in self._runs.values() for item, place in run.values()))

    def _outcome(self, future: Future[Record], item: Item) -> Record:
        from pebble import ProcessExpired

        try:
            return future.result()
        except ProcessExpired as died:
            ledger, key = Ledger(Storage.at(self._assignment.out, self._assignment.patience)), self._assignment.key(item)
            if found := ledger.done(key):  # it died just after
                return found
            record = Record.failed(item, key, _died(item, died.exitcode))
            ledger.write(record)
            return record


def _died(item: Item, code: int) -> WorkerDiedError:
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    fix = "Memory may have run out: try fewer --processes." if killed else "Its content may be the cause."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
    return WorkerDiedError("the process that worked on it died", where=item.address, got=name, fix=fix)


class _Here:
    """What a process of the pool has."""

    assignment: Assignment
    handler: Handler | None = None
    parts: Any
    seat: Sequence[socket.socket] = ()


def _begin(assignment: Assignment, threads: int, parts: Any) -> None:
    """Runs first in each process."""
    _take_seat(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the run, which stops its processes
    os.environ["CONVOY_THREADS"] = str(threads)
    one_thread_a_run()  # or an item done when few are left would have other bytes than among many
    _Here.assignment, _Here.parts = assignment, parts
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _take_seat(threads: int) -> None:
    """Stay on processors that no other process of a batch run stays on, if there are `threads` of them: processes that wander
    lose what their caches hold.

    Who sits where is known by sockets without a file, one a processor: the kernel takes them back from a process that dies, and
    processes of other runs, and of Ray's actors, see them too. Not those in a container with a network of its own, whose sockets
    nobody else sees: there processes wander.
    """
    if sys.platform != "linux" or _in_container() or usable() < len(processors := sorted(os.sched_getaffinity(0))):
        return  # a quota, in a container: its processors may be everybody's
    for first in range(0, len(processors) - threads + 1, threads):
        chosen = processors[first : first + threads]
        if seat := _reserved(chosen):
            _Here.seat = seat
            for thread in Path("/proc/self/task").iterdir():  # libraries have begun some
                with suppress(ProcessLookupError):  # one that has ended meanwhile
                    os.sched_setaffinity(int(thread.name), chosen)
            return


def _in_container() -> bool:
    """Whether this process is in a container; if in doubt, yes: to wander costs little, to share one processor half the speed."""
    if "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv"))):
        return True
    try:
        if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PROCESSES:
            return True
        return Path("/proc/self/ns/net").stat().st_ino != Path("/proc/1/ns/net").stat().st_ino
    except PermissionError:  # only root may ask of the first process
        return False
    except OSError:
        return True


def _reserved(processors: Sequence[int]) -> list[socket.socket]:
    """What holds these processors until it is closed; nothing where one of them is taken."""
    held: list[socket.socket] = []
    for processor in processors:
        held.append(socket.socket(socket.AF_UNIX))
        try:
            held[-1].bind(f"\0convoy-batch-processor-{processor}")
        except OSError:
            for each in held:
                each.close()
            return []
    return held


def _end_with_parent() -> None:
    """A run that was killed leaves nobody behind who still works."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)


def _work(item: Item, place: int) -> Record:
    if _Here.handler is None:
        _Here.handler = open_handler(_Here.assignment)

    def progress(done: float, total: float) -> None:
        _Here.parts[place] = min(done / total, 1.0) if total > 0 else 0.0

    return process(item, _Here.assignment, _Here.handler, progress)
