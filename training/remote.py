"""Training data on other machines: whatever fsspec can reach is fetched once, and read from this disk afterwards.

A copy stands in the cache folder (``CONVOY_CACHE``, see ``models.remote_bundle.cache_folder``) under ``data/``:

    data/files/<digest of address, name and version>      each file once, whole or not there
    data/<digest of the address>-<digest of all versions>/<name of the file or folder>

The second is made of hard links to the first and gets its name when it is complete, so several processes and runs may ask at
once, an interrupted fetch goes on where it stopped, and of a folder in which one file has changed that file alone is fetched.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import json
import os
import posixpath
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import click
import fsspec
import fsspec.asyn
from filelock import FileLock
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from models.disk import sync
from models.errors import ConfigError, ConvoyError, DataFormatError, UnavailableError
from models.remote_bundle import cache_folder

TOGETHER = 64  # files at once, of file systems that can fetch them side by side
PAUSES = (0.5, 2.0)  # s, before a file whose fetch was interrupted is asked for again
# What no second try changes; an error without a number is of the network.
LASTING = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# What tells a file's version, as the file systems name it, the surest first; a size is always part of it.
MARKS = (
    "ETag", "etag", "md5Hash", "md5", "Content-MD5", "checksum", "CRC", "generation",
    "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "modified", "created",
)  # fmt: skip


@dataclass(frozen=True)
class _File:
    """A file at an address: its path on that file system, its bytes (None where nobody tells), and what its content changes."""

    path: str
    size: int | None
    version: str


class _Call(NamedTuple):
    """What a file system is asked about a file: the file, the method's arguments, and what is done with the answer."""

    path: str
    arguments: tuple[Any, ...]
    done: Callable[[Any], None]


def is_remote(address: str | Path) -> bool:
    """Whether it is an address of fsspec's and no path."""
    return "://" in str(address)


def is_pattern(address: str | Path) -> bool:
    """Whether it may stand for several files."""
    return re.search(r"[*?\[]", str(address)) is not None


def _is_http(address: str) -> bool:
    """Whether files come from a web server, with or without a cache of fsspec's between."""
    return re.match(r"((simple|file|block)cache::)*https?://", address) is not None


def _without_query(url: str) -> str:
    return url.partition("?")[0]


def parent(address: str | Path) -> str:
    """The folder that holds a file: of ``zip://lists/a.csv::s3://bucket/data.zip`` it is ``zip://lists::s3://bucket/data.zip``."""
    if not is_remote(address):
        return str(Path(address).parent)
    parts = str(address).split("::")  # the first of them may be a cache, which has no path
    own = next(place for place, part in enumerate(parts) if is_remote(part))
    protocol, _, path = parts[own].partition("://")
    path = _without_query(path) if _is_http(parts[own]) else path
    parts[own] = f"{protocol}://{path.rpartition('/')[0]}"
    return "::".join(parts)


def shown(address: object) -> str:
    """An address, or a message with one, without the passwords in it, nor what its query gives: that may be a signature."""
    text = re.sub(r"(://[^/@:\s]*):[^/\s]*@", r"\1:***@", str(address))
    return re.sub(r"(://[^?\s]*\?)(\S+)", lambda found: found[1] + re.sub(r"=[^&\s:]+", "=***", found[2]), text)


def local(address: str | Path, *, only: Iterable[str] | None = None, without: Sequence[str] = ()) -> Path:
    """Where data lie on this disk: a path stays as it is, what an fsspec address names is fetched unless the cache has it.

    Args:
        address: a path; or the address of a file, of a folder, or a pattern (the result is a folder of what it matches).
        only: names in the folder that are wanted, of files or of folders with all that is in them; over http, which lists no
            folders, of files.
        without: folders in it that are not.

    Raises:
        ConfigError: nothing lies there, or there is no such kind of address.
        DataFormatError: a name that leads out of the folder.
        UnavailableError: the address cannot be reached, or the cache cannot be written.
    """
    if not is_remote(address):
        return Path(address)
    address = str(address)
    with _told(address):
        filesystem, root = fsspec.core.url_to_fs(address)
        if isinstance(filesystem, LocalFileSystem):
            return Path(root)
        filesystem.invalidate_cache()
        if isinstance(filesystem, AbstractArchiveFileSystem) and not filesystem.exists(root) and filesystem.exists(f"./{root}"):
            root = f"./{root}"  # as `tar -c .` names files
        name = _without_query(root) if _is_http(address) else root.partition("?versionId=")[0]
        name = posixpath.basename(name.rstrip("/")) or "data"
        if name in (".", ".."):
            raise ConfigError(
                "not the name of a file or folder", where=address, got=name, fix="Leave it out for all that is there."
            )
        is_file = _is_file(filesystem, root) if only is None or not _is_http(address) else False
        if _is_http(address) and only is not None:
            files = _named(filesystem, root, only, address)
        elif is_file:
            files = {name: _described(filesystem, filesystem.info(root), root)}
        else:
            files = _wanted(_listed(filesystem, root, address), only, without, address)
            name = "files" if is_pattern(name) else name
        folder = _kept(filesystem, address, files if is_file else {f"{name}/{each}": file for each, file in files.items()})
        return folder / name


@contextmanager
def _told(address: str, path: str = "") -> Iterator[None]:
    """Whatever file systems and the libraries behind them raise, of an address or a file in it, as ours."""
    where = shown(f"{address}: {path}" if path else address)
    try:
        yield
    except ConvoyError as problem:
        if shown(problem.message) == problem.message:
            raise
        told = {name: shown(getattr(problem, name)) for name in ("where", "expected", "fix")}
        got = None if problem.got is None else shown(problem.got)
        raise type(problem)(problem.problem, got=got, **told) from problem.__cause__
    except (ImportError, ValueError) as problem:
        fix = "Some kinds of address need a package of their own (s3fs, gcsfs, adlfs)."
        raise ConfigError("no data can be fetched from there", where=where, got=shown(problem), fix=fix) from problem
    except Exception as problem:
        if _is_absent(problem):
            fix = "Check the spelling; a folder on an object store is there as soon as an object's name begins with it."
            raise ConfigError("nothing lies at this address", where=where, got=shown(problem), fix=fix) from problem
        status = _status(problem)
        reason = f"{type(problem).__name__}: {problem}" if status is None else f"HTTP status {status}, {problem}"
        reason = shown(reason)
        if isinstance(problem, PermissionError) or status in (401, 403):
            fix = "Check the credentials, and what they may read."
            raise UnavailableError("access is refused", where=where, got=reason, fix=fix) from problem
        fix = f"Check the network, the credentials and the room in {cache_folder()} (CONVOY_CACHE names another folder)."
        raise UnavailableError("the data cannot be fetched", where=where, got=reason, fix=fix) from problem


def _is_absent(problem: BaseException) -> bool:
    """Whether it says that nothing is there. fsspec calls a server "not found" that does not answer, or answers with an error."""
    if (status := _status(problem)) is not None:
        return status in (404, 410)
    cause = problem.__cause__
    if not isinstance(problem, FileNotFoundError) or isinstance(cause, FileNotFoundError):
        return isinstance(problem, FileNotFoundError)
    return not isinstance(cause, OSError) and not type(cause).__module__.startswith("aiohttp")


def _status(problem: BaseException) -> int | None:
    """The status with which a server answered, told by an error or by what caused it: as aiohttp or as botocore keeps it."""
    each: BaseException | None = problem
    while each is not None:
        answer = getattr(each, "response", None)
        meta = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        for status in (getattr(each, "status", None), meta.get("HTTPStatusCode")):
            if isinstance(status, int):
                return status
        each = each.__cause__
    return None


# ---- what is there ----------------------------------------------------------------------------------------------------


def _is_file(filesystem: Any, root: str) -> bool:
    try:
        return bool(filesystem.info(root)["type"] == "file")
    except FileNotFoundError:
        if is_pattern(root):
            return False
        raise


def _listed(filesystem: Any, root: str, address: str) -> dict[str, _File]:
    """The files of a folder, or those that a pattern matches, by their names in it."""
    if filesystem.exists(root):
        found, start = filesystem.find(root, detail=True), root
    else:
        found, start = filesystem.glob(root, detail=True), posixpath.dirname(re.split(r"[*?\[]", root)[0])
    files: dict[str, _File] = {}
    for path, info in sorted(found.items()):
        name = str(path).removeprefix(start.rstrip("/")).lstrip("/")
        if info.get("type") == "directory" or not name or name.endswith("/"):
            continue
        if ".." in name.split("/"):
            raise DataFormatError("a name that leads out of the folder", where=address, got=name)
        name = posixpath.normpath(name)  # of archives: ./a, a//b
        if name in files:
            got, fix = f"{files[name].path} and {path}", "Pack the archive again, each file once."
            raise DataFormatError("two files of one name", where=address, got=got, fix=fix)
        files[name] = _described(filesystem, info, path)
    return files


def _named(filesystem: Any, root: str, only: Iterable[str], address: str) -> dict[str, _File]:
    """The files of these names in a folder that cannot be listed."""
    files: dict[str, _File] = {}

    def describe(name: str, path: str, info: dict[str, Any]) -> None:
        files[name] = _described(filesystem, info, path)

    calls = []
    for name in dict.fromkeys(map(posixpath.normpath, only)):
        if name.split("/")[0] in ("", ".", ".."):
            raise ConfigError("no such file", where=address, expected="names of files in this folder", got=name)
        path = f"{_without_query(root).rstrip('/')}/{quote(name)}"
        calls.append(_Call(path, (path,), functools.partial(describe, name, path)))
    _ask(filesystem, address, "info", calls)
    return files


def _described(filesystem: Any, info: dict[str, Any], path: str) -> _File:
    if info.get("mimetype") == "text/html" and not _without_query(path).lower().endswith((".html", ".htm")):
        fix = "Folders are not listed over http: name a file, an archive (zip://folder::http://…/x.zip), or a list in CSV."
        raise ConfigError("a web page lies there, no data", where=path, expected="a file", got="text/html", fix=fix)
    mark = next((str(info[name]) for name in MARKS if info.get(name)), None)
    if mark is None and info.get("size") is None:  # a listing may tell less than the file itself
        info = filesystem.info(path)
        mark = next((str(info[name]) for name in MARKS if info.get(name)), None)
    size = info.get("size")
    return _File(path, None if size is None else int(size), json.dumps([size, mark]))


def _wanted(files: dict[str, _File], only: Iterable[str] | None, without: Sequence[str], address: str) -> dict[str, _File]:
    """Those that are asked for; ConfigError where one is not there."""
    if only is not None:
        by_folder: dict[str, list[str]] = {}
        for name in files:
            for folder in PurePosixPath(name).parents:
                by_folder.setdefault(str(folder), []).append(name)
        chosen: dict[str, _File] = {}
        for name in map(posixpath.normpath, only):
            names = [name] if name in files else by_folder.get(name, [])
            if not names:
                fix = f"Names are relative to {address}."
                raise ConfigError("no such file", where=address, expected=name, got="nothing of that name", fix=fix)
            chosen |= {each: files[each] for each in names}
        files = chosen
    left = {name: file for name, file in files.items() if name.split("/")[0] not in without}
    if not left:
        raise ConfigError("nothing lies at this address", where=address, expected="a file, a folder with files, or a pattern")
    return left


# ---- what is kept -----------------------------------------------------------------------------------------------------


def _kept(filesystem: Any, address: str, files: dict[str, _File]) -> Path:
    """A folder in the cache that holds these files; the lock lets one process fetch while the others wait."""
    cache = cache_folder() / "data"
    (cache / "files").mkdir(parents=True, exist_ok=True)
    key, all_versions = _digest(address), _digest(json.dumps([[name, file.version] for name, file in sorted(files.items())]))
    folder, partial = cache / f"{key}-{all_versions}", cache / f".{key}.partial"
    with FileLock(cache / f"{key}.lock"):
        if folder.is_dir() and all(_is_whole(folder / name, file) for name, file in files.items()):
            return folder
        for left_over in (folder, partial):  # of a run that was killed, or damaged since
            shutil.rmtree(left_over, ignore_errors=True)
        stored = {name: cache / "files" / _digest(json.dumps([address, name, file.version])) for name, file in files.items()}
        _fetch(filesystem, address, [(files[name], place) for name, place in stored.items()], partial)
        for name, place in stored.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).unlink(missing_ok=True)  # where names differ in case alone: never written through a link
            try:
                os.link(place, partial / name)
            except OSError:  # a file system without links
                shutil.copyfile(place, partial / name)
        partial.rename(folder)
        sync(cache)
    return folder


def _fetch(filesystem: Any, address: str, files: Sequence[tuple[_File, Path]], partial: Path) -> None:
    """Bring files to their places, each as soon as it is whole; those that are there stay."""
    missing = [(file, place) for file, place in files if not _is_whole(place, file)]
    partial.mkdir()
    if not missing:
        return
    total = sum(file.size or 0 for file, _ in missing)
    click.echo(f"{shown(address)}: fetching {len(missing)} of {len(files)} files, {total / 1e6:.1f} MB", err=True)
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def keep(file: _File, place: Path, _: Any) -> None:
            _keep(file, place, partial / place.name, address)
            bar.update(file.size or 0)

        calls = [
            _Call(file.path, ([file.path], [str(partial / place.name)]), functools.partial(keep, file, place))
            for file, place in missing
        ]
        _ask(filesystem, address, "get", calls)


def _ask(filesystem: Any, address: str, method: str, calls: Sequence[_Call]) -> None:
    """Call a method for many files, side by side where the file system can; one that fails does not undo the others."""
    for start in range(0, len(calls), TOGETHER):
        batch = calls[start : start + TOGETHER]
        if getattr(filesystem, "async_impl", False):
            fsspec.asyn.sync(filesystem.loop, _ask_together, filesystem, address, method, batch)
        else:
            for call in batch:
                _ask_for_one(filesystem, address, method, call)


def _ask_for_one(filesystem: Any, address: str, method: str, call: _Call) -> None:
    for pause in (*PAUSES, None):
        try:
            with _told(address, call.path):
                call.done(getattr(filesystem, method)(*call.arguments))
                return
        except ConvoyError as problem:
            if pause is None or not _passes(problem):
                raise
            time.sleep(pause)


async def _ask_together(filesystem: Any, address: str, method: str, calls: Sequence[_Call]) -> None:
    async def one(call: _Call) -> None:
        for pause in (*PAUSES, None):
            try:
                with _told(address, call.path):
                    await asyncio.to_thread(call.done, await getattr(filesystem, f"_{method}")(*call.arguments))
                    return
            except ConvoyError as problem:
                if pause is None or not _passes(problem):
                    raise
                await asyncio.sleep(pause)

    for problem in await asyncio.gather(*map(one, calls), return_exceptions=True):
        if problem is not None:
            raise problem


def _keep(file: _File, place: Path, coming: Path, address: str) -> None:
    """Move a file that has come to its place; UnavailableError if it is not whole."""
    if not _is_whole(coming, file):
        got = f"{coming.stat().st_size} of {file.size} bytes" if coming.is_file() else "nothing"
        fix = "Fetch again, when nobody is writing there."
        raise UnavailableError("a file came incomplete", where=f"{address}: {file.path}", got=got, fix=fix)
    sync(coming)
    coming.replace(place)


def _passes(problem: ConvoyError) -> bool:
    """Whether the same may succeed a moment later: a line that broke, a server that is busy."""
    if not isinstance(problem, UnavailableError):
        return False
    cause = problem.__cause__
    if cause is not None and (status := _status(cause)) is not None:
        return status in (408, 425, 429) or status >= 500
    return not isinstance(cause, PermissionError) and getattr(cause, "errno", None) not in LASTING


def _is_whole(path: Path, file: _File) -> bool:
    return path.is_file() and file.size in (None, path.stat().st_size)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
