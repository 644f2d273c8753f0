"""Recordings in, voices out, each in bounded memory: ``in/a/talk.mp3`` becomes ``out/a/talk.wav``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from models.bundle import open_bundle
from models.errors import ConfigError
from models.separator.writing import Layout, Written
from services.batch.sources import Item
from services.batch.work import Progress

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""What is taken from a folder, in either case; a file that is named is read whatever its suffix."""


class FileSeparator(Protocol):
    """What is needed of a separator."""

    def separate_file(
        self, source: Path, target: Path, *, layout: Layout, name: str, progress: Callable[[float, float], None]
    ) -> Written:
        """See ``models.separator.Separator.separate_file``."""


class SoundHandler:
    """Separates the recordings of a run.

    Args:
        separator: what separates.
        layout: a file with a channel for each voice, or a file for each voice.
        ending: .wav (float, never clipped) or .flac (24 bits, scaled where they would clip).
    """

    def __init__(self, separator: FileSeparator, layout: Layout = "channels", ending: str = ".wav") -> None:
        self._separator, self._layout, self._ending = separator, layout, ending

    @classmethod
    def open(cls, bundles: Sequence[str], options: dict[str, Any]) -> SoundHandler:
        """The handler of an assignment, with its bundle."""
        from models.separator import Separator

        return cls(Separator.load(bundles[0]), **options)

    def __call__(self, source: Path, item: Item, folder: Path, progress: Progress) -> dict[str, Any]:
        """Separate a recording.

        Raises:
            InputError: of the kinds that ``models.separator.Separator.separate_file`` tells.
        """
        target = folder / (item.output + self._ending)
        written = self._separator.separate_file(source, target, layout=self._layout, name=item.address, progress=progress)
        return {"seconds": round(written.seconds, 6)} | ({"scale": written.scale} if written.scale != 1 else {})


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
