from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from models.layers import Convolution
from tests.training.corpora import columns, conllu, slash
from training.optimizers import make_optimizer
from training.tagger.data import Corpus, TableSettings, TaggerData, to_words
from training.tagger.module import TaggerModule

# ── the module ──────────────────────────────────────────────────────────────────────────────────────────────────────


def english(tmp_path, **settings) -> TaggerData:
    (tmp_path / "c.conllu").write_text(conllu(40), "utf-8")
    corpora = [Corpus(str(tmp_path / "c.conllu"), labels={"labels": "upos", "xpos": "xpos"})]
    data = TaggerData(corpora, tables=[TableSettings("w", dimensions=6, minimum_count=1, trainable=True)], letters=5, **settings)
    data.setup()
    return data


def chinese(tmp_path) -> TaggerData:
    (tmp_path / "c.txt").write_text(slash(40), "utf-8")
    tables = [TableSettings("w", ["word", "left_bigram"], dimensions=6, minimum_count=1, trainable=True)]
    data = TaggerData(
        [Corpus(str(tmp_path / "c.txt"), "slash", labels={"labels": "pos"})],
        scheme="BMES",
        segment=True,
        letters=0,
        tables=tables,
    )
    data.setup()
    return data


def entities(tmp_path) -> TaggerData:
    (tmp_path / "c.conll").write_text(columns(40), "utf-8")
    data = TaggerData([Corpus(str(tmp_path / "c.conll"), labels={"labels": "label"}, scheme="IOB2")], scheme="BIOES", letters=5)
    data.setup()
    return data


def build(data: TaggerData, **arguments) -> TaggerModule:
    torch.manual_seed(0)
    stack, letters = [Convolution(12)], [Convolution(6)]
    module = TaggerModule(width=12, stack=stack, letter_convolutions=letters, letter_embedding=4, **{"dropout": 0.0} | arguments)
    module.build(data.vocabulary, data.matrices, data.task)
    module.log = lambda *_, **__: None
    module._trainer = SimpleNamespace(world_size=1)
    return module


@pytest.mark.parametrize("decoder", ["crf", "softmax"])
@pytest.mark.parametrize("make", [english, chinese, entities])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_steps_lower_the_loss(tmp_path, decoder, make, optimizer):
    data = make(tmp_path)
    module = build(data, decoder=decoder, word_dropout=0.0)
    learning_rate = 0.1 if optimizer == "sgd" else 0.02
    chosen = make_optimizer(optimizer, [each for each in module.parameters() if each.requires_grad], learning_rate, 0.0)
    batch = next(iter(data.train_dataloader()))
    losses = []
    for _ in range(30):
        chosen.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        chosen.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_head_has_a_gradient_in_a_distributed_run(tmp_path):
    data = english(tmp_path)
    module = build(data, decoder="crf")
    batch = next(iter(data.train_dataloader()))
    batch.labels.pop("labels")  # as in a corpus with auxiliary labels only
    module._trainer.world_size = 2
    module._trainer.strategy = SimpleNamespace(reduce=lambda numbers, reduce_op: numbers)
    module.training_step(batch, 0).backward()
    assert not [name for name, each in module.named_parameters() if each.requires_grad and each.grad is None]


def test_a_word_dropped_loses_its_vectors_only(tmp_path):
    data = english(tmp_path)
    module = build(data, word_dropout=1.0)
    batch = next(iter(data.train_dataloader()))
    module.training_step(batch, 0).backward()
    assert not module.tables.embeddings[0].weight.grad.any()
    assert module.network.letters.embedding.weight.grad.any()


def test_vectors_are_frozen_unless_trainable(tmp_path):
    data = english(tmp_path)
    data.vocabulary.tables[0] = type(data.vocabulary.tables[0])("w", ["word"], data.vocabulary.tables[0].words, 6, False)
    module = build(data)
    assert not module.tables.embeddings[0].weight.requires_grad
    assert not module.tables(torch.tensor([[-1]])).any()


@pytest.mark.parametrize("decoder", ["crf", "softmax"])
def test_predictions_never_break_the_scheme_with_a_crf(tmp_path, decoder):
    data = entities(tmp_path)
    module = build(data, decoder=decoder).eval()
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        predicted = module.predict_step(batch, 0)
    assert [len(each) for each in predicted] == (batch.index != 0).sum(1).tolist()
    if decoder == "crf":
        from models.tagger.labels import validate

        for labels in predicted:
            validate(labels, "BIOES")


@given(st.integers(0, 2**32 - 1))
def test_counts_of_words_are_those_of_sets_of_words(seed):
    random = np.random.default_rng(seed)
    labels = ["B-n", "E-n", "M-n", "S-n", "B-v", "E-v", "S-v"]
    module = TaggerModule()
    module.task = SimpleNamespace(segment=True)
    module.vocabulary = SimpleNamespace(labels={"labels": labels})

    def draw(length: int) -> list[str]:
        found: list[str] = []
        while len(found) < length:
            words = [["S-n"], ["S-v"], ["B-n", "E-n"], ["B-n", "M-n", "E-n"], ["B-v", "E-v"]]
            word = words[random.integers(len(words))]
            found += word if len(found) + len(word) <= length else ["S-n"]
        return found

    def words_of(sequence: list[str]) -> set[tuple[int, int, str]]:
        place, found = 0, set()
        for word in to_words(["x"] * len(sequence), sequence):
            found.add((place, place + len(word), sequence[place][2:]))
            place += len(word)
        return found

    lengths = random.integers(1, 9, 3)
    best, gold = ([draw(length) for length in lengths] for _ in range(2))
    tensors = [torch.full((3, 9), -1), torch.full((3, 9), -1)]
    for tensor, sequences in zip(tensors, (best, gold), strict=True):
        for row, sequence in zip(tensor, sequences, strict=True):
            row[: len(sequence)] = torch.tensor([labels.index(label) for label in sequence])
    mask = tensors[1] >= 0
    counts = module._word_counts(tensors[0].clamp(min=0), tensors[1], mask)
    pairs = [(words_of(one), words_of(other)) for one, other in zip(best, gold, strict=True)]
    wanted = [sum(len(a & b) for a, b in pairs), sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)]
    assert [count.item() for count in counts] == wanted


def test_a_label_unknown_to_training_is_never_right():
    module = TaggerModule()
    module.task = SimpleNamespace(segment=True)
    module.vocabulary = SimpleNamespace(labels={"labels": ["S-n", "B-n", "E-n"]})
    best, gold = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, -1, 1, 2]])
    right, predicted, _ = module._word_counts(best, gold, torch.ones(1, 4, dtype=torch.bool))
    assert (right, predicted) == (2, 3)


def test_dropout_depends_on_seed_and_place_alone(tmp_path):
    data = english(tmp_path)
    batch = next(iter(data.train_dataloader()))

    def loss(seed: int, epoch: int, place: int, rank: int = 0) -> float:
        module = build(data, dropout=0.5)
        module._trainer = SimpleNamespace(world_size=1, current_epoch=epoch, global_rank=rank)
        torch.manual_seed(seed)
        module.on_fit_start()
        torch.rand(seed + epoch + 7 * place)  # whatever else draws numbers
        module.on_train_batch_start(batch, place)
        return module.training_step(batch, place).item()

    places = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 0, 1)]
    assert len({loss(*place) for place in places}) == len(places)
    assert [loss(*place) for place in places] == [loss(*place) for place in places]


def test_a_checkpoint_holds_plain_types_and_gives_the_module_back(tmp_path):
    data = english(tmp_path)
    module = build(data, decoder="crf", pooling="mean").eval()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    again = TaggerModule.from_checkpoint(torch.load(tmp_path / "x.ckpt", weights_only=True))
    assert again.vocabulary == module.vocabulary
    assert again.task == module.task
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        assert again.predict_step(batch, 0) == module.predict_step(batch, 0)


def test_a_letter_convolution_that_does_not_fit(tmp_path):
    data = english(tmp_path)
    module = TaggerModule(width=8, stack=[Convolution(8)], letter_convolutions=[Convolution(4, kernel=9, padding=0)])
    with pytest.raises(ConfigError, match="letter_convolutions"):
        module.build(data.vocabulary, data.matrices, data.task)
