"""A tagger's checkpoint taken apart: networks, tables, labels."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle_spec import NetworkSpec
from models.tagger.network import TextCNN
from models.tagger.predictor import TableSpec, TaggerPreprocessing
from models.tagger.vectors import VectorTable
from training.export import Exported, Graph
from training.tagger.module import TaggerModule

EXAMPLE_WORDS, EXAMPLE_TOKENS = 32, 128


class Words(nn.Module):
    """``TextCNN.words`` as a network of its own."""

    def __init__(self, network: TextCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, letters: Tensor) -> Tensor:
        return self.network.words(vectors, letters)


class WordsWithoutLetters(Words):
    """The same where there is no letter CNN."""

    def forward(self, vectors: Tensor) -> Tensor:  # type: ignore[override]
        return self.network.words(vectors, vectors)


class Context(nn.Module):
    """``TextCNN.context`` and the classifier as a network of their own."""

    def __init__(self, network: TextCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, words: Tensor, inside: Tensor) -> Tensor:
        scores: Tensor = self.network.classify(self.network.context(words, inside))
        return scores


def export(saved: dict[str, Any], folder: Path) -> Exported:
    """Take a checkpoint of ``TaggerModule`` apart; tables are written into ``folder`` first."""
    module = TaggerModule.from_checkpoint(saved)
    network, vocabulary = cast(TextCNN, module.network), module.vocabulary
    files: dict[str, Path | bytes] = {"known.txt": "\n".join(vocabulary.known).encode("utf-8")}
    if vocabulary.lexicon:
        files["lexicon.txt"] = "\n".join(vocabulary.lexicon).encode("utf-8")
    for table, embedding in zip(vocabulary.tables, module.tables.embeddings, strict=True):
        matrix = cast(nn.Embedding, embedding).weight[1:].detach().float().numpy()
        VectorTable(table.words, matrix).quantised().save(folder / table.name)
        files |= {path.name: path for path in folder.glob(f"{table.name}.*")}
    if network.crf is not None:
        start, moves, end = (tensor.detach() for tensor in network.crf.parameters_with_masks())
        buffer = io.BytesIO()
        np.save(buffer, torch.cat([start[None], moves, end[None]]).float().numpy(), allow_pickle=False)
        files["crf.npy"] = buffer.getvalue()
    settings = TaggerPreprocessing(
        column=module.task.column,
        scheme=module.task.scheme,
        segment=module.task.segment,
        fold_width=module.task.fold_width,
        alphabet=vocabulary.alphabet,
        longest_spelling=vocabulary.longest_spelling,
        tables=[TableSpec(name=table.name, views=table.views) for table in vocabulary.tables],
        receptive_field=network.settings.receptive_field,
        gap=max((convolution.reach // 2 for convolution in network.settings.stack), default=0),
        decoder=network.settings.decoder,
        lexicon="lexicon.txt" if vocabulary.lexicon else None,
    )
    arguments = json.loads(json.dumps(asdict(network.settings)))  # tuples as lists: what JSON can say
    return Exported(
        labels=vocabulary.labels["labels"],
        preprocessing=settings.model_dump(mode="json"),
        network=NetworkSpec(class_name="models.tagger.network:TextCNN", arguments=arguments),
        state={name: tensor for name, tensor in network.state_dict().items() if not name.startswith("auxiliary.")},
        networks=_graphs(network, vocabulary.longest_spelling),
        files=files,
    )


def _graphs(network: TextCNN, spelling: int) -> dict[str, Graph]:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(EXAMPLE_WORDS, network.settings.vectors, generator=random)
    letters = network.settings.letters
    words: dict[str, Tensor] = {"vectors": vectors}
    if letters is not None:
        words["letters"] = torch.randint(0, letters.vocabulary, (EXAMPLE_WORDS, spelling), generator=random)
    inside = (torch.rand(1, EXAMPLE_TOKENS, generator=random) > 0.1).float()
    context = {"words": torch.randn(1, EXAMPLE_TOKENS, network.settings.width, generator=random), "inside": inside}
    first = Words(network) if letters is not None else WordsWithoutLetters(network)
    return {
        "words.onnx": Graph(first, words, ["words"], {name: {0: "words_count"} for name in words}),
        "network.onnx": Graph(Context(network), context, ["scores"], {"words": {1: "tokens"}, "inside": {1: "tokens"}}),
    }
