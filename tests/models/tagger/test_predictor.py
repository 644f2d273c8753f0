from __future__ import annotations

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import BundleError
from models.tagger import Tagger
from models.tagger.tokens import word_spans
from tests.tiny import ENGLISH, tiny_tagger_bundle, tiny_tagger_module


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {language: tiny_tagger_bundle(folder, language) for language in ("en", "zh")}


@pytest.fixture(scope="module")
def taggers(bundles):
    return {language: Tagger.load(path) for language, path in bundles.items()}


@pytest.fixture(scope="module", params=["en", "zh"])
def tagger(request, taggers):
    return taggers[request.param]


def check(tagger: Tagger, text: str, tagged) -> None:
    """`text[start:end]` is the token, tokens do not overlap, and nothing but white space lies between them."""
    place = 0
    for token in tagged.tokens:
        assert token.start < token.end
        assert text[token.start : token.end] == token.text
        assert not text[place : token.start].strip()
        place = token.end
        assert 0 <= token.confidence <= 1
        assert token.label in {label[2:] if tagger.settings.segment else label for label in tagger.spec.labels}
    assert not text[place:].strip()


texts = st.one_of(st.text(), st.text(st.characters(codec=None)), st.text("Ada 北京 lives.，\n's\u0301\u200d👩🏽\t\x00\ud800Ａ１"))


@settings(max_examples=150)
@given(st.lists(texts, max_size=4))
@example(["👩‍👩‍👧 e\u0301\x00 \ud800 Ａ　北京", "\u2028\u00a0", "don't can't 3.14% $5 U.S."])
def test_tokens_are_the_text(tagger, given):
    answers = tagger.tag(given)
    assert len(answers) == len(given)
    for text, tagged in zip(given, answers, strict=True):
        check(tagger, text, tagged)


def test_nothing_gives_nothing(tagger):
    assert tagger.tag([]) == []
    assert tagger.tag_tokens([]) == []
    assert tagger.tag_tokens([[], []]) == [[], []]
    for tagged in tagger.tag(["", " ", "\n\t\u3000 "]):
        assert (tagged.tokens, tagged.spans) == ([], [])


@settings(max_examples=50)
@given(st.lists(st.text("Ada lives北京 in.天上海\n"), min_size=1, max_size=5))
def test_a_text_is_labelled_the_same_alone_and_among_others(tagger, given):
    for text, tagged in zip(given, tagger.tag(given), strict=True):
        (alone,) = tagger.tag([text])
        assert [(token.start, token.end) for token in alone.tokens] == [(token.start, token.end) for token in tagged.tokens]
        assert [token.label for token in alone.tokens] == [token.label for token in tagged.tokens]
        for one, other in zip(alone.tokens, tagged.tokens, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=2e-4)


@given(st.lists(st.sampled_from([*ENGLISH[:-1], "unseen", "x1"]), min_size=1, max_size=20))
def test_tag_and_tag_tokens_agree(taggers, words):
    tagger, text = taggers["en"], " ".join(words)
    (tagged,) = tagger.tag([text])
    (labelled,) = tagger.tag_tokens([[text[start:end] for start, end in word_spans(text)]])
    assert [token.label for token in tagged.tokens] == [label for label, _ in labelled]
    for token, (_, confidence) in zip(tagged.tokens, labelled, strict=True):
        assert token.confidence == pytest.approx(confidence, abs=6e-5)


@given(st.text("我爱北京天安门上海人", min_size=1, max_size=30))
def test_words_end_where_the_labels_of_characters_say(taggers, text):
    (tagged,), (labels,) = taggers["zh"].tag([text]), taggers["zh"].tag_tokens([list(text)])
    assert [token.end for token in tagged.tokens] == [place for place, (label, _) in enumerate(labels, 1) if label[0] in "ES"]
    assert [token.label for token in tagged.tokens] == [label[2:] for label, _ in labels if label[0] in "ES"]


@given(st.text("我爱北京 \u3000\n", max_size=30))
def test_white_space_ends_a_word(taggers, text):
    for token in taggers["zh"].tag([text])[0].tokens:
        assert token.text == "".join(token.text.split())


def test_labels_follow_the_scheme(taggers):
    random = np.random.default_rng(0)
    sentences = [random.choice(list("我爱北京天安门上海"), length).tolist() for length in range(1, 40)]
    for labels in taggers["zh"].tag_tokens(sentences):
        shapes = "".join(label[0] for label, _ in labels)
        assert not any(pair in shapes for pair in ("BB", "BS", "MB", "MS", "EM", "EE", "SM", "SE"))
        assert shapes[0] in "BS"
        assert shapes[-1] in "ES"


@pytest.mark.parametrize("line", ["Ada lives in London " * 5000, "x" * 100_000, "北京天安门上海的人" * 11_112, "𝔄" * 100_000])
def test_very_long_lines(tagger, line):
    (tagged,) = tagger.tag([line])
    check(tagger, line, tagged)


def test_width_is_folded_for_the_network_only(taggers):
    tagger = taggers["zh"]
    full, half = tagger.tag(["北京，ＡＢ１"])[0], tagger.tag(["北京,AB1"])[0]
    assert [token.label for token in full.tokens] == [token.label for token in half.tokens]
    assert "".join(token.text for token in full.tokens) == "北京，ＡＢ１"


def test_the_lexicon_is_read_wherever_text_comes_in(bundles, taggers, tmp_path):
    """Without its words the same network answers otherwise, and both ways of asking see them."""
    emptied = changed(bundles["zh"], tmp_path, lambda fields: fields["files"]["lexicon.txt"].update(listing(b"")))
    (emptied / "lexicon.txt").write_bytes(b"")
    sentence = "我爱北京天安门上海的人"
    with_words, without = taggers["zh"], Tagger.load(emptied)
    for ask in (lambda tagger: tagger.tag([sentence]), lambda tagger: tagger.tag_tokens([list(sentence)])):
        assert ask(with_words) != ask(without)
    assert with_words.encoder.lexicon.find(list(sentence)) == [(2, 4), (2, 7), (4, 7), (7, 9), (8, 10)]
    assert with_words.tag(["我在生活。"]) == without.tag(["我在生活。"])


@pytest.fixture(scope="module")
def saved(taggers):
    """The network that the Chinese bundle was made of, with the vectors as the bundle rounds them."""
    module = tiny_tagger_module("zh")
    tables = {id(table): table for table in taggers["zh"].vectors}  # one stands as often as it has views
    for embedding, table in zip(module.tables.embeddings, tables.values(), strict=True):
        with torch.no_grad():
            embedding.weight[1:] = torch.from_numpy(table.vectors(np.arange(len(table))))
    return module


@given(st.lists(st.sampled_from(["北京", "天安门", "海的", "上海", "人", "我"]), min_size=1, max_size=300))
@settings(max_examples=15, deadline=None)
def test_predictions_are_those_of_the_torch_network(taggers, saved, words):
    """The whole way, lexicon and cuts in long sentences included, against the module that was exported."""
    tagger, sentence = taggers["zh"], list("".join(words))
    coder = saved.vocabulary.encoder()
    rows, letters = (torch.from_numpy(each) for each in coder.encode([("", "", "", ""), *coder.types(sentence)]))
    rows[0] = -1
    with torch.no_grad():
        index = torch.arange(1, len(sentence) + 1)[None]
        scores = saved.network(saved.tables(rows), letters, index)[0].numpy()
    np.testing.assert_allclose(tagger.packer.scores([sentence])[0], scores, rtol=1e-4, atol=1e-5)


def test_threads_get_their_own_answers(tagger):
    given = [["Ada lives in London.", "the London"], ["我爱北京天安门。"], ["Ada " * 300, "", "北京 here"], ["x"]]
    wanted = [tagger.tag(each) for each in given]

    def work(turn: int) -> None:
        for step in range(15):
            number = (turn + step) % len(given)
            for one, other in zip(tagger.tag(given[number]), wanted[number], strict=True):
                assert [token.label for token in one.tokens] == [token.label for token in other.tokens]
                assert [token.start for token in one.tokens] == [token.start for token in other.tokens]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_memory_is_bounded_and_forgetting_changes_nothing(bundles, monkeypatch):
    monkeypatch.setattr("models.tagger.packing.REMEMBERED", 50)
    tagger = Tagger.load(bundles["en"])
    before = tagger.tag(["Ada lives in London."])
    for start in range(0, 400, 20):
        tagger.tag([" ".join(f"w{number}" for number in range(start, start + 20))])
        assert len(tagger.packer._memory._numbers) <= 50
    assert tagger.tag(["Ada lives in London."]) == before


def test_known_words(taggers, bundles, tmp_path):
    assert taggers["en"].known(["Ada", "ada", "", "London"]).tolist() == [True, False, False, True]
    assert taggers["zh"].known(["北京", "北"]).tolist() == [True, False]
    path = changed(bundles["en"], tmp_path, lambda fields: fields["files"].pop("known.txt"))
    (path / "known.txt").unlink()
    with pytest.raises(BundleError, match=r"known\.txt"):
        Tagger.load(path).known(["Ada"])


def test_what_it_says_of_itself(taggers):
    assert taggers["en"].languages == ["en"]
    assert taggers["zh"].languages == ["zh"]
    assert taggers["en"].spec.task == "tagger"
    assert taggers["en"].transitions is None
    assert taggers["zh"].transitions is not None


# ── bundles that cannot be used ─────────────────────────────────────────────────────────────────────────────────────


def listing(content: bytes) -> dict:
    return {"sha256": sha256(content).hexdigest(), "bytes": len(content)}


def changed(bundle, folder, change):
    path = folder / "changed"
    shutil.copytree(bundle, path)
    fields = json.loads((path / "bundle.json").read_text("utf-8"))
    change(fields)
    (path / "bundle.json").write_text(json.dumps(fields), "utf-8")
    return path


def test_a_bundle_of_another_task(bundles, tmp_path):
    with pytest.raises(BundleError, match="not a tagger"):
        Tagger.load(changed(bundles["en"], tmp_path, lambda fields: fields.update(task="segmenter")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder", "beam"),
        ("scheme", "IOBX"),
        ("gap", "wide"),
        ("colour", "red"),
        ("tables", [{"name": "words", "views": ["up"]}]),
    ],
)
def test_settings_it_does_not_know(bundles, tmp_path, name, value):
    with pytest.raises(BundleError, match=f"preprocessing.{name}"):
        Tagger.load(changed(bundles["en"], tmp_path, lambda fields: fields["preprocessing"].update({name: value})))


def test_a_setting_that_is_missing(bundles, tmp_path):
    with pytest.raises(BundleError, match=r"preprocessing\.fold_width"):
        Tagger.load(changed(bundles["en"], tmp_path, lambda fields: fields["preprocessing"].pop("fold_width")))


def array(values, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an array",
        array(np.zeros((14, 12), np.float32))[:200],
        array(np.zeros((3, 3), np.float32)),
        array(np.full((14, 12), np.nan, np.float32)),
        array(np.full((14, 12), "x")),
        array(np.array([{}]), allow_pickle=True),
    ],
    ids=["empty", "text", "cut", "size", "nan", "strings", "pickle"],
)
def test_damaged_transitions(bundles, tmp_path, content):
    listed = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    path = changed(bundles["zh"], tmp_path, lambda fields: fields["files"].update({"crf.npy": listed}))
    (path / "crf.npy").write_bytes(content)
    with pytest.raises(BundleError, match=r"crf\.npy"):
        Tagger.load(path)


def test_missing_transitions(bundles, tmp_path):
    path = changed(bundles["zh"], tmp_path, lambda fields: fields["files"].pop("crf.npy"))
    (path / "crf.npy").unlink()
    with pytest.raises(BundleError, match=r"crf\.npy"):
        Tagger.load(path)


@pytest.mark.parametrize("file", ["lexicon.txt", None])
def test_a_lexicon_that_is_missing(bundles, tmp_path, file):
    def change(fields):
        del fields["files"]["lexicon.txt"]
        fields["preprocessing"]["lexicon"] = file

    path = changed(bundles["zh"], tmp_path, change)
    (path / "lexicon.txt").unlink()
    with pytest.raises(BundleError, match="lexicon"):
        Tagger.load(path)


def test_a_damaged_lexicon(bundles, tmp_path):
    path = changed(bundles["zh"], tmp_path, lambda fields: fields["files"]["lexicon.txt"].update(listing(b"\xff")))
    (path / "lexicon.txt").write_bytes(b"\xff")
    with pytest.raises(BundleError, match=r"lexicon\.txt.*UTF-8"):
        Tagger.load(path)


def test_a_bundle_of_before_the_lexicon(bundles, taggers, tmp_path):
    path = changed(bundles["en"], tmp_path, lambda fields: fields["preprocessing"].pop("lexicon"))
    text = "Ada Lovelace lives in London."
    assert Tagger.load(path).tag([text]) == taggers["en"].tag([text])


def test_a_damaged_table_of_vectors(bundles, tmp_path):
    listed = {"sha256": sha256(b"x").hexdigest(), "bytes": 1}
    path = changed(bundles["en"], tmp_path, lambda fields: fields["files"].update({"words.npy": listed}))
    (path / "words.npy").write_bytes(b"x")
    with pytest.raises(BundleError, match="word vectors"):
        Tagger.load(path)
