from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.audio import permutation_invariant_training
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio as their_si_snr
from torchmetrics.functional.audio import signal_noise_ratio as their_snr

from models.errors import ConfigError
from training.separator.losses import (
    MEASURES,
    best_assignment,
    mse,
    permutation_invariant,
    si_snr,
    snr,
    thresholded_si_snr,
    thresholded_snr,
    weighted,
)


def noisy(seed: int, sources: int = 2, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(batch, sources, 800, generator=generator)
    return targets + 0.3 * torch.randn(batch, sources, 800, generator=generator) + 0.1, targets


def test_the_ratios_are_torchmetrics():
    estimates, targets = noisy(0)
    assert torch.allclose(-si_snr(estimates, targets), their_si_snr(estimates, targets), atol=1e-3)
    assert torch.allclose(-snr(estimates, targets), their_snr(estimates, targets), atol=1e-3)


def test_thresholded_ratios_saturate_and_agree_below():
    _, targets = noisy(0)
    for plain, thresholded in ((snr, thresholded_snr), (si_snr, thresholded_si_snr)):
        assert torch.allclose(thresholded(targets, targets, 30.0), torch.tensor(-30.0), atol=0.01)
        far = targets + torch.randn_like(targets)
        assert torch.allclose(thresholded(far, targets, 60.0), plain(far, targets), atol=0.01)


def test_si_snr_does_not_know_scale_and_offset():
    estimates, targets = noisy(1)
    assert torch.allclose(si_snr(3 * estimates + 0.5, targets), si_snr(estimates, targets), atol=1e-3)
    assert not torch.allclose(snr(3 * estimates, targets), snr(estimates, targets), atol=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_best_assignment_is_the_best_of_all(seed, sources):
    pairs = torch.rand(4, sources, sources, generator=torch.Generator().manual_seed(seed))
    chosen = best_assignment(pairs)
    for matrix, assignment in zip(pairs, chosen, strict=True):
        assert sorted(assignment.tolist()) == list(range(sources))
        best = min(sum(matrix[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(sources)))
        assert matrix[torch.arange(sources), assignment].sum() == pytest.approx(float(best), abs=1e-5)


@pytest.mark.parametrize("sources", [2, 3, 4])
def test_permutation_invariance_is_torchmetrics(sources):
    estimates, targets = noisy(2, sources)
    order = torch.randperm(sources)
    loss, assignment = permutation_invariant(si_snr, estimates[:, order], targets)
    theirs, _ = permutation_invariant_training(estimates[:, order], targets, their_si_snr, eval_func="max")
    assert torch.allclose(-loss, theirs, atol=1e-3)
    assert (order[assignment] == torch.arange(sources)).all()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
def test_silence_gives_finite_losses_and_gradients(name, silent):
    estimate, target = torch.randn(2, 2, 300), torch.randn(2, 2, 300)
    estimate = (estimate * (silent == "target")).requires_grad_()
    target = target * (silent == "estimate")
    loss, _ = permutation_invariant(weighted({name: 1.0}), estimate, target)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert estimate.grad.isfinite().all()


def test_a_weighted_sum():
    estimates, targets = noisy(3)
    total = weighted({"snr": 0.5, "mse": 10.0})(estimates, targets)
    assert torch.allclose(total, 0.5 * snr(estimates, targets) + 10 * mse(estimates, targets))


@pytest.mark.parametrize("weights", [{}, {"sdr": 1.0}])
def test_unknown_losses(weights):
    with pytest.raises(ConfigError, match="thresholded_snr"):
        weighted(weights)


@pytest.mark.parametrize(("estimates", "targets"), [(3, 2), (2, 3), (5, 4)])
def test_another_number_of_voices_is_refused(estimates, targets):
    with pytest.raises(ConfigError, match=rf"network\.sources.*expected {targets}.*got {estimates}"):
        permutation_invariant(si_snr, torch.randn(1, estimates, 80), torch.randn(1, targets, 80))
