"""Which worker lives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.jobs.slots import Slots

HOLD = "import sys, time; from pathlib import Path; from services.jobs.slots import Slots; s = Slots(Path(sys.argv[1]))"


def test_each_worker_takes_the_lowest_free_slot_and_a_new_one_that_of_the_dead(tmp_path):
    first, second, third = (Slots(tmp_path / "workers") for _ in range(3))
    assert [slots.take() for slots in (first, second, third)] == ["worker-1", "worker-2", "worker-3"]
    second.leave()
    with first.if_dead("worker-2") as dead, third.if_dead("worker-2") as also:
        assert (dead, also) == (True, False)  # one looks after it at a time
    with first.if_dead("worker-1") as own, first.if_dead("worker-3") as other:
        assert (own, other) == (False, False)
    assert Slots(tmp_path / "workers").take() == "worker-2"
    assert (first.name, second.name) == ("worker-1", "")


def test_the_slot_of_a_process_that_was_killed_is_free(tmp_path):
    command = [sys.executable, "-c", f"{HOLD}; print(s.take(), flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "worker-1\n"
        slots = Slots(tmp_path)
        with slots.if_dead("worker-1") as dead:
            assert not dead
        process.kill()
        process.wait()
    with slots.if_dead("worker-1") as dead:
        assert dead
    assert slots.take() == "worker-1"


@pytest.mark.parametrize("name", ["", "local", "../worker-1", "worker-", "worker-1/../../x", "worker-" + "9" * 20])
def test_names_that_are_no_slots_are_left_alone(tmp_path, name):
    with Slots(tmp_path).if_dead(name) as dead:
        assert not dead
    assert list(tmp_path.iterdir()) == []
