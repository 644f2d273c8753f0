"""The tagger's data: corpora in, vocabulary and batches out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from models.errors import ConfigError
from models.tagger.features import TypeMemory, View
from models.tagger.labels import Scheme, convert, validate
from models.tagger.lexicon import Lexicon
from models.tagger.vectors import VectorTable, read_vectors
from training.places import Loader, PlacedData, loading
from training.remote import is_remote, local, shown
from training.tagger.batches import Batch, BatchSampler, TaggedSentences
from training.tagger.corpora import Sentence, read_corpus, split
from training.tagger.lexicon import read_lexicon
from training.tagger.vocabulary import Table, Vocabulary, count_letters, count_views


@dataclass
class Corpus:
    """One corpus.

    Attributes:
        path: file, folder or glob; or an fsspec address of one.
        format: auto, conllu, columns, jsonl or slash.
        options: passed to the reader of that format.
        labels: label set → column it is read from. The set named ``labels`` is the one the tagger is for; others are
            auxiliary, predicted from the same network in training only.
        scheme: how labels are written in the file; the network learns ``target_scheme`` of the data module.
        share: part of the corpus seen in each epoch, drawn anew each time.
    """

    path: str
    format: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=lambda: {"labels": "upos"})
    scheme: str = "NONE"
    share: float = 1.0


@dataclass
class TableSettings:
    """One table of word vectors.

    Attributes:
        name: file name in the bundle.
        views: word, left_bigram, right_bigram, lexicon: which strings the table is asked for; each adds its width.
        source: vectors to start from (any format that ``convoy embed`` writes or reads), or their fsspec address (of a table its
            ``.npy``); None starts from random numbers.
        dimensions: width when there is no source.
        minimum_count: words seen less often in training get no row when there is no source.
        maximum_words: keep the first rows of the source only.
        trainable: whether training changes the vectors.
    """

    name: str
    views: list[View] = field(default_factory=lambda: ["word"])
    source: str | None = None
    dimensions: int = 64
    minimum_count: int = 2
    maximum_words: int | None = None
    trainable: bool = False


@dataclass(frozen=True)
class TaggerTask:
    """What the labels mean: the column they are read from, how they tell spans, and how text is prepared."""

    column: str
    scheme: Scheme
    segment: bool
    fold_width: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", Scheme(self.scheme))


class TaggerData(PlacedData):
    """Corpora for training, validation and test, and the vocabulary computed from them.

    Args:
        train: corpora to learn from; at least one has the label set ``labels``.
        validation, test: corpora to judge on; None takes a part of the first training corpus.
        ratios: train, validation and test parts where these are not given.
        contiguous: cut the corpus in order instead of at random (duplicates stay on one side in both cases).
        scheme: label scheme that the network learns; files are converted from their own.
        segment: tokens are characters, and labels tell word boundaries (BMES) and the words' labels.
        tables: word vectors; None learns one table from random numbers.
        letters: longest spelling that the letter CNN reads; 0 for no letter CNN.
        letter_minimum_count: rarer letters count as unknown.
        lexicon: file of words for the view ``lexicon`` (see ``training.tagger.lexicon``).
        batch_tokens: tokens, with padding, in a batch.
        longest: of a longer sentence only so many tokens are seen in training.
        seed: draws splits and batches.
        workers: processes that make batches; 0 makes them in the training process.
        prefetch: batches that each of these processes makes ahead.
    """

    def __init__(
        self,
        train: list[Corpus],
        validation: Corpus | None = None,
        test: Corpus | None = None,
        ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
        contiguous: bool = False,
        scheme: Literal["NONE", "IOB2", "BIOES", "BMES"] = "NONE",
        segment: bool = False,
        tables: list[TableSettings] | None = None,
        letters: int = 16,
        letter_minimum_count: int = 2,
        lexicon: str | None = None,
        batch_tokens: int = 2048,
        longest: int = 256,
        seed: int = 1,
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.test = train, validation, test
        self.ratios, self.contiguous, self.seed = ratios, contiguous, seed
        self.scheme, self.segment = Scheme(scheme), segment
        if segment and self.scheme is not Scheme.BMES:
            raise ConfigError("a segmenting tagger learns BMES labels", where="scheme", expected="BMES", got=scheme)
        self.table_settings = [TableSettings("words", trainable=True)] if tables is None else tables
        if not self.table_settings:
            raise ConfigError("a tagger needs word vectors", where="tables", expected="at least one table", got="none")
        self.lexicon = lexicon
        self.longest_spelling, self.letter_minimum_count = letters, letter_minimum_count
        self.batch_tokens, self.longest, self.loading = batch_tokens, longest, loading(workers, prefetch)
        self.vocabulary: Vocabulary | None = None
        self.matrices: list[NDArray[np.float32] | None] = []
        self.parts: dict[str, list[Sentence]] = {}

    @property
    def task(self) -> TaggerTask:
        main = next(corpus for corpus in self.train if "labels" in corpus.labels)
        return TaggerTask(main.labels["labels"], self.scheme, self.segment, bool(main.options.get("fold_width", False)))

    # Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        if self.vocabulary is not None:
            return
        corpora = [self._read(corpus) for corpus in self.train]
        self._split(corpora)
        opened = [_open(settings) for settings in self.table_settings]
        self.vocabulary = self._count(corpora, opened)
        self.matrices = [None if table is None else table.vectors(np.arange(len(table))) for table in opened]
        encoder = self.vocabulary.encoder()
        memory = TypeMemory(encoder, encoder.encode, capacity=1 << 40)
        shares = [corpus.share for corpus in self.train]
        self.datasets = {"train": TaggedSentences(corpora, self.vocabulary, memory, self.longest, shares, self.scheme)}
        for part in ("validation", "test"):
            self.datasets[part] = TaggedSentences([self.parts[part]], self.vocabulary, memory)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    # In steps

    def _read(self, corpus: Corpus) -> list[Sentence]:
        sentences = []
        for sentence in read_corpus(corpus.path, corpus.format, **corpus.options):
            columns = {}
            for name, column in corpus.labels.items():
                if column not in sentence.columns:
                    raise ConfigError(
                        f"no column {column!r} for the label set {name!r}",
                        where=sentence.source,
                        expected=f"one of {', '.join(sentence.columns)}",
                        fix="Name the column under `labels` of the corpus.",
                    )
                columns[name] = sentence.columns[column]
            if "labels" in columns:
                sentence = self._target(sentence, columns, Scheme(corpus.scheme))
            else:
                sentence = Sentence(sentence.tokens, columns, sentence.text, sentence.spans, sentence.source)
            sentences.append(sentence)
        if not sentences:
            raise ConfigError("the corpus holds no sentence", where=shown(corpus.path))
        return sentences

    def _target(self, sentence: Sentence, columns: dict[str, list[str]], scheme: Scheme) -> Sentence:
        """The sentence with labels in the scheme that the network learns; cut into characters when segmenting."""
        tokens, labels = sentence.tokens, columns["labels"]
        if self.segment:
            tokens, labels = to_characters(tokens, labels)
            return Sentence(tokens, {"labels": labels}, sentence.text, sentence.spans, sentence.source)
        validate(labels, scheme, where=sentence.source)
        columns = {**columns, "labels": convert(labels, scheme, self.scheme)}
        return Sentence(tokens, columns, sentence.text, sentence.spans, sentence.source)

    def _split(self, corpora: list[list[Sentence]]) -> None:
        given = {"validation": self.validation, "test": self.test or self.validation}
        if self.validation is None:
            if "labels" not in self.train[0].labels:
                raise ConfigError("no validation corpus", where="validation", fix="Name one, or put the labelled corpus first.")
            parts = split(corpora[0], self.ratios, self.seed, self.contiguous)
            corpora[0][:] = parts[0]
            self.parts = {"validation": parts[1], "test": parts[2]}
            given = {"test": self.test} if self.test else {}
        for part, corpus in given.items():
            if "labels" not in cast(Corpus, corpus).labels:
                raise ConfigError("no label set 'labels' to judge by", where=part, fix="Name its column under `labels`.")
            self.parts[part] = self._read(cast(Corpus, corpus))
        self.parts["train"] = corpora[0]

    def _count(self, corpora: list[list[Sentence]], opened: Sequence[VectorTable | None]) -> Vocabulary:
        sentences = [sentence.tokens for corpus in corpora for sentence in corpus]
        own = [sentence.tokens for corpus in corpora for sentence in corpus if "labels" in sentence.columns]
        words_of_lexicon = read_lexicon(self.lexicon, self.task.fold_width) if self.lexicon else []
        lexicon = Lexicon(words_of_lexicon)
        tables = []
        for settings, table in zip(self.table_settings, opened, strict=True):
            if table is None:
                words = count_views(own, settings.views, settings.minimum_count, lexicon)
                tables.append(Table(settings.name, settings.views, words, settings.dimensions, settings.trainable))
            else:
                tables.append(Table(settings.name, settings.views, list(table.words), table.dim, settings.trainable))
        labels: dict[str, set[str]] = {}
        for corpus in corpora:
            for sentence in corpus:
                for name, column in sentence.columns.items():
                    labels.setdefault(name, set()).update(column)
        if "labels" not in labels:
            raise ConfigError(
                "no training corpus has the label set 'labels'", where="train", fix="Name its column under `labels`."
            )
        return Vocabulary(
            labels={name: sorted(values) for name, values in labels.items()},
            alphabet=count_letters(sentences, self.letter_minimum_count) if self.longest_spelling else None,
            longest_spelling=self.longest_spelling,
            tables=tables,
            known=sorted(self._words(corpora)),
            lexicon=words_of_lexicon,
        )

    def _words(self, corpora: Sequence[Sequence[Sentence]]) -> set[str]:
        """Distinct words of the training text whose labels the tagger learns."""
        own = (sentence for corpus in corpora for sentence in corpus if "labels" in sentence.columns)
        cut = (to_words(each.tokens, each.columns["labels"]) if self.segment else each.tokens for each in own)
        return {word for words in cut for word in words}

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Batch]:
        dataset = self.datasets[part]
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = BatchSampler(dataset, self.batch_tokens, shuffle, self.seed, rank, world)
        loader = (Loader if part == "train" else DataLoader)(
            cast(Any, dataset),  # its items are numbers, which collate makes a Batch of
            batch_sampler=cast(Any, sampler),
            collate_fn=dataset.collate,
            **self.loading,
        )
        return self.placed(loader) if isinstance(loader, Loader) else loader


def to_characters(words: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Characters of the words, labelled BMES-label: B begins, M is inside, E ends a word, S is a word of one character."""
    characters: list[str] = []
    places: list[str] = []
    for word, label in zip(words, labels, strict=True):
        characters.extend(word)
        shape = "S" if len(word) == 1 else "B" + "M" * (len(word) - 2) + "E"
        places.extend(f"{place}-{label}" if label else place for place in shape)
    return characters, places


def to_words(characters: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The words that ``to_characters`` cut."""
    starts = [place for place, label in enumerate(labels) if label[0] in "BS"]
    return ["".join(characters[start:stop]) for start, stop in itertools.pairwise([*starts, len(characters)])]


def _open(settings: TableSettings) -> VectorTable | None:
    if settings.source is None:
        return None
    source = _fetched(settings.source)
    if not source.exists() and not Path(f"{source}.npy").exists():
        raise ConfigError(
            "word vectors not found",
            where=shown(settings.source),
            fix="Make them with `convoy embed`; the commands stand at the head of the config.",
        )
    table = read_vectors(source)
    return table.head(settings.maximum_words) if settings.maximum_words else table


def _fetched(source: str) -> Path:
    """Word vectors on this disk; beside an array lie its words, and its scale."""
    if not (is_remote(source) and source.endswith(".npy")):
        return local(source)
    stem = source.removesuffix(".npy")
    return local(f"{stem}.*") / f"{stem.rpartition('/')[2]}.npy"
