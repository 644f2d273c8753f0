"""One labelled sentence, and what every reader does to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Sentence ends of Chinese and English as whole tokens, full-width and half-width, and the marks that may still close one.
ENDS = frozenset("。！？；!?;.")
CLOSERS = frozenset("”’」』》）)]\"'")
PAUSES = frozenset("，、：,:")


@dataclass
class Sentence:
    """Tokens with their labels.

    Attributes:
        tokens: the words, n of them.
        columns: named label columns, each of length n.
        text: the text the tokens were cut from, where it is known.
        spans: for each token its [start, end) in `text`, in code points. The words of a multiword token which do
            not spell it out ("zum" = "zu" + "dem") all have the span of the whole.
        source: "file:line" of the first token.
    """

    tokens: list[str]
    columns: dict[str, list[str]] = field(default_factory=dict)
    text: str | None = None
    spans: list[tuple[int, int]] | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> Sentence:
        """Tokens `part` (contiguous) as a sentence of their own, with the text they cover."""
        first, last, _ = part.indices(len(self))
        columns = {name: values[first:last] for name, values in self.columns.items()}
        if self.text is None or not self.spans or first >= last:
            return Sentence(self.tokens[first:last], columns, None, None, self.source)
        start, end = self.spans[first][0], self.spans[last - 1][1]
        spans = [(a - start, b - start) for a, b in self.spans[first:last]]
        return Sentence(self.tokens[first:last], columns, self.text[start:end], spans, self.source)

    @property
    def key(self) -> str:
        """What makes two sentences duplicates: the same characters, however they are cut and labelled."""
        return "".join(self.tokens)


def align(text: str, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """The span of each token in `text`, with nothing but white space between them; None if there is no such reading."""
    spans, position = [], 0
    for token in tokens:
        position = skip_space(text, position)
        if not token or not text.startswith(token, position):
            return None
        spans.append((position, position + len(token)))
        position += len(token)
    return spans if skip_space(text, position) == len(text) else None


def skip_space(text: str, position: int) -> int:
    """The first position from this one on that is not white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def join(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Text without spaces (Chinese) of the tokens, and their spans in it."""
    spans, position = [], 0
    for token in tokens:
        spans.append((position, position + len(token)))
        position += len(token)
    return "".join(tokens), spans


def cut(sentence: Sentence, longest: int | None = None, every_end: bool = False) -> Iterator[Sentence]:
    """Cut a line into sentences.

    Args:
        longest: a piece has at most so many words. Pieces end after 。！？； where they can, else after a comma,
            else anywhere. None: no limit.
        every_end: cut after every sentence end, not only where the line is too long.
    """
    if not every_end and (longest is None or len(sentence) <= longest):
        yield sentence
        return
    ends = _ends(sentence.tokens, ENDS)
    commas = _ends(sentence.tokens, PAUSES) if longest is not None else []
    first = 0
    for last in _cuts(len(sentence), ends, commas, longest, every_end):
        yield sentence[first:last]
        first = last


def _ends(tokens: Sequence[str], marks: frozenset[str]) -> list[int]:
    """Positions after a mark and the closing quotes and brackets behind it."""
    ends: list[int] = []
    for index, token in enumerate(tokens):
        if token in marks:
            last = index + 1
            while last < len(tokens) and (tokens[last] in CLOSERS or tokens[last] in marks):
                last += 1
            if not ends or last > ends[-1]:
                ends.append(last)
    return ends


def _cuts(length: int, ends: list[int], commas: list[int], longest: int | None, every_end: bool) -> Iterator[int]:
    first = 0
    candidates = sorted({*ends, length}) if every_end else [length]
    for stop in candidates:
        while longest is not None and stop - first > longest:
            inside = [position for position in ends if first < position <= first + longest]
            inside = inside or [position for position in commas if first < position <= first + longest]
            first = inside[-1] if inside else first + longest
            yield first
        if stop > first:
            yield stop
            first = stop
