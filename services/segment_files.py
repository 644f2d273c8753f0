"""Volumes in, label maps out: any number of files on this machine, each in bounded memory.

The tree of the input is kept: ``in/a/scan.nii.gz`` becomes ``out/a/scan.nii.gz``. A volume that cannot be segmented is reported,
and the others go on.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from models.errors import ConfigError, ConvoyError
from models.segmenter.formats import default_suffix
from models.segmenter.formats.reading import is_series, is_zarr
from models.segmenter.preview import draw
from models.segmenter.volume import Volume
from services.batch import Source, find_sources

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tif", ".tiff", ".zip", ".dcm")
"""What is taken from a folder, in either case; a file that is named is read whatever its suffix."""

Progress = Callable[[int, int], None]


class FileSegmenter(Protocol):
    """What is needed of a segmenter."""

    def segment_file(
        self,
        source: Path,
        target: Callable[[Volume], Path | None],
        *,
        spacing: tuple[float, float, float] | None,
        flips: str,
        name: str,
        progress: Progress,
        seen: Callable[[Volume, Any], None],
    ) -> Any:
        """See ``models.segmenter.Segmenter.segment_file``."""


@dataclass(frozen=True)
class Wanted:
    """What is written for each volume.

    Attributes:
        suffix: of the label map; None takes the volume's own kind.
        preview: a picture, NAME.png.
        summary: classes and their millilitres, NAME.json.
        spacing: mm (z, y, x), for files that do not say it.
        flips: axes that volumes are also looked at mirrored along.
    """

    suffix: str | None = None
    preview: bool = False
    summary: bool = False
    spacing: tuple[float, float, float] | None = None
    flips: str = ""


def segment_files(inputs: Sequence[str], out: Path, segmenter: FileSegmenter, wanted: Wanted) -> int:
    """Segment every volume of ``inputs``.

    Args:
        inputs: files, folders, globs or fsspec addresses of volumes; a folder that is a DICOM series or an OME-Zarr is one
            volume.
        out: folder for the label maps.
        segmenter: what segments.
        wanted: what is written.

    Returns:
        How many could not be segmented.

    Raises:
        InputError: an input is missing.
        ConfigError: two inputs would have the same output.
    """
    sources = find_volumes(inputs)
    _refuse_same_names(sources)
    failed = 0
    for number, source in enumerate(sources, 1):
        try:
            with _progress(source.address) as progress, _local(source) as path:
                line = _segment(path, source, out, segmenter, wanted, progress)
        except ConvoyError as error:
            failed += 1
            line = f"error: {error}"
        tqdm.write(f"{number}/{len(sources)} {line}", file=sys.stderr)
    return failed


def find_volumes(inputs: Sequence[str]) -> list[Source]:
    """Expand folders and globs; the output of each is its name without its ending."""
    sources = []
    for given in inputs:
        folder = Path(given)
        if folder.is_dir() and (is_zarr(folder) or is_series(folder)):
            sources.append(Source(given, folder.resolve().name.removesuffix(".zarr").removesuffix(".ome")))
        else:
            sources += [Source(each.address, each.output.removesuffix(".nii")) for each in find_sources([given], SUFFIXES, "")]
    return list({source.address: source for source in sources}.values())


def default_segmenter(folders: Sequence[Path]) -> str:
    """The only bundle there is.

    Raises:
        ConfigError: there is none, or there are several: volumes of one kind are noise to a network for another.
    """
    if len(folders) != 1:
        known = ", ".join(str(folder) for folder in folders)
        fix = f"Name it with --bundle: {known}." if folders else "Name one with --bundle."
        raise ConfigError("which bundle is to segment?", expected="one segmenter in pretrained/", got=len(folders), fix=fix)
    return str(folders[0])


def _segment(path: Path, source: Source, out: Path, segmenter: FileSegmenter, wanted: Wanted, progress: Progress) -> str:
    """One volume; a line that says what became of it."""
    stem = out / source.output
    made: list[Path] = []

    def target(volume: Volume) -> Path:
        made.append(stem.with_name(stem.name + (wanted.suffix or default_suffix(volume))))
        if made[0].resolve() == Path(source.address).resolve():
            fix = "Choose another --out folder."
            raise ConfigError("the output would overwrite its input", where=source.address, got=made[0], fix=fix)
        return made[0]

    def seen(volume: Volume, found: Any) -> None:
        if wanted.preview:
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_name(stem.name + ".png").write_bytes(draw(volume, found.labels))

    found = segmenter.segment_file(
        path, target, spacing=wanted.spacing, flips=wanted.flips, name=source.address, progress=progress, seen=seen
    )
    if wanted.summary:
        text = json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n"
        stem.with_name(stem.name + ".json").write_text(text, "utf-8")
    amounts = ", ".join(f"{each.name} {_amount(each)}" for each in found.classes[1:])
    notes = "".join(f" Note: {note}" for note in found.notes)
    return f"{source.address}: {amounts} → {made[0]}{notes}"


def _amount(found: Any) -> str:
    return f"{found.voxels} voxels" if found.millilitres is None else f"{found.millilitres:.3g} ml"


def _refuse_same_names(sources: Sequence[Source]) -> None:
    owner: dict[str, str] = {}
    for source in sources:
        if (other := owner.setdefault(source.output, source.address)) != source.address:
            fix = "Give them in separate runs with separate --out folders."
            raise ConfigError(
                "two inputs have the same output", where=source.output, got=f"{other} and {source.address}", fix=fix
            )


@contextmanager
def _local(source: Source) -> Iterator[Path]:
    """The volume on this disk; what lies elsewhere is fetched for as long as it is needed."""
    if "://" not in source.address:
        yield Path(source.address)
        return
    with tempfile.TemporaryDirectory(prefix="convoy-") as folder, source.open() as stream:
        path = Path(folder) / source.address.rpartition("/")[2]
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield path


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere, where a line for each file has to do."""
    with tqdm(desc=name, unit=" windows", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show
