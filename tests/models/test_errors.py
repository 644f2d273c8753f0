from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import errors
from models.errors import (
    BundleError,
    ConvoyError,
    DataFormatError,
    InputError,
    TooLargeError,
    UnavailableError,
    UnprocessableError,
)

EVERY_KIND = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ConvoyError)]


def test_message_says_what_where_expected_got_and_fix_in_this_order():
    error = DataFormatError("wrong number of columns", where="a.conll:7", expected="2", got=3, fix="Check the separator.")
    assert str(error) == "a.conll:7: wrong number of columns: expected 2, got 3. Check the separator."


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "no such thing"),
        ({"where": "here"}, "here: no such thing"),
        ({"expected": "x"}, "no such thing: expected x"),
        ({"got": 0}, "no such thing: got 0"),
        ({"got": ""}, "no such thing: got "),
        ({"fix": "Do this."}, "no such thing. Do this."),
    ],
)
def test_parts_that_are_not_given_leave_no_trace(keywords, message):
    assert BundleError("no such thing", **keywords).message == message


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_errors_cross_process_borders_whole(kind):
    error = kind("broken", where="file:1", expected="a", got="b", fix="Mend it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.where, copy.fix) == (error.message, error.where, error.fix)


@pytest.mark.parametrize(
    ("kind", "status"),
    [(InputError, 400), (DataFormatError, 400), (TooLargeError, 413), (UnprocessableError, 422), (UnavailableError, 503)],
)
def test_clients_mistakes_have_their_status(kind, status):
    assert kind.status == status


def test_our_own_mistakes_are_never_a_clients():
    for kind in EVERY_KIND:
        assert issubclass(kind, InputError) == (400 <= kind.status < 500), kind


def test_codes_are_distinct_snake_case():
    codes = [kind.code for kind in EVERY_KIND]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@given(st.text(max_size=400) | st.text(alphabet="\ud800\x00\x1b[é字", max_size=300))
def test_any_value_can_be_shown_in_a_message(value):
    shown = errors.shorten(value)
    assert len(shown) <= 200
    assert shown.isprintable()
    shown.encode("utf-8")
    if value.isprintable() and len(value) <= 200:
        assert shown == value
