from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from models.layers import Convolution
from models.tagger.network import LetterCNN, Letters, TextCNN, TextCNNSettings

WORDS, LETTERS = 30, 7
STACK = (Convolution(8, activation="glu", norm="layer"), Convolution(8, kernel=5), Convolution(8, dilation=3, norm="batch"))


def network(**changes) -> TextCNN:
    torch.manual_seed(0)
    letters = Letters(12, 4, (Convolution(5), Convolution(3, kernel=5)))
    made = TextCNN(
        TextCNNSettings(**{"vectors": 6, "labels": 4, "letters": letters, "width": 8, "stack": STACK} | changes)
    ).eval()
    for name, buffer in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return made


def words(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    letters = torch.randint(1, 12, (WORDS, LETTERS), generator=random)
    lengths = torch.randint(1, LETTERS + 1, (WORDS, 1), generator=random)
    letters = letters.masked_fill(torch.arange(LETTERS) >= lengths, 0)
    return torch.randn(WORDS, 6, generator=random), letters


NETWORK, (VECTORS, SPELLINGS) = network(), words()
sentences = st.lists(st.lists(st.integers(1, WORDS - 1), min_size=1, max_size=12), min_size=1, max_size=5)


def scores(index: list[list[int]], length: int, net: TextCNN = NETWORK) -> torch.Tensor:
    padded = torch.zeros(len(index), length, dtype=torch.long)
    for row, sentence in zip(padded, index, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    with torch.no_grad():
        return net(VECTORS, SPELLINGS, padded)


@settings(max_examples=30)
@given(sentences, st.integers(0, 9))
def test_results_do_not_depend_on_batch_and_padding(index, padding):
    together = scores(index, max(map(len, index)) + padding)
    for row, sentence in zip(together, index, strict=True):
        torch.testing.assert_close(row[: len(sentence)], scores([sentence], len(sentence))[0], rtol=1e-5, atol=1e-5)


@given(sentences)
def test_results_do_not_depend_on_the_words_beside(index):
    """Only the words that stand in the batch are encoded: which others do makes no difference."""
    for sentence in index:
        distinct = sorted(set(sentence))
        own = torch.tensor([[distinct.index(word) + 1 for word in sentence]])
        kept = [0, *distinct]
        with torch.no_grad():
            alone = NETWORK(VECTORS[kept], SPELLINGS[kept], own)
        torch.testing.assert_close(alone, scores([sentence], len(sentence)), rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(1, WORDS - 1), min_size=20, max_size=30), st.integers(1, 5))
def test_inside_a_sentence_scores_move_with_the_words(sentence, shift):
    reach = NETWORK.settings.receptive_field
    assert reach == 1 + 2 + 3
    whole, moved = scores([sentence], len(sentence))[0], scores([sentence[shift:]], len(sentence))[0]
    inner = slice(shift + reach, len(sentence))
    torch.testing.assert_close(whole[inner], moved[reach : len(sentence) - shift], rtol=1e-5, atol=1e-5)


def test_nothing_beyond_the_receptive_field_is_seen():
    random = torch.Generator().manual_seed(2)
    sentence = torch.randint(1, WORDS, (21,), generator=random).tolist()
    reach = NETWORK.settings.receptive_field
    before = scores([sentence], 21)[0]
    changed = scores([[*sentence[:10], 1 + sentence[10] % (WORDS - 1), *sentence[11:]]], 21)[0]
    differs = (before != changed).any(1).nonzero().flatten().tolist()
    assert differs == list(range(10 - reach, 10 + reach + 1))


# ── the letter CNN ──────────────────────────────────────────────────────────────────────────────────────────────────

CONVOLUTIONS = [
    Convolution(5),
    Convolution(5, kernel=5, dilation=1),
    Convolution(5, stride=2),
    Convolution(5, kernel=2, padding=0),
    Convolution(5, kernel=4, padding=3),
    Convolution(5, kernel=3, stride=3, padding=0, dilation=2),
    Convolution(5, activation="glu", norm="layer"),
]


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_letters_are_independent_of_batch_and_padding(convolution, pooling):
    torch.manual_seed(0)
    cnn = LetterCNN(Letters(12, 4, (convolution, Convolution(2)), pooling)).eval()
    with torch.no_grad():
        for block in cnn.blocks:
            block.convolution.bias.normal_()
        together = cnn(SPELLINGS)
        assert together.shape == (WORDS, cnn.channels) == (WORDS, 7)
        for row, letters in zip(together, SPELLINGS, strict=True):
            torch.testing.assert_close(cnn(letters[None])[0], row, rtol=1e-5, atol=1e-5)
        # However many empty places follow, as long as the kernel can go on to the last letter.
        short = (SPELLINGS != 0).sum(1) <= 3
        wider = torch.nn.functional.pad(SPELLINGS[short], (0, 4))
        torch.testing.assert_close(cnn(wider), together[short], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_letters_pool_what_a_plain_loop_pools(pooling):
    torch.manual_seed(0)
    cnn = LetterCNN(Letters(12, 4, (Convolution(5, stride=2, padding=1, activation="none"),), pooling)).eval()
    word = torch.tensor([3, 4, 5, 0, 0, 0, 0])
    with torch.no_grad():
        x = torch.nn.functional.pad(cnn.embedding(word).T, (1, 1))
        weight, bias = cnn.blocks[0].convolution.weight, cnn.blocks[0].convolution.bias
        # Kernels at 0, 2, 4 … of the padded letters: those at 0 and 2 meet a letter, those at 4 and 6 do not.
        positions = torch.stack([(weight * x[:, start : start + 3]).sum((1, 2)) + bias for start in (0, 2)])
        wanted = positions.amax(0) if pooling == "max" else positions.mean(0)
        torch.testing.assert_close(cnn(word[None])[0], wanted)


def test_a_word_without_letters_gives_zeros():
    cnn = LetterCNN(Letters(12, 4, (Convolution(5), Convolution(5, kernel=2, padding=0)))).eval()
    with torch.no_grad():
        cnn.blocks[0].convolution.bias.fill_(1.0)
        assert not cnn(torch.zeros(2, LETTERS, dtype=torch.long)).any()


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "convolution",
    [
        Convolution(8, stride=2),
        Convolution(8, padding=0),
        Convolution(4),
        Convolution(8, norm="instance"),
    ],
    ids=["stride", "padding", "channels", "instance norm"],
)
def test_what_cannot_be_residual_is_refused(convolution):
    with pytest.raises(ConfigError, match="stack"):
        TextCNNSettings(vectors=1, labels=2, width=8, stack=(convolution,))


def test_without_letters_their_ids_are_not_read():
    net = network(letters=None)
    with torch.no_grad():
        one, other = (net(VECTORS, letters, torch.arange(5)[None]) for letters in (SPELLINGS, SPELLINGS * 0))
    assert torch.equal(one, other)


def test_padding_is_independent_in_training_mode_too():
    """Convolutions go another way in training: by a matrix product."""
    net = network(dropout=0.0, stack=(Convolution(8, activation="glu"), Convolution(8, dilation=2))).train()
    index = [[3, 4, 5, 6], [7]]
    padded, alone = scores(index, 9, net), scores(index[:1], 4, net)
    torch.testing.assert_close(padded[0, :4], alone[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, scores(index[:1], 4, net.eval()), rtol=1e-5, atol=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_decoder_and_auxiliary_heads_follow_the_settings(seed):
    both = network(decoder=["crf", "softmax"][seed % 2], auxiliary={"xpos": 3})
    assert (both.crf is not None) == (seed % 2 == 0)
    assert both.auxiliary["xpos"].out_features == 3
