"""JSON lines: `{"text": …, "spans": [{"start", "end", "label"}]}` with character offsets, or `{"tokens": […], "labels": […]}`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from models.errors import ConfigError
from models.tagger.labels import Scheme, encode
from training.tagger.corpora.lines import Line
from training.tagger.corpora.sentence import Sentence, align

Span = tuple[int, int, str]
Offsets = Literal["codepoint", "utf16"]


def read_jsonl(
    lines: Iterable[Line],
    *,
    column: str = "label",
    scheme: str = "IOB2",
    offsets: Offsets = "codepoint",
    unit: Literal["auto", "word", "character"] = "auto",
) -> Iterator[Sentence]:
    """Sentences, one record a line.

    Args:
        column: the name of the label column.
        scheme: how spans become labels of tokens.
        offsets: what `start` and `end` count: code points (Python) or UTF-16 units (JavaScript, Java).
        unit: cut texts into English words or Chinese characters; auto goes by the script of each text. A token is cut in two
            where a span begins or ends inside it, so that no span is moved.
    """
    if offsets not in ("codepoint", "utf16") or unit not in ("auto", "word", "character"):
        raise ConfigError("unknown setting", where="jsonl", expected="offsets codepoint|utf16, unit auto|word|character")
    for line in lines:
        if not line.text.strip():
            continue
        record = _record(line)
        if "tokens" in record:
            yield _labelled(line, record, column)
        elif "text" in record:
            yield _spanned(line, record, column, Scheme(scheme), offsets, unit)
        else:
            raise line.fault("nothing to read", expected='"text" with "spans", or "tokens" with "labels"', got=list(record))


def _record(line: Line) -> dict[str, Any]:
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise line.fault("not JSON", expected="one JSON object a line", got=str(error)) from None
    if not isinstance(record, dict):
        raise line.fault("not a JSON object", expected='{"text": …} or {"tokens": …}', got=line.text)
    return record


def _labelled(line: Line, record: dict[str, Any], column: str) -> Sentence:
    tokens, labels = _strings(line, record, "tokens"), _strings(line, record, "labels")
    if len(tokens) != len(labels) or not tokens:
        expected = "as many labels as tokens, and at least one"
        raise line.fault("tokens and labels do not match", expected=expected, got=f"{len(tokens)} and {len(labels)}")
    text = _text(line, record) if record.get("text") is not None else None
    spans = align(text, tokens) if text is not None else None
    if text is not None and spans is None:
        raise line.fault("the tokens do not spell the text", field="tokens", expected="tokens of the text, in its order")
    return Sentence(tokens, {column: labels}, text, spans, line.source)


def _strings(line: Line, record: dict[str, Any], name: str) -> list[str]:
    values = record.get(name)
    if not isinstance(values, list):
        raise line.fault("not a list", field=name, expected="a list of strings", got=json.dumps(values))
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value or _lone_surrogate(value):
            raise line.fault(
                "not a word", field=f"{name}[{index}]", expected="a string of valid Unicode, not empty", got=repr(value)
            )
    return values


def _text(line: Line, record: dict[str, Any]) -> str:
    text = record["text"]
    if not isinstance(text, str) or _lone_surrogate(text):
        raise line.fault("not a text", field="text", expected="a string of valid Unicode", got=repr(text))
    return text


def _spanned(line: Line, record: dict[str, Any], column: str, scheme: Scheme, offsets: str, unit: str) -> Sentence:
    text = _text(line, record)
    found = _spans(line, record, text, offsets)
    pieces = _pieces(text, found, unit)
    if not pieces:
        raise line.fault("no token in the text", field="text", expected="more than white space", got=repr(text))
    first = {start: index for index, (start, _) in enumerate(pieces)}
    last = {end: index for index, (_, end) in enumerate(pieces, start=1)}
    labels = encode([(first[start], last[end], label) for start, end, label in found], len(pieces), scheme)
    return Sentence([text[start:end] for start, end in pieces], {column: labels}, text, pieces, line.source)


def _spans(line: Line, record: dict[str, Any], text: str, offsets: str) -> list[Span]:
    values = record.get("spans", [])
    if not isinstance(values, list):
        raise line.fault("not a list", field="spans", expected="a list of objects", got=json.dumps(values))
    table = _utf16_table(text) if offsets == "utf16" else np.arange(len(text) + 1)
    spans = sorted(_span(line, f"spans[{index}]", value, text, table) for index, value in enumerate(values))
    for left, right in itertools.pairwise(spans):
        if right[0] < left[1]:
            raise line.fault("spans overlap", field="spans", expected="spans apart from each other", got=f"{left} and {right}")
    return spans


def _span(line: Line, field: str, value: object, text: str, table: np.ndarray) -> Span:
    if not isinstance(value, dict) or not {"start", "end", "label"} <= value.keys():
        raise line.fault("not a span", field=field, expected='{"start": 0, "end": 3, "label": "PER"}', got=json.dumps(value))
    start, end, label = value["start"], value["end"], value["label"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end < len(table):
        expected = f"whole numbers, 0 <= start < end <= {len(table) - 1}"
        raise line.fault("offsets are outside the text", field=field, expected=expected, got=f"start {start!r}, end {end!r}")
    if not isinstance(label, str) or not label or any(character.isspace() for character in label):
        raise line.fault("not a label", field=f"{field}.label", expected="a name without white space", got=repr(label))
    first, last = int(table[start]), int(table[end])
    if first < 0 or last < 0:
        raise line.fault("an offset falls inside a surrogate pair", field=field, got=f"start {start}, end {end}")
    if text[first].isspace() or text[last - 1].isspace():
        fix = "Move the offsets to the letters; if all are moved, the counts may be UTF-16: set offsets=utf16"
        raise line.fault("a span begins or ends in white space", field=field, got=repr(text[first:last]), fix=fix)
    return first, last, label


def _utf16_table(text: str) -> np.ndarray:
    """From an offset in UTF-16 units to one in code points, -1 inside a pair. int64[units + 1]"""
    widths = np.fromiter((1 + (character > "\uffff") for character in text), dtype=np.int64, count=len(text))
    starts = np.concatenate([[0], np.cumsum(widths)])
    table = np.full(int(starts[-1]) + 1, -1, dtype=np.int64)
    table[starts] = np.arange(len(text) + 1)
    return table


def _pieces(text: str, spans: Iterable[Span], unit: str) -> list[tuple[int, int]]:
    """Tokens of the text, cut also where spans begin and end."""
    from models.tagger.tokens import character_spans, script, word_spans

    words = unit == "word" or (unit == "auto" and script(text) == "en")
    cuts = sorted({offset for start, end, _ in spans for offset in (start, end)})
    pieces: list[tuple[int, int]] = []
    index = 0
    for start, end in word_spans(text) if words else character_spans(text):
        while index < len(cuts) and cuts[index] <= start:
            index += 1
        while index < len(cuts) and cuts[index] < end:
            pieces.append((start, cuts[index]))
            start, index = cuts[index], index + 1
        pieces.append((start, end))
    return pieces


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
