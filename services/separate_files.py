"""Recordings in, voices out: any number of files on this machine, each in bounded memory.

The tree of the input is kept: ``in/a/talk.mp3`` becomes ``out/a/talk.wav``. A file that cannot be separated is reported, and
the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from tqdm import tqdm

from models.bundle import open_bundle
from models.errors import ConfigError, ConvoyError
from models.separator.writing import Layout, Written
from services.batch import Source, find_sources, refuse_collisions

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""What is taken from a folder, in either case; a file that is named is read whatever its suffix."""


Progress = Callable[[float, float], None]


class FileSeparator(Protocol):
    """What is needed of a separator."""

    def separate_file(self, source: BinaryIO, target: Path, *, layout: Layout, name: str, progress: Progress) -> Written:
        """See ``models.separator.Separator.separate_file``."""


def separate_files(inputs: Sequence[str], out: Path, separator: FileSeparator, layout: Layout, ending: str) -> int:
    """Separate every recording of ``inputs``.

    Args:
        inputs: files, folders, globs or fsspec addresses of recordings; - is stdin.
        out: folder for the voices.
        separator: what separates.
        layout: a file with a channel for each voice, or a file for each voice.
        ending: .wav (float, never clipped) or .flac (24 bits, scaled where they would clip).

    Returns:
        How many could not be separated.

    Raises:
        InputError: an input is missing.
        ConfigError: two inputs would have the same output, or an output would overwrite an input.
    """
    sources = find_sources(inputs, SUFFIXES, ending)
    refuse_collisions(sources, out)
    failed = 0
    for number, source in enumerate(sources, 1):
        try:
            with _progress(source) as progress, source.open() as stream:
                written = separator.separate_file(
                    stream, out / source.output, layout=layout, name=source.address, progress=progress
                )
        except ConvoyError as error:
            failed += 1
            _say(f"{number}/{len(sources)} error: {error}")
        else:
            scaled = f", scaled by {written.scale:.3g} so that nothing clips" if written.scale != 1 else ""
            names = ", ".join(str(path) for path in written.paths)
            _say(f"{number}/{len(sources)} {source.address}: {written.seconds:.1f} s → {names}{scaled}")
    return failed


def default_separator(folders: Sequence[Path], *, causal: bool) -> str:
    """The first bundle that is causal or not, as asked; for files a causal one does too.

    Raises:
        ConfigError: there is none.
    """
    kinds = {folder: open_bundle(folder).spec.preprocessing.get("causal") for folder in folders}
    chosen = [folder for folder, kind in kinds.items() if kind is causal] or ([] if causal else list(kinds))
    if not chosen:
        kind = "a causal separator" if causal else "a separator"
        raise ConfigError("there is no bundle to separate with", expected=f"{kind} in pretrained/", fix="Name one with --bundle.")
    return str(chosen[0])


@contextmanager
def _progress(source: Source) -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere, where a line for each file has to do."""
    with tqdm(desc=source.address, unit="s", disable=not sys.stderr.isatty(), leave=False, bar_format=_BAR) as bar:

        def show(done: float, total: float) -> None:
            bar.total, bar.n = round(total, 1), round(done, 1)
            bar.refresh()

        yield show


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
