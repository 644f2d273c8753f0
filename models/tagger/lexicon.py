"""Words of a dictionary found in a sentence: which of them begin at, end at or run over each token.

For text without spaces a list of words says where words may lie that the training text never held. What was found at a
token is written as a short *code*, which a vector table gives a vector as it does to a word: "b24e3m5" stands where
words of two and four tokens begin, one of three ends, and the longest that has this token strictly inside it has five.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST_WORD = 7  # tokens
LONGEST_TOLD = 5  # longer words count as of this length, so that every code is frequent
NOTHING = "-"  # code of a token that no word of two tokens or more touches


class Lexicon:
    """Finds words in sentences. A code depends on ``reach`` tokens to each side.

    Args:
        words: as the sentences are written (full-width or half-width); those of one character, or of more than
            ``LONGEST_WORD``, are left out, since they say nothing about where to cut, or are rare.
    """

    def __init__(self, words: Iterable[str]) -> None:
        kept = {word for word in words if 2 <= len(word) <= LONGEST_WORD}
        self.reach = max((len(word) for word in kept), default=1) - 1
        # Every beginning of a word, and whether it is a word itself: a search stops where nothing goes on.
        self._beginnings = {word[:stop]: False for word in kept for stop in range(1, len(word))}
        self._beginnings.update(dict.fromkeys(kept, True))

    def find(self, tokens: Sequence[str]) -> list[tuple[int, int]]:
        """(start, stop) of each word of at least two tokens, overlapping ones too, by start and then by length."""
        found = []
        beginnings, reach = self._beginnings, self.reach
        for start, word in enumerate(tokens):
            if word not in beginnings:
                continue
            for last in range(start + 1, min(start + reach + 1, len(tokens))):
                word += tokens[last]
                is_word = beginnings.get(word)
                if is_word is None:
                    break
                if is_word:
                    found.append((start, last + 1))
        return found

    def codes(self, tokens: Sequence[str]) -> list[str]:
        """The code of each token."""
        begins, ends = [""] * len(tokens), [""] * len(tokens)
        inside = [0] * len(tokens)
        for start, stop in self.find(tokens):
            length = min(stop - start, LONGEST_TOLD)
            begins[start] = _with(begins[start], length)
            ends[stop - 1] = _with(ends[stop - 1], length)
            for place in range(start + 1, stop - 1):
                inside[place] = max(inside[place], length)
        return [_code(*found) for found in zip(begins, ends, inside, strict=True)]


def _with(lengths: str, length: int) -> str:
    """Lengths in ascending order, each once."""
    digit = str(length)
    return lengths if digit in lengths else "".join(sorted(lengths + digit))


def _code(begins: str, ends: str, inside: int) -> str:
    return (f"b{begins}" if begins else "") + (f"e{ends}" if ends else "") + (f"m{inside}" if inside else "") or NOTHING
