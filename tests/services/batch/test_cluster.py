"""Ray: what an actor does and what the run says of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile

from tests.services.batch.corpus import command, done_records, run


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["ray", "local"])
def test_after_the_first_failure_no_more_is_begun_and_what_is_done_is_told(tmp_path, tiny_separator, engine):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound" * 100_000)  # the largest is the first
    for number in range(19):
        soundfile.write(tmp_path / "in" / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(4000), 8000)
    more = ["--engine", engine, "--processes", "1", "--fail-fast"]
    code, said = run(command("separate", [str(tmp_path / "in")], str(tmp_path / "out"), [tiny_separator(tmp_path)], *more))
    assert code == 1, said
    statuses = [json.loads(line)["status"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    done = done_records(tmp_path / "out")
    told = {name: int(count) for name, count in re.findall(r"^(done|failed|not begun) +(\d+)$", said, re.MULTILINE)}
    assert sorted(statuses) == [*["done"] * done, "failed"]
    assert done <= 2  # of the items that were with the process already
    assert told == {"done": done, "failed": 1, "not begun": 19 - done}
