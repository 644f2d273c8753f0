"""Where an address leads: a path on this machine, or a file system of fsspec's."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


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
