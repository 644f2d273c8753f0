"""What a run says while it goes, and at its end: a bar on a terminal, a line for each item elsewhere, then a summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tqdm import tqdm

from services.batch.records import Record
from services.batch.runs import Plan, Run, started

_BAR = "{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
_HOUR, _MINUTE = 3600.0, 60.0


def run_and_tell(wanted: Run) -> int:
    """Do a run and tell of it on stderr; returns how many items failed, those of earlier runs too."""
    began, fresh = time.monotonic(), Amounts()
    with _bar() as bar:
        with started(wanted, bar.part) as (planned, records):
            bar.begin(planned)
            for number, record in enumerate(records, len(planned.known) + 1):
                fresh.add(record)
                bar.done(number, record, fresh)
            failed = sum(record.status == "failed" for record in planned.known.values()) + fresh.statuses["failed"]
        _say(_summary(wanted, planned, fresh, time.monotonic() - began))
    return failed


def tell_plan(planned: Plan) -> None:
    """What a run would do, on stdout: a line for each item."""
    for key, item in planned.items.items():
        known = planned.known.get(key)
        state = known.status if known else "damaged" if key in planned.damaged else "new"
        sys.stdout.write(f"{state:<8} {item.size:>14} {item.address} → {item.output}\n")


class Amounts:
    """What records add up to."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self._facts: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        self.statuses[record.status] += 1
        self._facts.update({name: record.facts[name] for name in ("texts", "seconds", "voxels") if name in record.facts})

    def __str__(self) -> str:
        kinds: dict[str, Callable[[float], str]] = {
            "texts": lambda amount: f"{amount:,.0f} texts",
            "seconds": lambda amount: f"{_sound(amount)} of sound",
            "voxels": lambda amount: f"{amount / 1e6:,.1f} million voxels",
        }
        return ", ".join(kinds[name](amount) for name, amount in self._facts.items())

    def rate(self, seconds: float) -> str:
        """So much a second; of sound, how many times as fast as it sounds."""
        kinds: dict[str, Callable[[float], str]] = {
            "texts": lambda amount: f"{amount:,.0f} texts/s",
            "seconds": lambda amount: f"{amount:,.0f} times real time",
            "voxels": lambda amount: f"{amount / 1e6:,.2f} million voxels/s",
        }
        return ", ".join(kinds[name](amount / max(seconds, 1e-9)) for name, amount in self._facts.items())


class _Bar:
    """Counts bytes of input, which say more of the time that is left than files do."""

    def __init__(self, bar: tqdm) -> None:
        self._bar, self._began = bar, time.monotonic()
        self._items, self._bytes = 0, 0.0

    def begin(self, planned: Plan) -> None:
        self._items = len(planned.items)
        self._bar.total = sum(item.size for item in planned.todo.values())
        if planned.known:
            _say(f"{len(planned.known)} of {len(planned.items)} are done already, or failed before")
        if planned.damaged:
            _say(f"{len(planned.damaged)} were done, and their outputs are damaged or gone: they are done again")

    def part(self, part: float) -> None:
        """Bytes of the items at work that are done."""
        self._bar.n = self._bytes + part
        self._bar.refresh()

    def done(self, number: int, record: Record, amounts: Amounts) -> None:
        self._bytes += record.size
        self._bar.n = self._bytes
        rate = amounts.rate(time.monotonic() - self._began)
        self._bar.set_postfix_str(f"{number}/{self._items}, {amounts}, {rate}", refresh=False)
        if record.status == "failed":
            _say(f"{number}/{self._items} error: {record.error['message'] if record.error else ''}")
        elif self._bar.disable:
            _say(f"{number}/{self._items} {record.input}{_notes(record)}")


def _notes(record: Record) -> str:
    outputs = [output.path for output in record.outputs]
    told = ", ".join(f"{name} {amount}" for name, amount in record.facts.get("classes", {}).items())
    scaled = f", scaled by {record.facts['scale']:.3g} so that nothing clips" if "scale" in record.facts else ""
    notes = "".join(f" Note: {note}" for note in record.facts.get("notes", []))
    lasts = f" {record.facts['seconds']:.1f} s" if "seconds" in record.facts else ""
    texts = f" {record.facts['texts']} texts" if "texts" in record.facts else ""
    shown = ", ".join(outputs[:4]) + (f" and {len(outputs) - 4} more" if len(outputs) > 4 else "")
    return f":{lasts}{texts}{' ' + told if told else ''} → {shown}{scaled}{notes}"


def _summary(wanted: Run, planned: Plan, fresh: Amounts, seconds: float) -> str:
    before = Counter(record.status for record in planned.known.values())
    rows = [
        ("done", fresh.statuses["done"]),
        ("done before", before["done"]),
        ("failed", fresh.statuses["failed"]),
        ("failed before", before["failed"]),
        ("not begun", len(planned.todo) - sum(fresh.statuses.values())),
    ]
    lines = [f"{name:<14}{count:>8}" for name, count in rows if count or name == "done"]
    if amounts := str(fresh):
        lines.append(f"{amounts} in {seconds:.1f} s: {fresh.rate(seconds)}")
    if before["failed"]:
        lines.append("What failed before was left alone; --retry-failed works on it again.")
    lines.append(f"{wanted.out.rstrip('/')}/manifest.jsonl says what became of each.")
    if find_spec("pyarrow") is None:
        lines.append("There is no manifest.parquet: that needs pyarrow, which `make dev` installs.")
    return "\n".join(lines)


@contextmanager
def _bar() -> Iterator[_Bar]:
    with tqdm(disable=not sys.stderr.isatty(), leave=False, bar_format=_BAR, total=0) as bar:
        yield _Bar(bar)


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _sound(seconds: float) -> str:
    for unit, name in ((_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.2f} {name}"
    return f"{seconds:.1f} s"
