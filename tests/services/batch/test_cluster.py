"""Ray: what an actor does and what the run says of it."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import soundfile

from tests.services.batch.corpus import command, run


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["ray", "local"])
def test_after_the_first_failure_no_more_is_begun_and_what_is_done_is_told(tmp_path, tiny_separator, engine):
    (tmp_path / "in").mkdir()
    for number in range(20):  # good ones and bad ones by turns, from the longest to the shortest, as they are given out
        path = tmp_path / "in" / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(6000 - 100 * number), 8000)
        if number % 2:
            path.write_bytes(b"no sound" + path.read_bytes()[8:])
    more = ["--engine", engine, "--processes", "1", "--fail-fast"]
    code, said = run(command("separate", [str(tmp_path / "in")], str(tmp_path / "out"), [tiny_separator(tmp_path)], *more))
    assert code == 1, said
    statuses = [json.loads(line)["status"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    done, failed = (len(list((tmp_path / "out" / ".convoy" / status).glob("*.json"))) for status in ("done", "failed"))
    told = {name: int(count) for name, count in re.findall(r"^(done|failed|not begun) +(\d+)$", said, re.MULTILINE)}
    assert sorted(statuses) == ["done"] * done + ["failed"] * failed
    assert 1 <= failed <= 2  # the second was with the process already
    assert done <= 2
    assert ({"done": 0} | told) == {"done": done, "failed": failed, "not begun": 20 - done - failed}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_name_that_is_not_unicode_reaches_the_voices(tmp_path, tiny_separator, engine):
    source = tmp_path / "in" / os.fsdecode(b"caf\xe9.wav")
    source.parent.mkdir()
    soundfile.write(os.fsencode(source), 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
    more = ["--engine", engine, "--processes", "1"]
    code, said = run(command("separate", [str(source.parent)], str(tmp_path / "out"), [tiny_separator(tmp_path)], *more))
    assert code == 0, said
    assert (tmp_path / "out" / source.name).is_file()
