"""CoNLL-U, the format of Universal Dependencies: https://universaldependencies.org/format.html

Tokens are the syntactic words. The surface of a multiword row (`3-4 didn't`) gives the words their spans; empty rows
(`8.1`) belong to the enhanced graph and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from training.tagger.corpora.lines import Line
from training.tagger.corpora.sentence import Sentence, skip_space

FIELDS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
COLUMNS = {"upos": 3, "xpos": 4, "feats": 5, "lemma": 2, "deprel": 7}
ID = re.compile(r"(?P<word>[1-9][0-9]*)(?:-(?P<last>[1-9][0-9]*))?|(?P<empty>[0-9]+\.[1-9][0-9]*)")


@dataclass
class Surface:
    """A stretch of text without inner boundary: one word, or the words `first`..`last` of a multiword token."""

    form: str
    first: int
    last: int
    space_after: bool
    line: Line


def read_conllu(lines: Iterable[Line], *, check_text: bool = True) -> Iterator[Sentence]:
    """Sentences with the columns upos, xpos, feats, lemma and deprel.

    Args:
        check_text: raise where the words do not spell `# text`; otherwise such sentences come without text and spans.
    """
    for block in blocks(lines):
        yield _sentence(block, check_text)


def blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Runs of lines between blank ones."""
    block: list[Line] = []
    for line in lines:
        if line.text.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _sentence(block: list[Line], check_text: bool) -> Sentence:
    text: str | None = None
    words: list[list[str]] = []
    surfaces: list[Surface] = []
    start: Line | None = None
    for line in block:
        if line.text.startswith("#"):
            text = _text_comment(line.text, text)
            continue
        start = start or line
        _row(line, words, surfaces)
    if start is None:
        raise block[-1].fault("comments without a sentence", expected="word rows after the comments, before the blank line")
    _complete(surfaces, words, start)
    columns = {name: [row[index] for row in words] for name, index in COLUMNS.items()}
    whole, spans = _spans(text, surfaces, [row[1] for row in words], check_text)
    return Sentence([row[1] for row in words], columns, whole, spans, start.source)


def _row(line: Line, words: list[list[str]], surfaces: list[Surface]) -> None:
    fields = line.text.split("\t")
    if len(fields) != len(FIELDS):
        raise line.fault("wrong number of fields", expected="10 fields between tabs", got=f"{len(fields)}: {line.text}")
    for name, value in zip(FIELDS, fields, strict=True):
        if not value:
            raise line.fault("the field is empty", field=name, expected="a value, or _ where there is none")
    match = ID.fullmatch(fields[0])
    if match is None:
        raise line.fault("not a row number", field="ID", expected="1, 3-4 or 8.1", got=fields[0])
    if match["empty"]:
        return
    number, space = int(match["word"]), "SpaceAfter=No" not in fields[9].split("|")
    if number != len(words) + 1:
        raise line.fault("row numbers have a gap or repeat", field="ID", expected=str(len(words) + 1), got=fields[0])
    inside = bool(surfaces) and number <= surfaces[-1].last
    if match["last"]:
        if inside or int(match["last"]) < number:
            raise line.fault("multiword rows overlap or run backwards", field="ID", got=fields[0])
        surfaces.append(Surface(fields[1], number, int(match["last"]), space, line))
        return
    words.append(fields)
    if not inside:
        surfaces.append(Surface(fields[1], number, number, space, line))


def _complete(surfaces: list[Surface], words: list[list[str]], start: Line) -> None:
    if not words:
        raise start.fault("a sentence without words", expected="at least one word row")
    if surfaces[-1].last > len(words):
        last = surfaces[-1]
        raise last.line.fault(
            "the multiword row has no words", field="ID", expected=f"word rows up to {last.last}", got=f"{len(words)} word rows"
        )


def _text_comment(comment: str, text: str | None) -> str | None:
    key, separator, value = comment[1:].partition("=")
    return value.strip() if separator and key.strip() == "text" else text


def _spans(
    text: str | None, surfaces: list[Surface], forms: list[str], check: bool
) -> tuple[str | None, list[tuple[int, int]] | None]:
    """The text, and the span of each word in it."""
    if text is None:
        text = "".join(surface.form + " " * surface.space_after for surface in surfaces).rstrip(" ")
    spans: list[tuple[int, int]] = []
    position = 0
    for surface in surfaces:
        position = skip_space(text, position)
        if not text.startswith(surface.form, position):
            if not check:
                return None, None
            raise surface.line.fault(
                "the words do not spell # text",
                field="FORM",
                expected=repr(text[position : position + 40]),
                got=repr(surface.form),
                fix="Correct the row or the comment, or read with check_text=False and do without offsets",
            )
        spans += _inner(position, surface, forms)
        position += len(surface.form)
    if skip_space(text, position) != len(text):
        if not check:
            return None, None
        raise surfaces[-1].line.fault("# text goes on after the last word", got=repr(text[position:]))
    return text, spans


def _inner(position: int, surface: Surface, forms: list[str]) -> Iterator[tuple[int, int]]:
    """Spans of a multiword token's words: their own where they spell its surface, else that of the whole for each."""
    words = forms[surface.first - 1 : surface.last]
    if "".join(words) != surface.form:
        yield from [(position, position + len(surface.form))] * len(words)
        return
    for word in words:
        yield position, position + len(word)
        position += len(word)
