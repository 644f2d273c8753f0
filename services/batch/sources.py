"""What a batch works on: files, folders, globs, manifests and fsspec addresses become items, each with its output's name."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from models.errors import ConfigError, DataFormatError, InputError
from services.batch.folders import Folders, Listing, above, files_of, folders_among, is_store
from services.batch.places import is_local, located, without_cache, without_chain

STDIN = "-"
_DIGESTS = ("ETag", "etag", "md5Hash", "md5", "checksum", "generation", "blob_id", "sha256", "CRC")
_TIMES = ("mtime", "LastModified", "last_modified", "created")
_NAME_FIELDS = ("folder", "stem", "ending", "tag")


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        address: a path on this machine, an fsspec address, or - for stdin.
        output: its outputs' common name below the output folder, without an ending.
        size: in bytes; of a folder, of all its files.
        folder: whether it is one, of several files.
        tag: of the content: what the file system knows of it (a digest), or else size and time of change.
    """

    address: str
    output: str
    size: int = 0
    tag: str = ""
    folder: bool = False


def find_items(
    inputs: Iterable[str], suffixes: Sequence[str], whole: Folders | None = None, *, absent: bool = False
) -> list[Item]:
    """Expand folders and globs, in sorted order; each file once.

    Args:
        inputs: files, folders, globs, fsspec addresses, or - for stdin.
        suffixes: what is taken from a folder, lower case; the longer of two that fit is the ending of a name.
        whole: says which folders are one input, as a DICOM series is.
        absent: a file that is not there is an item too, which fails by itself.

    Raises:
        InputError: there is no such input, or it cannot be read.
    """
    items = [item for given in inputs for item in _chained(without_cache(given), tuple(suffixes), whole, absent)]
    return list({item.address: item for item in items}.values())


def read_manifest(address: str, suffixes: Sequence[str], whole: Folders | None = None) -> list[Item]:
    """The items of a manifest: a CSV, JSONL or Parquet file with the column ``input`` and, if names are given, ``output``.

    Inputs are addresses, or paths from the manifest's own folder; outputs are names below the output folder, without an ending.
    A file that is not there is an item like others, and fails by itself.

    Raises:
        InputError: the manifest cannot be read, or there is nothing in a folder or for a glob that it names.
        DataFormatError: a row lacks its input; names file and row.
    """
    home = address.rpartition("/")[0]
    items = []
    for number, row in _rows(address):
        given, name = row.get("input"), row.get("output")
        if not isinstance(given, str) or given in ("", STDIN) or not (name is None or isinstance(name, str)):
            expected = "a text in the column input, and in output if there is one"
            raise DataFormatError("not a row of a manifest", where=f"{address}:{number}", expected=expected, got=dict(row))
        absolute = "://" in given or Path(given).is_absolute() or not home
        found = find_items([given if absolute else f"{home}/{given}"], suffixes, whole, absent=True)
        if name and len(found) > 1:
            where = f"{address}:{number}"
            raise DataFormatError("one name for several files", where=where, expected="an input that is one file", got=given)
        items += [replace(found[0], output=_checked_name(name, f"{address}:{number}"))] if name else found
    return list({item.address: item for item in items}.values())


def named(items: Iterable[Item], template: str) -> list[Item]:
    """Items whose outputs are called after a template such as ``{folder}/{stem}-voices``.

    Raises:
        ConfigError: the template has unknown fields, or makes names outside of the output folder.
    """
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        if any(form or conversion for _, _, form, conversion in parts):
            raise ValueError("formats and conversions are not for names")
        fields = {str(field) for _, field, _, _ in parts}
    except ValueError as problem:
        raise ConfigError("not a template of names", where="--name", got=f"{template}: {problem}") from None
    if unknown := fields - set(_NAME_FIELDS):
        expected = ", ".join(f"{{{field}}}" for field in _NAME_FIELDS)
        raise ConfigError("unknown field in the template of names", where="--name", expected=expected, got=sorted(unknown)[0])
    return [replace(item, output=_checked_name(template.format(**_name_fields(item)), "--name")) for item in items]


def refuse_collisions(
    items: Sequence[Item], place: Callable[[str], str], endings: Sequence[str], kept: Sequence[str] = ()
) -> None:
    """Raise ConfigError where outputs would be in each other's way, or overwrite an input, however named.

    Args:
        items: all of a run.
        place: where an output of a name would lie, as items are addressed, links followed.
        endings: that outputs may have.
        kept: names that the run needs itself.
    """
    owner: dict[str, str] = {}
    taken = {real_address(item.address): item.address for item in items}
    files = {item.output + ending for item in items for ending in endings}
    for item in items:
        if (other := owner.setdefault(item.output, item.address)) != item.address:
            fix = "Name outputs with --name or in a manifest, or give them in separate runs with separate --out folders."
            raise ConfigError("two inputs have the same output", where=item.output, got=f"{other} and {item.address}", fix=fix)
        folders = {str(folder) for folder in PurePosixPath(item.output).parents}
        if inside := next(iter(folders & files), None):
            raise ConfigError("one output would lie in another", where=item.address, got=inside, fix="Name them with --name.")
        for ending in endings:
            _refuse_target(item, item.output + ending, place, taken, kept)


def _refuse_target(item: Item, name: str, place: Callable[[str], str], taken: Mapping[str, str], kept: Sequence[str]) -> None:
    if name in kept:
        fix = "Name outputs with --name, such as {stem}-tagged."
        raise ConfigError("the output would be the run's own manifest", where=item.address, got=name, fix=fix)
    if (target := place(name)) in taken:
        whose = "its" if taken[target] == item.address else "another"
        fix = "Choose another --out folder."
        raise ConfigError(f"the output would overwrite {whose} input", where=item.address, got=target, fix=fix)


def real_address(address: str) -> str:
    """An address with links followed, where it is a path."""
    return address if "://" in address else os.path.realpath(address)


def current_tag(item: Item) -> str:
    """The tag that the item's content has now.

    Raises:
        OSError: it is gone, or cannot be reached.
    """
    if item.address == STDIN:
        return item.tag
    filesystem, path = located(item.address)
    if item.folder:
        return _folder_item(filesystem, path, item.output, files_of(filesystem, path)).tag
    filesystem.invalidate_cache()
    return _tag(filesystem.info(path))


def _chained(given: str, suffixes: tuple[str, ...], whole: Folders | None, absent: bool) -> Iterator[Item]:
    """Items, at addresses that still say in which archive they are."""
    chain = given.removeprefix(without_chain(given))
    yield from (replace(item, address=item.address + chain) for item in _expand(given, suffixes, whole, absent))


def _expand(given: str, suffixes: tuple[str, ...], whole: Folders | None, absent: bool) -> Iterator[Item]:
    if given == STDIN:
        yield Item(STDIN, "stdin")
        return
    try:
        filesystem, path = located(given)
        filesystem.invalidate_cache()
        if filesystem.isfile(path):
            yield _item(filesystem, path, path.rpartition("/")[0], filesystem.info(path), suffixes)
            return
        folder = filesystem.isdir(path)
        home = path if folder else re.split(r"[*?[]", path)[0].rpartition("/")[0]
        search = _below if folder else _matching if any(sign in path for sign in "*?[") else _nothing
        files, grouped = search(filesystem, path, home, suffixes, whole)
    except ImportError as problem:
        fix = "Run `make dev` once, then `.venv-dev/bin/convoy` in place of `convoy`; other stores need a package of their own."
        raise InputError("cannot be read", where=given, got=problem, fix=fix) from problem
    except Exception as problem:  # file systems raise whatever the libraries behind them do
        raise InputError("cannot be read", where=given, got=f"{type(problem).__name__}: {problem}") from problem
    if absent and search is _nothing:
        yield Item(_address(filesystem, path), _without_ending(path.rpartition("/")[2], suffixes))
        return
    if not files and not grouped:
        expected = f"a file, a folder with {', '.join(suffixes[:-1])} or {suffixes[-1]} files, a glob that matches, or -"
        raise InputError("no such input", where=given, expected=expected, fix="Check the spelling.")
    home = home.rpartition("/")[0] if home in grouped else home  # a folder that is an input gives its own name
    for name in sorted([*files, *grouped]):
        if name in grouped:
            yield _folder_item(filesystem, name, name.removeprefix(home.rstrip("/") + "/"), grouped[name])
        else:
            yield _item(filesystem, name, home, files[name], suffixes)


_Found = tuple[dict[str, Mapping[str, Any]], dict[str, Listing]]  # files, and folders that are one input each, with their files


def _below(filesystem: Any, path: str, home: str, suffixes: tuple[str, ...], whole: Folders | None) -> _Found:
    """What a folder holds."""
    found = _visible(filesystem.find(path, detail=True), path)
    grouped = folders_among(filesystem, found, path, whole) if whole else {}
    files = {name: info for name, info in found.items() if name.lower().endswith(suffixes)}
    return _without_grouped(files, grouped), grouped


def _matching(filesystem: Any, path: str, home: str, suffixes: tuple[str, ...], whole: Folders | None) -> _Found:
    """What a glob finds; of each folder all that it holds, as if it had been named."""
    found = _visible(filesystem.glob(path, detail=True), home)
    folders = {name for name, info in found.items() if info.get("type") == "directory" or _leads_to_folder(filesystem, info)}
    files = {name: info for name, info in found.items() if name not in folders}
    if whole:  # of what lies in a store, nothing is an input
        places = {place for name in found for place in above(name, home) if place != home}
        stores = {place for place in places if is_store(filesystem.ls(place, detail=False))}
        files = {name: info for name, info in files.items() if not stores & set(above(name, home))}
        folders = {name for name in folders if not stores & set(above(name, home))}
    grouped: dict[str, Listing] = {}
    for folder in sorted(folders):
        if not folders & set(above(folder, home)):
            held, inner = _below(filesystem, folder, home, suffixes, whole)
            files, grouped = held | files, grouped | inner
    return _without_grouped(files, grouped), grouped


def _nothing(filesystem: Any, path: str, home: str, suffixes: tuple[str, ...], whole: Folders | None) -> _Found:
    return {}, {}


def _visible(found: Listing, home: str) -> Listing:
    """Without what runs keep for themselves."""
    return {name: info for name, info in found.items() if ".convoy" not in name.removeprefix(home).split("/")}


def _without_grouped(files: Listing, grouped: Mapping[str, Listing]) -> dict[str, Mapping[str, Any]]:
    inside = {name for held in grouped.values() for name in held}
    return {name: info for name, info in files.items() if name not in inside}


def _leads_to_folder(filesystem: Any, info: Mapping[str, Any]) -> bool:
    return bool(info.get("islink") and filesystem.isdir(info["name"]))


def _item(filesystem: Any, path: str, home: str, info: Mapping[str, Any], suffixes: tuple[str, ...]) -> Item:
    if info.get("islink"):
        with suppress(OSError):  # it leads nowhere: that becomes this item's failure
            info = filesystem.info(path)  # the content's, not the link's
    relative = path.removeprefix(home.rstrip("/") + "/")
    return Item(_address(filesystem, path), _without_ending(relative, suffixes), int(info.get("size") or 0), _tag(info))


def _folder_item(filesystem: Any, path: str, name: str, files: Listing) -> Item:
    listed = [[each.removeprefix(path), info.get("size"), _tag(info)] for each, info in sorted(files.items())]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    size = sum(int(info.get("size") or 0) for info in files.values())
    return Item(_address(filesystem, path), name.removesuffix(".zarr").removesuffix(".ome"), size, digest, folder=True)


def _tag(info: Mapping[str, Any]) -> str:
    if digest := next((info[key] for key in _DIGESTS if info.get(key)), None):
        return str(digest).strip('"')
    changed = next((info[key] for key in _TIMES if info.get(key)), "")
    return f"{info.get('size')}-{changed}"


def _address(filesystem: Any, path: str) -> str:
    return path if is_local(filesystem) else str(filesystem.unstrip_protocol(path))


def _without_ending(name: str, suffixes: tuple[str, ...]) -> str:
    known = max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default=PurePosixPath(name).suffix)
    bare = name[: len(name) - len(known)]
    return bare if PurePosixPath(bare).name else name


def _name_fields(item: Item) -> dict[str, str]:
    path = PurePosixPath(item.output)
    ending = PurePosixPath(without_chain(item.address)).suffix.removeprefix(".")
    return {"folder": str(path.parent), "stem": path.name, "ending": ending, "tag": re.sub(r"\W", "", item.tag)[:16]}


def _checked_name(name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or path.parts[0] == ".convoy" or "\0" in name:
        expected = "a name below the output folder, such as talks/monday"
        raise ConfigError("not a name of an output", where=where, expected=expected, got=name)
    return str(path)


def _rows(address: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Numbered rows of a manifest, by its ending; lines count from 1, as editors do."""
    try:
        with fsspec.open(address, "rb") as stream:
            content = stream.read()
        if address.lower().endswith(".parquet"):
            import pyarrow.parquet

            yield from enumerate(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist(), 1)
            return
        text = content.decode("utf-8-sig")
    except ImportError as problem:
        fix = "Run `make dev` once, then `.venv-dev/bin/convoy` in place of `convoy`."
        raise ConfigError("Parquet needs a package that is not installed", where=address, got=problem, fix=fix) from problem
    except (OSError, ValueError) as problem:
        raise InputError("the manifest cannot be read", where=address, got=problem) from problem
    if address.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as problem:
            raise DataFormatError("not CSV", where=f"{address}:{reader.line_num}", got=problem) from problem
    elif address.lower().endswith((".jsonl", ".ndjson")):
        yield from _objects(text, address)
    else:
        raise ConfigError(
            "not a kind of manifest", where=address, expected=".csv, .jsonl or .parquet", got=PurePosixPath(address).name
        )


def _objects(text: str, address: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            where = f"{address}:{number}"
            raise DataFormatError(
                "not a row of a manifest", where=where, expected='an object such as {"input": "a.wav"}', got=line
            )
        yield number, row
