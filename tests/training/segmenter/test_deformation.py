from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from training.segmenter.deformation import Deformation, drawn_displacements, drawn_matrix, splines

SHAPE = (20, 27, 13)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_displacements_are_those_of_itk():
    displacements = drawn_displacements(7, 4.0, SHAPE, generator())
    theirs = sitk.BSplineTransform(3, 3)
    theirs.SetTransformDomainOrigin([-0.5] * 3)
    theirs.SetTransformDomainPhysicalDimensions([float(size) for size in SHAPE])
    theirs.SetTransformDomainMeshSize([4] * 3)
    theirs.SetParameters(displacements.numpy().astype(float).flatten(order="F").tolist())
    places = Deformation(displacements=displacements).places(SHAPE)
    moved = 0.0
    for place in np.ndindex(SHAPE):
        expected = np.array(theirs.TransformPoint([float(number) for number in place]))
        np.testing.assert_allclose(places[place], expected, atol=1e-4)
        moved = max(moved, float(np.abs(expected - place).max()))
    assert moved > 0.5


def test_values_are_those_of_itk():
    image = torch.randn(SHAPE, generator=generator(1))
    labels = torch.randint(0, 5, SHAPE, generator=generator(2))
    change = Deformation(drawn_matrix(30, 0.3, generator(3)), drawn_displacements(7, 4.0, SHAPE, generator(4)))
    places = change.places(SHAPE).double().numpy()
    itk = {kind: sitk.GetImageFromArray(array.numpy()) for kind, array in (("image", image), ("labels", labels.int()))}
    values, classes = change(image, labels, -1)
    compared = 0
    for place in np.ndindex(SHAPE):
        source = places[place]
        if (source < 0).any() or (source > np.array(SHAPE) - 1).any():
            continue
        at = source[::-1].tolist()  # ITK names x first
        assert values[place] == pytest.approx(itk["image"].EvaluateAtContinuousIndex(at, sitk.sitkLinear), abs=1e-3)
        if (np.abs(source % 1 - 0.5) > 1e-3).all():  # as near to one voxel as to the next
            assert classes[place] == itk["labels"].EvaluateAtContinuousIndex(at, sitk.sitkNearestNeighbor)
        compared += 1
    assert compared > 2000
    outside = ((places < -1) | (places > np.array(SHAPE))).any(axis=-1)
    assert outside.any()
    assert not values.numpy()[outside].any()
    assert set(classes.numpy()[outside].tolist()) == {-1}


def test_nothing_moves_without_a_change():
    image, labels = torch.randn(SHAPE, generator=generator()), torch.randint(-1, 3, SHAPE, generator=generator())
    still = Deformation(torch.eye(3), torch.zeros(5, 5, 5, 3))(image, labels, -1)
    torch.testing.assert_close(still[0], image, atol=1e-4, rtol=0)
    assert torch.equal(still[1], labels)


def test_a_quarter_turn_turns():
    image = torch.randn(9, 9, 9, generator=generator())
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned, _ = Deformation(turn)(image, image.long(), -9)
    torch.testing.assert_close(turned, image.rot90(-1, (1, 2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("points", [5, 7, 12])
def test_weights_sum_to_one_and_the_borders_stay(points):
    torch.testing.assert_close(splines(31, points).sum(1), torch.ones(31))
    displacements = drawn_displacements(points, 100.0, (30, 60, 90), generator())
    for axis in range(3):
        for end in (0, 1, points - 2, points - 1):
            assert not displacements.select(axis, end).any()
    largest = displacements.abs().amax((0, 1, 2)) / torch.tensor([30.0, 60, 90]) * (points - 3)
    assert (largest > 0.05).all()
    assert (largest <= 0.45).all()


def test_matrices_turn_and_scale_within_their_limits():
    stretched: list[float] = []
    for seed in range(50):
        matrix = drawn_matrix(15, 0.2, generator(seed))
        sizes = matrix.norm(dim=0)  # of a voxel's step along each axis; less where the patch grows
        assert (sizes >= 1 / 1.2 - 1e-5).all()
        assert (sizes <= 1 / 0.8 + 1e-5).all()
        turn = matrix / sizes
        torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)
        assert torch.linalg.det(turn) > 0.99
        assert float(torch.acos((turn.trace() - 1) / 2)) < np.radians(15 * 3**0.5 + 1)
        stretched += sizes.tolist()
    assert min(stretched) < 0.9
    assert max(stretched) > 1.15
