"""Packed voxels, unpacked onto disk: as many bytes as the header promises and never more, whatever the stream would unfold to."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.errors import ConvoyError, VolumeError, VolumeTruncatedError

PIECE = 2**20  # bytes
GZIP = b"\x1f\x8b"
# What the machine, not the file, is at fault for.
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM}


@contextmanager
def guarded(where: str, problem: str, fix: str = "The file is damaged: copy or export it again.") -> Iterator[None]:
    """Whatever a library raises about a file's bytes becomes a VolumeError; errors of the machine pass through.

    Args:
        where: what messages call the file.
        problem: what cannot be done.
        fix: what the user can do about it.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except ConvoyError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        said = f"{type(error).__name__}: {error}".rstrip(" .:")
        raise VolumeError(problem, where=where, got=said, fix=fix) from error


class Unpacked:
    """A gzip or zlib stream, read forwards; several gzip members follow one another.

    Args:
        file: packed bytes.
        where: what messages call it.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self._engine = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._waiting = b""  # packed
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end.

        Raises:
            VolumeError: not such a stream, or a damaged one.
        """
        parts: list[bytes] = []
        while size > 0 and not self._ended:
            if not self._waiting and not (piece := self._file.read(PIECE)):
                break
            given = self._waiting or piece
            try:
                part = self._engine.decompress(given, size)
            except zlib.error as error:
                fix = "The file is damaged: copy or export it again."
                raise VolumeError("the packed voxels cannot be unpacked", where=self._where, got=error, fix=fix) from error
            self._waiting = self._engine.unconsumed_tail
            if self._engine.eof:
                self._next_member()
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        """Pass over bytes; whether there were as many."""
        return sum(len(piece) for piece in _pieces(self, size)) == size

    @property
    def complete(self) -> bool:
        """Whether it was read to its end, and that end is not where the file was cut."""
        return self._ended

    def _next_member(self) -> None:
        rest = self._engine.unused_data.lstrip(b"\0")
        while len(rest) < len(GZIP) and (piece := self._file.read(PIECE)):
            rest = (rest + piece).lstrip(b"\0")
        if rest.startswith(GZIP):
            self._engine, self._waiting = zlib.decompressobj(zlib.MAX_WBITS | 32), rest
        else:
            self._ended = True


def unpack(stream: Unpacked, target: Path, shape: tuple[int, ...], dtype: DTypeLike, where: str) -> NDArray[np.generic]:
    """Unpack voxels into a file, and map it.

    Raises:
        VolumeTruncatedError: fewer bytes than the shape needs, or an end without its checksum. More bytes are passed over.
        VolumeError: a damaged stream.
    """
    kind = np.dtype(dtype)
    needed = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    with target.open("wb") as file:
        for piece in _pieces(stream, needed):
            file.write(piece)
        written = file.tell()
    if written < needed:
        raise truncated(where, needed, written)
    # Where the last voxel ends the stream, its checksum follows, which is compared as it is read.
    if not stream.read(1) and not stream.complete:
        raise truncated(where, needed, written, "the packed voxels end without their checksum")
    return np.memmap(target, kind, "r", shape=shape)


def _pieces(stream: Unpacked, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := stream.read(min(PIECE, size))):
        yield piece
        size -= len(piece)


def map_raw(path: Path, offset: int, shape: tuple[int, ...], dtype: DTypeLike, where: str) -> NDArray[np.generic]:
    """Map voxels that lie in a file as they are.

    Raises:
        VolumeTruncatedError: the file ends early.
    """
    kind = np.dtype(dtype)
    needed, there = int(np.prod(shape, dtype=np.int64)) * kind.itemsize, path.stat().st_size - offset
    if there < needed:
        raise truncated(where, needed, max(0, there))
    return np.memmap(path, kind, "r", offset=offset, shape=shape)


def truncated(where: str, needed: int, there: int, problem: str = "the file ends early") -> VolumeTruncatedError:
    """The error of a file that ends early."""
    fix = "The file was cut short: copy or export it again."
    return VolumeTruncatedError(problem, where=where, expected=f"{needed:,} bytes of voxels", got=f"{there:,}", fix=fix)
