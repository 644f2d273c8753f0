"""Texts in, tags out: a file of texts, one a line, becomes a JSONL file of their tokens, labels and spans.

Inputs are read line by line and tagged some hundred texts at a time, so a corpus of any size takes bounded memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from models.bundle import open_bundle
from models.errors import ConfigError, DataFormatError
from models.tagger import TaggedText, Tagger
from models.tagger.tokens import script
from services.batch.fetching import opened
from services.batch.places import without_chain
from services.batch.sources import Item, find_items
from services.batch.work import Progress
from services.languages import default_names

SUFFIXES = (".txt", ".jsonl")
"""What is taken from a folder; a file that is named is read whatever its suffix."""

ENDING = ".jsonl"
TEXTS_AT_ONCE = 256


class TextTagger(Protocol):
    """What the batch needs of a tagger."""

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Tag each text."""


@dataclass(frozen=True)
class Line:
    """One text and where it came from."""

    source: str
    number: int
    text: str


class TaggerChoice:
    """Several bundles side by side; each text goes to the one for its language, loaded when first needed."""

    def __init__(self, bundles: Sequence[str]) -> None:
        if not bundles:
            fix = "Name one with --bundle."
            raise ConfigError("there is no bundle to tag with", expected="a tagger in pretrained/", fix=fix)
        specs = {bundle: open_bundle(bundle).spec for bundle in bundles}
        self._addresses = {spec.name: bundle for bundle, spec in specs.items()}
        self._defaults = default_names({spec.name: spec.languages for spec in specs.values()})
        self._loaded: dict[str, TextTagger] = {}

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Tag each text with the bundle for its script, keeping the order."""
        chosen = [self._choose(text) for text in texts]
        answers: dict[int, TaggedText] = {}
        for bundle in dict.fromkeys(chosen):
            places = [place for place, name in enumerate(chosen) if name == bundle]
            answers.update(zip(places, self._load(bundle).tag([texts[place] for place in places]), strict=True))
        return [answers[place] for place in range(len(texts))]

    def _choose(self, text: str) -> str:
        name = self._defaults.get(script(text), next(iter(self._addresses)))
        return self._addresses[name]

    def _load(self, bundle: str) -> TextTagger:
        if bundle not in self._loaded:
            self._loaded[bundle] = Tagger.load(bundle)
        return self._loaded[bundle]


class TextHandler:
    """Tags the files of a run.

    Args:
        tagger: what tags.
    """

    def __init__(self, tagger: TextTagger) -> None:
        self._tagger = tagger

    @classmethod
    def open(cls, bundles: Sequence[str], options: dict[str, Any]) -> TextHandler:
        """The handler of an assignment, with its bundles."""
        return cls(TaggerChoice(bundles))

    def __call__(self, source: Path, item: Item, folder: Path, progress: Progress) -> dict[str, Any]:
        """Tag every text of a file of UTF-8, one a line (.jsonl: an object with the field ``text``); empty lines are passed over.

        Raises:
            DataFormatError: a line is not UTF-8 or not such an object; names file, line and field.
        """
        target = folder / (item.output + ENDING)
        target.parent.mkdir(parents=True, exist_ok=True)
        texts = tokens = 0
        with source.open("rb") as stream, target.open("w", encoding="utf-8", newline="\n") as output:
            for line, tagged in _tagged(stream, item.address, self._tagger):
                output.write(_record(line, tagged))
                texts, tokens = texts + 1, tokens + len(tagged.tokens)
                if texts % TEXTS_AT_ONCE == 0:
                    progress(stream.tell(), item.size)
        return {"texts": texts, "tokens": tokens}


def tag_to_stdout(inputs: Sequence[str], tagger: TextTagger) -> None:
    """Tag every text of `inputs`, and write to stdout.

    Args:
        inputs: files, folders, globs or fsspec addresses; - is stdin.
        tagger: what tags.

    Raises:
        InputError: an input is missing or cannot be read.
        DataFormatError: a line is not UTF-8 or not such an object; names file, line and field.
    """
    for item in find_items(inputs, SUFFIXES):
        with opened(item) as stream:
            for line, tagged in _tagged(stream, item.address, tagger):
                sys.stdout.write(_record(line, tagged))


def read_lines(stream: BinaryIO, name: str, json_lines: bool) -> Iterator[Line]:
    """The texts of one file."""
    for number, raw in enumerate(stream, 1):
        if content := raw.rstrip(b"\r\n"):
            where = f"{name}:{number}"
            text = _decode(content, where)
            yield Line(name, number, _text_field(text, where) if json_lines else text)


def _record(line: Line, tagged: TaggedText) -> str:
    record = {"source": line.source, "line": line.number, "text": line.text, **asdict(tagged)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _tagged(stream: BinaryIO, address: str, tagger: TextTagger) -> Iterator[tuple[Line, TaggedText]]:
    lines: Iterable[Line] = read_lines(stream, address, without_chain(address).lower().endswith(".jsonl"))
    while chunk := list(islice(lines, TEXTS_AT_ONCE)):
        yield from zip(chunk, tagger.tag([line.text for line in chunk]), strict=True)


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        fix = "Convert the file to UTF-8 (`iconv -f … -t utf-8`)."
        got = f"byte 0x{content[problem.start]:02x} at position {problem.start}"
        raise DataFormatError("not UTF-8", where=where, got=got, fix=fix) from problem


def _text_field(content: str, where: str) -> str:
    expected = 'an object such as {"text": "Ada lived in London."}'
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise DataFormatError("not JSON", where=where, expected=expected, got=content) from problem
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataFormatError("the field text is missing or not a string", where=where, expected=expected, got=content)
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise DataFormatError("field text: half of a surrogate pair", where=where, expected="valid Unicode", got=content)
    return text
