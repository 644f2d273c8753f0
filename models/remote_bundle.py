"""Bundles on other machines: fetched once, checked, and kept in a cache folder under the digest of their bundle.json."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from models.bundle import (
    LARGEST_MANIFEST,
    MANIFEST,
    Bundle,
    BundleSpec,
    FileSpec,
    limited_manifest,
    move_into_place,
    open_folder,
)
from models.errors import BundleError

_CHUNK = 2**20


def cache_folder() -> Path:
    """`CONVOY_CACHE`, or `convoy` in the user's cache folder."""
    if chosen := os.environ.get("CONVOY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convoy"


def fetch_bundle(address: str) -> Bundle:
    """Open the bundle at an fsspec address; a second call fetches bundle.json only.

    Raises:
        BundleError: the address cannot be reached or read, or what lies there is not a sound bundle.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(address)
        if isinstance(filesystem, LocalFileSystem):
            return open_folder(Path(root))
        content = _read_manifest(filesystem, root, address)
        spec = BundleSpec.from_json(content, f"{address}/{MANIFEST}")
        return _cached(filesystem, root, address, content, spec)
    except _fetching_errors() as problem:
        fix = (
            "Check the address, the network and the credentials; some kinds of address need a package of their own (s3fs, gcsfs)."
        )
        reason = f"{type(problem).__name__}: {problem}"
        raise BundleError("the bundle cannot be fetched", where=address, got=reason, fix=fix) from problem


def _cached(filesystem: Any, root: str, address: str, content: bytes, spec: BundleSpec) -> Bundle:
    """The cached copy if it is sound, else a new one; the lock lets one process fetch while the others wait."""
    target = cache_folder() / "bundles" / hashlib.sha256(content).hexdigest()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            try:
                return open_folder(target)
            except BundleError:  # damaged on this disk: the source may still be sound
                shutil.rmtree(target)
        partial = target.parent / f".{target.name}.{secrets.token_hex(6)}.partial"
        try:
            partial.mkdir()
            for name, expected in spec.files.items():
                _fetch_file(filesystem, f"{root.rstrip('/')}/{name}", partial / name, expected, f"{address}/{name}")
            (partial / MANIFEST).write_bytes(content)
            move_into_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return open_folder(target)


def _read_manifest(filesystem: Any, root: str, address: str) -> bytes:
    with filesystem.open(f"{root.rstrip('/')}/{MANIFEST}", "rb") as stream:
        return limited_manifest(stream.read(LARGEST_MANIFEST + 1), f"{address}/{MANIFEST}")


def _fetch_file(filesystem: Any, source: str, file: Path, expected: FileSpec, where: str) -> None:
    """Copy one file, stopping as soon as it is longer than announced, so that a wrong server cannot fill the disk."""
    digest, size = hashlib.sha256(), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open(source, "rb") as stream, file.open("xb") as copy:
        while size <= expected.bytes and (chunk := stream.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            copy.write(chunk)
    if size != expected.bytes:
        got = f"{size} bytes" if size < expected.bytes else "more"
        raise BundleError("wrong size", where=where, expected=f"{expected.bytes} bytes", got=got)
    if digest.hexdigest() != expected.sha256:
        raise BundleError("wrong SHA-256 digest", where=where, expected=expected.sha256, got=digest.hexdigest())


def _fetching_errors() -> tuple[type[Exception], ...]:
    """What file systems raise: their own OSErrors, ValueError and ImportError for unknown or missing protocols, HTTP errors."""
    import aiohttp  # a fifth of a second, and only remote bundles need it

    return (OSError, ValueError, ImportError, RuntimeError, aiohttp.ClientError)
