from __future__ import annotations

import json

import pytest

from models.errors import InputError, UnavailableError
from services.batch.records import Assignment, Ledger, Record
from services.batch.sources import Item
from services.batch.storage import OutputFile, Storage

ITEM = Item("/in/a.wav", "a", 3, "3-1")
TASK = Assignment("separate", ("b",), ("digest",), {"layout": "channels"}, "/out")


def test_a_key_changes_with_everything_that_decides_the_outputs_and_nothing_else():
    key = TASK.key(ITEM)
    elsewhere = Assignment("separate", ("c",), ("digest",), {"layout": "channels"}, "x")
    same = [TASK.key(Item("/in/a.wav", "a", 4, "3-1")), elsewhere.key(ITEM)]
    assert set(same) == {key}
    others = [
        TASK.key(Item("/in/b.wav", "a", 3, "3-1")),
        TASK.key(Item("/in/a.wav", "b", 3, "3-1")),
        TASK.key(Item("/in/a.wav", "a", 3, "3-2")),
        Assignment("tag", ("b",), ("digest",), {"layout": "channels"}, "/out").key(ITEM),
        Assignment("separate", ("b",), ("other",), {"layout": "channels"}, "/out").key(ITEM),
        Assignment("separate", ("b",), ("digest",), {"layout": "files"}, "/out").key(ITEM),
    ]
    assert len({key, *others}) == 7


def test_records_are_kept_and_a_later_success_replaces_a_failure(tmp_path):
    ledger = Ledger(Storage.at(str(tmp_path)))
    key = TASK.key(ITEM)
    ledger.write(Record.failed(ITEM, key, InputError("bad", where="a.wav")))
    [found] = ledger.read([key]).values()
    assert found.error == {"code": "input_invalid", "message": "a.wav: bad", "passing": False}
    assert Record.failed(ITEM, key, UnavailableError("busy")).error["passing"]
    assert Record.failed(ITEM, key, KeyError("x")).error["code"] == "internal"
    done = Record.done(ITEM, key, [OutputFile("a.wav", 1, "0")], {"seconds": 1.5})
    ledger.write(done)
    assert ledger.read([key, "unknown"]) == {key: done}
    assert (ledger.done(key), ledger.done("unknown")) == (done, None)
    assert list((tmp_path / ".convoy" / "failed").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"key": 1}', b"\xff", b"[" * 200_000])
def test_a_damaged_record_counts_as_none(tmp_path, content):
    storage, key = Storage.at(str(tmp_path)), TASK.key(ITEM)
    storage.write(f".convoy/done/{key}.json", content)
    assert Ledger(storage).read([key]) == {}


def test_a_record_in_the_place_of_another_counts_as_none(tmp_path):
    storage = Storage.at(str(tmp_path))
    storage.write(".convoy/done/other.json", Record.done(ITEM, "mine", [OutputFile("a", 1, "0")], {}).to_json().encode())
    assert Ledger(storage).read(["other"]) == {}


def test_the_manifest_says_what_became_of_all(tmp_path):
    import pyarrow.parquet

    records = [
        Record.done(ITEM, "1", [OutputFile("a.wav", 5, "00")], {"seconds": 1.5}),
        Record.failed(Item("/in/词.wav", "词"), "2", InputError("schlecht")),
    ]
    Ledger(Storage.at(str(tmp_path))).write_manifest(records)
    lines = (tmp_path / "manifest.jsonl").read_text("utf-8").splitlines()
    assert [Record.from_json(line) for line in lines] == records
    rows = pyarrow.parquet.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert [row["input"] for row in rows] == ["/in/a.wav", "/in/词.wav"]
    assert rows[0]["outputs"] == [{"path": "a.wav", "bytes": 5, "sha256": "00"}]
    assert json.loads(rows[0]["facts"]) == {"seconds": 1.5}
    assert (rows[1]["status"], rows[1]["error_code"], rows[1]["error_message"]) == ("failed", "input_invalid", "schlecht")


@pytest.mark.parametrize(
    "change",
    [
        {"status": "weird"},
        {"size": "x"},
        {"outputs": []},
        {"outputs": [{"path": "../../etc/passwd", "bytes": 1, "sha256": "0"}]},
        {"outputs": [{"path": "/etc/passwd", "bytes": 1, "sha256": "0"}]},
        {"outputs": [{"path": 3, "bytes": 1, "sha256": "0"}]},
        {"error": "x"},
        {"status": "failed", "outputs": [], "error": {"code": "a", "message": "b"}},
    ],
)
def test_a_record_that_was_tampered_with_counts_as_none(tmp_path, change):
    storage, key = Storage.at(str(tmp_path)), TASK.key(ITEM)
    whole = json.loads(Record.done(ITEM, key, [OutputFile("a.wav", 1, "0")], {}).to_json())
    storage.write(f".convoy/done/{key}.json", json.dumps(whole | change).encode())
    assert Ledger(storage).read([key]) == {}
