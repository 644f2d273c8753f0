"""What became of each item: a record beside the outputs, by which the next run knows what is done, and the manifest of all.

The records lie below the output folder, in one file each: ``.convoy/done/KEY.json`` and ``.convoy/failed/KEY.json``. A key is the
digest of everything that decides the outputs, so a record holds as long as nothing of that changes. No time, host or count of
attempts is in them: the same inputs make the same bytes, however often a run was broken off, and on whatever engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from models.errors import ConvoyError, OutputError, UnavailableError
from services.batch.sources import Item
from services.batch.storage import OutputFile, Storage

_AT_ONCE = 16
_CONCEALED = ".convoy"
MANIFESTS = ("manifest.jsonl", "manifest.parquet")


class WorkerDiedError(ConvoyError):
    """The process that worked on an item died."""

    code = "worker_died"


class ChangedError(UnavailableError):
    """An input changed while it was read."""

    code = "input_changed"


@dataclass(frozen=True)
class Assignment:
    """What is done with every item of a run.

    Attributes:
        task: tag, separate or segment.
        bundles: addresses.
        digests: of the bundles.
        options: of the task, in plain values.
        out: the output folder: a path or an fsspec address.
        patience: seconds for which a file system that does not answer is asked again.
        stdin: the file that holds what came there.
    """

    task: str
    bundles: tuple[str, ...]
    digests: tuple[str, ...]
    options: Mapping[str, Any]
    out: str
    patience: float = 120.0
    stdin: Path | None = None

    def key(self, item: Item) -> str:
        """The identity of an item's outputs."""
        decides = [self.task, sorted(self.digests), sorted(self.options.items()), item.address, item.output, item.tag]
        return hashlib.sha256(json.dumps(decides, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


class Told(TypedDict):
    """An error, as it is recorded."""

    code: str
    message: str
    passing: bool


@dataclass(frozen=True)
class Record:
    """What became of an item.

    Attributes:
        output: the outputs' common name, without an ending.
        outputs: files, by name.
        facts: of the content: seconds, voxels, texts …
        error: its code and message, and whether it may pass by itself (``passing``).
    """

    input: str
    output: str
    size: int
    tag: str
    key: str
    status: Literal["done", "failed"]
    outputs: list[OutputFile] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: Told | None = None

    @classmethod
    def done(cls, item: Item, key: str, outputs: list[OutputFile], facts: dict[str, Any]) -> Record:
        return cls(item.address, item.output, item.size, item.tag, key, "done", outputs, facts)

    @classmethod
    def failed(cls, item: Item, key: str, error: Exception, workplace: Path | None = None) -> Record:
        """Of an error; names in the workplace, which are others at each attempt, become those below the output folder."""
        code = error.code if isinstance(error, ConvoyError) else "internal"
        message = error.message if isinstance(error, ConvoyError) else f"{type(error).__name__}: {error}"
        message = message.replace(f"{workplace}/", "") if workplace else message
        told: Told = {"code": code, "message": message, "passing": isinstance(error, UnavailableError | OutputError | OSError)}
        return cls(item.address, item.output, item.size, item.tag, key, "failed", error=told)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Raises ValueError where it is none."""
        try:
            record = _RECORD.validate_python(json.loads(text))
        except RecursionError as problem:
            raise ValueError("not a record") from problem
        if (record.status == "done") != bool(record.outputs) or (record.status == "failed") != bool(record.error):
            raise ValueError("not a record: it says two things")
        if any(PurePosixPath(each.path).is_absolute() or ".." in each.path.split("/") for each in record.outputs):
            raise ValueError("not a record: its outputs lie elsewhere")
        return record


_RECORD = TypeAdapter(Record)


class Ledger:
    """All records of an output folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write(self, record: Record) -> None:
        """Keep a record; a later one of the same key replaces it."""
        self._storage.write(_path(record.status, record.key), (record.to_json() + "\n").encode("utf-8", "surrogatepass"))
        if record.status == "done":
            self._storage.remove(_path("failed", record.key))

    def read(self, keys: Sequence[str]) -> dict[str, Record]:
        """The records there are of these keys; one that is damaged counts as none."""
        known = {status: self._storage.names(f"{_CONCEALED}/{status}") for status in ("done", "failed")}
        paths = {
            key: _path(status, key) for status in ("failed", "done") for key in keys if f"{key}.json" in known[status]
        }  # done comes last: it counts where there are both
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            contents = pool.map(self._storage.read, paths.values())
            found = {key: _parsed(content) for key, content in zip(paths, contents, strict=True)}
        return {key: record for key, record in found.items() if record is not None and record.key == key}

    def done(self, key: str) -> Record | None:
        """The record of this key, if its item is done; asks for that file alone."""
        record = _parsed(self._storage.read(_path("done", key)))
        return record if record is not None and record.key == key else None

    def outputs(self) -> set[str]:
        """Addresses of everything that runs have put here."""
        names = self._storage.names(f"{_CONCEALED}/done")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            records = map(_parsed, pool.map(self._storage.read, (f"{_CONCEALED}/done/{name}" for name in names)))
            paths = [output.path for record in records if record is not None for output in record.outputs]
        return {self._storage.address(path) for path in [*paths, *MANIFESTS]}

    def damaged(self, records: Iterable[Record], *, content: bool = True) -> set[str]:
        """Keys of records whose outputs are missing, or not what was written; by size alone, or by content too."""
        outputs = [(record.key, output) for record in records if record.status == "done" for output in record.outputs]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            whole = pool.map(lambda pair: self._storage.holds(pair[1], content=content), outputs)
            return {key for (key, _), sound in zip(outputs, whole, strict=True) if not sound}

    def write_manifest(self, records: Sequence[Record]) -> None:
        """``manifest.jsonl`` and, where pyarrow is installed, ``manifest.parquet``: a row for each item, in the inputs' order."""
        text = "".join(record.to_json() + "\n" for record in records)
        self._storage.write("manifest.jsonl", text.encode("utf-8", "surrogatepass"))
        if (table := _table(records)) is not None:
            self._storage.write("manifest.parquet", table)


def _spelt(value: Any) -> Any:
    """With escapes in names that are not Unicode, which Parquet does not hold."""
    if isinstance(value, dict):
        return {name: _spelt(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_spelt(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _path(status: str, key: str) -> str:
    return f"{_CONCEALED}/{status}/{key}.json"


def _parsed(content: bytes | None) -> Record | None:
    try:
        return Record.from_json(content) if content is not None else None
    except ValueError:
        return None


def _table(records: Sequence[Record]) -> bytes | None:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        return None
    output = pa.struct([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
    schema = pa.schema(
        [
            *(
                (name, pa.string())
                for name in ("input", "output", "tag", "key", "status", "error_code", "error_message", "facts")
            ),
            ("size", pa.int64()),
            ("outputs", pa.list_(output)),
        ]
    )
    rows = [
        {
            **asdict(record),
            "facts": json.dumps(record.facts, ensure_ascii=False),
            "error_code": record.error["code"] if record.error else None,
            "error_message": record.error["message"] if record.error else None,
        }
        for record in records
    ]
    table = pa.Table.from_pylist([_spelt(row) for row in rows], schema)
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content
