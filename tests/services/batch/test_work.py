"""One item: whatever happens to it, it is recorded once and whole, or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from models.errors import BundleError
from services.batch.records import Record
from services.batch.storage import StorageError


class Copies:
    """Writes what it reads, twice over; does something else first."""

    def __init__(self, before=lambda source, item: None):
        self.before, self.seen = before, []

    def __call__(self, source, item, folder, progress):
        self.seen.append(item.address)
        target = folder / (item.output + ".jsonl")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() * 2)
        self.before(source, item)
        return {"texts": 1}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    return tmp_path


def statuses(records: list[Record]) -> list[str]:
    return [record.error["code"] if record.error else record.status for record in records]


def raises(problem, name="b"):
    def before(source, item):
        if item.output == name:
            raise problem

    return before


def test_what_is_done_is_not_done_again_and_what_is_damaged_is(folder, work_through):
    first = Copies()
    assert statuses(work_through("tag", [folder / "in"], folder / "out", first)) == ["done"] * 3
    manifest = (folder / "out" / "manifest.jsonl").read_bytes()
    again = Copies()
    work_through("tag", [folder / "in"], folder / "out", again)
    assert again.seen == []
    (folder / "out" / "a.jsonl").write_text("bb")  # as long as it was
    (folder / "out" / "deep" / "c.jsonl").unlink()
    work_through("tag", [folder / "in"], folder / "out", again, check="size")
    assert again.seen == [str(folder / "in" / "deep" / "c.txt")]
    work_through("tag", [folder / "in"], folder / "out", again)
    assert again.seen == [str(folder / "in" / "deep" / "c.txt"), str(folder / "in" / "a.txt")]
    assert (folder / "out" / "a.jsonl").read_text() == "aa"
    (folder / "in" / "b.txt").write_text("new and longer")
    work_through("tag", [folder / "in"], folder / "out", again)
    assert (folder / "out" / "b.jsonl").read_text() == "new and longer" * 2
    assert (folder / "out" / "manifest.jsonl").read_bytes() != manifest


def test_a_failure_stays_until_it_is_asked_for(folder, work_through):
    failing = Copies(raises(RuntimeError("a fault of ours")))
    assert statuses(work_through("tag", [folder / "in"], folder / "out", failing)) == ["done", "internal", "done"]
    assert not (folder / "out" / "b.jsonl").exists()
    good = Copies()
    assert statuses(work_through("tag", [folder / "in"], folder / "out", good)) == ["done", "internal", "done"]
    assert good.seen == []
    assert statuses(work_through("tag", [folder / "in"], folder / "out", good, retry_failed=True)) == ["done"] * 3


def test_an_input_that_changes_while_it_is_read_is_done_again_by_the_next_run(folder, work_through):
    def changes(source, item):
        if item.output == "b":
            source.write_text("changed meanwhile")

    assert statuses(work_through("tag", [folder / "in"], folder / "out", Copies(changes))) == ["done", "input_changed", "done"]
    assert statuses(work_through("tag", [folder / "in"], folder / "out", Copies())) == ["done"] * 3
    assert (folder / "out" / "b.jsonl").read_text() == "changed meanwhile" * 2


def test_a_link_that_leads_nowhere_is_a_failure_of_its_own(folder, work_through):
    (folder / "in" / "b.txt").unlink()
    (folder / "in" / "b.txt").symlink_to(folder / "nowhere.txt")
    (folder / "in" / "deep" / "loop.txt").symlink_to("loop.txt")
    for given in (folder / "in", folder / "in" / "*"):
        records = work_through("tag", [given], folder / "out", Copies())
        assert statuses(records) == ["done", "input_unreachable", "done", "input_unreachable"]
        assert str(folder / "in" / "b.txt") in records[1].error["message"]


def test_a_file_of_a_manifest_that_is_not_there_fails_alone_until_it_comes(folder, work_through):
    manifest = folder / "list.csv"
    manifest.write_text("input,output\nin/a.txt,\nin/late.txt,x/late\nin/deep/late.txt,\n", "utf-8")
    records = work_through("tag", [], folder / "out", Copies(), manifests=[str(manifest)])
    assert statuses(records) == ["done", "input_unreachable", "input_unreachable"]
    assert [record.output for record in records] == ["a", "x/late", "late"]
    assert f"{folder}/in/late.txt: the input is not there" in records[1].error["message"]
    for late in (folder / "in" / "late.txt", folder / "in" / "deep" / "late.txt"):
        late.write_text("came")
    assert statuses(work_through("tag", [], folder / "out", Copies(), manifests=[str(manifest)])) == ["done"] * 3


def test_an_input_that_goes_away_is_named(folder, work_through):
    def goes(source, item):
        if item.output == "a":
            (folder / "in" / "b.txt").unlink()

    records = work_through("tag", [folder / "in"], folder / "out", Copies(goes))
    assert statuses(records) == ["done", "input_unreachable", "done"]
    assert "b.txt: the input is not there" in records[1].error["message"]


@pytest.mark.parametrize(
    ("problem", "error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageError, "the disk is full"),
        (BundleError("the bundle is damaged"), BundleError, "the bundle is damaged"),
    ],
)
def test_what_is_not_the_fault_of_an_item_ends_the_run_and_the_next_goes_on(folder, work_through, problem, error, says):
    handler = Copies(raises(problem))
    with pytest.raises(error, match=says):
        work_through("tag", [folder / "in"], folder / "out", handler)
    assert not (folder / "out" / "manifest.jsonl").exists()
    good = Copies()
    assert statuses(work_through("tag", [folder / "in"], folder / "out", good)) == ["done"] * 3
    assert good.seen == [str(folder / "in" / "b.txt"), str(folder / "in" / "deep" / "c.txt")]


def test_fail_fast_leaves_the_rest(folder, work_through):
    handler = Copies(raises(RuntimeError("x")))
    assert statuses(work_through("tag", [folder / "in"], folder / "out", handler, fail_fast=True)) == ["done", "internal"]
    lines = (folder / "out" / "manifest.jsonl").read_text().splitlines()
    assert [Record.from_json(line).status for line in lines] == ["done", "failed"]


@pytest.mark.parametrize("place", [".", "made"])
def test_outputs_among_the_inputs_are_no_inputs_of_the_next_run(folder, work_through, place):
    (folder / "in" / "mine.jsonl").write_text("a file of mine")
    out, first, second = folder / "in" / place, Copies(), Copies()
    names = sorted(str(path) for path in (folder / "in").rglob("*.*"))
    if place == ".":
        (folder / "in" / "mine.jsonl").unlink()
        names.remove(str(folder / "in" / "mine.jsonl"))
    work_through("tag", [folder / "in"], out, first)
    records = work_through("tag", [folder / "in"], out, second)
    assert (sorted(first.seen), second.seen) == (names, [])
    assert [record.input for record in records] == names
    if place == "made":
        work_through("tag", [out / "a.jsonl"], folder / "again", second)
        assert second.seen == [str(out / "a.jsonl")]


def test_names_that_are_not_unicode_are_kept(tmp_path, work_through):
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / "in" / name).write_text("x")
    for _ in range(2):
        [record] = work_through("tag", [tmp_path / "in"], tmp_path / "out", Copies())
        assert record.outputs[0].path == os.fsdecode(b"caf\xe9.jsonl")
    assert (tmp_path / "out" / record.outputs[0].path).read_text() == "xx"
