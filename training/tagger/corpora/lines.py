"""Files of a corpus and their lines: UTF-8, strictly, with every fault at its file and line."""

from __future__ import annotations

import codecs
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataFormatError, InputError
from training.remote import is_pattern, is_remote, local, shown

WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Line:
    """One line without its end; `number` counts from 1."""

    file: str
    number: int
    text: str

    @property
    def source(self) -> str:
        return f"{self.file}:{self.number}"

    def fault(self, problem: str, *, field: str = "", expected: str = "", got: object = None, fix: str = "") -> DataFormatError:
        """The error for this line, to be raised."""
        where = f"{self.source}, field {field}" if field else self.source
        return DataFormatError(problem, where=where, expected=expected, got=got, fix=fix)


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a UTF-8 file, with or without byte order mark; only LF and CRLF end a line.

    Raises:
        DataFormatError: bytes that are not UTF-8, at their line.
    """
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                _refuse_wide(path, raw)
                raw = raw.removeprefix(codecs.BOM_UTF8)
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = raw[error.start : error.start + 4].hex(" ")
                raise DataFormatError(
                    "bytes that are not UTF-8",
                    where=f"{path.as_posix()}:{number}, byte {error.start + 1}",
                    expected="UTF-8 text",
                    got=bad,
                    fix="Save the file as UTF-8, or leave it out of the corpus",
                ) from None
            yield Line(path.as_posix(), number, text)


def corpus_files(path: str | Path, suffixes: frozenset[str]) -> list[Path]:
    """Files of a corpus, sorted: a file as it is, a folder's files with one of `suffixes`, or what a glob matches.

    What lies at an fsspec address is fetched first, see `training.remote`.
    """
    place = local(path)
    if is_remote(path) and is_pattern(path) and place.is_dir():
        return sorted(each for each in place.rglob("*") if each.is_file())
    if place.is_file():
        return [place]
    if place.is_dir():
        files = sorted(each for each in place.rglob("*") if each.is_file() and each.suffix.lower() in suffixes)
        if files:
            return files
        raise InputError(
            "no corpus file in this folder",
            where=shown(path),
            expected="files that end in " + " ".join(sorted(suffix or "(no suffix)" for suffix in suffixes)),
            fix='Name the files with a glob, such as "folder/*.pos"',
        )
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob takes no absolute patterns
    files = sorted(Path(each) for each in matches if Path(each).is_file())
    if not files:
        raise InputError("no such file", where=str(path), expected="a file, a folder or a glob that matches files")
    return files


def _refuse_wide(path: Path, raw: bytes) -> None:
    if raw.startswith(WIDE_MARKS):
        raise DataFormatError(
            "the file is UTF-16", where=path.as_posix(), expected="UTF-8 text", fix="Save the file as UTF-8 and read it again"
        )
