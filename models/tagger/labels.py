"""Label schemes: how spans over tokens are written as one label a token.

    scheme  one span of 3 tokens     1 token   outside  source
    IOB1    I-x I-x I-x              I-x       O        Ramshaw and Marcus 1995; B-x only where a span of the same type touches
    IOB2    B-x I-x I-x              B-x       O        Tjong Kim Sang and Veenstra 1999; also called BIO
    BIOES   B-x I-x E-x              S-x       O        also called BILOU, with L for E and U for S
    BMES    B-x M-x E-x              S-x       -        Xue 2003, word segmentation: every token is in a span; x may be missing
    NONE    labels stand for themselves

No torch: the predictor and the services read this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataFormatError

Span = tuple[int, int, str]
"""[first, last + 1) in tokens, and the type."""


class Scheme(StrEnum):
    """How labels write spans; see the table at the head of the file."""

    NONE = "NONE"
    IOB1 = "IOB1"
    IOB2 = "IOB2"
    BIOES = "BIOES"
    BMES = "BMES"


PREFIXES: dict[Scheme, str] = {Scheme.IOB1: "IB", Scheme.IOB2: "BI", Scheme.BIOES: "BIES", Scheme.BMES: "BMES"}
OUTSIDE = "O"


def split_label(label: str) -> tuple[str, str]:
    """ "B-PER" into ("B", "PER"), "B" into ("B", ""), "O" into ("O", "")."""
    prefix, _, kind = label.partition("-")
    return prefix, kind


def join_label(prefix: str, kind: str) -> str:
    """The reverse of `split_label`."""
    return f"{prefix}-{kind}" if kind else prefix


def spans(labels: Sequence[str], scheme: Scheme | str) -> list[Span]:
    """Spans that the labels form, read strictly, as seqeval does in mode="strict".

    A span counts only where it is complete: IOB2 starts with B; BIOES and BMES are S, or B, inner labels of the same type and E.
    What does not complete (an I after O, a B without its E) forms no span. In IOB1 every labelled token is in a span.
    Under NONE there are no spans.
    """
    scheme = Scheme(scheme)
    if scheme is Scheme.NONE:
        return []
    if scheme is Scheme.IOB1:
        return _spans_iob1(labels)
    return _spans_iob2(labels) if scheme is Scheme.IOB2 else _spans_closed(labels, "I" if scheme is Scheme.BIOES else "M")


def _spans_iob1(labels: Sequence[str]) -> list[Span]:
    found: list[Span] = []
    start, kind = -1, ""
    for index, label in enumerate([*labels, OUTSIDE]):
        prefix, this = split_label(label)
        if start >= 0 and (prefix != "I" or this != kind):
            found.append((start, index, kind))
            start = -1
        if start < 0 and prefix in ("I", "B"):
            start, kind = index, this
    return found


def _spans_iob2(labels: Sequence[str]) -> list[Span]:
    found: list[Span] = []
    start, kind = -1, ""
    for index, label in enumerate([*labels, OUTSIDE]):
        prefix, this = split_label(label)
        if start >= 0 and (prefix != "I" or this != kind):
            found.append((start, index, kind))
            start = -1
        if prefix == "B":
            start, kind = index, this
    return found


def _spans_closed(labels: Sequence[str], inner: str) -> list[Span]:
    """Schemes which mark the last token."""
    found: list[Span] = []
    start, kind = -1, ""
    for index, label in enumerate(labels):
        prefix, this = split_label(label)
        if prefix == "S":
            found.append((index, index + 1, this))
        if prefix == "E" and start >= 0 and this == kind:
            found.append((start, index + 1, kind))
        if prefix == "B":
            start, kind = index, this
        elif prefix != inner or this != kind:
            start = -1
    return found


def encode(spans: Iterable[Span], length: int, scheme: Scheme | str) -> list[str]:
    """Labels of `length` tokens that the spans form.

    Raises:
        DataFormatError: spans overlap, are empty or leave [0, length); under BMES, a token is in none.
    """
    scheme = Scheme(scheme)
    if scheme is Scheme.NONE:
        raise ConfigError("spans have no labels", where="scheme", expected="IOB1, IOB2, BIOES or BMES", got="NONE")
    labels = [OUTSIDE] * length
    previous: Span = (0, 0, "")
    for first, last, kind in sorted(spans):
        if not previous[1] <= first < last <= length:
            expected = f"spans within 0 to {length}, not empty, apart from each other"
            raise DataFormatError(
                "spans overlap or leave the sentence", expected=expected, got=f"{previous}, {(first, last, kind)}"
            )
        touches = previous[1] == first and first > 0 and previous[2] == kind
        labels[first:last] = [join_label(prefix, kind) for prefix in _prefixes(last - first, scheme, touches)]
        previous = (first, last, kind)
    if scheme is Scheme.BMES and OUTSIDE in labels:
        where = f"token {labels.index(OUTSIDE) + 1}"
        raise DataFormatError("a token is in no word", where=where, expected="every token in a word under BMES")
    return labels


def _prefixes(length: int, scheme: Scheme, touches: bool) -> str:
    """One letter a token for a span of `length`."""
    if scheme is Scheme.IOB1:
        return ("B" if touches else "I") + "I" * (length - 1)
    if scheme is Scheme.IOB2:
        return "B" + "I" * (length - 1)
    if length == 1:
        return "S"
    return "B" + ("I" if scheme is Scheme.BIOES else "M") * (length - 2) + "E"


def convert(labels: Sequence[str], source: Scheme | str, target: Scheme | str) -> list[str]:
    """The same spans in another scheme.

    Raises:
        DataFormatError: the labels break `source`'s rules, or cannot be written in `target`.
    """
    source, target = Scheme(source), Scheme(target)
    validate(labels, source)
    return list(labels) if source is target else encode(spans(labels, source), len(labels), target)


def validate(labels: Sequence[str], scheme: Scheme | str, where: str = "") -> None:
    """Check that the labels follow the scheme.

    Raises:
        DataFormatError: naming `where` and the first token at fault, counted from 1.
    """
    scheme = Scheme(scheme)
    if scheme is Scheme.NONE:
        return
    previous: str | None = None
    for index, label in enumerate(labels):
        _check_label(label, scheme, _place(where, index))
        if not follows(previous, label, scheme):
            before = "the start" if previous is None else previous
            raise DataFormatError(f"{label} cannot follow {before} in {scheme}", where=_place(where, index))
        previous = label
    if labels and not follows(previous, None, scheme):
        raise DataFormatError(f"a sentence cannot end in {previous} in {scheme}", where=_place(where, len(labels) - 1))


def _place(where: str, index: int) -> str:
    return f"{where}, token {index + 1}" if where else f"token {index + 1}"


def _check_label(label: str, scheme: Scheme, where: str) -> None:
    prefix, kind = split_label(label)
    outside = label == OUTSIDE and scheme is not Scheme.BMES
    typed = len(prefix) == 1 and prefix in PREFIXES[scheme] and (bool(kind) or label == prefix)
    if not outside and not typed:
        allowed = ", ".join(f"{letter}-type" for letter in PREFIXES[scheme]) + ("" if scheme is Scheme.BMES else " or O")
        raise DataFormatError(f"not a label of {scheme}", where=where, expected=allowed, got=label)


def follows(left: str | None, right: str | None, scheme: Scheme | str) -> bool:
    """Whether `right` may stand after `left`; None is the sentence's start on the left, its end on the right."""
    scheme = Scheme(scheme)
    if scheme is Scheme.NONE:
        return True
    before, kind = ("", "") if left is None else split_label(left)
    after, next_kind = ("", "") if right is None else split_label(right)
    if scheme is Scheme.IOB1:  # B only between two spans of one type
        return after != "B" or (before in ("B", "I") and kind == next_kind)
    if scheme is Scheme.IOB2:
        return after != "I" or (before in ("B", "I") and kind == next_kind)
    inner = "I" if scheme is Scheme.BIOES else "M"
    open_before, continues = before in ("B", inner), after in (inner, "E")
    return open_before == continues and (not continues or kind == next_kind)


def transitions(labels: Sequence[str], scheme: Scheme | str) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks for the CRF over K labels.

    Returns:
        start: bool[K], may begin a sentence.
        allowed: bool[K, K], `allowed[i, j]`: label j may follow label i.
        end: bool[K], may end a sentence.
    """
    scheme = Scheme(scheme)
    start = np.array([follows(None, label, scheme) for label in labels], dtype=np.bool_)
    end = np.array([follows(label, None, scheme) for label in labels], dtype=np.bool_)
    allowed = np.array([[follows(left, right, scheme) for right in labels] for left in labels], dtype=np.bool_)
    return start, allowed.reshape(len(labels), len(labels)), end
