from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BundleError
from models.layers import Convolution
from models.tagger import packing
from models.tagger.features import TypeEncoder, View
from models.tagger.lexicon import Lexicon
from models.tagger.packing import Packer
from models.tagger.vectors import VectorTable
from tests.tiny import tiny_tagger_bundle
from training.export import write_onnx
from training.tagger.batches import TaggedSentences
from training.tagger.data import TaggerTask
from training.tagger.export import export
from training.tagger.module import TaggerModule
from training.tagger.vocabulary import Table, Vocabulary

ROWS, WORDS = (8, 16, 32), (4, 8)
LETTERS = "abcdef"
LEXICON = ["ab", "bc", "abc", "cdef", "fedcb", "aaaa", "ffff"]
CODES = ["-", "b2", "e2", "b3", "e3", "b4", "e4", "m4", "b23", "b2e2m3", "e23", "b4e4m4", "m5"]


def make_module(kind: str) -> TaggerModule:
    torch.manual_seed(0)
    bigrams = kind == "bigrams"
    views: list[View] = ["left_bigram", "right_bigram"] if bigrams else ["word"]
    pairs = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]
    tables = [
        Table("words", ["word"], list(LETTERS[:4]), 5, True),
        Table("more", views, pairs if bigrams else ["a", "f"], 3, True),
    ]
    if kind == "lexicon":
        tables.append(Table("codes", ["lexicon"], CODES, 3, True))
    words = LEXICON if kind == "lexicon" else []
    vocabulary = Vocabulary({"labels": ["X", "Y", "Z"], "other": ["P", "Q"]}, LETTERS, 4, tables, [], words)
    module = TaggerModule(
        width=12,
        stack=[Convolution(12, activation="glu"), Convolution(12, kernel=5, norm="layer"), Convolution(12, dilation=2)],
        letter_convolutions=[Convolution(4), Convolution(3, kernel=2, stride=2, padding=1)],
        letter_embedding=4,
        pooling="mean",
        decoder="softmax",
    )
    module.build(vocabulary, [None] * len(tables), TaggerTask("upos", "NONE", False, False))
    return module.eval()


class Rig:
    """A packer of a network of random weights, and the network itself."""

    def __init__(self, folder, kind: str) -> None:
        self.module = make_module(kind)
        checkpoint = {"state_dict": self.module.state_dict()}
        self.module.on_save_checkpoint(checkpoint)
        self.exported = export(checkpoint, folder)
        for name, graph in self.exported.networks.items():
            write_onnx(graph, folder / name)
        tables = [VectorTable.open(folder / table.name) for table in self.module.vocabulary.tables]
        # The module's own vectors as the bundle rounds them.
        for embedding, table in zip(self.module.tables.embeddings, tables, strict=True):
            with torch.no_grad():
                embedding.weight[1:] = torch.from_numpy(table.vectors(np.arange(len(table))))
        views = [(view, tables[number]) for number, table in enumerate(self.module.vocabulary.tables) for view in table.views]
        self.encoder = TypeEncoder(views, LETTERS, 4, Lexicon(self.module.vocabulary.lexicon))
        self.vectors = [table for _, table in views]
        self.folder = folder

    def packer(self) -> Packer:
        words, context = (
            packing.Runtime(self.folder / name, precision="f32", count=1) for name in ("words.onnx", "network.onnx")
        )
        settings = self.exported.preprocessing
        return Packer(words, context, self.encoder, self.vectors, settings["receptive_field"], settings["gap"])

    def alone(self, sentence: list[str]) -> np.ndarray:
        """torch's scores of one sentence without any padding."""
        module, coder = self.module, self.module.vocabulary.encoder()
        rows, letters = (torch.from_numpy(each) for each in coder.encode([("", "", "", ""), *coder.types(sentence)]))
        rows[0], letters[0] = -1, 0
        with torch.no_grad():
            return module.network(module.tables(rows), letters, torch.arange(1, len(sentence) + 1)[None])[0].numpy()


@pytest.fixture(scope="module", params=["words", "bigrams", "lexicon"])
def rig(request, tmp_path_factory):
    return Rig(tmp_path_factory.mktemp("rig"), request.param)


@pytest.fixture(scope="module")
def packer(rig):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROWS", ROWS)
        patch.setattr(packing, "WORDS", WORDS)
        patch.setattr(packing, "REMEMBERED", 20)
        yield rig.packer()


tokens = st.one_of(st.sampled_from(LETTERS), st.text(LETTERS + "xyz", min_size=1, max_size=7))


@settings(max_examples=60)
@given(batch=st.lists(st.lists(tokens, max_size=14), max_size=6))
def test_scores_are_those_of_each_sentence_alone(rig, packer, batch):
    found = packer.scores(batch)
    assert [len(each) for each in found] == [len(sentence) for sentence in batch]
    for scores, sentence in zip(found, batch, strict=True):
        if sentence:
            np.testing.assert_allclose(scores, rig.alone(sentence), rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(st.lists(tokens, min_size=10, max_size=150), st.lists(tokens, max_size=40))
def test_a_sentence_longer_than_a_row_is_labelled_as_a_whole(rig, packer, sentence, other):
    for number, each in enumerate([[sentence, other], [other, sentence]]):
        np.testing.assert_allclose(packer.scores(each)[number], rig.alone(sentence), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [ROWS[-1] - 1, ROWS[-1], ROWS[-1] + 1, 2 * ROWS[-1], 500])
def test_lengths_around_the_row(rig, packer, length):
    random = np.random.default_rng(length)
    sentence = random.choice(list(LETTERS), length).tolist()
    np.testing.assert_allclose(packer.scores([sentence])[0], rig.alone(sentence), rtol=1e-4, atol=1e-5)


def test_memory_of_words_is_bounded(packer):
    for start in range(0, 500, 20):
        packer.scores([[f"w{number}" for number in range(start, start + 20)]])
    assert len(packer._memory._numbers) <= 20 + ROWS[-1]
    assert len(packer._memory.arrays[0]) <= 1024


def test_a_network_that_looks_too_far_is_refused(rig, monkeypatch):
    monkeypatch.setattr(packing, "ROWS", (4, 8))
    with pytest.raises(BundleError, match="receptive_field"):
        rig.packer()


def test_auxiliary_heads_stay_out_of_the_bundle(rig):
    assert "other" in rig.module.network.auxiliary
    assert not [name for name in rig.exported.state if "auxiliary" in name]
    for name in ("words.onnx", "network.onnx"):
        graph = onnx.load(rig.folder / name).graph
        weights = {tuple(tensor.dims) for tensor in graph.initializer}
        assert (2, 12) not in weights
        assert (12, 2) not in weights
        assert not [tensor.name for tensor in graph.initializer if "auxiliary" in tensor.name]
        assert len(graph.output) == 1


def test_scores_of_the_padded_batches_of_training_are_the_same(rig, packer):
    """What the module sees in training, validation and prediction is what the packer sees."""
    from training.tagger.corpora import Sentence

    random = np.random.default_rng(0)
    texts = [random.choice(list(LETTERS), length).tolist() for length in (3, 9, 1, 5)]
    sentences = [Sentence(text, {"labels": ["X"] * len(text)}) for text in texts]
    coder = rig.module.vocabulary.encoder()
    dataset = TaggedSentences([sentences], rig.module.vocabulary, packing.TypeMemory(coder, coder.encode, 1000))
    batch = dataset.collate([0, 1, 2, 3])
    with torch.no_grad():
        padded = rig.module.network(rig.module.tables(batch.rows), batch.letters, batch.index).numpy()
    for scores, found, text in zip(padded, packer.scores(texts), texts, strict=True):
        np.testing.assert_allclose(scores[: len(text)], found, rtol=1e-4, atol=1e-5)


def test_the_tiny_bundles_say_how_far_they_look(tmp_path):
    from models.tagger import Tagger

    tagger = Tagger.load(tiny_tagger_bundle(tmp_path, "zh"))
    assert (tagger.settings.receptive_field, tagger.settings.gap) == (3, 2)
    assert tagger.packer.longest == packing.ROWS[-1] - 2 * (3 + 4)  # the lexicon's longest word has five characters
