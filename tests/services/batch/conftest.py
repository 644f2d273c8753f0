from __future__ import annotations

import pytest

from services.batch import runs
from services.batch.runs import Run, started
from services.batch.work import process


@pytest.fixture
def work_through(monkeypatch, tmp_path):
    """A run whose work is done in this process, by the handler given; returns its records in the inputs' order."""
    monkeypatch.setattr(runs, "digest_of", lambda bundle: "digest")

    def done(task, inputs, out, handler, **settings):
        told = []

        def here(wanted, planned, watch):
            for item in planned.todo.values():
                yield process(item, planned.assignment, handler, lambda *amounts: told.append(amounts))

        monkeypatch.setattr(runs, "_engine", here)
        with started(Run(task, [str(each) for each in inputs], str(out), ["bundle"], **settings)) as (planned, records):
            made = {record.key: record for record in records}
        done.told = told
        known = planned.known | made
        return [known[key] for key in planned.items if key in known]

    return done
