"""The same work on a Ray cluster: rows are addresses, sizes and tags; actors open, work and write.

Each actor keeps one process of `services.batch.local`, so that an item that kills its process is recorded here as it is on one
machine. An actor that is lost with its node is started elsewhere, and its items are given again: what was recorded is not done
twice.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import ConfigError, ConvoyError
from services.batch.local import Processes, Shares
from services.batch.records import Assignment, Ledger, Record
from services.batch.sources import Item
from services.batch.storage import Storage, StorageError

_ROWS_A_BLOCK = 8
_CALLS = 2  # of an actor at a time, in threads: its process finds items of the next block waiting when those of one end
_COLUMNS = ("address", "output", "size", "tag", "folder")


@dataclass(frozen=True)
class Cluster:
    """Where, and how much of it.

    Attributes:
        address: of the cluster (``ray://…``, ``HOST:PORT``, ``auto``); None starts one on this machine.
        actors: most of them at a time; None takes one for each processor that the cluster has now. A cluster that grows by
            itself grows as far as this.
        processors: of each actor.
    """

    address: str | None = None
    actors: int | None = None
    processors: int = 1


class _Actor:
    """Works on the items of its rows; where the run is to end at the first failure, on none after its own first."""

    def __init__(self, assignment: Assignment, processors: int, fail_fast: bool) -> None:
        self._assignment, self._fail_fast, self._ended = assignment, fail_fast, False
        self._ledger = Ledger(Storage.at(assignment.out, assignment.patience))
        self._processes = Processes(assignment, Shares(1, processors), runs=_CALLS)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Rows: their records, in any order. What ends the run is last, pickled: raised here, it would be an error of Ray's."""
        items = [Item(*row) for row in zip(*(batch[name].tolist() for name in _COLUMNS), strict=True)]
        rows: list[tuple[str, bytes]] = []
        try:
            rows.extend((record.to_json(), b"") for record in self._run(items))  # what came before an error stays
        except ConvoyError as problem:
            rows.append(("", pickle.dumps(problem)))
        return {"record": [record for record, _ in rows], "problem": [problem for _, problem in rows]}

    def _run(self, items: Sequence[Item]) -> Iterator[Record]:
        """All at once, so that the process finds its next item waiting."""
        left = []
        for item in [] if self._ended else items:
            found = self._ledger.done(self._assignment.key(item))
            if found and not self._ledger.damaged([found]):
                yield found  # the actor before this one came so far
            else:
                left.append(item)
        with closing(self._processes.run(left)) as records:
            for record in records:
                if record is not None:
                    yield record
                    if self._fail_fast and record.status == "failed":
                        self._ended = True
                        return


def run_on_ray(assignment: Assignment, items: Sequence[Item], cluster: Cluster, *, fail_fast: bool = False) -> Iterator[Record]:
    """Records as they are made, in any order; if `fail_fast`, no actor goes on after a failure of its own.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = _ray()
    if any(item.address == "-" for item in items):
        raise ConfigError("stdin does not reach a cluster", where="INPUT", expected="files that its machines can reach")
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    try:
        calls = 1 if fail_fast else _CALLS  # a second one would go on after the first one's failure
        now = max(1, int(ray.cluster_resources().get("CPU", 1)) // cluster.processors)
        most = cluster.actors or now
        blocks = max(min(len(items), 4 * most), len(items) // _ROWS_A_BLOCK)
        rows = ray.data.from_items([asdict(item) for item in items], override_num_blocks=blocks)
        done = rows.map_batches(
            _Actor,
            fn_constructor_args=(assignment, cluster.processors, fail_fast),
            batch_size=None,  # all rows of a block
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=most,
                initial_size=min(most, now),
                max_concurrent_calls_per_actor=calls,
                enable_true_multi_threading=True,
            ),
            num_cpus=cluster.processors,
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise pickle.loads(row["problem"])
            yield Record.from_json(row["record"])
    except ray.exceptions.RayError as problem:
        got = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise StorageError("the cluster failed", got=got, fix="Start the run again: it goes on.") from problem
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as problem:
        fix = "Run `make dev` once, then `.venv-dev/bin/convoy` in place of `convoy`."
        raise ConfigError("Ray is not installed", where="--engine", got=problem, fix=fix) from problem
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    try:
        ray.init(address=cluster.address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as problem:
        fix = "See that the cluster runs and that its version of Ray is this one's."
        raise ConfigError("the cluster cannot be reached", where="--address", got=problem, fix=fix) from problem
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
