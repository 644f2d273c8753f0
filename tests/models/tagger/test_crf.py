from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tagger.crf import CRF
from tests.models.tagger.brute_force import Case, random_case

seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1.0, 10.0, 50.0])


def crf_of(case: Case) -> CRF:
    crf = CRF(case.scores.shape[2], tuple(torch.from_numpy(mask) for mask in case.allowed))
    with torch.no_grad():
        for parameter, values in ((crf.start, case.start), (crf.moves, case.moves), (crf.end, case.end)):
            parameter.copy_(torch.from_numpy(values))
    return crf


def tensors(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(case.scores), torch.from_numpy(case.mask)


@given(seeds, scales)
def test_log_partition_is_the_sum_over_all_labellings(seed, scale):
    case = random_case(seed, scale)
    got = crf_of(case).log_partition(*tensors(case)).tolist()
    assert got == pytest.approx([case.log_partition(row) for row in range(len(got))], rel=1e-5, abs=1e-4)


@given(seeds, scales)
def test_score_is_that_of_the_labelling(seed, scale):
    case = random_case(seed, scale, forbid=0.0)
    labels = np.random.default_rng(seed).integers(0, case.scores.shape[2], case.mask.shape)
    got = crf_of(case).score(*tensors(case)[:1], torch.from_numpy(labels), tensors(case)[1]).tolist()
    wanted = [case.score(row, tuple(labels[row, :length])) for row, length in enumerate(case.lengths)]
    assert got == pytest.approx(wanted, rel=1e-5, abs=1e-4)


@given(seeds, st.sampled_from([0.0, 1.0, 10.0]))
def test_loss_is_the_negative_log_likelihood_per_token(seed, scale):
    case = random_case(seed, scale)
    labels = [max(zip(*reversed(case.labellings(row)), strict=True))[1] for row in range(len(case.lengths))]
    padded = np.full(case.mask.shape, -1)  # what stands outside the mask is not read
    for row, each in zip(padded, labels, strict=True):
        row[: len(each)] = each
    got = crf_of(case).loss(tensors(case)[0], torch.from_numpy(padded), tensors(case)[1]).item()
    likelihoods = [case.score(row, each) - case.log_partition(row) for row, each in enumerate(labels)]
    assert got == pytest.approx(-sum(likelihoods) / case.lengths.sum(), rel=1e-4, abs=1e-4)


@given(seeds, scales)
def test_viterbi_finds_the_best_labelling(seed, scale):
    case = random_case(seed, scale)
    found = crf_of(case).viterbi(*tensors(case)).numpy()
    for row, length in enumerate(case.lengths):
        best = case.labellings(row)[1].max()
        assert case.score(row, tuple(found[row, :length])) == pytest.approx(best, rel=1e-5, abs=1e-4)
        assert not found[row, length:].any()


@given(seeds, st.sampled_from([0.0, 1.0, 10.0, 50.0]))
def test_the_gradient_of_log_partition_is_the_marginal(seed, scale):
    case = random_case(seed, scale)
    scores, mask = tensors(case)
    scores.requires_grad_()
    crf_of(case).log_partition(scores, mask).sum().backward()
    for row, length in enumerate(case.lengths):
        for t in range(length):
            wanted = [case.probability(row, {t: label}) for label in range(scores.shape[2])]
            assert scores.grad[row, t].tolist() == pytest.approx(wanted, abs=1e-4)
        assert not scores.grad[row, length:].any()


def test_the_gradient_with_respect_to_transitions_is_right():
    case = random_case(7, 1.0, longest=4)
    crf = crf_of(case)
    scores, mask = (each.double() if each.is_floating_point() else each for each in tensors(case))
    labels = torch.from_numpy(crf.viterbi(scores.float(), mask).numpy())

    def loss(start, moves, end):
        values = {"start": start, "moves": moves, "end": end}
        return torch.func.functional_call(crf, values, (scores, labels, mask))

    crf.forward = crf.loss  # type: ignore[method-assign]
    arguments = tuple(parameter.detach().double().requires_grad_() for parameter in (crf.start, crf.moves, crf.end))
    assert torch.autograd.gradcheck(lambda *values: loss(*values).double(), arguments, eps=1e-3, atol=1e-3, rtol=1e-2)


@settings(max_examples=10)
@given(seeds)
def test_forbidden_moves_are_never_chosen_however_much_the_scores_ask_for_them(seed):
    random = np.random.default_rng(seed)
    # Two labels that may not follow each other, and 2,000 tokens of which half cry for one, half for the other.
    crf = CRF(2, (torch.ones(2, dtype=torch.bool), torch.eye(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)))
    wanted = np.repeat([0, 1], 1000) if seed % 2 else random.integers(0, 2, 2000)
    scores = torch.from_numpy(np.where(np.arange(2) == wanted[:, None], 50.0, -50.0).astype(np.float32))[None]
    labels = crf.viterbi(scores, torch.ones(1, 2000, dtype=torch.bool))
    assert len(labels.unique()) == 1


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_long_sentences_neither_under_nor_overflow(scale):
    torch.manual_seed(0)
    crf = CRF(4)
    scores = ((torch.rand(2, 2000, 4) * 2 - 1) * scale).requires_grad_()
    mask = torch.arange(2000) < torch.tensor([[2000], [1234]])
    loss = crf.loss(scores, crf.viterbi(scores, mask), mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 <= loss < 2
    assert torch.isfinite(scores.grad).all()


def test_autocast_does_not_cost_the_loss_its_digits():
    case = random_case(3, 5.0, longest=5)
    crf = crf_of(case)
    scores, mask = tensors(case)
    labels = crf.viterbi(scores, mask)
    with torch.autocast("cpu", torch.bfloat16):
        inside = crf.loss(scores, labels, mask)
    assert inside.item() == pytest.approx(crf.loss(scores, labels, mask).item(), rel=1e-6)
