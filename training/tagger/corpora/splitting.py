"""Parts for training, development and test that share no sentence."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from models.errors import ConfigError
from training.tagger.corpora.sentence import Sentence


def split(
    sentences: Sequence[Sentence], ratios: Sequence[float], seed: int = 0, contiguous: bool = False
) -> list[list[Sentence]]:
    """Split into len(ratios) parts; sentences of the same characters are kept on one side.

    Args:
        ratios: the share of each part; they add up to 1.
        seed: of the shuffle; the same seed gives the same parts.
        contiguous: cut the corpus in its order instead of shuffling it, so that an article's sentences stay together. A later
            duplicate goes to the part of the first one.

    Returns:
        The parts, each in the order of the corpus.
    """
    if not ratios or any(not ratio > 0 for ratio in ratios) or not math.isclose(sum(ratios), 1, abs_tol=1e-6):
        raise ConfigError("not a split", where="ratios", expected="positive shares that add up to 1", got=list(ratios))
    counts: dict[str, int] = {}
    for sentence in sentences:
        counts[sentence.key] = counts.get(sentence.key, 0) + 1
    keys = list(counts)
    if not contiguous:
        random.Random(seed).shuffle(keys)
    part_of = _assign(keys, counts, ratios, len(sentences))
    parts: list[list[Sentence]] = [[] for _ in ratios]
    for sentence in sentences:
        parts[part_of[sentence.key]].append(sentence)
    return parts


def _assign(keys: Sequence[str], counts: dict[str, int], ratios: Sequence[float], total: int) -> dict[str, int]:
    """Fill one part after the other with whole groups of duplicates."""
    bounds = [sum(ratios[: index + 1]) * total for index in range(len(ratios))]
    bounds[-1] = math.inf
    part_of: dict[str, int] = {}
    filled, part = 0, 0
    for key in keys:
        while filled + counts[key] / 2 > bounds[part]:
            part += 1
        part_of[key] = part
        filled += counts[key]
    return part_of
