"""Text in, labels with offsets and confidences out: what the command line, batch runs and the endpoint all call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from models.bundle import Bundle, fitting, open_bundle
from models.bundle_spec import BundleSpec
from models.errors import BundleError, ConfigError, InputError
from models.runtime import Runtime
from models.tagger.decode import Decoded, Transitions, decode
from models.tagger.features import TypeEncoder, View
from models.tagger.labels import Scheme, spans, split_label
from models.tagger.lexicon import Lexicon
from models.tagger.packing import Packer
from models.tagger.tokens import character_spans, fold_width, sentence_slices, word_spans
from models.tagger.vectors import VectorTable

DECIMALS = 4  # of the confidences of tagged texts: finer than any calibration, and a third of the bytes
DECODED_TOGETHER = 16_384  # tokens, with padding, in one decoding batch: bounds its memory
LONGEST_SENTENCE = 2000  # tokens; what has no end of a sentence for longer is cut
MOVES_TOGETHER = 1 << 21  # sentences × K² in one decoding step, so that a step stays in the cache


class TableSpec(BaseModel):
    """A vector table of the bundle: its file name without ending, and the views that read it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    views: list[View]


class TaggerPreprocessing(BaseModel):
    """What ``bundle.json`` says under ``preprocessing``.

    Attributes:
        column: the corpus column that holds the labels.
        scheme: how labels tell spans.
        segment: tokens are characters; labels tell the words.
        fold_width: full-width letters, digits and signs are read as their half-width forms.
        alphabet: letters of the letter CNN in the order of their ids; null without one.
        longest_spelling: letters read of a word.
        tables: vector tables in the order of concatenation.
        receptive_field: tokens on each side that a score depends on.
        gap: empty places between sentences that are run side by side.
        decoder: crf or softmax.
        lexicon: file of the lexicon's words, one a line, of the width that the network reads; null without one.
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    scheme: Scheme
    segment: bool
    fold_width: bool
    alphabet: str | None
    longest_spelling: int
    tables: list[TableSpec]
    receptive_field: int
    gap: int
    decoder: Literal["crf", "softmax"]
    lexicon: str | None = None


@dataclass(frozen=True, slots=True)
class TaggedToken:
    """A token of a text: ``text[start:end]``, its label and the probability, to four decimals, that the label is right."""

    text: str
    start: int
    end: int
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class TaggedSpan:
    """Several tokens under one label; the confidence is the probability of all their labels together."""

    text: str
    start: int
    end: int
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class TaggedText:
    """What was found in one text, in its order."""

    tokens: list[TaggedToken]
    spans: list[TaggedSpan]


@dataclass(frozen=True)
class _Labelled:
    """Labels of one sentence, and where they lie in their decoding batch."""

    labels: list[str]
    confidences: list[float]
    decoded: Decoded
    row: int

    def together(self, start: int, stop: int) -> float:
        return round(self.decoded.span_confidence(self.row, start, stop), DECIMALS)


class Tagger:
    """A tagger bundle, ready to run. Safe to use from several threads.

    Example:
        >>> tagger = Tagger.load("pretrained/tagger-en")
        >>> tagger.tag(["Ada Lovelace lived in London."])[0].tokens[0].label
        'PROPN'
    """

    def __init__(self, bundle: Bundle) -> None:
        self.spec: BundleSpec = bundle.spec
        try:
            settings = TaggerPreprocessing.model_validate(bundle.spec.preprocessing)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in ("preprocessing", *first["loc"]))
            raise BundleError(first["msg"], where=f"{bundle.path}/bundle.json: {place}", got=first.get("input")) from error
        self.settings = settings
        tables = {table.name: _table(bundle, table.name) for table in settings.tables}
        self.vectors = [tables[table.name] for table in settings.tables for _ in table.views]
        views = [(view, tables[table.name]) for table in settings.tables for view in table.views]
        self.encoder = _encoder(bundle, settings, views)
        differences = bundle.spec.parity.precision.model_dump()
        words = Runtime(bundle.file("words.onnx"), differences)
        context = Runtime(bundle.file("network.onnx"), differences, parallel=True)
        self.packer = Packer(words, context, self.encoder, self.vectors, settings.receptive_field, settings.gap)
        self.transitions = _transitions(bundle) if settings.decoder == "crf" else None
        self._known_words: Path | None = bundle.path / "known.txt" if "known.txt" in bundle.spec.files else None

    @classmethod
    def load(cls, path: str | Path) -> Tagger:
        """Open a bundle: a folder, any fsspec address, or a BentoML model tag.

        Raises:
            BundleError: the bundle is missing, damaged, of a later version or of another task.
        """
        bundle = open_bundle(path)
        if bundle.spec.task != "tagger":
            raise BundleError("not a tagger", where=str(path), expected="a bundle of task 'tagger'", got=bundle.spec.task)
        with fitting(bundle):
            return cls(bundle)

    @property
    def languages(self) -> list[str]:
        return list(self.spec.languages)

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Cut texts into tokens and label them.

        Offsets count Unicode code points, as Python's ``text[start:end]`` does. Tokens do not overlap and nothing but
        white space falls between them.
        """
        cut = character_spans if self.settings.segment else word_spans
        pieces: list[tuple[int, list[tuple[int, int]]]] = []
        for number, text in enumerate(texts):
            places = cut(text)
            pieces.extend((number, places[part]) for part in sentence_slices(text, places, LONGEST_SENTENCE))
        labelled = self._label([[texts[number][start:end] for start, end in places] for number, places in pieces], DECIMALS)
        results = [TaggedText([], []) for _ in texts]
        for (number, places), sentence in zip(pieces, labelled, strict=True):
            join = self._words if self.settings.segment else _tokens
            results[number].tokens.extend(join(texts[number], places, sentence))
            results[number].spans.extend(self._spans(texts[number], places, sentence))
        return results

    def tag_tokens(self, sentences: Sequence[Sequence[str]]) -> list[list[tuple[str, float]]]:
        """Label tokens that the caller has cut: (label, confidence) for each.

        A segmenting tagger takes characters here and answers with labels such as ``B-n``.
        """
        return [list(zip(found.labels, found.confidences, strict=True)) for found in self._label(sentences)]

    def known(self, words: Sequence[str]) -> NDArray[np.bool_]:
        """Which words stood in the training text."""
        if self._known_words is None:
            raise BundleError("the bundle lists no words of its training text", where=self.spec.name, expected="known.txt")
        seen = set(self._known_words.read_text("utf-8").split("\n"))
        return np.array([word in seen for word in words], bool)

    def _label(self, sentences: Sequence[Sequence[str]], decimals: int | None = None) -> list[_Labelled]:
        if self.settings.fold_width:
            sentences = [[fold_width(token) for token in sentence] for sentence in sentences]
        scores = self.packer.scores(sentences)
        answers: list[_Labelled] = [_Labelled([], [], _NOTHING, 0)] * len(sentences)
        for group in _alike([len(sentence) for sentence in sentences], max(1, MOVES_TOGETHER // len(self.spec.labels) ** 2)):
            lengths = np.array([len(sentences[number]) for number in group])
            padded = np.zeros((len(group), int(lengths.max()), len(self.spec.labels)), np.float32)
            for place, number in zip(padded, group, strict=True):
                place[: len(scores[number])] = scores[number]
            decoded = decode(padded, lengths, self.transitions)
            confidences = decoded.confidences.astype(np.float64)  # in which four decimals stay four decimals
            confidences = confidences if decimals is None else confidences.round(decimals)
            names = self.spec.labels
            for row, (number, length) in enumerate(zip(group, lengths.tolist(), strict=True)):
                labels = [names[label] for label in decoded.labels[row, :length].tolist()]
                answers[number] = _Labelled(labels, confidences[row, :length].tolist(), decoded, row)
        return answers

    def _words(self, text: str, places: Sequence[tuple[int, int]], sentence: _Labelled) -> Iterator[TaggedToken]:
        """Words from the labels of characters; white space always ends a word."""
        first = 0
        for last in range(len(places)):
            following = last + 1
            ends = sentence.labels[last][0] in "ES" or following == len(places)
            if ends or sentence.labels[following][0] in "BS" or places[following][0] > places[last][1]:
                start, end = places[first][0], places[last][1]
                label = split_label(sentence.labels[first])[1]
                yield TaggedToken(text[start:end], start, end, label, sentence.together(first, following))
                first = following

    def _spans(self, text: str, places: Sequence[tuple[int, int]], sentence: _Labelled) -> Iterator[TaggedSpan]:
        if self.settings.segment or self.settings.scheme == Scheme.NONE:
            return
        for first, stop, label in spans(sentence.labels, self.settings.scheme):
            start, end = places[first][0], places[stop - 1][1]
            yield TaggedSpan(text[start:end], start, end, label, sentence.together(first, stop))


_NOTHING = Decoded(np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32), np.zeros((1, 0)), np.zeros((1, 0)))


def _tokens(text: str, places: Sequence[tuple[int, int]], sentence: _Labelled) -> Iterator[TaggedToken]:
    for (start, end), label, confidence in zip(places, sentence.labels, sentence.confidences, strict=True):
        yield TaggedToken(text[start:end], start, end, label, confidence)


def _alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups of at most ``most`` sentence numbers of like length; empty sentences are in none."""
    group: list[int] = []
    for number in sorted((number for number, length in enumerate(lengths) if length), key=lambda number: lengths[number]):
        if group and (len(group) == most or lengths[number] * (len(group) + 1) > DECODED_TOGETHER):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _encoder(bundle: Bundle, settings: TaggerPreprocessing, views: Sequence[tuple[View, VectorTable]]) -> TypeEncoder:
    lexicon = None
    if settings.lexicon is not None:
        path = bundle.file(settings.lexicon)
        try:
            lexicon = Lexicon(path.read_text("utf-8").split("\n"))
        except UnicodeDecodeError as error:
            raise BundleError("the lexicon is no text", where=str(path), expected="UTF-8, a word a line", got=error) from error
    try:
        return TypeEncoder(views, settings.alphabet, settings.longest_spelling, lexicon)
    except ConfigError as error:
        where = f"{bundle.path}/bundle.json: preprocessing.lexicon"
        raise BundleError("a table needs a lexicon", where=where, expected="the name of its file", got=None) from error


def _table(bundle: Bundle, name: str) -> VectorTable:
    try:
        return VectorTable.open(bundle.path / name)
    except InputError as error:
        raise BundleError("a table of word vectors is damaged", where=str(bundle.path / name), got=error) from error


def _transitions(bundle: Bundle) -> Transitions:
    path, labels = bundle.file("crf.npy"), len(bundle.spec.labels)
    try:
        packed = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BundleError("the transitions are no array file", where=str(path), expected="numpy's .npy", got=error) from error
    shape, kind = getattr(packed, "shape", None), getattr(packed, "dtype", None)
    if shape != (labels + 2, labels) or kind != np.float32 or not np.isfinite(packed).all():
        expected = f"float32 of shape ({labels + 2}, {labels}), finite"
        raise BundleError(
            "not the transitions of these labels", where=str(path), expected=expected, got=f"{kind} of shape {shape}"
        )
    return Transitions.from_array(packed)
