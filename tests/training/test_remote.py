"""Data at addresses of fsspec's: what is fetched, when, and what is left behind."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError, InputError, UnavailableError
from models.tagger.vectors import VectorTable
from tests.object_store import KEYS
from tests.scans import ball, save, write_decathlon
from tests.training.corpora import CEDICT, conllu, slash
from tests.training.separator.speakers import write_mixtures, write_speakers
from training import remote
from training.remote import local, parent, shown
from training.segmenter.annotation import Annotation
from training.segmenter.cases import find_cases
from training.separator.data import MixtureList, SeparatorData, Stage
from training.separator.mixtures import draw_mixtures, read_list
from training.separator.speech import Recordings
from training.tagger.corpora import read_corpus
from training.tagger.corpora.lines import corpus_files
from training.tagger.data import Corpus, TableSettings, TaggerData
from training.tagger.lexicon import read_lexicon


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return tmp_path / "cache" / "data"


@pytest.fixture
def fetches():
    """Paths that were fetched, in their order."""
    paths: list[str] = []
    get = MemoryFileSystem.get

    def counted(self, sources, targets):
        paths.extend(sources)
        return get(self, sources, targets)

    with patch.object(MemoryFileSystem, "get", counted):
        yield paths


@dataclass
class Answer:
    """To GET: after ``cut`` bytes the line breaks, as often as ``times``; whether the length is told."""

    content: bytes = b""
    status: int = 200
    kind: str = "application/octet-stream"
    cut: int | None = None
    times: int | None = None
    tell: bool = True


class Served(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Answer] = {}
        self.asked: list[str] = []  # by GET
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Served
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head(self.server.files.get(self.path, Answer(status=404)))

    def do_GET(self) -> None:
        answer = self.server.files.get(self.path, Answer(status=404))
        self.server.asked.append(self.path)
        self._head(answer)
        broken = answer.cut is not None and answer.times != 0
        if answer.times:
            answer.times -= 1
        content = answer.content[: answer.cut] if broken else answer.content
        self.wfile.write(content if answer.tell else b"%x\r\n%b\r\n" % (len(content), content))
        if broken:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif not answer.tell:
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.tell:
            self.send_header("Content-Length", str(len(answer.content)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served():
    with Served() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def put(files: dict[str, bytes], root: str = "memory://data") -> str:
    filesystem, path = fsspec.core.url_to_fs(root)
    for name, content in files.items():
        filesystem.pipe_file(f"{path}/{name}", content)
    return root


def put_folder(folder: Path, root: str = "memory://data") -> str:
    return put({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}, root)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what comes


def test_paths_stay_as_they_are(tmp_path):
    assert local("some/where.csv") == Path("some/where.csv")
    assert local(tmp_path, only=["x"]) == tmp_path
    assert local(f"file://{tmp_path}") == tmp_path


NAMES = st.lists(st.text("abc.é 中", min_size=1, max_size=4).filter(lambda name: name.strip(".")), min_size=1, max_size=3)


@settings(max_examples=40)
@given(st.dictionaries(NAMES.map("/".join), st.binary(max_size=20), min_size=1, max_size=6))
def test_a_folder_comes_as_it_is(tmp_path_factory, files):
    names = sorted(files)
    files = {
        name: files[name]
        for name in names
        if name == name.strip() and not any(other.startswith(f"{name}/") for other in names)  # a file is no folder
    }
    MemoryFileSystem.store.clear()
    if files:
        folder = local(put(files))
        assert folder.name == "data"
        assert contents(folder) == files
        [name, *_] = files
        assert local(f"memory://data/{name}").read_bytes() == files[name]
        assert local(f"memory://data/{name}").name == name.split("/")[-1]


def test_names_that_are_asked_for_and_folders_that_are_not():
    address = put({"a": b"1", "b/c": b"2", "b/d/e": b"3", "f/g": b"4"})
    assert contents(local(address, only=["a", "./b"])) == {"a": b"1", "b/c": b"2", "b/d/e": b"3"}
    assert set(contents(local(address, without=["b"]))) == {"a", "f/g"}
    with pytest.raises(ConfigError, match="nothing of that name"):
        local(address, only=["a", "h"])
    with pytest.raises(ConfigError, match="nothing of that name"):
        local(address, only=["../data/a"])


def test_a_pattern_is_a_folder_of_what_it_matches():
    put({"x/ca01": b"1", "x/cb02": b"2", "x/deep/cc03": b"3", "y": b"4"})
    assert contents(local("memory://data/x/c[a-z]*")) == {"ca01": b"1", "cb02": b"2"}
    assert contents(local("memory://data/**/c*")) == {"x/ca01": b"1", "x/cb02": b"2", "x/deep/cc03": b"3"}
    with pytest.raises(ConfigError, match="nothing lies"):
        local("memory://data/x/z*")


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("s3://bucket/lists/dev.csv", "s3://bucket/lists"),
        ("memory://dev.csv", "memory://"),
        ("zip://lists/a.csv::s3://bucket/data.zip", "zip://lists::s3://bucket/data.zip"),
        ("simplecache::memory://c/l.csv", "simplecache::memory://c"),
        ("simplecache::zip://lists/a.csv::s3://bucket/data.zip", "simplecache::zip://lists::s3://bucket/data.zip"),
        ("https://host/lists/dev.csv?key=a/b", "https://host/lists"),
        ("lists/dev.csv", "lists"),
        ("dev.csv", "."),
    ],
)
def test_the_folder_that_holds_a_file(address, folder):
    assert parent(address) == folder


# ---- how often


def test_what_is_there_is_not_fetched_again_and_what_has_changed_is(fetches, cache):
    address = put({"a": b"1", "b": b"2"})
    first = local(address)
    assert local(address) == first
    assert sorted(fetches) == ["/data/a", "/data/b"]
    fetches.clear()
    put({"a": b"3", "c": b"4"})  # as many bytes as before
    assert contents(local(address)) == {"a": b"3", "b": b"2", "c": b"4"}
    assert sorted(fetches) == ["/data/a", "/data/c"]
    assert contents(first) == {"a": b"1", "b": b"2"}  # whoever reads it goes on
    fsspec.filesystem("memory").rm_file("/data/b")
    assert contents(local(address)) == {"a": b"3", "c": b"4"}


def test_a_copy_that_was_damaged_is_made_again(fetches):
    address = put({"a": b"12345", "b": b"2"})
    (local(address) / "a").write_bytes(b"1")
    (local(address) / "b").unlink()
    assert contents(local(address)) == {"a": b"12345", "b": b"2"}
    assert fetches.count("/data/a") == 2


def test_an_interrupted_fetch_leaves_no_folder_and_goes_on_where_it_stopped(fetches, cache, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0,))
    address = put({"a": b"1", "b": b"2", "c": b"3"})
    get_file = MemoryFileSystem.get_file

    def broken(self, path, target, **settings):
        if path.endswith("/b"):
            raise ConnectionResetError("the line is dead")
        get_file(self, path, target, **settings)

    with (
        patch.object(MemoryFileSystem, "get_file", broken),
        pytest.raises(UnavailableError, match=r"memory://data.*line is dead"),
    ):
        local(address)
    assert [path.name for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")] == ["files"]
    fetches.clear()
    assert contents(local(address)) == {"a": b"1", "b": b"2", "c": b"3"}
    assert fetches == ["/data/b", "/data/c"]
    assert not list(cache.glob(".*.partial"))


@pytest.mark.parametrize("size", ["known", "unknown"])
def test_of_files_that_come_together_one_that_fails_undoes_no_other(served, cache, monkeypatch, size):
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    names = [f"{number}.wav" for number in range(20)]
    for name in names:
        served.files[f"/{name}"] = Answer(b"x" * 1000)
    served.files["/18.wav"] = Answer(b"x" * 1000, cut=300, tell=size == "known")
    with pytest.raises(UnavailableError, match=r"18\.wav"):
        _fetched(served, names)
    assert len(list((cache / "files").iterdir())) == 19
    assert served.asked.count("/18.wav") == 3
    served.asked.clear()
    served.files["/18.wav"] = Answer(b"x" * 1000)
    assert all(path.read_bytes() == b"x" * 1000 for path in _fetched(served, names))
    assert served.asked == ["/18.wav"]


def test_a_line_that_breaks_once_is_tried_again(served, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0,))
    served.files["/a.wav"] = Answer(b"12345", cut=2, times=1)
    assert local(f"{served.address}/a.wav").read_bytes() == b"12345"
    get_file = MemoryFileSystem.get_file
    broken = iter([True])

    def breaks_once(self, path, target, **settings):
        if next(broken, False):
            raise ConnectionResetError("the line is dead")
        get_file(self, path, target, **settings)

    with patch.object(MemoryFileSystem, "get_file", breaks_once):
        assert contents(local(put({"a": b"1"}))) == {"a": b"1"}


def _fetched(served: Served, names: list[str]) -> list[Path]:
    filesystem, _ = fsspec.core.url_to_fs(served.address)
    files = {name: remote._File(f"{served.address}/{name}", None, "1") for name in names}
    folder = remote._kept(filesystem, served.address, files)
    return [folder / name for name in names]


def test_processes_that_ask_at_once_get_one_copy(tmp_path, cache):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for number in range(200):
            archive.writestr(f"corpus/{number}.txt", os.urandom(1000))
    code = "import sys; from training.remote import local; print(local(sys.argv[1]))"
    command = [sys.executable, "-c", code, f"zip://corpus::{tmp_path}/data.zip"]
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
        )
        for _ in range(3)
    ]
    said = [process.communicate() for process in started]
    assert len({out for out, _ in said}) == 1
    assert sum("fetching 200 of 200" in error for _, error in said) == 1
    assert len(contents(Path(said[0][0].strip()))) == 200


# ---- what goes wrong


def test_addresses_that_lead_nowhere_say_so(tmp_path):
    with pytest.raises(ConfigError, match=r"memory://nowhere: nothing lies"):
        local("memory://nowhere")
    with pytest.raises(ConfigError, match=r"nosuch://x: no data can be fetched"):
        local("nosuch://x")
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        local("http://127.0.0.1:9/corpus.txt")


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (404, ConfigError, "nothing lies at this address"),
        (410, ConfigError, "nothing lies at this address"),
        (403, UnavailableError, "access is refused.*403.*Check the credentials"),
        (401, UnavailableError, "access is refused.*401.*Check the credentials"),
        (503, UnavailableError, "cannot be fetched.*503"),
        (500, UnavailableError, "cannot be fetched.*500"),
    ],
)
def test_what_a_server_answers_is_told(served, status, kind, told):
    served.files["/corpus.txt"] = Answer(status=status)
    with pytest.raises(kind, match=told):
        local(f"{served.address}/corpus.txt")


def test_a_file_that_comes_incomplete_is_refused(cache, monkeypatch):
    address = put({"a": b"12345"})

    def short(self, path, target, **settings):
        Path(target).write_bytes(b"12")

    monkeypatch.setattr(remote, "PAUSES", ())
    with patch.object(MemoryFileSystem, "get_file", short), pytest.raises(UnavailableError, match="2 of 5 bytes"):
        local(address)
    assert not list((cache / "files").iterdir())


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("corpus/../../evil.txt", "x")
    with pytest.raises((DataFormatError, ConfigError)):
        local(f"zip://corpus::{tmp_path}/data.zip")
    assert not list(tmp_path.rglob("evil.txt"))


def test_names_in_archives_are_those_of_files(tmp_path):
    (tmp_path / "d" / "spk1").mkdir(parents=True)
    (tmp_path / "d" / "spk1" / "a.wav").write_bytes(b"1")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "d", ".")
    address = f"tar://::{tmp_path}/x.tar"
    assert contents(local(address)) == contents(local(address, only=["spk1/a.wav"])) == {"spk1/a.wav": b"1"}
    assert contents(local(f"tar://spk1::{tmp_path}/x.tar")) == {"a.wav": b"1"}


@pytest.mark.parametrize("names", [("d/a.wav", "d/./a.wav"), ("a/b", "a//b"), ("./a", "a")])
def test_two_files_of_one_name_are_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    with pytest.raises(DataFormatError, match="two files of one name"):
        local(f"zip://::{tmp_path}/x.zip")


@pytest.mark.parametrize("root", ["..", "a/.."])
def test_an_address_that_leads_out_of_an_archive_is_refused(tmp_path, cache, root):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(f"{root}/evil", "x")
    with pytest.raises(ConfigError, match="not the name"):
        local(f"zip://{root}::{tmp_path}/x.zip")
    assert not list(tmp_path.rglob("evil"))


def test_a_question_mark_in_a_name_stays():
    assert local(put({"a b?.wav": b"1"}) + "/a b?.wav").name == "a b?.wav"


def test_passwords_are_not_told(capsys):
    for address in ("ftp://user:secret@127.0.0.1:9/x.csv", "http://user:s@cret@127.0.0.1:9/x.csv", "nosuch://user:secret@host/x"):
        with pytest.raises((ConfigError, UnavailableError)) as caught:
            local(address)
        assert "cret" not in str(caught.value)
    assert (
        shown("zip://a::ftp://user:secret@host/a.zip and s3://b/c:d/e@f")
        == "zip://a::ftp://user:***@host/a.zip and s3://b/c:d/e@f"
    )
    assert (
        shown("zip://a::https://h/a.zip?X-Amz-Signature=0a%2F=&part=2: ended? a=b")
        == "zip://a::https://h/a.zip?X-Amz-Signature=***&part=***: ended? a=b"
    )
    address = "memory://user:secret@host/d"
    put({"l.csv": b"source_1,source_2\n,b.wav\n", "c.csv": b"image,label\n", "x": b"1"}, address)
    local(address)
    assert "secret" not in capsys.readouterr().err
    for read in (
        lambda: read_list(f"{address}/l.csv"),
        lambda: find_cases(f"{address}/c.csv"),
        lambda: Recordings(address, 8000),
        lambda: read_lexicon(f"{address}/c.csv", False),
        lambda: corpus_files(address, frozenset({".pos"})),
    ):
        with pytest.raises((ConfigError, InputError), match=r"user:\*\*\*@host") as told:
            read()
        assert "secret" not in str(told.value)


# ---- the readers


def test_corpora_vectors_and_lexicon(tmp_path):
    (tmp_path / "brown").mkdir()
    (tmp_path / "brown" / "ca01").write_text(slash(5), "utf-8")
    (tmp_path / "brown" / "cb01").write_text(slash(5, 1), "utf-8")
    (tmp_path / "train.conllu").write_text(conllu(20), "utf-8")
    (tmp_path / "dict.txt").write_text(CEDICT, "utf-8")
    VectorTable(["cat", "dog"], np.eye(2, 3, dtype=np.float16)).save(tmp_path / "small")
    VectorTable(["cat"], np.eye(1, 3, dtype=np.float16)).save(tmp_path / "small-too")
    address = put_folder(tmp_path)

    def tokens(path, **options):
        return [(sentence.tokens, sentence.columns) for sentence in read_corpus(path, **options)]

    for name in ("train.conllu", "brown/c[a-z]01", "brown"):
        assert tokens(f"{address}/{name}") == tokens(f"{tmp_path}/{name}")
    assert read_lexicon(f"{address}/dict.txt", False) == read_lexicon(str(tmp_path / "dict.txt"), False)
    tables = [TableSettings("words", source=f"{address}/small.npy")]
    data = TaggerData([Corpus(f"{address}/train.conllu")], tables=tables)
    data.setup()
    assert np.array_equal(data.matrices[0], np.eye(2, 3))
    with pytest.raises(ConfigError, match=r"none\.\*: nothing lies"):
        TaggerData([Corpus(f"{address}/train.conllu")], tables=[TableSettings("x", source=f"{address}/none.npy")]).setup()


def test_speech_and_lists_of_mixtures(tmp_path, fetches):
    folder = tmp_path / "speech"
    write_speakers(folder, 3)
    write_mixtures(folder / "mixed")
    rows = [["source_1", "source_2", "level"], ["speaker_0/0.flac", "speaker_1/1.flac", "2"]]
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    address = put_folder(folder)
    [here], [there] = read_list(str(folder / "list.csv")), read_list(f"{address}/list.csv")
    assert all(map(torch.equal, here.load(8000), there.load(8000)))
    assert len(fetches) == 3  # the list, and the two files that it names
    [elsewhere] = read_list(str(folder / "list.csv"), address)
    assert torch.equal(elsewhere.load(8000)[0], here.load(8000)[0])
    assert torch.equal(read_list(f"{address}/mixed")[0].load(8000)[1], read_list(str(folder / "mixed"))[0].load(8000)[1])
    assert Recordings(address, 8000).speakers == Recordings(str(folder), 8000).speakers
    [drawn], [same] = draw_mixtures(address, 1, 2, 3), draw_mixtures(str(folder), 1, 2, 3)
    assert torch.equal(drawn.load(8000)[0], same.load(8000)[0])


PAGE = Answer(b"<a href=l.csv>l.csv</a>", kind="text/html")


def test_lists_over_http(served, tmp_path):
    write_speakers(tmp_path, 2)
    for path in tmp_path.rglob("*.flac"):
        served.files[f"/d/{path.parent.name}/{path.name}"] = Answer(path.read_bytes())
    served.files["/d/a%20b.flac"] = served.files["/d/speaker_0/0.flac"]
    served.files |= {"/d": PAGE, "/d/": PAGE}
    served.files["/d/l.csv"] = Answer(b"source_1,source_2,level\na b.flac,speaker_1/1.flac,2\n")
    served.files["/d/l.csv?key=a/b"] = served.files["/d/l.csv"]
    (tmp_path / "l.csv").write_bytes(served.files["/d/l.csv"].content.replace(b"a b", b"speaker_0/0"))
    [here] = read_list(str(tmp_path / "l.csv"))
    for address in (f"{served.address}/d/l.csv", f"simplecache::{served.address}/d/l.csv", f"{served.address}/d/l.csv?key=a/b"):
        [there] = read_list(address)
        assert all(map(torch.equal, there.load(8000), here.load(8000)))
    served.files |= {"/d/i.nii": Answer(b"1"), "/d/c.csv": Answer(b"image,label\ni.nii,i.nii\n")}
    assert find_cases(f"{served.address}/d/c.csv").cases[0].image.read_bytes() == b"1"
    served.files["/d/c.csv"] = Answer(b"image,label\ni.nii,none.nii\n")
    with pytest.raises(ConfigError, match=r"d/none\.nii: nothing lies"):
        find_cases(f"{served.address}/d/c.csv")


def test_folders_over_http_are_refused(served):
    served.files |= {"/d": PAGE, "/d/": PAGE, "/d/page.html": PAGE}
    for address in (f"{served.address}/d", f"{served.address}/d/"):
        with pytest.raises(ConfigError, match=r"web page.*Folders are not listed"):
            Recordings(address, 8000)
    for name in ("../x", "/x", "."):
        with pytest.raises(ConfigError, match="no such file"):
            local(f"{served.address}/d", only=[name])
    assert local(f"{served.address}/d/page.html").read_bytes() == PAGE.content


def test_annotated_volumes(tmp_path, fetches):
    folder = write_decathlon(tmp_path / "task", 4)
    save(folder / "imagesTs" / "case_009.nii.gz", ball()[0])
    (folder / "cases.csv").write_text("image,label\nimagesTr/case_000.nii.gz,labelsTr/case_000.nii.gz\n", "utf-8")
    (folder / "slices.json").write_text('{"*": {"z": [3]}}', "utf-8")
    address = put_folder(folder)
    listed = find_cases(f"{address}/cases.csv")
    assert len(fetches) == 3
    assert listed.cases[0].image.read_bytes() == (folder / "imagesTr" / "case_000.nii.gz").read_bytes()
    there, here = find_cases(address, "scan"), find_cases(folder, "scan")
    assert there.classes == here.classes
    assert [(case.name, case.group) for case in there.cases] == [(case.name, case.group) for case in here.cases]
    assert all(case.image.is_file() and case.label.is_file() for case in there.cases)
    assert not any("imagesTs" in path for path in fetches)
    labels = Annotation(slices=f"{address}/slices.json").apply(ball()[1], "a", 3)
    assert np.array_equal(labels, Annotation(slices=str(folder / "slices.json")).apply(ball()[1], "a", 3))


def test_a_volume_that_is_a_folder_comes_whole():
    address = put(
        {
            "a.zarr/zarr.json": b"{}",
            "a.zarr/c/0": b"1",
            "b.zarr/c/0": b"2",
            "a-l.nii": b"3",
            "list.csv": b"image,label\na.zarr,a-l.nii\n",
        }
    )
    [case] = find_cases(f"{address}/list.csv").cases
    assert contents(case.image) == {"zarr.json": b"{}", "c/0": b"1"}
    assert not (case.image.parent / "b.zarr").exists()


@pytest.mark.timeout(300)
def test_training_batches_from_an_object_store_are_those_from_disk(tmp_path, store_port, store, monkeypatch):
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{store_port}"}).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "speech"
    write_speakers(folder, 3, seconds=0.5)
    (folder / "list.csv").write_text("source_1,source_2,level\nspeaker_0/0.flac,speaker_1/0.flac,3\n", "utf-8")
    store.create_bucket(Bucket="lab")
    for path in folder.rglob("*.*"):
        store.upload_file(str(path), "lab", f"speech/{path.relative_to(folder)}")

    def batches(root: str) -> list[torch.Tensor]:
        data = SeparatorData(root, MixtureList(f"{root}/list.csv"), stages=[Stage(0, 0.3, 2)], batches=2)
        data.setup("fit")
        return [batch.mixture for batch in [*data.train_dataloader(), *data.val_dataloader()]]

    here, there = batches(str(folder)), batches("s3://lab/speech")
    assert all(map(torch.equal, here, there))
    (folder / "speaker_0" / "0.flac").write_bytes((folder / "speaker_2" / "0.flac").read_bytes())
    store.upload_file(str(folder / "speaker_2" / "0.flac"), "lab", "speech/speaker_0/0.flac")
    changed = batches("s3://lab/speech")
    assert all(map(torch.equal, batches(str(folder)), changed))
    assert not torch.equal(changed[-1], here[-1])
    with pytest.raises(ConfigError, match="nothing lies"):
        local("s3://lab/nowhere")
    with pytest.raises(ConfigError, match="nothing lies"):
        local("s3://nobucket/nowhere")
