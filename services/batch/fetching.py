"""Inputs on this disk, whatever their address: what lies elsewhere is fetched for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from models.errors import InputError, UnavailableError
from services.batch.folders import files_of
from services.batch.places import located, without_chain
from services.batch.sources import STDIN, Item
from services.batch.storage import passing, patiently


class UnreachableError(UnavailableError):
    """An input cannot be reached now: it may be another time."""

    code = "input_unreachable"


@contextmanager
def fetched(item: Item, patience: float, stdin: Path | None = None) -> Iterator[Path]:
    """The item on this disk; a copy is removed afterwards.

    Args:
        item: what is wanted.
        patience: seconds for which a file system that does not answer is asked again.
        stdin: the file that holds what came there.

    Raises:
        UnreachableError: it is gone, may not be read, or its file system has not answered for `patience` seconds.
        InputError: it cannot be fetched, and never will.
    """
    if "://" not in item.address:
        path = stdin if stdin is not None and item.address == STDIN else Path(item.address)
        if not path.exists():
            fix = "Check its spelling; where it is still to come, start the run again."
            raise UnreachableError("the input is not there", where=item.address, fix=fix)
        if not os.access(path, os.R_OK):
            raise UnreachableError("the input may not be read", where=item.address, fix="See to its permissions.")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="convoy-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / (PurePosixPath(without_chain(item.address).partition("://")[2]).name or "input")

        def fetch() -> None:
            came = _fetch_folder(item, copy) if item.folder else _fetch_file(item, copy)
            if item.size and came != item.size:
                raise OSError(f"{came} bytes came, and {item.size} are there")

        try:
            patiently(fetch, patience)
        except Exception as problem:  # file systems raise whatever the libraries behind them do
            raise _told(item, problem) from problem
        yield copy


def _fetch_file(item: Item, copy: Path) -> int:
    filesystem, remote = located(item.address)
    filesystem.get_file(remote, str(copy))
    return copy.stat().st_size


def _fetch_folder(item: Item, copy: Path) -> int:
    filesystem, remote = located(item.address)
    targets = {name: copy / name.removeprefix(remote.rstrip("/") + "/") for name in files_of(filesystem, remote)}
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    filesystem.get(list(targets), [str(target) for target in targets.values()])  # several at a time, where it can
    return sum(target.stat().st_size for target in targets.values())


@contextmanager
def opened(item: Item) -> Iterator[BinaryIO]:
    """The item's bytes, as they come."""
    if item.address == STDIN:
        yield sys.stdin.buffer
        return
    try:
        filesystem, path = located(item.address)
        with filesystem.open(path, "rb") as stream:
            yield stream
    except OSError as problem:
        raise InputError("cannot be read", where=item.address, got=problem.strerror or problem) from problem


@contextmanager
def spooled() -> Iterator[Path]:
    """What comes on stdin, in a file."""
    with tempfile.NamedTemporaryFile(prefix="convoy-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


def _told(item: Item, problem: Exception) -> Exception:
    reason = f"{type(problem).__name__}: {problem}"
    if passing(problem):
        return UnreachableError(
            "cannot be fetched", where=item.address, got=reason, fix="Start the run again: it is tried again."
        )
    return InputError("cannot be fetched", where=item.address, got=reason)
