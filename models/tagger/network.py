"""TextCNN: labels for the tokens of a sentence, by 1-D convolutions.

    word vectors ─┐
                  ⊕ → linear → residual stack of 1-D convolutions → linear → scores for CRF or softmax
    letters → CNN ┘

The letter CNN with pooling over time is that of dos Santos and Zadrozny 2014 ("Learning Character-level Representations
for Part-of-Speech Tagging"), its use beside word vectors under a CRF that of Ma and Hovy 2016 (arXiv:1603.01354), the
stack of (dilated) convolutions over words that of Strubell et al. 2017 (arXiv:1702.02098); the gate is the GLU of
Dauphin et al. 2017 (arXiv:1612.08083).

Everything that depends on a word alone is computed once per distinct word of a batch and then gathered: U distinct
words, B sentences of at most T tokens. Row 0 of the words stands for padding.

Results do not depend on padding: the input of each convolution is zero outside the sentence, as at its ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from models.errors import ConfigError
from models.layers import ConvBlock, Convolution, Pooling, initialise, pool
from models.tagger.crf import CRF


@dataclass(frozen=True)
class Letters:
    """The letter CNN.

    Attributes:
        vocabulary: number of letter ids; 0 is padding, 1 an unknown letter.
        embedding: size of a letter's vector.
        convolutions: applied side by side, each pooled over the letters; their channels are concatenated.
        pooling: ``max`` or ``mean`` over the letters.
    """

    vocabulary: int
    embedding: int = 32
    convolutions: Sequence[Convolution] = (Convolution(64, kernel=3),)
    pooling: Pooling = "max"


@dataclass(frozen=True)
class TextCNNSettings:
    """Arguments of the network.

    Attributes:
        vectors: D, width of the concatenated word vectors.
        labels: K, number of labels.
        letters: the letter CNN, or None for none.
        width: H, channels of the stack.
        word_hidden: units of a hidden layer beside the linear map from word to stack; 0 for none. It costs nothing at
            inference for words met before.
        stack: the convolutions; each must keep the length and give H channels, and is added to its own input.
        decoder: ``crf`` or ``softmax``.
        dropout: rate on the word representation and after each convolution.
        auxiliary: further label sets predicted from the same stack in training only: name → number of labels.
    """

    vectors: int
    labels: int
    letters: Letters | None = None
    width: int = 256
    word_hidden: int = 0
    stack: Sequence[Convolution] = field(default_factory=lambda: (Convolution(256, activation="glu"),) * 3)
    decoder: Literal["crf", "softmax"] = "crf"
    dropout: float = 0.3
    auxiliary: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, convolution in enumerate(self.stack, 1):
            if not convolution.keeps_length or convolution.channels != self.width:
                raise ConfigError(
                    f"convolution {number} of the stack cannot be residual",
                    where="stack",
                    expected=f"stride 1, padding 'same' and {self.width} channels",
                    got=f"stride {convolution.stride}, padding {convolution.padding}, {convolution.channels} channels",
                )
            if convolution.norm == "instance":
                raise ConfigError(
                    f"instance norm in convolution {number} of the stack would make labels depend on padding",
                    where="stack",
                    expected="norm none, layer or batch",
                )

    @property
    def receptive_field(self) -> int:
        """Tokens to each side that a label can depend on through the stack."""
        return sum(convolution.reach // 2 for convolution in self.stack)


class LetterCNN(nn.Module):
    """(U, letters) ids → (U, C): embedding, convolutions over the letters, pooling."""

    def __init__(self, settings: Letters) -> None:
        super().__init__()
        self.pooling = settings.pooling
        self.embedding = nn.Embedding(settings.vocabulary, settings.embedding, padding_idx=0)
        self.blocks = nn.ModuleList(ConvBlock(settings.embedding, convolution) for convolution in settings.convolutions)
        self.channels = sum(convolution.channels for convolution in settings.convolutions)

    def forward(self, letters: Tensor) -> Tensor:
        x = self.embedding(letters).transpose(1, 2)  # (U, embedding, letters)
        inside = letters != 0  # (U, letters)
        # Pooled: (U, channels, letters′) → (U, channels)
        return torch.cat([pool(block(x), _reached(block, inside), self.pooling) for block in self.blocks], dim=1)  # (U, C)


def _reached(block: nn.Module, inside: Tensor) -> Tensor:
    """Positions of a block's output to pool over: (U, letters) → (U, letters′).

    With stride or free padding the letters move; what counts then is where the kernel meets at least one letter.
    """
    settings = cast(ConvBlock, block).settings
    if settings.keeps_length:
        return inside
    ones = torch.ones(1, 1, settings.kernel, device=inside.device)
    met = nn.functional.conv1d(inside.unsqueeze(1).float(), ones, None, settings.stride, settings.pad, settings.dilation)
    return met.squeeze(1) > 0.5


class TextCNN(nn.Module):
    """The network. See ``TextCNNSettings`` for the arguments."""

    def __init__(self, settings: TextCNNSettings, transitions: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.letters = LetterCNN(settings.letters) if settings.letters else None
        known = settings.vectors + (self.letters.channels if self.letters else 0)  # D + C
        self.project = nn.Linear(known, settings.width)
        hidden = settings.word_hidden
        self.refine = nn.Sequential(nn.Linear(known, hidden), nn.ReLU(), nn.Linear(hidden, settings.width)) if hidden else None
        self.stack = nn.ModuleList(ConvBlock(settings.width, convolution) for convolution in settings.stack)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.width, settings.labels)
        self.auxiliary = nn.ModuleDict({name: nn.Linear(settings.width, size) for name, size in settings.auxiliary.items()})
        self.crf = CRF(settings.labels, transitions) if settings.decoder == "crf" else None
        initialise(self.project, "xavier", "none")

    def words(self, vectors: Tensor, letters: Tensor) -> Tensor:
        """What is known of each distinct word before it is seen in a sentence.

        Args:
            vectors: (U, D) float, word vectors.
            letters: (U, letters) int64, ids of their letters; ignored without a letter CNN.

        Returns:
            (U, H).
        """
        known = torch.cat([vectors, self.letters(letters)], dim=1) if self.letters is not None else vectors  # (U, D + C)
        known = self.dropout(known)
        projected: Tensor = self.project(known)
        if self.refine is not None:
            projected = projected + self.refine(known)
        return projected

    def context(self, words: Tensor, inside: Tensor) -> Tensor:
        """Representations of the tokens in their sentences.

        Args:
            words: (B, T, H), a word representation at each place.
            inside: (B, T), 1 inside a sentence and 0 elsewhere.

        Returns:
            (B, T, H).
        """
        mask = inside.unsqueeze(1)  # (B, 1, T)
        x = words.transpose(1, 2) * mask  # (B, H, T)
        for block in self.stack:
            x = (x + self.dropout(block(x))) * mask
        hidden: Tensor = self.dropout(x.transpose(1, 2))
        return hidden

    def hidden(self, vectors: Tensor, letters: Tensor, index: Tensor) -> Tensor:
        """Both in one: ``index`` (B, T) int64 says which of the U words stands where; 0 is padding. Returns (B, T, H)."""
        words = self.words(vectors, letters)
        return self.context(words[index], (index != 0).to(words.dtype))

    def forward(self, vectors: Tensor, letters: Tensor, index: Tensor) -> Tensor:
        """Scores: (B, T, K). Arguments as for ``words`` and ``hidden``."""
        scores: Tensor = self.classify(self.hidden(vectors, letters, index))
        return scores
