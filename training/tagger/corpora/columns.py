"""Column files: one token a line, its labels in named columns, a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from models.errors import ConfigError
from training.tagger.corpora.conllu import blocks
from training.tagger.corpora.lines import Line
from training.tagger.corpora.sentence import Sentence, align

COMMENT = re.compile(r"# ?[\w.:-]+(?: id)? ?= ?.*")
IGNORED = frozenset({"", "-", "_", "id"})


def read_columns(
    lines: Iterable[Line], *, columns: Sequence[str] = ("token", "label"), separator: str | None = "\t"
) -> Iterator[Sentence]:
    """Sentences of a column file.

    Args:
        columns: a name for each column of the file, in its order. One is `token`; those named `-`, `_` or `id` are skipped.
        separator: what stands between fields; None for any run of white space.

    A token may be `#`: a line is a comment only before the first token of its sentence, and only where it reads
    `# key = value` or has no separator. `# text = …` gives the text, where the tokens spell it.
    """
    names = _checked(columns)
    for block in blocks(lines):
        start = next((index for index, line in enumerate(block) if not is_comment(line.text, separator)), len(block))
        rows = [_fields(line, names, separator) for line in block[start:]]
        token = names.index("token")
        if not rows or (len(rows) == 1 and rows[0][token] == "-DOCSTART-"):  # CoNLL-2003 marks documents this way
            continue
        labels = {name: [row[index] for row in rows] for index, name in enumerate(names) if name not in {*IGNORED, "token"}}
        tokens = [row[token] for row in rows]
        text = _text(block[:start])
        spans = align(text, tokens) if text is not None else None
        yield Sentence(tokens, labels, text if spans else None, spans, block[start].source)


def is_comment(line: str, separator: str | None) -> bool:
    """Whether a line that stands before the first token is a comment."""
    if not line.startswith("#"):
        return False
    return bool(COMMENT.fullmatch(line)) or (separator is not None and separator not in line)


def _checked(columns: Sequence[str]) -> list[str]:
    names = [columns] if isinstance(columns, str) else list(columns)
    used = [name for name in names if name not in IGNORED]
    if used.count("token") != 1 or len(set(used)) != len(used):
        raise ConfigError(
            "column names do not describe the file",
            where="columns",
            expected='one name a column, each once, "token" among them',
            got=names,
            fix='For example columns=["id", "token", "ner", "-", "-"]',
        )
    return names


def _fields(line: Line, names: list[str], separator: str | None) -> list[str]:
    fields = line.text.split(separator)
    if len(fields) != len(names):
        raise line.fault(
            "wrong number of fields",
            expected=f"{len(names)} ({', '.join(names)})",
            got=f"{len(fields)}: {line.text}",
            fix="Correct the line, or name the file's columns with the columns and separator settings",
        )
    for name, value in zip(names, fields, strict=True):
        if name not in IGNORED and not value.strip():
            raise line.fault("the field is empty", field=name, expected="a value")
    return fields


def _text(comments: Iterable[Line]) -> str | None:
    for line in comments:
        key, found, value = line.text[1:].partition("=")
        if found and key.strip() == "text":
            return value.strip()
    return None
