from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError
from models.tagger.features import TypeMemory
from models.tagger.labels import Scheme, validate
from models.tagger.vectors import VectorTable
from tests.training.corpora import columns, conllu, slash
from training.tagger.batches import IGNORED, BatchSampler, TaggedSentences
from training.tagger.corpora import Sentence
from training.tagger.data import Corpus, TableSettings, TaggerData, to_characters, to_words
from training.tagger.vocabulary import Vocabulary

VOCABULARY = Vocabulary({"labels": ["X"]}, "ab", 3, [], [])


def dataset(*lengths: list[int], shares: list[float] | None = None) -> TaggedSentences:
    corpora = [[Sentence(["ab"] * length, {"labels": ["X"] * length}) for length in each] for each in lengths]
    coder = VOCABULARY.encoder()
    return TaggedSentences(corpora, VOCABULARY, TypeMemory(coder, coder.encode, 10_000), shares=shares)


def batches(data, tokens=50, shuffle=True, seed=1, epoch=0, rank=0, world=1):
    sampler = BatchSampler(data, tokens, shuffle, seed, rank, world)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


# ── the sampler ─────────────────────────────────────────────────────────────────────────────────────────────────────

lengths = st.lists(st.integers(0, 40), min_size=3, max_size=60).filter(lambda each: sum(length > 0 for length in each) >= 3)


@settings(max_examples=60)
@given(lengths, lengths, st.sampled_from([1, 2, 3]), st.booleans(), st.integers(0, 5), st.integers(40, 200))
def test_an_epoch_covers_every_sentence_once(first, second, world, shuffle, epoch, tokens):
    data = dataset(first, second)
    ranks = [batches(data, tokens, shuffle, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    assert len({len(each) for each in ranks}) == 1, "each process takes as many steps"
    every = [item for each in ranks for batch in each for item in batch]
    assert sorted(every) == [number for number, length in enumerate(first + second) if length]
    for each in ranks:
        for batch in each:
            assert len({int(data.groups[item]) for item in batch}) == 1, "a batch is of one corpus"
    if epoch == 0:
        assert all(data.lengths[batch].max() * len(batch) <= max(tokens, data.lengths.max()) for each in ranks for batch in each)


def test_the_number_of_batches_is_the_same_in_every_epoch():
    random = np.random.default_rng(0)
    data = dataset(random.integers(1, 60, 300).tolist(), random.integers(1, 60, 200).tolist(), shares=[1.0, 0.3])
    counts = {len(batches(data, 200, epoch=epoch, world=2)) for epoch in range(12)}
    assert len(counts) == 1
    for epoch in range(12):
        assert max(data.lengths[batch].max() * len(batch) for batch in batches(data, 200, epoch=epoch)) <= 220


@given(st.integers(0, 100), st.integers(0, 20))
def test_seed_and_epoch_say_it_all(seed, epoch):
    data = dataset(list(range(1, 40)), list(range(5, 20)), shares=[1.0, 0.5])
    first = batches(data, seed=seed, epoch=epoch)
    assert first == batches(data, seed=seed, epoch=epoch)
    assert first != batches(data, seed=seed, epoch=epoch + 1)
    assert first != batches(data, seed=seed + 1, epoch=epoch)


def test_a_share_is_drawn_anew_in_each_epoch():
    data = dataset([5] * 20, [5] * 100, shares=[1.0, 0.3])
    drawn = [{item for batch in batches(data, epoch=epoch) for item in batch} for epoch in range(30)]
    assert all(len(each) == 20 + 30 and each >= set(range(20)) for each in drawn)
    assert set().union(*drawn) == set(range(120))


def test_sentences_of_like_length_share_a_batch():
    random = np.random.default_rng(0)
    data = dataset(random.integers(1, 60, 500).tolist())
    padded = sum(data.lengths[batch].max() * len(batch) for batch in batches(data, 600))
    assert data.lengths.sum() / padded > 0.8


def test_order_is_that_of_length_without_shuffling():
    data = dataset([9, 1, 5, 5, 2])
    assert batches(data, 10, shuffle=False) == [[1, 4], [2, 3], [0]]
    assert batches(data, 10, shuffle=False, epoch=7) == [[1, 4], [2, 3], [0]]


def test_fewer_sentences_than_processes():
    with pytest.raises(ConfigError, match="devices"):
        batches(dataset([3, 3]), world=3)


def test_lightning_finds_the_sampler_to_tell_the_epoch_to():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    loader = TaggerData([Corpus("nowhere")])
    loader.datasets = {"train": dataset([5] * 50)}
    found = loader._loader("train", shuffle=True)
    first = list(found.batch_sampler)
    _set_sampler_epoch(found, 3)
    assert list(found.batch_sampler) != first


@pytest.mark.parametrize("workers", [0, 2])  # processes that make batches ahead of what is learnt from
@pytest.mark.parametrize("seen", [0, 2, 5])
def test_a_run_that_goes_on_begins_with_the_next_batch_of_its_epoch(seen, workers):
    def data():
        made = TaggerData([Corpus("nowhere")], batch_tokens=50, workers=workers)
        made.datasets = {"train": dataset([5] * 50)}
        made.datasets["train"].collate = list  # the numbers of the sentences
        return made

    def rows(loader, epoch, most=None):
        loader.batch_sampler.set_epoch(epoch)
        return [batch for _, batch in zip(range(99 if most is None else most), loader, strict=False)]

    before, after = data(), data()
    loader = before.train_dataloader()
    whole = rows(loader, 2)
    assert len(whole) == 5
    rows(loader, 2, seen)
    after.load_state_dict(before.state_dict())
    loader = after.train_dataloader()
    goes_on = iter(loader)  # Lightning makes the iterator before it tells the epoch
    loader.batch_sampler.set_epoch(2 if seen % 5 else 3)
    first = list(goes_on)
    assert first == (whole[seen:] if seen % 5 else rows(before.train_dataloader(), 3))
    assert rows(loader, 4) == rows(before.train_dataloader(), 4), "the epochs after it are whole"


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_holds_the_sentences():
    vocabulary = replace(VOCABULARY, labels={"labels": ["X", "Y"]})
    sentences = [Sentence(["ab", "b"], {"labels": ["Y", "X"]}), Sentence(["b"], {"labels": ["never seen"]})]
    coder = vocabulary.encoder()
    batch = TaggedSentences([sentences], vocabulary, TypeMemory(coder, coder.encode, 100)).collate([0, 1])
    assert batch.labels["labels"].tolist() == [[1, 0], [IGNORED, IGNORED]]
    assert batch.letters[batch.index].tolist() == [[[2, 3, 0], [3, 0, 0]], [[3, 0, 0], [0, 0, 0]]]
    moved = batch.to("cpu")
    assert moved.labels["labels"].equal(batch.labels["labels"])


@given(st.lists(st.sampled_from(["O", "S-a", "a", "ab"]), min_size=5, max_size=30), st.integers(3, 8))
def test_a_long_sentence_is_cut_where_a_span_ends(pieces, longest):
    labels = []
    for piece in pieces:
        labels += {"a": ["B-a", "E-a"], "ab": ["B-a", "I-a", "E-a"]}.get(piece, [piece])
    vocabulary = replace(VOCABULARY, labels={"labels": sorted(set(labels))})
    coder = vocabulary.encoder()
    sentence = Sentence(["b"] * len(labels), {"labels": labels})
    data = TaggedSentences([[sentence]], vocabulary, TypeMemory(coder, coder.encode, 100), longest, scheme=Scheme.BIOES)
    length = int(data.lengths[0])
    assert min(longest, len(labels)) - 2 <= length <= min(longest, len(labels))
    assert len(data.numbers[0]) == len(data.labels[0]["labels"]) == length
    validate(labels[:length], Scheme.BIOES)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from(["n", "v", ""])), max_size=8))
def test_words_become_characters_and_words_again(pairs):
    words, labels = [word for word, _ in pairs], [label for _, label in pairs]
    characters, places = to_characters(words, labels)
    assert "".join(characters) == "".join(words)
    validate([place if "-" in place else f"{place}-x" for place in places], Scheme.BMES)
    assert to_words(characters, places) == words


# ── the data module ─────────────────────────────────────────────────────────────────────────────────────────────────


def module(tmp_path, text, name="corpus.conllu", **settings) -> TaggerData:
    (tmp_path / name).write_text(text, "utf-8")
    corpus = settings.pop("corpus", {})
    data = TaggerData([Corpus(str(tmp_path / name), **corpus)], **settings)
    data.setup()
    return data


def test_label_sets_and_words(tmp_path):
    tables = [TableSettings("words", minimum_count=1)]
    data = module(tmp_path, conllu(30), corpus={"labels": {"labels": "upos", "xpos": "xpos"}}, tables=tables)
    assert data.vocabulary.labels == {
        "labels": ["ADJ", "DET", "NOUN", "PROPN", "PUNCT", "VERB"],
        "xpos": ["AD", "DE", "NO", "PR", "PU", "VE"],
    }
    assert (
        set(data.vocabulary.tables[0].words) == set(data.vocabulary.known) == {w for s in data.parts["train"] for w in s.tokens}
    )
    assert (data.task.column, data.task.segment) == ("upos", False)
    sizes = [len(data.parts[part]) for part in ("train", "validation", "test")]
    assert sum(sizes) == 30
    assert sizes == pytest.approx([24, 3, 3], abs=1.5)


@pytest.mark.parametrize("contiguous", [False, True])
def test_duplicates_stay_on_one_side(tmp_path, contiguous):
    text = conllu(20)
    data = module(tmp_path, text + conllu(30, 5) + text, contiguous=contiguous)
    keys = [{sentence.key for sentence in data.parts[part]} for part in ("train", "validation", "test")]
    assert all(keys)
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_given_parts_are_taken_whole(tmp_path):
    (tmp_path / "dev.conllu").write_text(conllu(7, 1), "utf-8")
    data = module(tmp_path, conllu(20), validation=Corpus(str(tmp_path / "dev.conllu")))
    assert [len(data.parts[part]) for part in ("train", "validation", "test")] == [20, 7, 7]


def test_spans_are_learned_in_the_scheme_asked_for(tmp_path):
    data = module(tmp_path, columns(20), "c.conll", corpus={"labels": {"labels": "label"}, "scheme": "IOB2"}, scheme="BIOES")
    assert data.vocabulary.labels["labels"] == ["B-PER", "E-PER", "O", "S-LOC"]
    for sentence in data.parts["train"]:
        validate(sentence.columns["labels"], Scheme.BIOES)


def test_a_broken_scheme_is_named(tmp_path):
    with pytest.raises(DataFormatError, match=r"c\.conll:1.*token 1"):
        module(tmp_path, "Ada\tI-PER\n\n", "c.conll", corpus={"labels": {"labels": "label"}, "scheme": "IOB2"}, scheme="BIOES")


def test_characters_are_learned_from_words(tmp_path):
    tables = [TableSettings("pairs", ["left_bigram", "right_bigram"], minimum_count=1)]
    corpus = {"format": "slash", "labels": {"labels": "pos"}, "options": {"fold_width": True}}
    data = module(tmp_path, slash(20), "c.txt", corpus=corpus, scheme="BMES", segment=True, letters=0, tables=tables)
    assert data.task.fold_width
    assert data.vocabulary.alphabet is None
    assert "北京" in data.vocabulary.known
    assert {"B-ns", "E-ns", "M-ns", "S-w", "S-v"} <= set(data.vocabulary.labels["labels"])
    assert "北京" in data.vocabulary.tables[0].words
    assert all(len(token) == 1 for sentence in data.parts["train"] for token in sentence.tokens)


@pytest.mark.parametrize("fold_width", [False, True])
def test_a_lexicon_tells_where_words_may_lie(tmp_path, fold_width):
    (tmp_path / "lexicon.txt").write_text("天安门\n生活\n上海\n", "utf-8")
    tables = [TableSettings("codes", ["lexicon"], dimensions=4, minimum_count=1, trainable=True)]
    corpus = {"format": "slash", "labels": {"labels": "pos"}, "options": {"fold_width": fold_width}}
    settings = {"scheme": "BMES", "segment": True, "letters": 0, "tables": tables, "lexicon": str(tmp_path / "lexicon.txt")}
    data = module(tmp_path, slash(60), "c.txt", corpus=corpus, **settings)
    assert data.vocabulary.lexicon == ["上海", "天安门", "生活"]
    assert set(data.vocabulary.tables[0].words) == {"-", "b2", "e2", "b3", "m3", "e3"}
    batch = data.datasets["validation"].collate(range(len(data.parts["validation"])))
    words = data.vocabulary.tables[0].words
    for sentence, index in zip(data.parts["validation"], batch.index, strict=True):
        codes = [words[row] for row in batch.rows[index[: len(sentence)], 0].tolist()]
        labels = dict(zip("".join(sentence.tokens), codes, strict=True))
        assert labels.get("安", "m3") == "m3"
        assert labels.get("京", "-") == "-"
        assert labels.get("活", "e2") == "e2"


@pytest.mark.parametrize("quantised", [False, True])
def test_vectors_start_from_the_source(tmp_path, quantised):
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    table = VectorTable(["the", "cat", "zebra"], matrix)
    (table.quantised() if quantised else table).save(tmp_path / "vectors")
    sources = [
        TableSettings("v", source=str(tmp_path / "vectors.npy")),
        TableSettings("w", source=str(tmp_path / "vectors"), maximum_words=2),
    ]
    data = module(tmp_path, conllu(10), tables=sources)
    np.testing.assert_allclose(data.matrices[0], matrix, atol=0.02)
    assert [table.words for table in data.vocabulary.tables] == [["the", "cat", "zebra"], ["the", "cat"]]
    assert data.matrices[1].shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"corpus": {"labels": {"labels": "ner"}}}, r"corpus\.conllu:1: no column 'ner'.*upos"),
        ({"corpus": {"labels": {"aux": "upos"}}}, "validation"),
        ({"validation": Corpus("x", labels={"aux": "upos"})}, "validation"),
        ({"tables": [TableSettings("v", source="nowhere.npy")]}, "nowhere.npy.*convoy embed"),
        ({"segment": True}, "BMES"),
        ({"lexicon": "nowhere.txt"}, "nowhere.txt.*convoy fetch cedict"),
        ({"tables": [TableSettings("v", ["lexicon"])]}, "no lexicon"),
    ],
)
def test_what_cannot_be_learned_is_said(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        module(tmp_path, conllu(5), **settings)


def test_an_empty_corpus(tmp_path):
    with pytest.raises(ConfigError, match="no sentence"):
        module(tmp_path, "\n\n")
