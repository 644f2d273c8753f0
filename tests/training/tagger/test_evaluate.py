import json
from types import SimpleNamespace

import numpy as np
import pytest

from models.errors import BundleError, ConfigError, DataFormatError
from models.tagger.predictor import TaggedText, TaggedToken, Tagger
from models.tagger.tokens import word_spans
from training.tagger import evaluate as module
from training.tagger.evaluate import evaluate


class FakeTagger:
    """Answers from a dictionary: word → (label, confidence); segments Chinese into the longest words it has."""

    def __init__(self, answers, scheme="NONE", segment=False, known=()):
        self.answers, self.seen, self.closed = answers, known, False
        settings = {"column": "upos", "scheme": scheme, "segment": segment, "fold_width": segment}
        self.spec = SimpleNamespace(name="fake", preprocessing=settings)

    def tag_tokens(self, sentences):
        return [[self.answers[token] for token in tokens] for tokens in sentences]

    def tag(self, texts):
        return [TaggedText([self._token(text, *place) for place in self._cut(text)], []) for text in texts]

    def _cut(self, text):
        if not self.spec.preprocessing["segment"]:
            return word_spans(text)
        places, start = [], 0
        while start < len(text):
            end = next(end for end in range(len(text), start, -1) if text[start:end] in self.answers or end == start + 1)
            places.append((start, end))
            start = end
        return places

    def _token(self, text, start, end):
        return TaggedToken(text[start:end], start, end, *self.answers.get(text[start:end], ("X", 0.5)))

    def known(self, words):
        if self.seen is None:
            raise BundleError("no list")
        return np.array([word in self.seen for word in words], bool)

    def close(self):
        self.closed = True


@pytest.fixture
def serve(monkeypatch):
    def serve(*arguments, **keywords):
        tagger = FakeTagger(*arguments, **keywords)
        monkeypatch.setattr(Tagger, "load", classmethod(lambda cls, path: tagger))
        return tagger

    return serve


def conllu(path, *sentences):
    rows = [
        "\n".join("\t".join([str(number), word, "_", tag, *"_" * 6]) for number, (word, tag) in enumerate(sentence, start=1))
        for sentence in sentences
    ]
    path.write_text("\n\n".join(rows) + "\n\n", encoding="utf-8")
    return path


ENGLISH = ([("Ada", "PROPN"), ("can", "AUX"), ("swim", "VERB")], [("A", "DET"), ("can", "NOUN"), ("n't", "PART")])
ANSWERS = {"Ada": ("PROPN", 1.0), "can": ("AUX", 0.75), "swim": ("VERB", 1.0), "A": ("DET", 1.0), "n't": ("PART", 1.0)}


def test_words(tmp_path, serve, capsys):
    tagger = serve(ANSWERS, known={"Ada", "can"})
    result = evaluate("b", conllu(tmp_path / "a.conllu", *ENGLISH), out=tmp_path / "out")
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert result["known"] == {"count": 3, "accuracy": pytest.approx(2 / 3)}
    assert result["unknown"] == {"count": 3, "accuracy": 1.0}
    assert result["calibration"]["error"] == pytest.approx(2 / 6 * 0.25)
    assert result["labels"]["types"]["AUX"]["precision"] == 0.5
    assert (result["sentences"], result["words"]) == (2, 6)
    assert "spans" not in result
    # Without gold tokens "can n't" is found by its two stretches, with the same labels.
    assert result["raw_text"]["tokens"]["f1"] == 1
    assert result["raw_text"]["labels"]["f1"] == pytest.approx(5 / 6)
    assert tagger.closed
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["accuracy"] == result["accuracy"]
    labels, counts = saved["confusion"]["labels"], np.array(saved["confusion"]["counts"])
    assert counts[labels.index("NOUN"), labels.index("AUX")] == 1
    assert counts.sum() == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "confusion.png", "reliability.png"}
    printed = capsys.readouterr().out
    for figure in ("83.33%", "66.67% of 3", "100.00% of 3", "0.0833", "AUX", "macro"):
        assert figure in printed


def test_entities_in_another_scheme_than_the_bundle(tmp_path, serve):
    path = tmp_path / "a.tsv"
    path.write_text("Ada\tB-PER\nLovelace\tI-PER\nof\tO\nLondon\tB-LOC\n\nof\tO\n")
    answers = {"Ada": ("B-PER", 0.9), "Lovelace": ("E-PER", 0.9), "of": ("O", 0.9), "London": ("S-PER", 0.9)}
    serve(answers, scheme="BIOES", known=None)
    result = evaluate("b", path, column="label")
    assert result["accuracy"] == pytest.approx(4 / 5)
    assert result["spans"]["micro"]["f1"] == pytest.approx(0.5)
    assert result["spans"]["types"]["LOC"]["recall"] == 0
    assert "known" not in result
    assert "raw_text" not in result
    assert evaluate("b", path, column="label", scheme="IOB2")["spans"] == result["spans"]
    with pytest.raises(DataFormatError, match="IOB1"):
        evaluate("b", path, column="label", scheme="IOB1")


def test_chinese_words(tmp_path, serve, capsys):
    path = tmp_path / "a.txt"
    path.write_text("中国/ns  人民/n  １２/m\n中国人/n  好/a\n", encoding="utf-8")
    answers = {"中国": ("ns", 0.9), "人民": ("v", 0.5), "１２": ("m", 1.0), "好": ("a", 0.8)}
    serve(answers, segment=True, known={"中国", "12"})
    result = evaluate("b", path, column="pos", out=tmp_path)
    # found: 中国 人民 １２ | 中国 人 好; gold: 中国 人民 １２ | 中国人 好
    assert result["segmentation"]["correct"] == 4
    assert result["words_f1"] == pytest.approx(8 / 11)
    assert result["joint_f1"] == pytest.approx(6 / 11)
    assert result["known"] == {"count": 2, "accuracy": 1.0}
    assert result["unknown"]["accuracy"] == pytest.approx(2 / 3)
    saved = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert np.array(saved["confusion"]["counts"]).sum() == 4
    assert "72.73%" in capsys.readouterr().out


def test_one_part_of_the_data(tmp_path, serve):
    serve(ANSWERS)
    path = conllu(tmp_path / "a.conllu", *ENGLISH)
    assert evaluate("b", path, ratios=[0.5, 0.5], contiguous=True)["accuracy"] == pytest.approx(2 / 3)
    assert evaluate("b", path, ratios=[0.5, 0.5], contiguous=True, part=0)["accuracy"] == 1
    with pytest.raises(ConfigError, match="part"):
        evaluate("b", path, ratios=[0.5, 0.5], part=2)


def test_batches_keep_the_order(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 2)
    tagger = serve({str(number): (f"t{number}", 1.0) for number in range(5)})
    path = conllu(tmp_path / "a.conllu", *([(str(number), f"t{number}")] for number in range(5)))
    assert evaluate("b", path)["accuracy"] == 1
    assert tagger.closed


def test_what_cannot_be_evaluated_is_refused(tmp_path, serve):
    tagger = serve(ANSWERS)
    with pytest.raises(DataFormatError, match="no sentence"):
        evaluate("b", conllu(tmp_path / "a.conllu"))
    with pytest.raises(DataFormatError, match="upos, xpos, feats, lemma"):
        evaluate("b", conllu(tmp_path / "a.conllu", *ENGLISH), column="ner")
    assert tagger.closed
    (tmp_path / "a.tsv").write_text("a\tX\n")
    serve(ANSWERS, segment=True)
    with pytest.raises(DataFormatError, match="text of a sentence"):
        evaluate("b", tmp_path / "a.tsv", column="label")
    serve(ANSWERS, scheme="IOB2")
    with pytest.raises(DataFormatError, match=r"a\.tsv:1, token 1"):
        evaluate("b", tmp_path / "a.tsv", column="label")
