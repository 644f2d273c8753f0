from __future__ import annotations

import io
import json
import uuid
from pathlib import Path

import fsspec
import pytest

from models.errors import BundleError, ConfigError, DataFormatError, InputError
from models.tagger import TaggedText, TaggedToken
from services import batch
from services.batch import TaggerChoice, find_sources, read_lines, tag_files


class Lengths:
    """Tags a text with its length."""

    def __init__(self):
        self.batches: list[int] = []

    def tag(self, texts):
        self.batches.append(len(texts))
        return [TaggedText([TaggedToken(text, 0, len(text), str(len(text)), 1.0)], []) for text in texts]


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True)
    (inputs / "a.txt").write_text("one\r\n\nthree three\n", newline="")
    (inputs / "deep" / "b.jsonl").write_text('{"text": "词语", "id": 7}\n{"text": ""}\n', "utf-8")
    (inputs / "notes.md").write_text("not taken from a folder")
    return inputs


def records(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_folder_goes_into_a_folder_of_the_same_shape(folder, tmp_path, capsys):
    tag_files([str(folder)], tmp_path / "out", Lengths())
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "a.jsonl",
        "deep/b.jsonl",
    ]
    first, second = records(tmp_path / "out" / "a.jsonl")
    assert (first["text"], first["line"], first["tokens"][0]["label"], first["spans"]) == ("one", 1, "3", [])
    assert (second["text"], second["line"], second["source"]) == ("three three", 3, str(folder / "a.txt"))
    assert [record["text"] for record in records(tmp_path / "out" / "deep" / "b.jsonl")] == ["词语", ""]
    assert "2/2" in capsys.readouterr().err


def test_without_a_folder_everything_goes_to_stdout(folder, capsys):
    tag_files([str(folder / "a.txt"), str(folder / "a.txt")], None, Lengths())
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["one", "three three"]


def test_texts_are_tagged_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "TEXTS_AT_ONCE", 10)
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(25))))
    tagger = Lengths()
    tag_files([str(tmp_path / "a.txt")], tmp_path / "out", tagger)
    assert tagger.batches == [10, 10, 5]
    assert [record["text"] for record in records(tmp_path / "out" / "a.jsonl")] == [str(number) for number in range(25)]


def test_globs_and_addresses(folder):
    assert [source.output for source in find_sources([f"{folder}/*.txt"])] == ["a.jsonl"]
    assert [source.output for source in find_sources([f"{folder}/**/*.jsonl"])] == ["deep/b.jsonl"]
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe(f"/{name}/x.txt", b"hello\n")
    [source] = find_sources([f"memory://{name}/x.txt"])
    with source.open() as stream:
        assert stream.read() == b"hello\n"


@pytest.mark.parametrize("given", ["nowhere", "*.nothing", "nosuchprotocol://x"])
def test_an_input_that_is_not_there_is_named(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such input|cannot be read"):
        find_sources([given])


def test_an_empty_folder_is_no_input(tmp_path):
    with pytest.raises(InputError, match="no such input"):
        find_sources([str(tmp_path)])


def test_outputs_never_collide(folder, tmp_path):
    (tmp_path / "a.txt").write_text("another")
    with pytest.raises(ConfigError, match="two inputs have the same output"):
        tag_files([str(folder / "a.txt"), str(tmp_path / "a.txt")], tmp_path / "out", Lengths())
    with pytest.raises(ConfigError, match="overwrite its input"):
        tag_files([str(folder)], folder, Lengths())
    assert not (tmp_path / "out").exists()


def test_an_input_is_not_overwritten_whatever_the_folder_is_called(folder, tmp_path, monkeypatch):
    (folder / "c.jsonl").write_text('{"text": "keep"}\n')
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for out in ["../in", "deep/..", str(tmp_path / "link")]:
        with pytest.raises(ConfigError, match=r"c\.jsonl: the output would overwrite its input"):
            tag_files(["c.jsonl"], Path(out), Lengths())
    (folder / "b.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"b\.txt: the output would overwrite another input: got .*/in/deep/b\.jsonl"):
        tag_files([str(folder / "b.txt"), "*/b.jsonl"], Path("deep"), Lengths())
    assert (folder / "c.jsonl").read_text() == '{"text": "keep"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n\xff\xfe\n", r"a\.txt:2: not UTF-8: got byte 0xff at position 0"),
        ("a.jsonl", b"{", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b"[]", r"a\.jsonl:1: the field text is missing"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: the field text is missing or not a string"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl:1: field text: half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_and_leaves_no_half_of_a_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=message):
        tag_files([str(tmp_path / name)], tmp_path / "out", Lengths())
    assert list((tmp_path / "out").iterdir()) == []


def test_lines_may_be_long_and_hold_any_separator_but_the_end_of_a_line():
    text = "x\u2028y\x0bz" * 50_000
    [line] = read_lines(io.BytesIO(text.encode() + b"\n"), "a", json_lines=False)
    assert line.text == text


def test_the_bundle_is_chosen_by_script_and_loaded_only_when_needed(tmp_path, monkeypatch):
    from models.bundle import write_bundle
    from tests.bundles import make_spec

    bundles = [
        str(write_bundle(tmp_path / language, make_spec(languages=[language], name=language), {"x": b"1"}))
        for language in ["en", "zh"]
    ]
    loaded = []

    class Named:
        def __init__(self, bundle):
            loaded.append(bundle)
            self.bundle = bundle

        def tag(self, texts):
            return [TaggedText([TaggedToken(text, 0, len(text), self.bundle, 1.0)], []) for text in texts]

    monkeypatch.setattr(batch.Tagger, "load", Named)
    choice = TaggerChoice(bundles)
    choice.tag(["only English"])
    assert loaded == bundles[:1]
    tagged = choice.tag(["中文文本", "English", "又是中文", "123"])
    assert [text.tokens[0].label for text in tagged] == [bundles[1], bundles[0], bundles[1], bundles[0]]
    assert [text.tokens[0].text for text in tagged] == ["中文文本", "English", "又是中文", "123"]
    assert loaded == bundles


def test_no_bundle_at_all_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no bundle to tag with"):
        TaggerChoice([])
    with pytest.raises(BundleError):
        TaggerChoice([str(tmp_path)])
