"""One run over many items: what is done already is left alone, the rest is worked on, and a manifest says what became of all."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.errors import ConfigError
from services.batch.cluster import Cluster, run_on_ray
from services.batch.fetching import spooled
from services.batch.local import Processes, Shares
from services.batch.records import MANIFESTS, Assignment, Ledger, Record
from services.batch.sources import STDIN, Item, find_items, named, read_manifest, real_address, refuse_collisions
from services.batch.storage import Storage
from services.batch.work import digest_of

Task = Literal["tag", "separate", "segment"]
Check = Literal["content", "size"]
Watch = Callable[[float], None]
"""Is told now and then how many bytes of the items at work are done."""

_KINDS = {  # module, and what outputs may end with where the options do not say
    "tag": ("services.batch.text", (".jsonl",)),
    "separate": ("services.batch.sound", (".wav", ".flac")),
    "segment": ("services.batch.volumes", (".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".zarr", ".dcm")),
}


@dataclass(frozen=True)
class Run:
    """What a run is to do.

    Attributes:
        task: tag, separate or segment.
        inputs: files, folders, globs, fsspec addresses.
        out: the output folder, a path or an fsspec address.
        bundles: addresses; several for tag, where the script of a text chooses.
        options: of the task.
        manifests: files that name inputs; see `services.batch.sources.read_manifest`.
        name: template of the outputs' names.
        processes: of the local engine; None takes one for each processor.
        cluster: work there instead of on this machine.
        retry_failed: work again on what failed before.
        fail_fast: end at the first item that fails.
        check: of outputs that are there: their content (SHA-256), or their size alone.
        patience: seconds for which a file system that does not answer is asked again.
    """

    task: Task
    inputs: Sequence[str]
    out: str
    bundles: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    manifests: Sequence[str] = ()
    name: str | None = None
    processes: int | None = None
    cluster: Cluster | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    check: Check = "content"
    patience: float = 120.0


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what is done.

    Attributes:
        items: all, in the inputs' order, by key.
        known: records that stand.
        stale: records that do not stand.
        damaged: keys that were done, and whose outputs are not whole any more.
    """

    assignment: Assignment
    items: dict[str, Item]
    known: dict[str, Record]
    stale: dict[str, Record]
    damaged: set[str]

    @property
    def todo(self) -> dict[str, Item]:
        """What is to be worked on."""
        return {key: item for key, item in self.items.items() if key not in self.known}


def run(
    task: Task,
    inputs: Iterable[str],
    out: str | Path,
    *,
    bundles: Iterable[str | Path],
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Record]:
    """Work on every input, and yield what became of each: first of those that were done before, then as they are done.

    Args:
        task: tag, separate or segment.
        inputs: files, folders, globs, fsspec addresses.
        out: the output folder.
        bundles: addresses of bundles.
        options: of the task: ``layout`` and ``ending`` to separate; those of `services.batch.volumes.Wanted` to segment.
        **settings: the others of `Run`.

    Raises:
        InputError: an input is missing.
        ConfigError: settings that do not fit together.
        StorageError: the output folder cannot be used; what is done is recorded, and the next run goes on from there.
    """
    wanted = Run(task, list(inputs), str(out), [str(bundle) for bundle in bundles], options or {}, **settings)
    with started(wanted) as (planned, records):
        yield from planned.known.values()
        yield from records


@contextmanager
def started(wanted: Run, watch: Watch = lambda part: None) -> Iterator[tuple[Plan, Iterator[Record]]]:
    """A run under its lock: its plan, and records as they are made. When the last was taken, the manifest is written.

    Args:
        wanted: the run.
        watch: is told how far the items at work are.
    """
    storage = Storage.at(wanted.out, wanted.patience)
    with storage.lock(), spooled() if STDIN in wanted.inputs else nullcontext() as spool:
        planned = plan(wanted, spool)
        with closing(_records(wanted, planned, storage, watch)) as records:
            yield planned, records


def _records(wanted: Run, planned: Plan, storage: Storage, watch: Watch) -> Generator[Record, None, None]:
    made = dict(planned.known)
    with closing(_engine(wanted, planned, watch)) as records:
        for record in records:
            if record is not None:
                made[record.key] = record
                yield record
                if record.status == "failed" and wanted.fail_fast:
                    break
    ledger = Ledger(storage)
    if len(made) < len(planned.items):  # others may have been done while the run ended
        late = ledger.read([key for key in planned.items if key not in made])
        for key, record in late.items():
            if record != planned.stale.get(key):
                made[key] = record
                yield record
    storage.settle()
    ledger.write_manifest([made[key] for key in planned.items if key in made])
    storage.settle()


def _engine(wanted: Run, planned: Plan, watch: Watch) -> Generator[Record | None, None, None]:
    items = sorted(planned.todo.values(), key=lambda item: -item.size)  # the longest first: nobody waits for it in the end
    if not items:
        return
    if wanted.cluster is not None:
        yield from run_on_ray(planned.assignment, items, wanted.cluster, fail_fast=wanted.fail_fast)
        return
    with Processes(planned.assignment, Shares.of(len(items), wanted.processes)) as processes:
        for record in processes.run(items):
            watch(processes.under_way())
            yield record


def plan(wanted: Run, spool: Path | None = None) -> Plan:
    """What a run would do; nothing is worked on, and nothing written.

    Args:
        wanted: the run.
        spool: where stdin was put.

    Raises:
        InputError: an input is missing.
        ConfigError: settings that do not fit together, such as two inputs of one output.
        BundleError: a bundle is missing or damaged.
    """
    storage = Storage.at(wanted.out, wanted.patience)
    items = _without_outputs(_items(wanted, spool), wanted, storage)
    if own := {real_address(given) for given in wanted.manifests} & {storage.address(name) for name in MANIFESTS}:
        fix = "Choose another --out folder, or call it otherwise."
        raise ConfigError("the run would overwrite its manifest", where="--manifest", got=own.pop(), fix=fix)
    refuse_collisions(items, storage.address, _endings(wanted), MANIFESTS)
    bundles = tuple(str(Path(bundle).resolve()) if Path(bundle).exists() else bundle for bundle in wanted.bundles)
    digests, out = tuple(map(digest_of, bundles)), storage.home
    assignment = Assignment(wanted.task, bundles, digests, dict(wanted.options), out, wanted.patience, spool)
    keyed = {assignment.key(item): item for item in items}
    ledger = Ledger(storage)
    records = ledger.read(list(keyed))
    damaged = ledger.damaged(records.values(), content=wanted.check == "content")
    again = {key for key, record in records.items() if record.error and (wanted.retry_failed or record.error["passing"])}
    known = {key: records[key] for key in keyed if key in records and key not in damaged | again}
    stale = {key: record for key, record in records.items() if key not in known}
    return Plan(assignment, keyed, known, stale, damaged)


def _items(wanted: Run, spool: Path | None) -> list[Item]:
    module = importlib.import_module(_KINDS[wanted.task][0])
    whole = getattr(module, "is_volume", None)
    items = find_items([given for given in wanted.inputs if given != STDIN], module.SUFFIXES, whole)
    items += [item for each in wanted.manifests for item in read_manifest(each, module.SUFFIXES, whole)]
    if spool is not None:
        with spool.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        items.append(Item(STDIN, "stdin", spool.stat().st_size, digest))
    if not items:
        raise ConfigError("nothing to work on", where="INPUT", expected="files, folders, globs, addresses or --manifest FILE")
    if wanted.name:
        items = named(items, wanted.name)
    return list({item.address: item for item in items}.values())


def _without_outputs(items: list[Item], wanted: Run, storage: Storage) -> list[Item]:
    """Where outputs lie among the inputs, those of earlier runs are no inputs of this one, unless they are named."""
    home = storage.home
    named_ones = {real_address(given) for given in wanted.inputs}
    places = {item.address: real_address(item.address) for item in items}
    if not any(place.startswith(home + "/") for place in places.values()):
        return items
    inside = any(home.startswith(given.rstrip("/") + "/") for given in named_ones)  # a folder of outputs within one of inputs
    made = Ledger(storage).outputs()
    kept = [
        item
        for item in items
        if (place := places[item.address]) in named_ones or not (place in made or (inside and place.startswith(home + "/")))
    ]
    if not kept:
        raise ConfigError("nothing to work on", where="INPUT", expected="files that no run has made", got="outputs alone")
    return kept


def _endings(wanted: Run) -> tuple[str, ...]:
    given = wanted.options.get("ending") or wanted.options.get("suffix")
    return (given,) if given else _KINDS[wanted.task][1]
