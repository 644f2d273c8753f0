"""The pool of processes: shares of the processors, and what becomes of an item whose process dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

import psutil
import pytest

from services.batch import local
from services.batch.local import Shares
from tests.services.batch.corpus import ROOT, Started, command, done_records, run, write_corpus


@pytest.mark.parametrize(
    ("cores", "items", "processes", "shares"),
    [
        (8, 100, None, Shares(8, 1)),
        (8, 3, None, Shares(3, 2)),
        (8, 1, None, Shares(1, 8)),
        (8, 100, 3, Shares(3, 2)),
        (2, 100, 4, Shares(4, 1)),
    ],
)
def test_processors_are_shared_out(monkeypatch, cores, items, processes, shares):
    monkeypatch.setattr("services.batch.local.usable", lambda: cores)
    assert Shares.of(items, processes) == shares


def test_processes_stay_on_processors_of_their_own(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3000, 3002, 3004, 3006, 3008})
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, processors: taken.append((thread, processors)))
    monkeypatch.setattr("services.batch.local.Path.iterdir", lambda path: [path / "7"])
    monkeypatch.setattr("services.batch.local.usable", lambda: 5)
    monkeypatch.setattr("services.batch.local._in_container", lambda: False)
    seats = []

    def take(threads):
        local._take_seat(threads)
        seats.append(local._Here.seat)

    try:
        for threads in (2, 2, 2):
            take(threads)
        assert taken == [(7, [3000, 3002]), (7, [3004, 3006])]  # and none for the third: one is left, and it asks for two
        take(1)
        assert taken[2:] == [(7, [3008])]
        for each in seats[0]:  # as when its process dies
            each.close()
        take(1)
        assert taken[3:] == [(7, [3000])]
        monkeypatch.setattr("services.batch.local.usable", lambda: 4)  # a quota: which processors are ours is not known
        take(1)
        assert len(taken) == 4
    finally:
        local._Here.seat = ()
        for each in itertools.chain(*seats):
            each.close()


def test_a_thread_that_ends_meanwhile_is_passed_over(monkeypatch):
    taken = []

    def stay(thread, processors):
        if thread == 7:
            raise ProcessLookupError
        taken.append(thread)

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3000})
    monkeypatch.setattr(os, "sched_setaffinity", stay)
    monkeypatch.setattr("services.batch.local.Path.iterdir", lambda path: [path / "7", path / "8"])
    monkeypatch.setattr("services.batch.local.usable", lambda: 1)
    monkeypatch.setattr("services.batch.local._in_container", lambda: False)
    try:
        local._take_seat(1)
        assert taken == [8]
    finally:
        for each in local._Here.seat:
            each.close()
        local._Here.seat = ()


def test_in_a_container_processes_wander(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3000})
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, processors: pytest.fail("it was told where to stay"))
    monkeypatch.setattr("services.batch.local.usable", lambda: 1)
    local._take_seat(1)
    assert local._Here.seat == ()


@pytest.mark.timeout(120)
def test_the_bytes_do_not_depend_on_the_processors(tmp_path):
    """An item that is done when few are left gets several threads, whose sums round otherwise than one's."""
    bundle, sample = ROOT / "pretrained" / "separator-2speakers", ROOT / "services" / "page" / "samples" / "two-speakers.flac"
    made = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        code, said = Started(command("separate", [str(sample)], str(out), [bundle]), {"CONVOY_THREADS": threads}).finish()
        assert code == 0, said
        made.append((out / "two-speakers.wav").read_bytes())
    assert made[0] == made[1]


@pytest.mark.timeout(120)
def test_a_process_that_dies_costs_its_item_and_no_other(tmp_path, tiny_separator):
    bundle, corpus = tiny_separator(tmp_path), write_corpus(tmp_path / "corpus", 6)
    arguments = command("separate", [str(corpus / "sounds" / "odd")], str(tmp_path / "out"), [bundle], "--processes", "1")
    long = corpus / "sounds" / "odd" / "long.wav"
    write_long(long)
    started = Started(arguments)
    killed = False
    while not killed:  # the longest is the first; its process writes in a workplace
        assert not started.ended()
        time.sleep(0.01)
        for child in psutil.Process(started.process.pid).children():
            if any(str(tmp_path / "out" / ".convoy" / "work") in file.path for file in open_files(child)):
                os.kill(child.pid, signal.SIGKILL)
                killed = True
    code, said = started.finish()
    assert code == 1, said
    [failed] = [record for record in manifest(tmp_path / "out") if record["status"] == "failed"]
    assert (failed["input"], failed["error"]["code"]) == (str(long), "worker_died")
    assert "got SIGKILL. Memory may have run out: try fewer --processes" in failed["error"]["message"]
    assert done_records(tmp_path / "out") == 3
    code, said = run([*arguments, "--retry-failed"])
    assert code == 0, said
    assert [record["status"] for record in manifest(tmp_path / "out")] == ["done"] * 4


def open_files(process: psutil.Process) -> list:
    try:
        return process.open_files()
    except psutil.Error:
        return []


def write_long(path):
    import numpy as np
    import soundfile

    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(8000 * 900), 8000)


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
