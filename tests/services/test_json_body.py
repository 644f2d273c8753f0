"""Strict JSON in, and answers that always encode."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from models.errors import InputError
from services.json_body import JsonRequest, checked, encode, parse_json
from services.tagger import TagRequest

finite_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(finite_json)
def test_good_json_is_read_as_the_standard_library_reads_it(content):
    assert parse_json(json.dumps(content).encode()) == content
    assert parse_json(json.dumps(content, ensure_ascii=False).encode()) == content


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_the_clients_mistake(body):
    with contextlib.suppress(InputError):  # and nothing else
        parse_json(body)


@given(finite_json, st.sampled_from([chr(code) for code in (0xD800, 0xDBFF, 0xDC00, 0xDFFF)]), st.text(), st.text())
def test_no_answer_fails_to_encode(content, surrogate, before, after):
    assert json.loads(encode({"a": content, surrogate: before + surrogate + after}))["a"] == content


BAD_JSON = {
    b"": "not valid JSON",
    b"{": "line 1 column 2",
    b'{"texts": ["\xff"]}': "byte 12",
    b'{"texts": ["a", "b\\ud800"]}': "texts[1], character 1",
    b'{"\\udc00": 1}': "a field's name",
    b'{"a": NaN}': "got NaN",
    b'{"a": -Infinity}': "got -Infinity",
    b'{"a": 1e999}': "got 1e999",
    b'{"a": ' + b"9" * 5000 + b"}": "5000 digits",
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested too deeply",
    b"\xef\xbb\xbf{": "line 1 column 2",
    '{"a": "é"}'.encode("latin-1"): "byte 7",
    '{"a": "é"}'.encode("utf-16"): "not valid UTF-8",
}


@pytest.mark.parametrize(("body", "said"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_bad_json_is_refused_with_its_place(body, said):
    with pytest.raises(InputError) as caught:
        parse_json(body)
    assert said in caught.value.message
    assert len(caught.value.message) < 600


BAD_FIELDS = [
    ([], "body: wrong type or value: expected a JSON object, got a list"),
    ("a", 'body: wrong type or value: expected a JSON object, got the string "a"'),
    (None, "body: wrong type or value: expected a JSON object, got null"),
    ({}, "texts: the field is missing"),
    ({"texts": []}, "texts: the list is empty: expected at least one element"),
    ({"texts": "a"}, 'texts: wrong type or value: expected a list, got the string "a"'),
    ({"texts": {"a": 1}}, "texts: wrong type or value: expected a list, got an object"),
    ({"texts": None}, "texts: wrong type or value: expected a list, got null"),
    ({"texts": ["a", 3]}, "texts[1]: wrong type or value: expected a string, got the number 3"),
    ({"texts": ["a", True]}, "texts[1]: wrong type or value: expected a string, got true"),
    ({"texts": ["a", ["b"]]}, "texts[1]: wrong type or value: expected a string, got a list"),
    ({"texts": ["a", {}]}, "texts[1]: wrong type or value: expected a string, got an object"),
    ({"texts": ["a"], "model": 1}, "model: wrong type or value: expected a string, got the number 1"),
    ({"texts": ["a"], "modle": "x"}, "modle: unknown field: expected one of texts, model"),
    ({"texts": [1, 2, 3]}, "texts[0]: wrong type or value: expected a string, got the number 1. There are 2 more such errors"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FIELDS, ids=range(len(BAD_FIELDS)))
def test_wrong_fields_are_named_with_what_was_expected_and_what_came(content, message):
    with pytest.raises(InputError) as caught:
        checked(TagRequest, content)
    assert caught.value.message == message


@given(finite_json)
def test_any_json_is_a_request_or_the_clients_mistake(content):
    with contextlib.suppress(InputError):  # and nothing else
        checked(TagRequest, content)


@pytest.mark.parametrize(
    ("headers", "right"),
    [
        ({}, True),
        ({"content-type": "application/json"}, True),
        ({"content-type": "Application/JSON; charset=UTF-8"}, True),
        ({"content-type": 'application/json; charset="utf8"'}, True),
        ({"content-type": "application/json; charset=latin-1"}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "application/vnd.bentoml+pickle"}, False),
        ({"content-type": "application/x-www-form-urlencoded"}, False),
        ({"content-type": "multipart/form-data; boundary=x"}, False),
        ({"content-type": "application/json", "content-encoding": "gzip"}, False),
    ],
)
def test_only_json_in_utf8_is_read(headers, right):
    async def receive():
        return {"type": "http.request", "body": b'{"n": 1}'}

    class Number(JsonRequest):
        n: int

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)
    if right:
        assert asyncio.run(Number.from_http_request(request, None)).n == 1
    else:
        with pytest.raises(InputError) as caught:
            asyncio.run(Number.from_http_request(request, None))
        assert caught.value.status == 415
