"""Small trained-looking bundles for tests: real networks of random weights, exported by the real code."""

from __future__ import annotations

from pathlib import Path

import torch

from models.layers import Convolution
from models.tagger.labels import Scheme
from training.export import export_bundle
from training.tagger.data import TaggerTask
from training.tagger.module import TaggerModule
from training.tagger.vocabulary import Table, Vocabulary

ENGLISH = ["the", "a", "lives", "in", "London", "Ada", "Lovelace", "was", "here", "."]
CHINESE = list("我爱北京天安门上海的人在中国生活。")
LEXICON = ["北京", "上海", "天安门", "北京天安门", "海的"]


def tiny_tagger_bundle(folder: Path, language: str, name: str | None = None) -> Path:
    """A tagger of random weights in ``folder/name``: English labels with softmax, or Chinese BMES labels with a CRF and a
    lexicon.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or f"tiny-{language}"
    module = tiny_tagger_module(language)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = folder / f"tiny-{language}.ckpt"
    torch.save(checkpoint, path)
    card = folder / f"tiny-{language}.yaml"
    card.write_text(
        f"name: {name}\nlanguages: [{language}]\nlicence: Apache-2.0\nsummary: For tests.\n"
        "data: []\nrecipe: tests/tiny.py\nlimits: Its weights are random.\n",
        "utf-8",
    )
    bundle = export_bundle(path, folder / name, card=card)
    path.unlink()
    card.unlink()
    return bundle


def tiny_tagger_module(language: str) -> TaggerModule:
    """The network of random weights that such a bundle is made of, the same at every call."""
    torch.manual_seed(0)
    english = language == "en"
    if english:
        tables = [Table("words", ["word"], ENGLISH, 8, True)]
        labels = ["DET", "NOUN", "PROPN", "PUNCT", "VERB"]
        vocabulary = Vocabulary({"labels": labels}, "".join(sorted(set("".join(ENGLISH)))), 8, tables, ENGLISH)
        task = TaggerTask("upos", Scheme.NONE, False, False)
    else:
        tables = [
            Table("characters", ["word"], CHINESE, 8, True),
            Table("bigrams", ["left_bigram", "right_bigram"], ["北京", "上海"], 4, True),
            Table("codes", ["lexicon"], ["-", "b2", "e2", "b25", "b3m5", "e35", "b2e2"], 4, True),
        ]
        labels = [f"{place}-{part}" for part in ("n", "v", "w") for place in "BMES"]
        vocabulary = Vocabulary({"labels": labels}, None, 0, tables, ["北京", "上海"], LEXICON)
        task = TaggerTask("pos", Scheme.BMES, True, True)
    module = TaggerModule(
        width=16,
        stack=[Convolution(16, activation="glu"), Convolution(16, dilation=2)],
        letter_convolutions=[Convolution(8)],
        letter_embedding=4,
        decoder="softmax" if english else "crf",
    )
    module.build(vocabulary, [None] * len(tables), task)
    return module.eval()
