"""A bundle: one trained network on disk, with all that is needed to run it, in files any program can read.

    tagger-en/
    ├── bundle.json            what this module checks: `BundleSpec`
    ├── network.onnx           what runs
    ├── network.safetensors    what fine-tuning starts from
    ├── words.npy …            data the network needs
    └── CARD.md                for people

`write_bundle` makes such a folder in one step or not at all. `open_bundle` checks every field, every size and every
digest before anything is read from it. Nothing in a bundle is a pickle, so opening one never runs code from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.bundle_spec import MANIFEST, BundleSpec, FileSpec, check_name
from models.disk import sync
from models.errors import BundleError, ConvoyError

__all__ = ["MANIFEST", "Bundle", "BundleSpec", "FileSpec", "fitting", "open_bundle", "open_folder", "write_bundle"]

LARGEST_MANIFEST = 64 * 2**20
"""Bytes of bundle.json that are read at most; a label list and a recipe need a few thousand."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked; `path` is a local folder."""

    path: Path
    spec: BundleSpec

    def file(self, name: str) -> Path:
        """Where the file `name` lies.

        Raises:
            BundleError: the bundle lists no such file.
        """
        if name not in self.spec.files:
            raise BundleError("the bundle has no such file", where=str(self.path), expected=_listing(self.spec), got=name)
        return self.path / name

    def verify(self) -> None:
        """Compare every file with its size and SHA-256 digest in bundle.json, reading a megabyte at a time.

        Raises:
            BundleError: a file is missing, changed, not a plain file, or lies outside the folder.
        """
        home = self.path.resolve()
        for name, expected in self.spec.files.items():
            _verify_file(self.path / name, home, expected)


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Find a bundle, check all of it, and return it.

    Args:
        path: a folder, an fsspec address (`s3://…`, `https://…`: fetched once into the cache folder `CONVOY_CACHE`,
            by default `~/.cache/convoy`), or the tag `name:version` of a model in BentoML's store.

    Raises:
        BundleError: there is none, it cannot be fetched, or anything in it is not as bundle.json says.
    """
    address = os.fspath(path)
    folder = Path(address)
    if "://" in address:
        from models.remote_bundle import fetch_bundle  # fsspec and aiohttp are slow to import, and most bundles are local

        return fetch_bundle(address)
    if not folder.exists() and re.fullmatch(r"[a-z0-9][a-z0-9_.-]*:[A-Za-z0-9][A-Za-z0-9_.-]*", address):
        folder = _bentoml_folder(address)
    return open_folder(folder)


def open_folder(folder: Path) -> Bundle:
    """`open_bundle` for a local folder."""
    if not folder.is_dir():
        raise BundleError(
            "there is no bundle",
            where=str(folder),
            expected="a folder with bundle.json, an address such as s3://bucket/name, or a BentoML tag name:version",
            got="a file" if folder.exists() else "nothing",
            fix="Check the spelling, or make a bundle with `convoy export CHECKPOINT BUNDLE`.",
        )
    spec = BundleSpec.from_json(_read_manifest(folder), str(folder / MANIFEST))
    bundle = Bundle(folder, spec)
    bundle.verify()
    return bundle


@contextlib.contextmanager
def fitting(bundle: Bundle) -> Iterator[None]:
    """For the block in which a predictor puts a bundle's parts together, each of them whole.

    Raises:
        BundleError: in place of whatever shows that they do not fit, such as another network than the rest is made for.
    """
    try:
        yield
    except (ConvoyError, OSError):
        raise
    except Exception as error:
        problem, fix = "the parts of the bundle do not fit together", "Copy, fetch or export it again."
        raise BundleError(problem, where=str(bundle.path), got=f"{type(error).__name__}: {error}", fix=fix) from error


def write_bundle(path: str | os.PathLike[str], spec: BundleSpec, files: Mapping[str, Path | bytes]) -> Path:
    """Write a bundle, all of it or nothing, and return its folder.

    A bundle that is already there is replaced; anything else that is there is left alone and refused.

    Args:
        path: the folder to make.
        spec: what bundle.json will say; its `files` are replaced by what is written here.
        files: content, or a file to copy, for each name inside the bundle.

    Raises:
        BundleError: a name is unsafe, a source is missing, the folder holds something else, or the disk refuses.
    """
    target = Path(path)
    for name in files:
        try:
            check_name(name)
        except ValueError as problem:
            raise BundleError(str(problem), where=str(target), got=name) from problem
    _refuse_other_content(target)
    partial = target.parent / f".{target.name}.{secrets.token_hex(6)}.partial"
    try:
        partial.mkdir(parents=True)
        written = {name: _write_file(partial / name, source) for name, source in files.items()}
        complete = BundleSpec.from_json(spec.model_copy(update={"files": written}).to_json().encode(), f"{target / MANIFEST}")
        _write_file(partial / MANIFEST, complete.to_json().encode())
        _sync_folders(partial)
        move_into_place(partial, target)
    except OSError as problem:
        fix = "Nothing was changed. Free some space or choose another folder, and export again."
        where = str(problem.filename or target)
        raise BundleError("the bundle cannot be written", where=where, got=problem.strerror or problem, fix=fix) from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def move_into_place(partial: Path, target: Path) -> None:
    """Give a finished folder its name; a bundle that had it before is removed, or put back if the move fails."""
    former = partial.with_suffix(".former")
    replacing = (target / MANIFEST).is_file()
    if replacing:
        target.rename(former)
    try:
        partial.rename(target)
    except OSError:
        if replacing:
            former.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def _refuse_other_content(target: Path) -> None:
    if not target.exists() or (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
        return
    raise BundleError(
        "the place is taken by something that is not a bundle",
        where=str(target),
        expected="a new name, an empty folder or an earlier bundle",
        got="a folder with other files" if target.is_dir() else "a file",
        fix="Choose another name.",
    )


def _read_manifest(folder: Path) -> bytes:
    manifest = folder / MANIFEST
    _require_plain_file(manifest, folder.resolve())
    try:
        with manifest.open("rb") as stream:
            return limited_manifest(stream.read(LARGEST_MANIFEST + 1), str(manifest))
    except OSError as problem:
        raise BundleError("cannot be read", where=str(manifest), got=problem.strerror or problem) from problem


def limited_manifest(content: bytes, where: str) -> bytes:
    """Refuse a bundle.json over `LARGEST_MANIFEST` bytes."""
    if len(content) > LARGEST_MANIFEST:
        raise BundleError("the file is too large", where=where, expected=f"at most {LARGEST_MANIFEST} bytes", got="more")
    return content


def _require_plain_file(file: Path, home: Path) -> os.stat_result:
    """A FIFO would hang the reader, and a link could show it any file of the machine."""
    try:
        real = file.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as problem:  # RuntimeError: links in a circle
        fix = "The bundle is incomplete: copy, fetch or export it again."
        raise BundleError("the file is missing", where=str(file), fix=fix) from problem
    if not real.is_relative_to(home):
        fix = "Copy the bundle with its links resolved (`cp -rL`)."
        raise BundleError("the file is a link that leads out of the bundle", where=str(file), got=real, fix=fix)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError("not a plain file", where=str(file), got=stat.filemode(status.st_mode))
    return status


def _verify_file(file: Path, home: Path, expected: FileSpec) -> None:
    size = _require_plain_file(file, home).st_size
    fix = "The file was changed or cut short: copy, fetch or export the bundle again."
    if size != expected.bytes:
        raise BundleError("wrong size", where=str(file), expected=f"{expected.bytes} bytes", got=f"{size} bytes", fix=fix)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise BundleError("cannot be read", where=str(file), got=problem.strerror or problem) from problem
    if digest != expected.sha256:
        raise BundleError("wrong SHA-256 digest", where=str(file), expected=expected.sha256, got=digest, fix=fix)


def _write_file(file: Path, source: Path | bytes) -> FileSpec:
    """Copy `source` to `file`, down to the disk, and return its size and digest."""
    digest, size = hashlib.sha256(), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as stream:
        for chunk in _chunks(source):
            digest.update(chunk)
            size += len(chunk)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return FileSpec(sha256=digest.hexdigest(), bytes=size)


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _sync_folders(folder: Path) -> None:
    for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(inner)


def _bentoml_folder(tag: str) -> Path:
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml  # half a second, and only tags need it

    try:
        return Path(bentoml.models.get(tag).path)
    except bentoml.exceptions.BentoMLException as problem:
        fix = "`bentoml models list` shows what there is."
        where = f"BentoML model {tag}"
        raise BundleError("not in BentoML's model store", where=where, got=str(problem), fix=fix) from problem


def _listing(spec: BundleSpec) -> str:
    return "one of " + ", ".join(sorted(spec.files))
