from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models.errors import ConfigError
from training.segmenter.losses import UNANNOTATED, Loss, coarser, cross_entropy, dice


def drawn(seed: int, share: float = 0.5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random scores, and labels of which about this share is annotated."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 4, 6, generator=generator)
    labels = torch.randint(0, classes, (2, 4, 4, 6), generator=generator)
    hidden = torch.rand(labels.shape, generator=generator) > share
    return scores, labels.masked_fill(hidden, UNANNOTATED)


@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_cross_entropy_is_torchs_over_what_is_annotated(seed, share):
    scores, labels = drawn(seed, share)
    if (labels == UNANNOTATED).all():
        return
    torch.testing.assert_close(cross_entropy(scores, labels), F.cross_entropy(scores, labels, ignore_index=UNANNOTATED))
    weights = [0.1, 1.0, 3.0]
    expected = F.cross_entropy(scores, labels, torch.tensor(weights), ignore_index=UNANNOTATED)
    torch.testing.assert_close(cross_entropy(scores, labels, weights), expected)


def test_dice_of_hard_answers_is_the_dice_coefficient():
    labels = torch.tensor([[[[0, 1, 1, 1, 2, 2]]]])
    found = torch.tensor([[[[1, 1, 1, 0, 2, 0]]]])
    scores = 100.0 * F.one_hot(found, 3).permute(0, 4, 1, 2, 3).float()
    ones, twos = 2 * 2 / (3 + 3), 2 * 1 / (2 + 1)
    assert dice(scores, labels).item() == pytest.approx(1 - (ones + twos) / 2, abs=1e-4)
    zeros = 0.0  # of background one is wanted and two others are found
    assert dice(scores, labels, background=True).item() == pytest.approx(1 - (zeros + ones + twos) / 3, abs=1e-4)


def test_a_class_that_is_neither_there_nor_predicted_is_right():
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    scores = torch.stack([torch.full((2, 2, 2), 100.0), torch.zeros(2, 2, 2)])[None]
    assert dice(scores, labels).item() == pytest.approx(0, abs=1e-4)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_voxels_without_annotation_weigh_nothing(seed, share):
    scores, labels = drawn(seed, share)
    loss = Loss(class_weights=[0.5, 1, 2], background=True)
    hidden = (labels == UNANNOTATED).unsqueeze(1).expand_as(scores)
    changed = torch.where(hidden, scores + 7 * torch.randn_like(scores), scores)
    torch.testing.assert_close(loss([scores], labels), loss([changed], labels))
    scores.requires_grad_()
    value = loss([scores], labels)
    value.backward()
    assert value.isfinite()
    assert not scores.grad[hidden].any()
    assert scores.grad.isfinite().all()


def test_few_painted_slices_reach_the_coarse_depths():
    labels = torch.full((1, 4, 4, 4), UNANNOTATED)
    labels[0, 1] = 0
    labels[0, 1, :, 2:] = 2
    coarse = coarser(labels, (2, 2, 2), 3)
    assert coarse[0, 0].tolist() == [[0, 2], [0, 2]]
    assert (coarse[0, 1] == UNANNOTATED).all()
    labels[0, 0, 0, 0] = 1  # one voxel of five
    assert coarser(labels, (2, 2, 2), 3)[0, 0, 0, 0] == 0
    assert coarser(labels, (4, 4, 4), 3) is labels


def test_depths_are_weighted_by_halves_or_as_told():
    scores, labels = drawn(1)
    half = F.avg_pool3d(scores, 2)
    loss = Loss()
    fine, coarse = loss.single(scores, labels), loss.single(half, coarser(labels, half.shape[2:], 3))
    torch.testing.assert_close(loss([scores, half], labels), (fine + 0.5 * coarse) / 1.5)
    torch.testing.assert_close(Loss(depths=[1, 3])([scores, half], labels), (fine + 3 * coarse) / 4)
    with pytest.raises(ConfigError, match=r"depths.*expected 2, got 1"):
        Loss(depths=[1])([scores, half], labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_entropy": 0, "dice": 0}, "no loss"),
        ({"dice": -1}, "no loss"),
        ({"class_weights": [0, 0]}, "class_weights"),
        ({"class_weights": [1, -1]}, "class_weights"),
    ],
)
def test_losses_that_are_none(settings, message):
    with pytest.raises(ConfigError, match=message):
        Loss(**settings)


def test_weights_of_another_number_of_classes():
    scores, labels = drawn(0)
    with pytest.raises(ConfigError, match=r"class_weights.*expected 3, got 2"):
        Loss(class_weights=[1, 2])([scores], labels)
