"""What a separator learns by: SI-SNR, SNR, thresholded SNR, MSE, sums of them, under permutation invariance.

Every measure takes (…, samples) estimates and targets and gives (…) losses, lower is better. All are finite, gradients
too, where target or estimate is digital silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.errors import ConfigError

EPSILON = 1e-8  # of energy, relative to a recording of full scale; keeps logarithms and quotients finite
EXHAUSTIVE = 3  # sources up to which all permutations are tried

Measure = Callable[[Tensor, Tensor], Tensor]


def si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Negative scale-invariant signal-to-noise ratio in dB, means removed (Luo and Mesgarani 2019, equation 15)."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    scale = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + EPSILON)
    projection = scale * target
    return _ratio(projection.square().sum(-1), (estimate - projection).square().sum(-1))


def snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Negative signal-to-noise ratio in dB."""
    return _ratio(target.square().sum(-1), (target - estimate).square().sum(-1))


def thresholded_snr(estimate: Tensor, target: Tensor, limit: float = 30.0) -> Tensor:
    """Negative SNR that saturates at ``limit`` dB (Wisdom et al. 2020, arXiv:2006.12701, equation 2).

    Voices that are nearly right then stop drawing the gradient away from those that are not.
    """
    signal = target.square().sum(-1)
    return _ratio(signal, (target - estimate).square().sum(-1) + 10 ** (-limit / 10) * signal)


def thresholded_si_snr(estimate: Tensor, target: Tensor, limit: float = 30.0) -> Tensor:
    """Negative SI-SNR that saturates at ``limit`` dB in the same way."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    projection = target * ((estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + EPSILON))
    signal = projection.square().sum(-1)
    return _ratio(signal, (estimate - projection).square().sum(-1) + 10 ** (-limit / 10) * signal)


def mse(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return (estimate - target).square().mean(-1)


MEASURES: dict[str, Measure] = {
    "si_snr": si_snr,
    "snr": snr,
    "thresholded_snr": thresholded_snr,
    "thresholded_si_snr": thresholded_si_snr,
    "mse": mse,
}


def weighted(weights: Mapping[str, float], limit: float = 30.0) -> Measure:
    """The sum of measures by name, each times its weight; ``limit`` is that of the thresholded ones, in dB.

    Raises:
        ConfigError: no measure, or one that there is not.
    """
    if not weights or (unknown := sorted(set(weights) - set(MEASURES))):
        got = ", ".join(unknown) if weights else "none"
        raise ConfigError("unknown loss", where="loss", expected=f"names out of {', '.join(MEASURES)} with weights", got=got)
    limited: dict[str, Measure] = {
        "thresholded_snr": partial(thresholded_snr, limit=limit),
        "thresholded_si_snr": partial(thresholded_si_snr, limit=limit),
    }
    parts = [(weight, limited.get(name, MEASURES[name])) for name, weight in weights.items()]

    def measure(estimate: Tensor, target: Tensor) -> Tensor:
        return torch.stack([weight * part(estimate, target) for weight, part in parts]).sum(0)

    return measure


def permutation_invariant(measure: Measure, estimates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the best assignment of estimates to targets (Yu et al. 2017, arXiv:1607.00325).

    All permutations are tried for up to three sources; for more, the Hungarian algorithm finds the same one.

    Args:
        measure: of (…, samples) pairs.
        estimates: (batch, C, samples).
        targets: (batch, C, samples).

    Returns:
        Mean loss over the sources of each mixture, (batch), and the assignment (batch, C): target i is estimate
        ``assignment[i]``.

    Raises:
        ConfigError: more or fewer estimates than targets.
    """
    if estimates.shape[1] != targets.shape[1]:
        raise ConfigError(
            "the network gives another number of voices than the mixtures have",
            where="network.sources",
            expected=f"{targets.shape[1]}, as the mixtures (mixing.speakers, or the list's sources)",
            got=estimates.shape[1],
        )
    pairs = measure(estimates.unsqueeze(1), targets.unsqueeze(2))  # (batch, target, estimate)
    assignment = best_assignment(pairs.detach())
    return pairs.gather(2, assignment.unsqueeze(2)).squeeze(2).mean(1), assignment


def best_assignment(pairs: Tensor) -> Tensor:
    """(batch, target, estimate) losses → (batch, target) estimates that make their sum least."""
    sources = pairs.shape[1]
    if sources > EXHAUSTIVE:
        rows = [torch.from_numpy(linear_sum_assignment(each)[1]) for each in pairs.cpu().double().numpy()]
        return torch.stack(rows).to(pairs.device)
    orders = torch.tensor(list(permutations(range(sources))), device=pairs.device)  # (C!, C)
    totals = pairs[:, torch.arange(sources, device=pairs.device), orders].sum(2)  # (batch, C!)
    return orders[totals.argmin(1)]


def _ratio(signal: Tensor, noise: Tensor) -> Tensor:
    """−10·log10(signal / noise), finite where either is zero."""
    return -10 * torch.log10((signal + EPSILON) / (noise + EPSILON))
