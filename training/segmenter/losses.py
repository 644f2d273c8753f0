"""What a segmenter learns by: weighted cross-entropy, Dice, their sum, at one or several depths.

Scores are (batch, classes, z, y, x) before softmax, labels (batch, z, y, x) with ``UNANNOTATED`` where nobody has painted.
Voxels without annotation weigh nothing in any loss (section II.B of Çiçek et al. 2016), and have no gradient. All losses are
finite where nothing is annotated at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import ConfigError

UNANNOTATED = -1
Mean = Callable[[Tensor], Tensor]  # of a number of each process, over the processes of a distributed run
SMALL = 1e-5  # voxels; keeps Dice finite, and 1 where a class is neither there nor predicted


@dataclass(frozen=True)
class Loss:
    """A sum of losses.

    Attributes:
        cross_entropy: its weight.
        dice: its weight; it counts classes alike, however small they are.
        class_weights: of the cross-entropy, by class; None weighs them alike.
        background: whether Dice counts class 0.
        depths: weights of the heads, the finest first, divided by their sum; None halves from each to the next.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    class_weights: Sequence[float] | None = None
    background: bool = False
    depths: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if min(self.cross_entropy, self.dice) < 0 or self.cross_entropy + self.dice <= 0:
            got = f"cross_entropy {self.cross_entropy}, dice {self.dice}"
            raise ConfigError("no loss", where="loss", expected="weights from 0, one of them above", got=got)
        if self.class_weights is not None and (min(self.class_weights) < 0 or sum(self.class_weights) <= 0):
            expected = "a number from 0 for each class, one of them above"
            raise ConfigError("not weights", where="class_weights", expected=expected, got=self.class_weights)

    def __call__(self, scores: Sequence[Tensor], labels: Tensor, mean: Mean | None = None) -> Tensor:
        """The loss of each head's scores, the finest first, against labels of the finest resolution, weighted and summed.

        ``mean`` makes the mean of this loss over the processes of a distributed run that of one process with all their volumes.
        """
        weights = self.depths or [0.5**depth for depth in range(len(scores))]
        if len(weights) != len(scores):
            raise ConfigError("not as many weights as heads", where="depths", expected=str(len(scores)), got=len(weights))
        losses = [
            weight * self.single(each, coarser(labels, each.shape[2:], each.shape[1]), mean)
            for weight, each in zip(weights, scores, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    def single(self, scores: Tensor, labels: Tensor, mean: Mean | None = None) -> Tensor:
        """Of one head, at its own resolution."""
        loss = scores.new_zeros(())
        if self.cross_entropy:
            loss = loss + self.cross_entropy * cross_entropy(scores, labels, self.class_weights, mean)
        if self.dice:
            loss = loss + self.dice * dice(scores, labels, self.background)
        return loss


def cross_entropy(
    scores: Tensor, labels: Tensor, class_weights: Sequence[float] | None = None, mean: Mean | None = None
) -> Tensor:
    """Mean over annotated voxels, each weighted by its class; see ``Loss`` for ``mean``."""
    weights = None if class_weights is None else scores.new_tensor(list(class_weights))
    if weights is not None and len(weights) != scores.shape[1]:
        raise ConfigError("not a weight for each class", where="class_weights", expected=str(scores.shape[1]), got=len(weights))
    total = F.cross_entropy(scores, labels, weights, ignore_index=UNANNOTATED, reduction="sum")
    annotated = labels[labels != UNANNOTATED]
    mass = weights[annotated].sum() if weights is not None else scores.new_tensor(float(annotated.numel()))
    # Batches of sparse annotation hold more or fewer voxels. Dice needs none of this: it is a mean over volumes and classes.
    return total / (mass if mean is None else mean(mass)).clamp(min=SMALL)


def dice(scores: Tensor, labels: Tensor, background: bool = False) -> Tensor:
    """1 − soft Dice (Drozdzal et al. 2016), mean over classes and volumes, annotated voxels only."""
    annotated = (labels != UNANNOTATED).unsqueeze(1)
    shares = torch.softmax(scores, 1) * annotated
    wanted = one_hot(labels, scores.shape[1])
    axes = tuple(range(2, scores.ndim))
    both, either = (shares * wanted).sum(axes), shares.sum(axes) + wanted.sum(axes)
    overlap = (2 * both + SMALL) / (either + SMALL)  # (batch, classes)
    return 1 - (overlap if background else overlap[:, 1:]).mean()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(batch, z, y, x) → (batch, classes, z, y, x) floats; zeros where nothing is annotated."""
    return (labels.unsqueeze(1) == torch.arange(classes, device=labels.device).view(1, -1, 1, 1, 1)).float()


def coarser(labels: Tensor, size: Sequence[int], classes: int) -> Tensor:
    """Labels at a resolution that divides theirs: each cell's most frequent class, among its annotated voxels.

    Few painted slices would be lost to a nearest neighbour.
    """
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    steps = [whole // part for whole, part in zip(labels.shape[1:], size, strict=True)]
    counts = F.avg_pool3d(one_hot(labels, classes), steps)
    return torch.where(counts.amax(1) > 0, counts.argmax(1), UNANNOTATED)
