"""Where an address leads: a path on this machine, or a file system of fsspec's."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_CACHES = {"simplecache", "filecache", "blockcache", "cached"}


def located(address: str) -> tuple[Any, str]:
    """The file system and the path on it. What has no ``://`` is a path, whatever else its name holds.

    Raises:
        ImportError, ValueError, OSError: there is no such kind of address, or a package for it is missing.
    """
    if "://" in address:
        filesystem, path = fsspec.core.url_to_fs(address)
        return filesystem, path
    return LocalFileSystem(), LocalFileSystem._strip_protocol(address)


def is_local(filesystem: Any) -> bool:
    """Whether a file system is this machine's own."""
    return isinstance(filesystem, LocalFileSystem)


def without_chain(address: str) -> str:
    """An address without what it is chained to, such as ``::s3://lab/b.zip`` of a file in an archive; it ends in its name."""
    return address.partition("::")[0] if "://" in address else address


def without_cache(address: str) -> str:
    """An address without caches before it: each input is fetched once in any case."""
    while address.partition("::")[0] in _CACHES and "://" in address:
        address = address.partition("::")[2]
    return address
