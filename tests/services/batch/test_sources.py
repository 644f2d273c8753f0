from __future__ import annotations

import json
import os
import uuid
import zipfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError, InputError
from services.batch.fetching import fetched
from services.batch.sources import Item, current_tag, find_items, named, read_manifest, refuse_collisions
from services.batch.storage import Storage
from services.batch.text import SUFFIXES
from services.batch.volumes import SUFFIXES as VOLUMES
from services.batch.volumes import is_volume


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True)
    (inputs / "a.txt").write_text("one")
    (inputs / "deep" / "b.jsonl").write_text("{}")
    (inputs / "notes.md").write_text("not taken from a folder")
    return inputs


def names(items):
    return [item.output for item in items]


def test_folders_globs_files_and_addresses(folder):
    assert names(find_items([str(folder)], SUFFIXES)) == ["a", "deep/b"]
    assert names(find_items([f"{folder}/*.txt"], SUFFIXES)) == ["a"]
    assert names(find_items([f"{folder}/**/*.jsonl"], SUFFIXES)) == ["deep/b"]
    assert names(find_items([str(folder / "notes.md"), str(folder / "notes.md")], SUFFIXES)) == ["notes"]
    assert find_items(["-"], SUFFIXES) == [Item("-", "stdin")]
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe(f"/{name}/x/y.txt", b"hello\n")
    [item] = find_items([f"memory://{name}"], SUFFIXES)
    assert (item.address, item.output, item.size) == (f"memory:///{name}/x/y.txt", "x/y", 6)


@pytest.mark.parametrize(
    ("name", "output"), [("s.nii.gz", "s"), ("s.NII", "s"), (".nii.gz", ".nii.gz"), ("a.b.tif", "a.b"), ("s", "s")]
)
def test_the_longest_ending_is_the_one_that_goes(tmp_path, name, output):
    (tmp_path / name).write_bytes(b"1")
    assert names(find_items([str(tmp_path / name)], VOLUMES)) == [output]


def test_a_folder_may_be_one_input(tmp_path):
    (tmp_path / "scan.ome.zarr" / "0").mkdir(parents=True)
    (tmp_path / "scan.ome.zarr" / "zarr.json").write_text("{}")
    [item] = find_items([str(tmp_path / "scan.ome.zarr")], VOLUMES, is_volume)
    assert (item.output, item.size) == ("scan", 2)
    assert current_tag(item) == item.tag
    (tmp_path / "scan.ome.zarr" / "0" / "c").write_bytes(b"more")
    assert current_tag(item) != item.tag


def test_a_tree_holds_volumes_that_are_folders(tmp_path):
    dicom = b"\0" * 128 + b"DICM"
    for name in [
        "ann/t1/0.dcm",
        "ann/t1/1.dcm",
        "ann/t2/IM0001",
        "bob/scan.ome.zarr/zarr.json",
        "bob/scan.ome.zarr/0/c.tif",
        "bob/x.nii",
    ]:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(dicom if "ann" in name else b"{}")
    (tmp_path / "ann" / "report.pdf").write_bytes(b"%PDF")
    found = find_items([str(tmp_path)], VOLUMES, is_volume)
    assert names(found) == ["ann/t1", "ann/t2", "bob/scan", "bob/x"]
    assert [item.size for item in found] == [264, 132, 4, 2]
    assert all(current_tag(item) == item.tag for item in found)
    assert names(find_items([f"{tmp_path}/*/t?"], VOLUMES, is_volume)) == ["ann/t1", "ann/t2"]
    assert names(find_items([f"{tmp_path}/bob"], VOLUMES, is_volume)) == ["scan", "x"]


def lay(folder, names):
    """Files of these names; DICOM where the name says so."""
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        dicom = name.endswith((".dcm", "DICOMDIR")) or place.name.startswith("IM")
        place.write_bytes(b"\0" * 128 + b"DICM" if dicom else b"{}")
    return folder


def test_series_below_a_series_are_inputs_too(tmp_path):
    lay(tmp_path / "in", ["ann/0.dcm", "ann/1.dcm", "ann/ct/0.dcm", "ann/ct/pet/IM1", "ann/seg/x.nii"])
    whole = find_items([str(tmp_path / "in")], VOLUMES, is_volume)
    assert [(item.output, item.size) for item in whole] == [("ann", 264), ("ann/ct", 132), ("ann/ct/pet", 132), ("ann/seg/x", 2)]
    assert find_items([str(tmp_path / "in" / "ann")], VOLUMES, is_volume) == whole
    (tmp_path / "in" / "ann" / "ct" / "1.dcm").write_bytes(b"")
    assert [current_tag(item) == item.tag for item in whole] == [True, False, True, True]


def test_a_disc_is_its_series(tmp_path):
    lay(tmp_path / "cd", ["DICOMDIR", "A/S1/IM1", "A/S1/IM2", "A/S2/IM1"])
    assert names(find_items([str(tmp_path)], VOLUMES, is_volume)) == ["cd/A/S1", "cd/A/S2"]
    assert names(find_items([str(tmp_path / "cd")], VOLUMES, is_volume)) == ["A/S1", "A/S2"]


def test_folders_in_a_store_are_inputs_as_here(tmp_path):
    home = uuid.uuid4().hex
    made = ["DICOMDIR", "ann/0.dcm", "ann/1.dcm", "ann/ct/IM1", "ann/notes", "i.zarr/zarr.json", "i.zarr/0/c/0.tif", "x.nii"]
    lay(tmp_path / home, made)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / home), "/", recursive=True)
    for end in ("", "/ann", "/i.zarr", "/*", "/**", "/*.zarr"):
        found = find_items([f"memory://{home}{end}"], VOLUMES, is_volume)
        here = find_items([f"{tmp_path}/{home}{end}"], VOLUMES, is_volume)
        assert {(item.output, item.size, item.folder) for item in here} == {
            (item.output, item.size, item.folder) for item in found
        }
    found = find_items([f"memory://{home}"], VOLUMES, is_volume)
    assert [(item.output, item.size) for item in found] == [("ann", 266), ("ann/ct", 132), ("i", 4), ("x", 2)]
    memory.pipe(f"/{home}/ann/2.dcm", b"")
    assert [current_tag(item) == item.tag for item in found[:3]] == [False, True, True]
    with fetched(found[1], 1) as series, fetched(found[2], 1) as store:
        assert [path.name for path in series.iterdir()] == ["IM1"]
        assert sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()) == ["0/c/0.tif", "zarr.json"]


def test_nothing_in_a_store_is_an_input(tmp_path):
    lay(tmp_path, ["i.zarr/.zgroup", "i.zarr/0/zarr.json", "i.zarr/0/c/0.tif", "i.zarr/s/0.dcm"])
    assert names(find_items([str(tmp_path)], VOLUMES, is_volume)) == ["i"]
    assert names(find_items([str(tmp_path / "i.zarr")], VOLUMES, is_volume)) == ["i"]


def test_a_glob_gives_all_that_its_folders_hold(tmp_path):
    lay(tmp_path, ["G/a/t1/0.dcm", "G/b/deep/x.nii", "G/b/readme.md", "G/y.nii", "zz/i.zarr/.zgroup", "zz/i.zarr/0/.zgroup"])
    assert names(find_items([f"{tmp_path}/G/*"], VOLUMES, is_volume)) == ["a/t1", "b/deep/x", "y"]
    for glob in ("zz/**", "zz/*", "z*"):
        assert [item.address for item in find_items([f"{tmp_path}/{glob}"], VOLUMES, is_volume)] == [f"{tmp_path}/zz/i.zarr"]
    with pytest.raises(InputError, match="no such input"):  # what lies in a store is no input
        find_items([f"{tmp_path}/zz/*/*"], VOLUMES, is_volume)


def test_what_is_in_an_archive_is_read_from_there(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("x.txt", "deep/y.jsonl", "deep/z.md"):
            archive.writestr(name, name)
    home = f"file://{tmp_path}/all.zip"
    for address in (f"zip://::{home}", f"zip::{home}", f"simplecache::zip://::{home}"):
        found = find_items([address], SUFFIXES)
        assert [(item.address, item.output) for item in found] == [
            (f"zip://deep/y.jsonl::{home}", "deep/y"),
            (f"zip://x.txt::{home}", "x"),
        ]
    assert find_items([f"zip://deep/*.jsonl::{home}"], SUFFIXES)[0].address == found[0].address
    assert names(named(find_items([f"zip://x.txt::{home}"], SUFFIXES), "{stem}-{ending}")) == ["x-txt"]
    assert [current_tag(item) for item in found] == [item.tag for item in found]
    with fetched(found[0], 1) as copy:
        assert (copy.name, copy.read_text()) == ("y.jsonl", "deep/y.jsonl")
    [cached] = find_items([f"simplecache::file://{tmp_path}/all.zip"], VOLUMES)
    assert cached.address == f"{tmp_path}/all.zip"


@pytest.mark.parametrize("given", ["nowhere", "*.nothing", "nosuchprotocol://x"])
def test_an_input_that_is_not_there_is_named(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such input|cannot be read"):
        find_items([given], SUFFIXES)


def test_an_empty_folder_is_no_input(tmp_path):
    with pytest.raises(InputError, match="no such input"):
        find_items([str(tmp_path)], SUFFIXES)


def test_the_tag_changes_with_the_content(folder):
    [before] = find_items([str(folder / "a.txt")], SUFFIXES)
    assert current_tag(before) == before.tag
    (folder / "a.txt").write_text("two")
    os.utime(folder / "a.txt", (1, 1))
    assert current_tag(before) != before.tag


def write_manifest(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".csv":
        lines = ["input,output,who", *(f"{row['input']},{row.get('output', '')},me" for row in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8-sig")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), "utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_names_inputs_and_outputs(folder, kind):
    path = folder.parent / f"list{kind}"
    write_manifest(path, [{"input": "in/a.txt", "output": "x/first"}, {"input": str(folder / "deep")}])
    assert [(item.address, item.output) for item in read_manifest(str(path), SUFFIXES)] == [
        (str(folder / "a.txt"), "x/first"),
        (str(folder / "deep" / "b.jsonl"), "b"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "input,output\n,x\n", r"a\.csv:2: not a row of a manifest"),
        ("a.csv", "file\nx\n", r"a\.csv:2: not a row of a manifest"),
        ("a.jsonl", '{"input": "in/a.txt"}\n\n[]\n', r"a\.jsonl:3: not a row of a manifest"),
        ("a.jsonl", '{"input": 3}', r"a\.jsonl:1: not a row"),
        ("a.jsonl", '{"input": "in", "output": "x"}', r"a\.jsonl:1: one name for several files"),
        ("a.jsonl", '{"input": "in/a.txt", "output": "../x"}', r"a\.jsonl:1: not a name of an output"),
        ("a.jsonl", '{"input": "in/none*.txt"}', "no such input"),
        ("a.xls", "x", r"a\.xls: not a kind of manifest"),
        ("a.csv", b"\xff", "the manifest cannot be read"),
        ("a.parquet", "x", "the manifest cannot be read"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said_with_its_place(folder, name, content, message):
    (folder / "c.txt").write_text("so that in holds two files")
    path = folder.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataFormatError, InputError, ConfigError), match=message):
        read_manifest(str(path), SUFFIXES)


def test_names_follow_a_template():
    items = [Item("/x/in/deep/talk.mp3", "deep/talk", 3, '3-"17.5"'), Item("/x/in/b.wav", "b", 1, "abc")]
    assert names(named(items, "{folder}/{stem}-voices")) == ["deep/talk-voices", "b-voices"]
    assert names(named(items, "{ending}/{stem}-{tag}")) == ["mp3/talk-3175", "wav/b-abc"]
    for template, says in [
        ("{nothing}", "unknown field"),
        ("../{stem}", "not a name"),
        ("/{stem}", "not a name"),
        ("{stem", "not a"),
    ]:
        with pytest.raises(ConfigError, match=says):
            named(items, template)


@given(st.text(min_size=1, max_size=20))
def test_no_template_leaves_the_output_folder(text):
    try:
        [item] = named([Item("/in/a.wav", "deep/a")], text)
    except ConfigError:
        return
    root = Path("/out")
    assert root in Path(os.path.normpath(root / item.output)).parents


def in_folder(out):
    return Storage.at(str(out)).address


def test_outputs_never_collide(folder, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("another")
    both = find_items([str(folder / "a.txt"), str(tmp_path / "a.txt")], SUFFIXES)
    with pytest.raises(ConfigError, match="two inputs have the same output"):
        refuse_collisions(both, in_folder(tmp_path / "out"), [".jsonl"])
    items = find_items([str(folder)], SUFFIXES)
    with pytest.raises(ConfigError, match=r"b\.jsonl: the output would overwrite its input"):
        refuse_collisions(items, in_folder(folder), [".jsonl"])
    refuse_collisions(items, in_folder(tmp_path / "out"), [".jsonl"])
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for out in ["../in", "deep/..", str(tmp_path / "link")]:
        with pytest.raises(ConfigError, match="would overwrite its input"):
            refuse_collisions(items, in_folder(out), [".jsonl"])
    (folder / "b.txt").write_text("x")
    others = find_items([str(folder / "b.txt"), "*/b.jsonl"], SUFFIXES)
    with pytest.raises(ConfigError, match=r"b\.txt: the output would overwrite another input: got .*/in/deep/b\.jsonl"):
        refuse_collisions([others[0], Item(others[1].address, "elsewhere")], in_folder("deep"), [".jsonl"])


def test_outputs_are_not_in_each_others_way(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.wav").write_text("1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "in" / "sub")
    with pytest.raises(ConfigError, match="would overwrite its input"):
        refuse_collisions([Item(str(tmp_path / "in/sub/a.wav"), "sub/a")], in_folder(tmp_path / "out"), [".wav"])
    place = in_folder(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="one output would lie in another"):
        refuse_collisions([Item("/in/a.flac", "a"), Item("/in/a.wav/b.wav", "a.wav/b")], place, [".wav"])
    with pytest.raises(ConfigError, match="the run's own manifest"):
        refuse_collisions([Item("/in/manifest.txt", "manifest")], place, [".jsonl"], ["manifest.jsonl"])
    remote = Storage.at("memory://lab/in").address
    with pytest.raises(ConfigError, match="would overwrite its input"):
        refuse_collisions([Item("memory:///lab/in/a.wav", "a")], remote, [".wav"])


def test_links_and_odd_names_are_what_they_lead_to(tmp_path):
    (tmp_path / "real.txt").write_text("content")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "real.txt")
    (tmp_path / "in" / "x::y.txt").write_text("odd")
    (tmp_path / "in" / ".convoy" / "done").mkdir(parents=True)
    (tmp_path / "in" / ".convoy" / "done" / "k.txt").write_text("not mine")
    items = find_items([str(tmp_path / "in")], SUFFIXES)
    assert names(items) == ["link", "x::y"]
    assert [current_tag(item) for item in items] == [item.tag for item in items]
    assert [item.size for item in items] == [7, 3]
    assert names(find_items([str(tmp_path / "in" / "x::y.txt")], SUFFIXES)) == ["x::y"]
