"""From sentences to padded batches, the same for the same (seed, epoch).

Batches hold sentences of like length up to a number of tokens and are dealt out to the processes of a distributed run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.errors import ConfigError
from models.tagger.features import TypeMemory, batch
from models.tagger.labels import Scheme, follows
from training.tagger.corpora import Sentence
from training.tagger.vocabulary import Vocabulary

IGNORED = -1  # label of padding and of tokens without a label


@dataclass(frozen=True)
class Batch:
    """rows (U, tables), letters (U, L), index (B, T); labels: label set → (B, T), −1 where there is none."""

    rows: Tensor
    letters: Tensor
    index: Tensor
    labels: dict[str, Tensor]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        rows, letters, index = (each.to(device, non_blocking=non_blocking) for each in (self.rows, self.letters, self.index))
        return Batch(
            rows, letters, index, {name: each.to(device, non_blocking=non_blocking) for name, each in self.labels.items()}
        )

    def pin_memory(self) -> Batch:
        labels = {name: tensor.pin_memory() for name, tensor in self.labels.items()}
        return Batch(self.rows.pin_memory(), self.letters.pin_memory(), self.index.pin_memory(), labels)


class TaggedSentences(Dataset[int]):
    """Encoded sentences of several corpora; an item is its own number, and ``collate`` makes the batch.

    Args:
        corpora: the sentences.
        vocabulary: numbers their labels.
        memory: numbers their tokens.
        longest: tokens kept of a sentence, a few less where the cut would fall inside a span; None keeps all.
        shares: for each corpus the part that an epoch sees.
        scheme: of the label set ``labels``.
    """

    def __init__(
        self,
        corpora: Sequence[Sequence[Sentence]],
        vocabulary: Vocabulary,
        memory: TypeMemory,
        longest: int | None = None,
        shares: Sequence[float] | None = None,
        scheme: Scheme = Scheme.NONE,
    ) -> None:
        sentences = [sentence for corpus in corpora for sentence in corpus]
        stops = [_stop(sentence, longest, scheme) for sentence in sentences]
        self.memory = memory
        self.shares = list(shares or [1.0] * len(corpora))
        self.groups = np.repeat(np.arange(len(corpora)), [len(corpus) for corpus in corpora])
        numbered = memory.number(sentence.tokens for sentence in sentences)
        self.numbers = [numbers[:stop] for numbers, stop in zip(numbered, stops, strict=True)]
        self.labels = [_label_ids(each.columns, vocabulary, stop) for each, stop in zip(sentences, stops, strict=True)]
        self.lengths = np.array(stops, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: int) -> int:
        return item

    def collate(self, items: Sequence[int]) -> Batch:
        length = int(self.lengths[list(items)].max())
        encoded = batch(self.memory, [self.numbers[item] for item in items], length)
        labels = {}
        for name in self.labels[items[0]]:
            labels[name] = torch.full((len(items), length), IGNORED)
            for row, item in zip(labels[name], items, strict=True):
                row[: self.lengths[item]] = torch.from_numpy(self.labels[item][name])
        return Batch(torch.from_numpy(encoded.rows), torch.from_numpy(encoded.letters), torch.from_numpy(encoded.index), labels)


class BatchSampler(Sampler[list[int]]):
    """Batches of sentences of like length from one corpus each, the same for the same (seed, epoch).

    Their number is that of the first epoch in all epochs, since Lightning asks once: other epochs halve some batches, or
    allow a few more tokens. Each process of a distributed run gets the same number, and each sentence goes to one process.

    Args:
        dataset: what to draw from.
        tokens: tokens, with padding, in a batch.
        shuffle: draw order and neighbours anew in each epoch.
        seed: of the random numbers.
        rank: number of this process.
        world: how many processes there are.

    Raises:
        ConfigError: there are fewer sentences than processes.
    """

    def __init__(self, dataset: TaggedSentences, tokens: int, shuffle: bool, seed: int, rank: int = 0, world: int = 1) -> None:
        self.dataset, self.tokens, self.shuffle, self.seed = dataset, tokens, shuffle, seed
        self.rank, self.world, self.epoch, self.first = rank, world, 0, 0
        order = self._order(np.random.default_rng((seed, 0)))
        self._count = math.ceil(sum(1 for _ in self._cut(order, tokens)) / world) * world
        if self._count > len(order):
            expected = f"at least {self._count}, so that each of {world} processes has a batch"
            raise ConfigError("too few sentences", where="devices", expected=expected, got=len(order))

    @property
    def sampler(self) -> BatchSampler:
        """Lightning calls ``set_epoch`` on the sampler of a batch sampler; this one is its own."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count // self.world

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        batches = self._exactly(self._order(random))
        if self.shuffle:
            batches = [batches[number] for number in random.permutation(len(batches))]
        return iter(batches[self.rank :: self.world][self.first :])

    def _order(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Sentences of this epoch, corpus by corpus, shorter ones first, with some noise when shuffling."""
        groups, lengths = self.dataset.groups, self.dataset.lengths
        draws = random.random(len(lengths))
        chosen = [np.zeros(0, np.int64)]
        for group, share in enumerate(self.dataset.shares):
            members = np.flatnonzero((groups == group) & (lengths > 0))
            if share < 1:
                members = members[np.argsort(draws[members], kind="stable")[: math.ceil(share * len(members))]]
            noise = random.random(len(members)) * 0.5 if self.shuffle else np.zeros(len(members))
            chosen.append(members[np.argsort(lengths[members] * (1 + noise), kind="stable")])
        return np.concatenate(chosen)

    def _exactly(self, order: NDArray[np.int64]) -> list[list[int]]:
        tokens = self.tokens
        while len(batches := list(self._cut(order, tokens))) > self._count:
            tokens += max(1, tokens // 50)
        while len(batches) < self._count:
            most = max(range(len(batches)), key=lambda number: len(batches[number]))
            half = len(batches[most]) // 2
            batches[most : most + 1] = [batches[most][:half], batches[most][half:]]
        return batches

    def _cut(self, order: NDArray[np.int64], tokens: int) -> Iterator[list[int]]:
        batch: list[int] = []
        longest = 0
        for item in order.tolist():
            length = int(self.dataset.lengths[item])
            group_changes = bool(batch) and self.dataset.groups[item] != self.dataset.groups[batch[-1]]
            if batch and (group_changes or max(longest, length) * (len(batch) + 1) > tokens):
                yield batch
                batch, longest = [], 0
            batch.append(item)
            longest = max(longest, length)
        if batch:
            yield batch


def _stop(sentence: Sentence, longest: int | None, scheme: Scheme) -> int:
    """Where to cut: at ``longest``, or before it where a span ends; a CRF cannot learn from a span without its end."""
    if longest is None or len(sentence) <= longest:
        return len(sentence)
    labels = sentence.columns.get("labels")
    if labels is None:
        return longest
    return next((stop for stop in range(longest, 0, -1) if follows(labels[stop - 1], None, scheme)), longest)


def _label_ids(columns: Mapping[str, Sequence[str]], vocabulary: Vocabulary, stop: int) -> dict[str, NDArray[np.int64]]:
    ids = vocabulary.label_ids
    return {
        name: np.array([ids[name].get(label, IGNORED) for label in labels[:stop]], np.int64)
        for name, labels in columns.items()
        if name in ids
    }
