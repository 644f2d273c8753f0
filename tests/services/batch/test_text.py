from __future__ import annotations

import io
import json
import re

import pytest

from models.errors import BundleError, ConfigError, DataFormatError
from models.tagger import TaggedText, TaggedToken
from services.batch import text
from services.batch.text import TaggerChoice, TextHandler, read_lines, tag_to_stdout


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


def test_a_folder_goes_into_a_folder_of_the_same_shape(folder, tmp_path, work_through):
    made = work_through("tag", [folder], tmp_path / "out", TextHandler(Lengths()))
    assert [[output.path for output in record.outputs] for record in made] == [["a.jsonl"], ["deep/b.jsonl"]]
    assert [record.facts for record in made] == [{"texts": 2, "tokens": 2}] * 2
    first, second = records(tmp_path / "out" / "a.jsonl")
    assert (first["text"], first["line"], first["tokens"][0]["label"], first["spans"]) == ("one", 1, "3", [])
    assert (second["text"], second["line"], second["source"]) == ("three three", 3, str(folder / "a.txt"))
    assert [record["text"] for record in records(tmp_path / "out" / "deep" / "b.jsonl")] == ["词语", ""]


def test_without_a_folder_everything_goes_to_stdout(folder, capsys):
    tag_to_stdout([str(folder / "a.txt"), str(folder / "a.txt")], Lengths())
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["one", "three three"]


def test_texts_are_tagged_some_at_a_time(tmp_path, monkeypatch, work_through):
    monkeypatch.setattr(text, "TEXTS_AT_ONCE", 10)
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(25))))
    tagger = Lengths()
    work_through("tag", [tmp_path / "a.txt"], tmp_path / "out", TextHandler(tagger))
    assert work_through.told == [(20, 64), (50, 64)]
    assert tagger.batches == [10, 10, 5]
    assert [record["text"] for record in records(tmp_path / "out" / "a.jsonl")] == [str(number) for number in range(25)]


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
def test_a_bad_line_is_named_and_leaves_no_half_of_a_file(tmp_path, name, content, message, work_through):
    (tmp_path / name).write_bytes(content)
    [record] = work_through("tag", [tmp_path / name], tmp_path / "out", TextHandler(Lengths()))
    assert record.error["code"] == "data_malformed"
    assert re.search(message, record.error["message"])
    assert not (tmp_path / "out" / "a.jsonl").exists()
    with pytest.raises(DataFormatError, match=message):
        tag_to_stdout([str(tmp_path / name)], Lengths())


def test_lines_may_be_long_and_hold_any_separator_but_the_end_of_a_line():
    long = "x\u2028y\x0bz" * 50_000
    [line] = read_lines(io.BytesIO(long.encode() + b"\n"), "a", json_lines=False)
    assert line.text == long


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

    monkeypatch.setattr(text.Tagger, "load", Named)
    choice = TaggerChoice(bundles)
    choice.tag(["only English"])
    assert loaded == bundles[:1]
    tagged = choice.tag(["中文文本", "English", "又是中文", "123"])
    assert [each.tokens[0].label for each in tagged] == [bundles[1], bundles[0], bundles[1], bundles[0]]
    assert [each.tokens[0].text for each in tagged] == ["中文文本", "English", "又是中文", "123"]
    assert loaded == bundles


def test_no_bundle_at_all_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no bundle to tag with"):
        TaggerChoice([])
    with pytest.raises(BundleError):
        TaggerChoice([str(tmp_path)])
