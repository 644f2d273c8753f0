from __future__ import annotations

import pytest

from services.batch.records import Record
from services.batch.sources import Item
from services.batch.telling import Amounts


def amounts(**facts: float) -> Amounts:
    result = Amounts()
    result.add(Record.done(Item("a", "a", 1, "1"), "key", [], facts))
    return result


@pytest.mark.parametrize(("seconds", "said"), [(12.04, "12.0 s"), (90.0, "1.50 min"), (5400.0, "1.50 h")])
def test_sound_is_told_in_a_unit_that_shows_it(seconds, said):
    assert str(amounts(seconds=seconds)) == f"{said} of sound"
    assert amounts(seconds=seconds).rate(seconds / 20) == "20 times real time"


def test_amounts_add_up():
    both = amounts(texts=1200.0)
    both.add(Record.done(Item("b", "b", 1, "1"), "other", [], {"texts": 34, "tokens": 9}))
    assert str(both) == "1,234 texts"
    assert both.statuses["done"] == 2
