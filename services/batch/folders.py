"""Folders that are one input: a DICOM series of the files in it, or a Zarr store of all that lies below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Listing = Mapping[str, Mapping[str, Any]]
"""Files by their paths, with what the file system knows of each."""
Folders = Callable[[Any, Listing], bool]
"""Says of a folder of a file system, by the files in it, that it is one input."""

_MARKS = {".zattrs", ".zgroup", "zarr.json"}


def is_store(files: Iterable[str]) -> bool:
    """Whether a folder that holds these files is a Zarr group."""
    return any(name.rpartition("/")[2] in _MARKS for name in files)


def folders_among(filesystem: Any, found: Listing, top: str, whole: Folders) -> dict[str, Listing]:
    """The folders that are one input each, with their files.

    Args:
        filesystem: theirs.
        found: all files below a folder.
        top: that folder, which may be one of them.
        whole: says which are.
    """
    held: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, info in found.items():
        held.setdefault(name.rpartition("/")[0], {})[name] = info
    stores = {folder for folder, files in held.items() if is_store(files) and whole(filesystem, files)}
    grouped: dict[str, dict[str, Mapping[str, Any]]] = {}
    for folder, files in held.items():
        if store := next((each for each in reversed([folder, *above(folder, top)]) if each in stores), None):
            grouped.setdefault(store, {}).update(files)
        elif whole(filesystem, files):
            grouped[folder] = files
    return dict(grouped)


def files_of(filesystem: Any, path: str) -> Listing:
    """The files of a folder that is one input, as they are now."""
    filesystem.invalidate_cache()
    files: Listing = filesystem.find(path, maxdepth=1, detail=True)
    return filesystem.find(path, detail=True) if is_store(files) else files


def above(path: str, top: str) -> Iterator[str]:
    """The folders above a path, from the nearest up to `top`."""
    while len(path) > len(top):
        path = path.rpartition("/")[0]
        yield path
