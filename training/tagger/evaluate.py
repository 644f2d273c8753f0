"""A tagger bundle against labelled text: every standard figure, as a table, as JSON and as plots."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.errors import BundleError, ConfigError, DataFormatError
from models.tagger.labels import Scheme, convert, validate
from models.tagger.predictor import TaggedText, Tagger
from models.tagger.tokens import fold_width
from training.remote import shown
from training.settings import output_folder
from training.tagger import metrics
from training.tagger.corpora import Sentence, read_corpus, split
from training.tagger.plots import confusion_plot, reliability_plot

TOGETHER = 256  # sentences a call
Word = tuple[int, int, str]
Confusion = tuple[list[str], NDArray[np.int64]]
"""Labels, and how often each (row) was taken for each (column)."""


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    format: str = "auto",
    column: str | None = None,
    scheme: str | None = None,
    out: Path | None = None,
    raw: bool = True,
    ratios: Sequence[float] | None = None,
    part: int = -1,
    seed: int = 1,
    contiguous: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compare what a bundle predicts with gold labels, and print it.

    A tagger of words is given the gold tokens. A segmenting tagger is given the text and judged on the words it cuts.

    Args:
        bundle: what Tagger.load takes.
        data: file, folder or glob.
        format: see read_corpus, as for `options`.
        column: the data's label column, if it is not named as in the bundle.
        scheme: the data's label scheme; None tries the bundle's, then the others.
        out: folder for metrics.json, confusion.png and reliability.png.
        raw: also tag the text without gold tokens, where the data know it, and judge tokens and labels by their offsets.
        ratios, part, seed, contiguous: judge one part of the data only; see split.

    Returns:
        What metrics.json holds; shares between 0 and 1.

    Raises:
        DataFormatError: no sentence, no such column, or labels of no scheme.
    """
    if out is not None:
        output_folder(out)
    tagger = Tagger.load(bundle)
    try:
        sentences = _sentences(data, format, ratios, part, seed, contiguous, options)
        wanted = column or str(tagger.spec.preprocessing["column"])
        gold = [_column(sentence, wanted) for sentence in sentences]
        if tagger.spec.preprocessing["segment"]:
            figures, curve, table = _segmentation(tagger, sentences, gold)
        else:
            figures, curve, table = _tokens(tagger, sentences, gold, scheme)
            if raw and all(sentence.spans is not None for sentence in sentences):
                figures["raw_text"] = _raw_text(tagger, sentences, gold)
    finally:
        close = getattr(tagger, "close", None)
        if close is not None:
            close()
    about = {"bundle": tagger.spec.name, "data": str(data), "sentences": len(sentences), "words": sum(map(len, sentences))}
    result = {**about, **figures}
    click.echo(report(result))
    if out is not None:
        _write(out, result, curve, table)
    return result


def report(result: dict[str, Any]) -> str:
    """The figures as a table of text."""
    lines = [f"{result['bundle']} on {result['data']}: {result['sentences']} sentences, {result['words']} words", ""]
    for name, value in _headline(result):
        lines.append(f"  {name:<34}{value}")
    kinds = result.get("spans") or result.get("joint") or result["labels"]
    width = max([5, *map(len, kinds["types"])])
    lines += ["", f"  {'type':<{width}}  precision   recall       F1     gold"]
    rows = {**kinds["types"], "micro": kinds["micro"]}
    for name, row in rows.items():
        rates = "".join(f"{100 * row[key]:9.2f}" for key in ("precision", "recall", "f1"))
        lines.append(f"  {name:<{width}}  {rates}{row['gold']:9d}")
    macro = "".join(f"{100 * kinds['macro'][key]:9.2f}" for key in ("precision", "recall", "f1"))
    return "\n".join([*lines, f"  {'macro':<{width}}  {macro}"])


def _headline(result: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if "accuracy" in result:
        yield "accuracy", f"{result['accuracy']:.2%}"
    if "words_f1" in result:
        yield "word F1", f"{result['words_f1']:.2%}"
        yield "word and part-of-speech F1", f"{result['joint_f1']:.2%}"
    if "spans" in result:
        yield "entity F1, strict", f"{result['spans']['micro']['f1']:.2%}"
    for name in ("known", "unknown"):
        if name in result:
            yield f"{name} words", f"{result[name]['accuracy']:.2%} of {result[name]['count']}"
    if "raw_text" in result:
        for name, scores in result["raw_text"].items():
            yield f"raw text: {name} F1", f"{scores['f1']:.2%}"
    yield "expected calibration error", f"{result['calibration']['error']:.4f}"
    yield "words a second", f"{result['words_per_second']:,.0f}"


# ---- reading ------------------------------------------------------------------------------------------------------------


def _sentences(
    data: str | Path,
    format: str,
    ratios: Sequence[float] | None,
    part: int,
    seed: int,
    contiguous: bool,
    options: dict[str, Any],
) -> list[Sentence]:
    sentences = list(read_corpus(data, format, **options))
    if ratios is not None:
        parts = split(sentences, ratios, seed, contiguous)
        if not -len(parts) <= part < len(parts):
            raise ConfigError("no such part", where="part", expected=f"0 to {len(parts) - 1}", got=part)
        sentences = parts[part]
    if not sentences:
        raise DataFormatError("no sentence to evaluate on", where=shown(data))
    return sentences


def _column(sentence: Sentence, name: str) -> list[str]:
    if name not in sentence.columns:
        fix = "Name the data's label column with the column setting"
        raise DataFormatError(f"no column {name}", where=sentence.source, expected=", ".join(sentence.columns), fix=fix)
    return sentence.columns[name]


def _gold_scheme(gold: Sequence[Sequence[str]], sentences: Sequence[Sentence], wanted: Scheme) -> Scheme:
    """The first scheme that all labels follow."""
    first_error: DataFormatError | None = None
    for candidate in dict.fromkeys([wanted, Scheme.IOB2, Scheme.BIOES, Scheme.IOB1]):
        try:
            for sentence, labels in zip(sentences, gold, strict=True):
                validate(labels, candidate, sentence.source)
        except DataFormatError as error:
            first_error = first_error or error
        else:
            return candidate
    raise first_error or DataFormatError("no labels")


# ---- taggers of words -----------------------------------------------------------------------------------------------------


def _tokens(
    tagger: Tagger, sentences: Sequence[Sentence], gold: Sequence[Sequence[str]], scheme: str | None
) -> tuple[dict[str, Any], metrics.Calibration, Confusion]:
    target = Scheme(str(tagger.spec.preprocessing["scheme"]))
    source = Scheme(scheme) if scheme and target != Scheme.NONE else _gold_scheme(gold, sentences, target)
    start = time.perf_counter()
    answers = [answer for batch in _batches(sentences) for answer in tagger.tag_tokens([sentence.tokens for sentence in batch])]
    seconds = time.perf_counter() - start
    predicted = [[label for label, _ in answer] for answer in answers]
    gold = [convert(labels, source, target) for labels in gold]
    flat_gold, flat = [each for labels in gold for each in labels], [each for labels in predicted for each in labels]
    right = np.array([a == b for a, b in zip(flat_gold, flat, strict=True)], bool)
    curve = metrics.calibration([confidence for answer in answers for _, confidence in answer], right)
    figures: dict[str, Any] = {"accuracy": metrics.accuracy(flat_gold, flat)}
    if target != Scheme.NONE:
        figures["spans"] = metrics.entity_report(gold, predicted, target).as_dict()
    figures |= _known(tagger, sentences, right)
    figures |= {"labels": metrics.label_report(flat_gold, flat).as_dict(), "words_per_second": len(flat) / seconds}
    figures["calibration"] = curve.as_dict()
    names = sorted({*flat_gold, *flat})
    return figures, curve, (names, metrics.confusion(flat_gold, flat, names))


def _raw_text(tagger: Tagger, sentences: Sequence[Sentence], gold: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Tokens, and their labels where these stand for themselves, by offsets in the text (as in the CoNLL 2018 shared task)."""
    places = [sentence.spans or [] for sentence in sentences]
    found = _tag(tagger, sentences)
    cut = [[(token.start, token.end) for token in text.tokens] for text in found]
    scores = {"tokens": metrics.token_places(places, cut).as_dict()}
    if tagger.spec.preprocessing["scheme"] == Scheme.NONE:
        labelled = [_words(spans, labels) for spans, labels in zip(places, gold, strict=True)]
        scores["labels"] = metrics.segmentation_report(labelled, [_found(text) for text in found]).joint.micro.as_dict()
    return scores


# ---- segmenting taggers ---------------------------------------------------------------------------------------------------


def _segmentation(
    tagger: Tagger, sentences: Sequence[Sentence], gold: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], metrics.Calibration, Confusion]:
    for sentence in sentences:
        if sentence.spans is None:
            expected = "text whose words join to it, as in word/tag text of Chinese"
            raise DataFormatError("the text of a sentence is not known", where=sentence.source, expected=expected)
    start = time.perf_counter()
    texts = _tag(tagger, sentences)
    seconds = time.perf_counter() - start
    found = [_found(text) for text in texts]
    wanted = [_words(sentence.spans or [], labels) for sentence, labels in zip(sentences, gold, strict=True)]
    scores = metrics.segmentation_report(wanted, found)
    figures: dict[str, Any] = {"words_f1": scores.words.f1, "joint_f1": scores.joint.micro.f1}
    figures |= {"segmentation": scores.words.as_dict(), "joint": scores.joint.as_dict()}
    figures |= _known(tagger, sentences, scores.found)
    right = [word in gold_words for text, gold_words in zip(found, map(set, wanted), strict=True) for word in text]
    curve = metrics.calibration([token.confidence for text in texts for token in text.tokens], right)
    figures |= {"words_per_second": len(scores.found) / seconds, "calibration": curve.as_dict()}
    return figures, curve, _confused(wanted, found)


def _confused(gold: Sequence[Sequence[Word]], found: Sequence[Sequence[Word]]) -> Confusion:
    """Parts of speech of the words whose both ends are right."""
    pairs = []
    for wanted, words in zip(gold, found, strict=True):
        label_at = {(start, end): label for start, end, label in wanted}
        pairs += [(label_at[start, end], label) for start, end, label in words if (start, end) in label_at]
    names = sorted({label for pair in pairs for label in pair})
    return names, metrics.confusion([a for a, _ in pairs], [b for _, b in pairs], names)


def _known(tagger: Tagger, sentences: Sequence[Sentence], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy (for segmentation: recall) of words that stood in the training text and of those that did not."""
    words = [token for sentence in sentences for token in sentence.tokens]
    if tagger.spec.preprocessing["fold_width"]:
        words = [fold_width(word) for word in words]
    try:
        known = np.asarray(tagger.known(words), bool)
    except BundleError:  # a bundle may come without the list of words
        return {}
    return {"known": metrics.share_right(right, known), "unknown": metrics.share_right(right, ~known)}


def _tag(tagger: Tagger, sentences: Sequence[Sentence]) -> list[TaggedText]:
    return [text for batch in _batches(sentences) for text in tagger.tag([sentence.text or "" for sentence in batch])]


def _batches(sentences: Sequence[Sentence]) -> Iterable[Sequence[Sentence]]:
    with tqdm(total=len(sentences), unit=" sentences", disable=None, leave=False) as bar:
        for first in range(0, len(sentences), TOGETHER):
            yield sentences[first : first + TOGETHER]
            bar.update(min(TOGETHER, len(sentences) - first))


def _found(text: TaggedText) -> list[Word]:
    return [(token.start, token.end, token.label) for token in text.tokens]


def _words(places: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[Word]:
    return [(start, end, label) for (start, end), label in zip(places, labels, strict=True)]


def _write(out: Path, result: dict[str, Any], curve: metrics.Calibration, table: Confusion) -> None:
    names, counts = table
    content = {**result, "confusion": {"labels": names, "counts": counts.tolist()}}
    (out / "metrics.json").write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    confusion_plot(names, counts, out / "confusion.png")
    reliability_plot(curve, out / "reliability.png")
