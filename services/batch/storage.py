"""The output folder, on this machine or at an fsspec address: outputs are made in a workplace and then appear whole.

On a disk a file is renamed into place. An object store shows an object when all of it has come, so
there it is sent under its name; other file systems get it under another name first, which is then changed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from models.errors import ConfigError, ConvoyError
from services.batch.places import is_local, located

Answer = TypeVar("Answer")

_WORK, _LOCK = ".convoy/work", ".convoy/lock"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "r2", "memory", "hf"}
_STORE_MARKS = ("zarr.json", ".zgroup", ".zarray")
_CHUNK = 2**20
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ValueError, ImportError)


class StorageError(ConvoyError):
    """The output folder cannot be written or read; the run ends, and the next goes on from there."""

    code = "storage"


@dataclass(frozen=True)
class OutputFile:
    """A file below the output folder."""

    path: str
    bytes: int
    sha256: str


class Storage(ABC):
    """An output folder. All names are relative to it, with forward slashes."""

    @staticmethod
    def at(address: str, patience: float = 120.0) -> Storage:
        """The folder at a path or fsspec address.

        Raises:
            ConfigError: there is no such kind of address, or a package for it is missing.
        """
        try:
            filesystem, path = located(address)
        except (ImportError, ValueError, OSError) as problem:
            fix = "Some kinds of address need a package of their own (s3fs, gcsfs)."
            raise ConfigError("not a place that can be written to", where="--out", got=problem, fix=fix) from problem
        if is_local(filesystem):
            return LocalStorage(Path(path))
        return RemoteStorage(filesystem, path.rstrip("/"), address, patience)

    @property
    @abstractmethod
    def home(self) -> str:
        """The folder's own address, links followed."""

    @abstractmethod
    def address(self, name: str) -> str:
        """What an item would be called that lies here, links to its folder followed."""

    @abstractmethod
    def lock(self) -> contextlib.AbstractContextManager[object]:
        """Held by the one run that writes here; ConfigError where another does. What broken runs left half done is removed."""

    @abstractmethod
    def workplace(self) -> contextlib.AbstractContextManager[Path]:
        """A folder on this machine to make outputs in, from which they can be published."""

    @abstractmethod
    def publish(self, workplace: Path) -> list[OutputFile]:
        """Put every file of the workplace at its name below the output folder; the last of them first seen when it is whole."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file whole."""

    @abstractmethod
    def settle(self) -> None:
        """Have everything that was written on the disk when this returns.

        Once a run, not once a file: that took a third of the time of short recordings. After a power cut in between, an output
        or record may be gone or empty, which the next run sees by its digest, and makes again.
        """

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is none."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""

    @abstractmethod
    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder."""

    @abstractmethod
    def holds(self, output: OutputFile, *, content: bool) -> bool:
        """Whether the file is there and whole: of this size, and of this content where that is asked."""


class LocalStorage(Storage):
    """A folder of this machine, or one that is mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def address(self, name: str) -> str:
        path = self.root / name
        return str(path.parent.resolve() / path.name)

    @property
    def home(self) -> str:
        return str(self.root.resolve())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with _told(self.root):
            (self.root / _LOCK).parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                fix = "Wait for it, or choose another --out folder."
                raise ConfigError("another run writes to this folder", where=str(self.root), fix=fix) from None
        with lock:
            shutil.rmtree(self.root / _WORK, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        path = self.root / _WORK / secrets.token_hex(8)
        with _told(self.root):
            path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, workplace: Path) -> list[OutputFile]:
        with _told(self.root):
            outputs = _files(workplace)
            for name in _stores(outputs):  # parts of an older one must not stay in it
                self._remove_store(self.root / name)
            for output in outputs:
                self._place(workplace / output.path, output.path)
        return outputs

    def write(self, name: str, content: bytes) -> None:
        partial = self.root / _WORK / secrets.token_hex(8)
        with _told(self.root):
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                self._place(partial, name)
            finally:
                partial.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        with _told(self.root):
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                return None

    def remove(self, name: str) -> None:
        with _told(self.root):
            (self.root / name).unlink(missing_ok=True)

    def names(self, folder: str) -> set[str]:
        with _told(self.root):
            return {path.name for path in (self.root / folder).glob("*")}

    def holds(self, output: OutputFile, *, content: bool) -> bool:
        path = self.root / output.path
        if not path.is_file() or path.stat().st_size != output.bytes:
            return False
        with path.open("rb") as file:
            return not content or hashlib.file_digest(file, "sha256").hexdigest() == output.sha256

    def _remove_store(self, path: Path) -> None:
        if path.is_dir() and any(path.iterdir()) and not any((path / name).is_file() for name in _STORE_MARKS):
            fix = "Choose another --out folder, or name outputs with --name."
            raise StorageError("a folder that is no Zarr store would be replaced", where=str(path), fix=fix)
        shutil.rmtree(path, ignore_errors=True)

    def _place(self, made: Path, name: str) -> None:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)

    def settle(self) -> None:
        os.sync()


class RemoteStorage(Storage):
    """A folder at an fsspec address.

    Args:
        filesystem: fsspec's.
        root: the folder's path there.
        address: as given, for messages.
        patience: seconds for which it is asked again where it does not answer.
    """

    def __init__(self, filesystem: Any, root: str, address: str, patience: float) -> None:
        self._filesystem, self._root, self._address, self._patience = filesystem, root, address, patience
        protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
        self._whole = bool(_OBJECT_STORES & set(protocols))

    def address(self, name: str) -> str:
        return str(self._filesystem.unstrip_protocol(self._path(name)))

    @property
    def home(self) -> str:
        return str(self._filesystem.unstrip_protocol(self._root))

    def lock(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # two runs would write the same bytes twice, and nothing else

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="convoy-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def publish(self, workplace: Path) -> list[OutputFile]:
        outputs = _files(workplace)
        for name in _stores(outputs):
            self._ask(partial(self._remove_tree, name))
        for output in outputs:
            self._ask(partial(self._send, workplace / output.path, output.path))
        return outputs

    def write(self, name: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(prefix="convoy-") as file:
            file.write(content)
            file.flush()
            self._ask(lambda: self._send(Path(file.name), name))

    def settle(self) -> None:
        pass  # what an object store has taken, it keeps

    def read(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                content: bytes = self._filesystem.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

        return self._ask(read)

    def remove(self, name: str) -> None:
        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(self._path(name))

        self._ask(remove)

    def names(self, folder: str) -> set[str]:
        def names() -> set[str]:
            self._filesystem.invalidate_cache()
            try:
                return {path.rpartition("/")[2] for path in self._filesystem.find(self._path(folder))}
            except FileNotFoundError:
                return set()

        return self._ask(names)

    def holds(self, output: OutputFile, *, content: bool) -> bool:
        def holds() -> bool:
            path = self._path(output.path)
            self._filesystem.invalidate_cache()
            try:
                if self._filesystem.info(path).get("size") != output.bytes:
                    return False
                if not content:
                    return True
                with self._filesystem.open(path, "rb", cache_type="none") as file:
                    digest = hashlib.sha256()
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
            except FileNotFoundError:
                return False
            return digest.hexdigest() == output.sha256

        return self._ask(holds)

    def _send(self, file: Path, name: str) -> None:
        target = self._path(name)
        if self._whole:
            self._filesystem.put_file(str(file), target)
            return
        self._filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        partial = f"{target.rpartition('/')[0]}/.{secrets.token_hex(8)}.partial"
        self._filesystem.put_file(str(file), partial)
        if self._filesystem.exists(target):
            self._filesystem.rm_file(target)
        self._filesystem.mv(partial, target)

    def _remove_tree(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if self._root else name

    def _ask(self, function: Callable[[], Answer]) -> Answer:
        try:
            return patiently(function, self._patience)
        except Exception as problem:  # file systems raise whatever the libraries behind them do
            reason = f"{type(problem).__name__}: {problem}"
            raise StorageError(
                "the output folder cannot be reached", where=self._address, got=reason, fix="Start the run again: it goes on."
            ) from problem


def patiently(function: Callable[[], Answer], patience: float) -> Answer:
    """What `function` answers; where a file system does not, it is asked again for `patience` seconds, with growing pauses."""
    import tenacity

    ask = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passing),
        stop=tenacity.stop_after_delay(patience),
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=15),
        reraise=True,
    )
    return ask(function)


def passing(problem: BaseException) -> bool:
    """Whether a trouble of a file system may be over by itself; not that of a full disk, or of a file that is not there."""
    return isinstance(problem, Exception) and not isinstance(problem, (*_FINAL, ConvoyError)) and not is_full(problem)


def is_full(problem: BaseException | None) -> bool:
    """Whether a disk without room, or over its quota, is behind an error."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        fix = "Make room, or see to the permissions, and start the run again: it goes on."
        raise StorageError(
            "the output folder cannot be used", where=str(root), got=problem.strerror or problem, fix=fix
        ) from problem


def _files(workplace: Path) -> list[OutputFile]:
    found = []
    for folder, _, names in os.walk(workplace):
        for name in names:
            path = Path(folder) / name
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(OutputFile(path.relative_to(workplace).as_posix(), path.stat().st_size, digest))
    return sorted(found, key=lambda output: output.path)


def _stores(outputs: list[OutputFile]) -> set[str]:
    """Folders that are one output: Zarr stores, by what lies in them; the outermost of those in each other."""
    marked = sorted(output.path.rpartition("/")[0] for output in outputs if output.path.rpartition("/")[2] in _STORE_MARKS)
    stores: list[str] = []
    for folder in marked:
        if folder and not any(folder == store or folder.startswith(store + "/") for store in stores):
            stores.append(folder)
    return set(stores)
