"""Words with their tag behind a slash: People's Daily (`词/tag`, words join without spaces) and Brown (`word/tag`).

The tag starts at the last slash, so that a word may hold some ("1/2/cd"). In People's Daily a bracket around several words
names them as one (`[中央/n  人民/n  电台/n]nt`); the words inside are kept, the bracket and its name are not. The article number
which begins the lines of some editions (`19980101-01-001-001/m`) is not a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from training.tagger.corpora.lines import Line
from training.tagger.corpora.sentence import Sentence, join

CLOSING = re.compile(r"(?P<word>.+)/(?P<tag>[^/\]]+)\]/?(?P<group>\w+)")
ARTICLE = re.compile(r"[0-9０-９]{8}[-－][0-9０-９]{2}[-－][0-9０-９]{3}[-－][0-9０-９]{3}/m")
SUFFIXES = re.compile(r"(?<=.)(-tl|-hl|-nc)+$")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


def read_slash(
    lines: Iterable[Line], *, column: str = "pos", strip_suffixes: bool = False, joined: bool | None = None
) -> Iterator[Sentence]:
    """Sentences of slash text, one a line.

    Args:
        column: the name of the label column.
        strip_suffixes: drop Brown's marks for titles, headlines and cited words (`nn-tl` becomes `nn`).
        joined: words join to the text without spaces, as in Chinese, so that text and spans are known. None: judge by the
            first line that has a word, which is joined if it has a Han character.
    """
    for line in lines:
        tokens, tags = _words(line)
        if not tokens:
            continue
        if joined is None:
            joined = HAN.search(line.text) is not None
        if strip_suffixes:
            tags = [SUFFIXES.sub("", tag) for tag in tags]
        text, spans = join(tokens) if joined else (None, None)
        yield Sentence(tokens, {column: tags}, text, spans, line.source)


def _words(line: Line) -> tuple[list[str], list[str]]:
    pieces = line.text.split()
    if pieces and ARTICLE.fullmatch(pieces[0]):
        pieces = pieces[1:]
    # A bracket is one of ours only where a line closes some: elsewhere "[note/nn" is a word that starts with a bracket.
    brackets = any(CLOSING.fullmatch(piece) for piece in pieces)
    tokens, tags, depth = [], [], 0
    for number, piece in enumerate(pieces, start=1):
        if brackets:
            piece, depth = _unbracket(line, number, piece, depth)
        word, slash, tag = piece.rpartition("/")
        if not slash or not word or not tag:
            raise line.fault("not a word with its tag", field=f"word {number}", expected="word/tag", got=piece)
        tokens.append(word)
        tags.append(tag)
    if depth:
        raise line.fault("a bracket is never closed", expected="]tag after its last word")
    return tokens, tags


def _unbracket(line: Line, number: int, piece: str, depth: int) -> tuple[str, int]:
    if piece.startswith("[") and not piece.startswith("[/"):
        piece, depth = piece[1:], depth + 1
    closing = CLOSING.fullmatch(piece)
    if closing is None:
        return piece, depth
    if depth == 0:
        raise line.fault("a bracket closes that was never opened", field=f"word {number}", got=piece)
    return f"{closing['word']}/{closing['tag']}", depth - 1
