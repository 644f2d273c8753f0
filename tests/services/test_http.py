"""Statuses and the one shape of errors."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException

from models.errors import BundleError, ConfigError, InputError, TooLargeError, UnavailableError, UnprocessableError
from services.batching import BusyError
from services.http import TooSlowError, error_body, error_fields, error_headers, status_of, worst


def test_statuses_of_exceptions():
    assert status_of(InputError("x")) == 400
    assert status_of(TooLargeError("x")) == 413
    assert status_of(UnprocessableError("x")) == 422
    assert status_of(BusyError("x")) == 429
    assert status_of(UnavailableError("x")) == 503
    for ours in (BundleError("x"), ConfigError("x"), KeyError("x"), MemoryError()):
        assert status_of(ours) == 500
        assert error_fields(ours)["code"] == "internal"


def test_one_of_our_bugs_decides_the_status_of_a_call_in_which_all_failed():
    ours = KeyError("x")
    assert worst([UnprocessableError("x"), ours]) is ours
    first = UnprocessableError("x")
    assert worst([first, TooLargeError("y")]) is first


def test_the_body_of_an_error_and_its_headers():
    content = json.loads(error_body(TooLargeError("too much", expected="less"), "abc"))
    assert content == {"error": {"code": "too_large", "message": "too much: expected less", "request_id": "abc"}}
    assert error_headers(BusyError("x", retry_after=7)) == [(b"retry-after", b"7")]
    assert error_headers(TooSlowError("x")) == []
    assert error_headers(HTTPException(405, headers={"Allow": "POST", "X-Inside": "1"})) == [(b"allow", b"POST")]
