"""Files in, files out: many texts tagged on this machine, in bounded memory.

Inputs are read line by line and tagged some hundred texts at a time; an output file appears under its name only when it
is complete, so an interrupted run leaves no half of one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, TextIO

import fsspec
from tqdm import tqdm

from models.bundle import open_bundle
from models.errors import ConfigError, DataFormatError, InputError
from models.tagger import TaggedText, Tagger
from models.tagger.tokens import script
from services.languages import default_names

SUFFIXES = (".txt", ".jsonl")
"""What is taken from a folder; a file that is named is read whatever its suffix."""

TEXTS_AT_ONCE = 256


class TextTagger(Protocol):
    """What the batch needs of a tagger."""

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Tag each text."""


@dataclass(frozen=True)
class Source:
    """One input file: where it lies, and what its output is called below the output folder."""

    address: str
    output: str

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes of the file, or of stdin."""
        if self.address == "-":
            yield sys.stdin.buffer
            return
        try:
            with fsspec.open(self.address, "rb") as stream:
                yield stream
        except OSError as problem:
            raise InputError("cannot be read", where=self.address, got=problem.strerror or problem) from problem


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


def tag_files(inputs: Sequence[str], out: Path | None, tagger: TextTagger) -> None:
    """Tag every text of `inputs`.

    Args:
        inputs: files, folders, globs or fsspec addresses of UTF-8 text, one text a line (`.jsonl`: an object with the
            field `text` a line); `-` is stdin. Empty lines are passed over.
        out: folder for one `.jsonl` file per input; None writes to stdout.
        tagger: what tags.

    Raises:
        InputError: an input is missing or cannot be read.
        DataFormatError: a line is not UTF-8 or not such an object; names file, line and field.
        ConfigError: two inputs would have the same output, or an output would overwrite an input.
    """
    sources = find_sources(inputs)
    if out is not None:
        refuse_collisions(sources, out)
    terminal = sys.stderr.isatty()
    for done, source in enumerate(sources, 1):
        count = 0
        with _output(out, source) as output:
            for line, tagged in tqdm(_tagged(source, tagger), desc=source.address, unit=" texts", disable=not terminal):
                record = {"source": line.source, "line": line.number, "text": line.text, **asdict(tagged)}
                output.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        if out is not None and not terminal:
            tqdm.write(f"{done}/{len(sources)} {source.address}: {count} texts", file=sys.stderr)


def find_sources(inputs: Iterable[str], suffixes: tuple[str, ...] = SUFFIXES, ending: str = ".jsonl") -> list[Source]:
    """Expand folders and globs, in sorted order; each file once.

    Args:
        inputs: files, folders, globs, fsspec addresses, or - for stdin.
        suffixes: what is taken from a folder.
        ending: suffix of the outputs.
    """
    sources = [source for given in inputs for source in _expand(given, suffixes, ending)]
    return list({source.address: source for source in sources}.values())


def read_lines(stream: BinaryIO, name: str, json_lines: bool) -> Iterator[Line]:
    """The texts of one file."""
    for number, raw in enumerate(stream, 1):
        if content := raw.rstrip(b"\r\n"):
            where = f"{name}:{number}"
            text = _decode(content, where)
            yield Line(name, number, _text_field(text, where) if json_lines else text)


def _expand(given: str, suffixes: tuple[str, ...], ending: str) -> list[Source]:
    if given == "-":
        return [Source("-", f"stdin{ending}")]
    try:
        filesystem, path = fsspec.core.url_to_fs(given)
        if filesystem.isfile(path):
            return [_source(filesystem, path, path.rpartition("/")[0], ending)]
        folder = filesystem.isdir(path)
        found = filesystem.find(path) if folder else filesystem.glob(path) if any(sign in path for sign in "*?[") else []
    except (OSError, ValueError, ImportError) as problem:
        raise InputError("cannot be read", where=given, got=problem) from problem
    home = path if folder else re.split(r"[*?[]", path)[0].rpartition("/")[0]
    files = [name for name in sorted(found) if name.lower().endswith(suffixes) or not folder]
    if not files:
        expected = f"a file, a folder with {', '.join(suffixes[:-1])} or {suffixes[-1]} files, a glob that matches, or -"
        raise InputError("no such input", where=given, expected=expected, fix="Check the spelling.")
    return [_source(filesystem, name, home, ending) for name in files if not filesystem.isdir(name)]


def _source(filesystem: Any, path: str, home: str, ending: str) -> Source:
    relative = path.removeprefix(home.rstrip("/") + "/")
    local = "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))
    return Source(path if local else filesystem.unstrip_protocol(path), str(PurePosixPath(relative).with_suffix(ending)))


def refuse_collisions(sources: Sequence[Source], out: Path) -> None:
    """Raise ConfigError where two inputs would have the same output, or an output would overwrite an input, however named."""
    owner: dict[str, str] = {}
    taken = {Path(source.address).resolve() for source in sources}
    for source in sources:
        other = owner.setdefault(source.output, source.address)
        if other != source.address:
            fix = "Give them in separate runs with separate --out folders."
            raise ConfigError(
                "two inputs have the same output", where=source.output, got=f"{other} and {source.address}", fix=fix
            )
        if (target := (out / source.output).resolve()) in taken:
            whose = "its" if target == Path(source.address).resolve() else "another"
            fix = "Choose another --out folder."
            raise ConfigError(f"the output would overwrite {whose} input", where=source.address, got=target, fix=fix)


@contextmanager
def _output(out: Path | None, source: Source) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    target = out / source.output
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        partial.replace(target)
    except OSError as problem:
        raise ConfigError("the output cannot be written", where=str(target), got=problem.strerror or problem) from problem
    finally:
        partial.unlink(missing_ok=True)


def _tagged(source: Source, tagger: TextTagger) -> Iterator[tuple[Line, TaggedText]]:
    with source.open() as stream:
        lines = read_lines(stream, source.address, source.address.endswith(".jsonl"))
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
