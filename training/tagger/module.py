"""The tagger as a Lightning module: losses, figures, optimiser."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any, Literal, cast

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models.errors import ConfigError
from models.layers import Convolution, Pooling
from models.tagger.features import FIRST_LETTER_ID
from models.tagger.labels import transitions
from models.tagger.network import Letters, TextCNN, TextCNNSettings
from training.optimizers import Optimizer, Schedule, make_optimizer, rate, scheduled
from training.places import draw_by_place
from training.processes import mean_over_processes
from training.tagger.batches import IGNORED, Batch
from training.tagger.data import TaggerData, TaggerTask
from training.tagger.vocabulary import Vocabulary


class VectorTables(nn.Module):
    """The word vectors of all tables: (U, views) row numbers, −1 unknown → (U, D). An unknown word has zeros."""

    def __init__(self, vocabulary: Vocabulary, matrices: list[Any]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList()
        self.repeats = [len(table.views) for table in vocabulary.tables]
        for table, matrix in zip(vocabulary.tables, matrices, strict=True):
            embedding = nn.Embedding(len(table.words) + 1, table.dimensions, padding_idx=0)
            start = torch.randn(len(table.words), table.dimensions) * 0.3 if matrix is None else torch.from_numpy(matrix)
            with torch.no_grad():
                embedding.weight[1:] = start
            embedding.weight.requires_grad_(table.trainable)
            self.embeddings.append(embedding)

    def forward(self, rows: Tensor) -> Tensor:
        columns = iter((rows + 1).unbind(dim=1))
        repeated = zip(self.embeddings, self.repeats, strict=True)
        return torch.cat([embedding(next(columns)) for embedding, views in repeated for _ in range(views)], dim=1)


class TaggerModule(lightning.LightningModule):
    """Trains ``models.tagger.network.TextCNN``.

    Args:
        width: channels of the stack.
        word_hidden: units of the hidden layer between a word and the stack; 0 for none.
        stack: the convolutions of the residual stack.
        letter_convolutions: convolutions over the letters, side by side; unused when the data has no letters.
        letter_embedding: width of a letter's vector.
        pooling: max or mean over the letters.
        decoder: crf or softmax.
        dropout: in the network.
        word_dropout: chance that a word loses all its vectors, so that the letters learn to stand alone.
        vector_dropout: chance that one of a word's vectors is lost, each on its own, so that the network does not lean on
            vectors (of bigrams, say) that new text will not have.
        auxiliary_weight: weight of each auxiliary label set's loss.
        label_smoothing: of the softmax losses.
        optimizer: adam, adamw, sgd (with momentum 0.9) or muon.
        learning_rate: at the peak of the schedule.
        weight_decay: of the optimiser.
        warmup: share of the steps in which the rate rises from zero; it then falls to zero along a cosine.
        schedule: cosine, or constant after the warm-up.
    """

    vocabulary: Vocabulary

    def __init__(
        self,
        width: int = 256,
        word_hidden: int = 0,
        stack: list[Convolution] | None = None,
        letter_convolutions: list[Convolution] | None = None,
        letter_embedding: int = 32,
        pooling: Pooling = "max",
        decoder: Literal["crf", "softmax"] = "crf",
        dropout: float = 0.3,
        word_dropout: float = 0.1,
        vector_dropout: float = 0.0,
        auxiliary_weight: float = 0.3,
        label_smoothing: float = 0.0,
        optimizer: Optimizer = "adamw",
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        warmup: float = 0.05,
        schedule: Schedule = "cosine",
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.width, self.decoder, self.dropout, self.pooling = width, decoder, dropout, pooling
        self.stack = stack or [Convolution(width, activation="glu") for _ in range(3)]
        self.letter_convolutions = letter_convolutions or [Convolution(64)]
        self.letter_embedding = letter_embedding
        self.vector_dropout = vector_dropout
        self.word_dropout, self.auxiliary_weight, self.label_smoothing = word_dropout, auxiliary_weight, label_smoothing
        self.optimizer, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.warmup, self.schedule = warmup, schedule
        self.network: TextCNN | None = None
        self.counts: dict[str, Tensor] = {}

    # Building: sizes come from the data, or from a checkpoint

    def configure_model(self) -> None:
        if self.network is None:
            data = getattr(self.trainer, "datamodule", None)
            if not isinstance(data, TaggerData) or data.vocabulary is None:
                raise ConfigError("the tagger needs TaggerData as its data module", fix="Set `data.class_path` to it.")
            self.build(data.vocabulary, data.matrices, data.task)

    def build(self, vocabulary: Vocabulary, matrices: list[Any], task: TaggerTask) -> None:
        """Make the network for a vocabulary; ``matrices`` holds the vectors to start from, None for random ones."""
        self.vocabulary, self.task = vocabulary, task
        labels = vocabulary.labels["labels"]
        letters = None
        if vocabulary.alphabet is not None:
            for convolution in self.letter_convolutions:
                if convolution.length(vocabulary.longest_spelling) < 1:
                    raise ConfigError(
                        "a letter convolution is longer than the spelling that it reads",
                        where="letter_convolutions",
                        expected=f"a kernel that fits into {vocabulary.longest_spelling} letters",
                        got=convolution,
                        fix="Raise `letters` of the data, or the padding of the convolution.",
                    )
            size = len(vocabulary.alphabet) + FIRST_LETTER_ID
            letters = Letters(size, self.letter_embedding, tuple(self.letter_convolutions), self.pooling)
        settings = TextCNNSettings(
            vectors=vocabulary.width,
            labels=len(labels),
            letters=letters,
            width=self.width,
            word_hidden=self.arguments["word_hidden"],
            stack=tuple(self.stack),
            decoder=self.decoder,
            dropout=self.dropout,
            auxiliary={name: len(values) for name, values in vocabulary.labels.items() if name != "labels"},
        )
        start, moves, end = (torch.from_numpy(mask) for mask in transitions(labels, task.scheme))
        self.tables = VectorTables(vocabulary, matrices)
        self.network = TextCNN(settings, (start, moves, end))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["task"] = "tagger"
        checkpoint["tagger"] = {
            "vocabulary": self.vocabulary.as_dict(),
            "task": asdict(self.task) | {"scheme": str(self.task.scheme)},
            "arguments": _plain(self.arguments),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.network is None:
            vocabulary = Vocabulary.from_dict(checkpoint["tagger"]["vocabulary"])
            self.build(vocabulary, [None] * len(vocabulary.tables), TaggerTask(**checkpoint["tagger"]["task"]))

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> TaggerModule:
        """The trained module of a loaded checkpoint, in evaluation mode."""
        arguments = dict(checkpoint["tagger"]["arguments"])
        for name in ("stack", "letter_convolutions"):
            if arguments[name] is not None:
                arguments[name] = [Convolution(**settings) for settings in arguments[name]]
        module = cls(**arguments)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()

    # Steps

    def on_fit_start(self) -> None:
        self.seed = torch.initial_seed()  # that of `seed_everything`

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        draw_by_place(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        network = cast(TextCNN, self.network)
        rows = self._lose(self._lose(batch.rows, self.word_dropout, 1), self.vector_dropout, batch.rows.shape[1])
        hidden = network.hidden(self.tables(rows), batch.letters, batch.index)
        total = _untouched(network) if self.trainer.world_size > 1 else hidden.new_zeros(())
        weights = self._weights(batch)
        for name, labels in batch.labels.items():
            if name == "labels":
                loss = self._loss(network, network.classify(hidden), labels)
                self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
                total = total + weights[name] * loss
            else:
                loss = self._cross_entropy(network.auxiliary[name](hidden), labels)
                self.log(f"train/{name}_loss", loss, batch_size=len(labels))
                total = total + weights[name] * self.auxiliary_weight * loss
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[list[str]]:
        best, mask = self._decode(batch)
        labels = self.vocabulary.labels["labels"]
        return [[labels[number] for number in row[inside].tolist()] for row, inside in zip(best, mask, strict=True)]

    def on_validation_epoch_end(self) -> None:
        self._report("validation")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(self.optimizer, parameters, self.learning_rate, self.weight_decay)
        return scheduled(optimizer, partial(rate, warmup=self.warmup, schedule=self.schedule), self.trainer)

    # In detail

    def _weights(self, batch: Batch) -> dict[str, float]:
        """What the mean over this process's tokens of each label set counts for in the mean over all processes' tokens."""
        if self.trainer.world_size == 1:
            return dict.fromkeys(batch.labels, 1.0)
        names = sorted(self.vocabulary.labels)  # of all processes the same, whatever their batches hold
        counts = batch.index.new_zeros(len(names), dtype=torch.float32)
        for name, labels in batch.labels.items():
            counts[names.index(name)] = (labels != IGNORED).sum()
        weights = counts / mean_over_processes(self, counts).clamp(min=1e-6)
        return dict(zip(names, weights.tolist(), strict=True))

    def _lose(self, rows: Tensor, chance: float, views: int) -> Tensor:
        """Make vectors unknown at random: all of a word's at once (``views`` 1), or each on its own."""
        return rows.masked_fill(torch.rand(len(rows), views, device=rows.device) < chance, -1) if chance else rows

    def _loss(self, network: TextCNN, scores: Tensor, labels: Tensor) -> Tensor:
        if network.crf is not None:
            return network.crf.loss(scores, labels, labels != IGNORED)
        return self._cross_entropy(scores, labels)

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        flat, target = scores.flatten(0, 1).float(), labels.flatten()
        return nn.functional.cross_entropy(flat, target, ignore_index=IGNORED, label_smoothing=self.label_smoothing)

    def _decode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(best labels (B, T), mask (B, T))."""
        network = cast(TextCNN, self.network)
        scores = network(self.tables(batch.rows), batch.letters, batch.index)
        mask = batch.index != 0
        return (scores.argmax(dim=2) if network.crf is None else network.crf.viterbi(scores.float(), mask)), mask

    def _judge(self, part: str, batch: Batch) -> None:
        best, mask = self._decode(batch)
        gold = batch.labels["labels"]
        counts = torch.stack([((best == gold) & mask).sum(), mask.sum(), *self._word_counts(best, gold, mask)])
        self.counts[part] = self.counts.get(part, torch.zeros_like(counts)) + counts

    def _word_counts(self, best: Tensor, gold: Tensor, mask: Tensor) -> list[Tensor]:
        """(correct, predicted, true) words with their labels when segmenting, else zeros."""
        if not self.task.segment:
            return [mask.sum() * 0] * 3
        labels = self.vocabulary.labels["labels"]
        begins = torch.tensor([label[0] in "BS" for label in labels], device=best.device)
        ends = torch.tensor([label[0] in "ES" for label in labels], device=best.device)
        same = (best == gold) & mask  # before the next line: a label unknown to training is never right
        gold = gold.clamp(min=0)
        # A word is right when all labels from its beginning to its end are: count runs of equal labels.
        position = torch.arange(best.shape[1], device=best.device).expand_as(best)
        last_wrong = torch.where(same, -1, position).cummax(dim=1).values
        last_begin = torch.where(begins[gold] & mask, position, -1).cummax(dim=1).values
        right = ends[gold] & same & (last_wrong < last_begin)
        return [right.sum(), (ends[best] & mask).sum(), (ends[gold] & mask).sum()]

    def _report(self, part: str) -> None:
        counts = self.counts.pop(part, None)
        if counts is None:
            return
        # Sums, not means of means: exact whatever the batches and the number of processes.
        correct, tokens, right, predicted, true = self.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        # On every process, since each one's checkpoints and early stopping go by them; `sync_dist` averages equal numbers.
        self.log(f"{part}/accuracy", correct / max(tokens, 1), prog_bar=True, sync_dist=True)
        if self.task.segment:
            self.log(f"{part}/joint_f1", 2 * right / max(predicted + true, 1), prog_bar=True, sync_dist=True)


def _untouched(network: TextCNN) -> Tensor:
    """Zero, of which every head is a part: a batch trains some heads only, and a distributed run waits for them all."""
    heads = [network.classify, network.auxiliary, *([network.crf] if network.crf is not None else [])]
    return torch.stack([parameter.sum() * 0.0 for head in heads for parameter in head.parameters()]).sum()


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, so that the checkpoint holds nothing but plain types."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Convolution):
        return value.as_dict()
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
