"""Reads the words of a dictionary: a list with a word a line, or the dictionary CC-CEDICT as it is published."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable

from models.errors import ConfigError, DataFormatError
from models.tagger.lexicon import LONGEST_WORD
from models.tagger.tokens import fold_width
from training.remote import local, shown

_ENTRY = re.compile(r"\S+ (?P<simplified>\S+) \[[^\]]*\] /.*/")  # 繁體 繁体 [fan2 ti3] /traditional characters/
_HAN = re.compile(r"[㐀-䶿一-鿿]+")


def read_lexicon(path: str, folded: bool) -> list[str]:
    """Distinct words that a ``Lexicon`` can use, sorted: Chinese characters only, of CC-CEDICT the simplified forms.

    Args:
        path: UTF-8 text, or the same in gzip where the name ends in ``.gz``, or its fsspec address. Lines that start with # say
            nothing.
        folded: write full-width forms as half-width ones, as the text is that the words are looked for in.

    Raises:
        ConfigError: no such file.
        DataFormatError: it is not text, or holds no word.
    """
    file, named = local(path), shown(path)
    if not file.is_file():
        raise ConfigError("lexicon not found", where=named, fix="`convoy fetch cedict` brings the one that the recipes use.")
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DataFormatError("the lexicon is damaged", where=named, expected="UTF-8 text or gzip of it", got=error) from error
    found = _words(line for line in text.splitlines() if not line.startswith("#"))
    words = {fold_width(word) if folded else word for word in found}
    kept = sorted(word for word in words if 2 <= len(word) <= LONGEST_WORD and _HAN.fullmatch(word))
    if not kept:
        expected = f"words of 2 to {LONGEST_WORD} Chinese characters, one a line, or entries of CC-CEDICT"
        raise DataFormatError("the lexicon holds no word", where=named, expected=expected)
    return kept


def _words(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        entry = _ENTRY.fullmatch(line.strip())
        yield entry["simplified"] if entry else line.strip()
