from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import json
import os
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models import bundle as bundle_module
from models import remote_bundle
from models.bundle import BundleSpec, open_bundle, write_bundle
from models.errors import BundleError
from tests.bundles import FILES, make_spec


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_bundle(tmp_path / "tagger-en", make_spec(), FILES)


def edit(folder: Path, change) -> None:
    manifest = folder / "bundle.json"
    fields = json.loads(manifest.read_text("utf-8"))
    change(fields)
    manifest.write_text(json.dumps(fields), "utf-8")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ── writing and reading back ────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_written_is_read_back(folder):
    bundle = open_bundle(folder)
    assert bundle.path == folder
    assert bundle.spec.model_copy(update={"files": {}}) == make_spec()
    assert {name: bundle.file(name).read_bytes() for name in bundle.spec.files} == FILES
    assert names(folder) == {*FILES, "bundle.json"}


def test_digests_and_sizes_are_those_of_the_content(folder):
    for name, content in FILES.items():
        listed = open_bundle(folder).spec.files[name]
        assert (listed.sha256, listed.bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_files_are_copied_from_paths(tmp_path):
    source = tmp_path / "source.onnx"
    source.write_bytes(FILES["network.onnx"])
    folder = write_bundle(str(tmp_path / "b"), make_spec(), {"network.onnx": source})
    assert open_bundle(str(folder)).file("network.onnx").read_bytes() == FILES["network.onnx"]


def test_manifest_is_plain_json_in_utf8_with_the_papers_key_names(folder):
    fields = json.loads((folder / "bundle.json").read_bytes())
    assert fields["format_version"] == 1
    assert fields["network"]["class"] == "models.tagger.network:Tagger"
    assert fields["parity"]["precision"] == {"f32": 1e-5, "bf16": None}


def test_other_users_may_read_what_the_umask_allows(folder):
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_earlier_bundle_is_replaced_whole(folder):
    write_bundle(folder, make_spec(name="second"), {"y": b"2"})
    assert open_bundle(folder).spec.name == "second"
    assert names(folder) == {"bundle.json", "y"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_a_bundle_is_never_replaced(tmp_path, kind):
    target = tmp_path / "thesis"
    work = target if kind == "file" else target / "chapter.txt"
    work.parent.mkdir(exist_ok=True)
    work.write_text("three years")
    with pytest.raises(BundleError, match="taken by something that is not a bundle"):
        write_bundle(target, make_spec(), FILES)
    assert work.read_text() == "three years"


class FullDisk:
    """Stands for a file on a disk with 1,000,000 bytes left."""

    def __init__(self, stream):
        self.stream, self.left = stream, 1_000_000

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stream.close()

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.stream.write(data)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, earlier):
    target = tmp_path / "tagger-en"
    if earlier:
        write_bundle(target, make_spec(name="earlier"), {"x": b"1"})
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", **k: FullDisk(f) if "x" in mode and (f := opened(self, mode)) else opened(self, mode, **k),
    )
    with pytest.raises(BundleError, match=r"cannot be written.*No space left.*Free some space"):
        write_bundle(target, make_spec(), FILES)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["tagger-en"] if earlier else [])
    if earlier:
        assert open_bundle(target).spec.name == "earlier"


def test_a_failing_rename_brings_the_earlier_bundle_back(folder, monkeypatch):
    rename = Path.rename

    def refuse_new(self, target):
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(folder, make_spec(name="second"), {"y": b"2"})
    assert open_bundle(folder).spec.name == "tagger-en"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.onnx.*No such file"):
        write_bundle(tmp_path / "b", make_spec(), {"network.onnx": tmp_path / "nowhere.onnx"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_json_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(ValidationError, match="finite number"):
        make_spec(figures={"loss": value})
    spec = make_spec()
    spec.figures["loss"] = value
    with pytest.raises(BundleError, match="infinite or not a number"):
        write_bundle(tmp_path / "b", spec, FILES)
    assert list(tmp_path.iterdir()) == []


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────

UNSAFE = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a//b",
    "a\\b",
    "C:x",
    "a\x00b",
    "-rf",
    ".hidden",
    "a/",
    "词",
    "bundle.json",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_not_written(tmp_path, name):
    with pytest.raises(BundleError, match=r"unsafe file name|describes the other files"):
        write_bundle(tmp_path / "deep" / "b", make_spec(), {name: b"1"})
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_not_read(folder, name):
    edit(folder, lambda fields: fields["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleError, match=r"unsafe file name|describes the other files"):
        open_bundle(folder)


def test_names_that_differ_in_case_only_are_refused(tmp_path):
    with pytest.raises(BundleError, match="case only"):
        write_bundle(tmp_path / "b", make_spec(), {"a": b"1", "A": b"2"})


def test_only_listed_files_are_handed_out(folder):
    (folder / "extra").write_text("not ours")
    with pytest.raises(BundleError, match=r"no such file.*expected one of CARD\.md.*got extra"):
        open_bundle(folder).file("extra")


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_byte_is_found(folder):
    file = folder / "network.onnx"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"network\.onnx: wrong SHA-256 digest"):
        open_bundle(folder)


def test_a_cut_file_is_found_with_both_sizes(folder):
    file = folder / "network.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"network\.onnx: wrong size: expected 1400000 bytes, got 1399999 bytes"):
        open_bundle(folder)


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: the file is missing"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["x", "bundle.json"])
def test_links_out_of_the_folder_are_refused(folder, tmp_path, name):
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(folder)


def test_links_inside_the_folder_and_to_the_folder_are_fine(folder, tmp_path):
    (folder / "x").rename(folder / "real")
    (folder / "x").symlink_to("real")
    (tmp_path / "link").symlink_to(folder)
    assert open_bundle(tmp_path / "link").file("x").read_bytes() == b"1"


def test_links_in_a_circle_are_refused(folder):
    (folder / "x").unlink()
    (folder / "x").symlink_to("x")
    with pytest.raises(BundleError, match="missing"):
        open_bundle(folder)


def test_a_pipe_does_not_hang_the_reader(folder):
    (folder / "x").unlink()
    os.mkfifo(folder / "x")
    with pytest.raises(BundleError, match="not a plain file"):
        open_bundle(folder)


# ── bundle.json ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_later_format_is_recognised_whatever_else_it_changed(folder):
    (folder / "bundle.json").write_text('{"format_version": 2, "everything": "else"}')
    with pytest.raises(BundleError, match=r"later version of Convoy: expected at most 1, got 2\. Update Convoy"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("labels", "NOUN", "labels: Input should be a valid array"),
        ("labels", ["A", "A"], "labels: .*A given more than once"),
        ("task", "../evil", "task: String should match"),
        ("task", 3, r"task: Input should be a valid string.*got 3"),
        ("format_version", "1", "format_version: Input should be a valid integer"),
        ("format_version", 0, "format_version: Input should be greater than or equal to 1"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("parity.precision.f32", "small", r"parity\.precision\.f32: Input should be a valid number"),
        ("parity.max_abs_difference", -1, r"parity\.max_abs_difference: Input should be greater"),
        ("network.depth", 3, r"network\.depth: Extra inputs"),
        ("training.data.0.licence", "", r"training\.data\.0\.licence: String should have at least 1"),
        ("files.x.sha256", "ABC", r"files\.x\.sha256: String should match"),
        ("files.x.bytes", -1, r"files\.x\.bytes: Input should be greater"),
        ("files.x.bytes", 1.5, r"files\.x\.bytes: Input should be a valid integer"),
    ],
)
def test_a_wrong_field_is_named(folder, path, value, message):
    def change(fields):
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        functools.reduce(lambda inner, key: inner[key], parents, fields)[last] = value

    edit(folder, change)
    with pytest.raises(BundleError, match=rf"bundle\.json: .*{message}"):
        open_bundle(folder)


@pytest.mark.parametrize("field", sorted(set(BundleSpec.model_fields) - {"files", "format_version"}))
def test_a_missing_field_is_named(folder, field):
    edit(folder, lambda fields: fields.pop(field))
    with pytest.raises(BundleError, match=f"{field}: Field required"):
        open_bundle(folder)


def test_the_format_version_must_be_said(folder):
    edit(folder, lambda fields: fields.pop("format_version"))
    with pytest.raises(BundleError, match="format_version: Field required"):
        open_bundle(folder)


def test_several_wrong_fields_are_all_named(folder):
    edit(folder, lambda fields: fields.update(task=1, name=2))
    with pytest.raises(BundleError, match=r"task: .*; name: "):
        open_bundle(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1e999}', b'{"format_version": true}']
)
def test_what_is_not_a_manifest_is_refused(folder, content):
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        open_bundle(folder)


def test_a_huge_manifest_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(bundle_module, "LARGEST_MANIFEST", 100)
    with pytest.raises(BundleError, match=r"too large: expected at most 100 bytes"):
        open_bundle(folder)


@given(content=st.binary(max_size=60))
def test_no_content_escapes_as_anything_but_a_bundle_error(content):
    with pytest.raises(BundleError):
        BundleSpec.from_json(content, "bundle.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(preprocessing=st.dictionaries(st.text(max_size=8), json_values, max_size=4), name=st.text(min_size=1))
def test_any_setting_survives_the_round_trip(preprocessing, name):
    spec = make_spec(preprocessing=preprocessing, name=name)
    assert BundleSpec.from_json(spec.to_json().encode(), "bundle.json") == spec


# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(folder) -> str:
    address = f"memory://{uuid.uuid4().hex}/tagger-en"
    fsspec.filesystem("memory").put(str(folder), address, recursive=True)
    return address


@pytest.mark.parametrize("place", ["nowhere", "a:b:c", "no-such-model:latest", "no-such-model:1"])
def test_no_bundle_there(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=rf"{place}: (there is no bundle|not in BentoML's model store)"):
        open_bundle(place)


def test_a_file_is_not_a_bundle(folder):
    with pytest.raises(BundleError, match="got a file"):
        open_bundle(folder / "x")


def test_a_local_address_is_opened_where_it_lies(folder, cache):
    assert open_bundle(f"file://{folder}").path == folder
    assert not cache.exists()


def test_a_remote_bundle_is_fetched_once(memory, folder, cache, monkeypatch):
    first = open_bundle(memory)
    assert first.path.is_relative_to(cache)
    assert names(first.path) == names(folder)
    monkeypatch.setattr(remote_bundle, "_fetch_file", lambda *arguments: pytest.fail("fetched again"))
    assert open_bundle(memory + "/") == first
    assert [path.name for path in (cache / "bundles").iterdir() if path.is_dir()] == [first.path.name]


def test_a_damaged_copy_in_the_cache_is_fetched_again(memory, cache):
    bundle = open_bundle(memory)
    bundle.file("x").write_bytes(b"2")
    assert open_bundle(memory).file("x").read_bytes() == b"1"


@pytest.mark.parametrize("content", [b"2", b"", b"1" * 3_000_000])
def test_a_damaged_source_is_refused_and_not_kept(memory, cache, content):
    fsspec.filesystem("memory").pipe(f"{memory}/x", content)
    with pytest.raises(BundleError, match=r"/x: wrong (size|SHA-256 digest)"):
        open_bundle(memory)
    assert [path for path in (cache / "bundles").iterdir() if path.is_dir()] == []


def test_two_at_once_fetch_once(memory, cache, monkeypatch):
    fetched = []
    fetch = remote_bundle._fetch_file
    monkeypatch.setattr(remote_bundle, "_fetch_file", lambda *arguments: (fetched.append(arguments[1]), fetch(*arguments)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_bundle(memory))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(fetched) == len(FILES)


@pytest.mark.parametrize("address", ["memory://nothing/here", "nosuchprotocol://x/y", "http://127.0.0.1:9/b", "http://[/b"])
def test_an_address_that_cannot_be_read_is_named(cache, address):
    with pytest.raises(BundleError, match=r"cannot be fetched.*Check the address") as caught:
        open_bundle(address)
    assert caught.value.where == address


@pytest.fixture
def web(folder) -> str:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_bundle_is_fetched_over_http(web, folder, cache):
    bundle = open_bundle(f"{web}/tagger-en")
    assert {name: bundle.file(name).read_bytes() for name in FILES} == FILES
    with pytest.raises(BundleError, match=r"cannot be fetched.*FileNotFoundError"):
        open_bundle(f"{web}/other")


def test_the_cache_is_in_the_users_cache_folder_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("CONVOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert remote_bundle.cache_folder() == tmp_path / "convoy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert remote_bundle.cache_folder() == tmp_path / "home" / ".cache" / "convoy"


def test_a_model_in_bentomls_store_is_opened_by_its_tag(folder, tmp_path, monkeypatch):
    import bentoml

    monkeypatch.chdir(tmp_path)
    with bentoml.models.create("convoy-test-tagger:v1") as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)
    assert open_bundle("convoy-test-tagger:v1").spec.name == "tagger-en"
    assert open_bundle("convoy-test-tagger:latest").file("x").read_bytes() == b"1"
