from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tagger.crf import CRF
from models.tagger.decode import Transitions, decode, forward_backward, marginals, viterbi
from models.tagger.labels import Scheme, transitions
from tests.models.tagger.brute_force import Case, random_case

seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1.0, 10.0, 50.0])


def of(case: Case) -> Transitions:
    return Transitions(*case.masked())


def garbage_beyond(case: Case) -> np.ndarray:
    """The scores with large numbers where no sentence is: they are not read."""
    return np.where(case.mask[:, :, None], case.scores, 1e4).astype(np.float32)


@given(seeds, scales)
def test_viterbi_finds_the_best_labelling(seed, scale):
    case = random_case(seed, scale)
    found = viterbi(garbage_beyond(case), case.lengths, of(case))
    for row, length in enumerate(case.lengths):
        assert case.score(row, tuple(found[row, :length])) == pytest.approx(case.labellings(row)[1].max(), rel=1e-5, abs=1e-4)
        assert not found[row, length:].any()


@given(seeds, scales)
def test_marginals_are_those_of_all_labellings(seed, scale):
    case = random_case(seed, scale)
    found = marginals(garbage_beyond(case), case.lengths, of(case))
    for row, length in enumerate(case.lengths):
        for t in range(length):
            wanted = [case.probability(row, {t: label}) for label in range(found.shape[2])]
            assert found[row, t].tolist() == pytest.approx(wanted, abs=1e-5)
            assert found[row, t][np.array(wanted) == 0].sum() == 0, "forbidden labels have probability 0, not nearly 0"


@given(seeds, scales)
def test_confidences_and_those_of_spans(seed, scale):
    case = random_case(seed, scale)
    decoded = decode(garbage_beyond(case), case.lengths, of(case))
    for row, length in enumerate(case.lengths):
        labels = decoded.labels[row]
        for start, stop in itertools.combinations(range(length + 1), 2):
            wanted = case.probability(row, {t: labels[t] for t in range(start, stop)})
            assert decoded.span_confidence(row, start, stop) == pytest.approx(wanted, abs=1e-4)
            if stop == start + 1:
                assert decoded.confidences[row, start] == pytest.approx(wanted, abs=1e-4)
        assert not decoded.confidences[row, length:].any()
        assert not labels[length:].any()


@given(seeds, scales)
def test_softmax_is_softmax(seed, scale):
    case = random_case(seed, scale)
    decoded = decode(garbage_beyond(case), case.lengths, None)
    probabilities = torch.from_numpy(case.scores).double().softmax(2).numpy()
    for row, length in enumerate(case.lengths):
        assert (decoded.labels[row, :length] == case.scores[row, :length].argmax(1)).all()
        best = probabilities[row, :length].max(1)
        assert decoded.confidences[row, :length].tolist() == pytest.approx(best.tolist(), rel=1e-4)
        for start, stop in itertools.combinations(range(length + 1), 2):
            assert decoded.span_confidence(row, start, stop) == pytest.approx(float(best[start:stop].prod()), rel=1e-3)


@settings(max_examples=50)
@given(seeds, scales, st.integers(1, 40))
def test_torch_and_numpy_agree(seed, scale, longest):
    case = random_case(seed, scale, batch=4, longest=longest)
    crf = CRF(case.scores.shape[2], tuple(torch.from_numpy(mask) for mask in case.allowed))
    with torch.no_grad():
        for parameter, values in ((crf.start, case.start), (crf.moves, case.moves), (crf.end, case.end)):
            parameter.copy_(torch.from_numpy(values))
    packed = np.concatenate([tensor.detach().numpy().reshape(-1, case.scores.shape[2]) for tensor in crf.parameters_with_masks()])
    moves = Transitions.from_array(packed)
    scores = torch.from_numpy(case.scores).requires_grad_()
    mask = torch.from_numpy(case.mask)
    crf.log_partition(scores, mask).sum().backward()
    found = np.where(case.mask[:, :, None], marginals(case.scores, case.lengths, moves), 0)
    np.testing.assert_allclose(found, scores.grad.numpy(), atol=1e-4)
    labels, theirs = viterbi(case.scores, case.lengths, moves), crf.viterbi(scores, mask)
    ours = crf.score(scores, torch.from_numpy(labels), mask)
    np.testing.assert_allclose(ours.detach(), crf.score(scores, theirs, mask).detach(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_long_sentences_neither_under_nor_overflow(scale):
    random = np.random.default_rng(0)
    labels = [f"{place}-{kind}" for kind in "ab" for place in "BMES"]
    masks = transitions(labels, Scheme.BMES)
    packed = [np.where(mask, random.normal(size=mask.shape), -1e4).astype(np.float32) for mask in masks]
    scores = random.uniform(-scale, scale, (3, 2000, 8)).astype(np.float32)
    lengths = np.array([2000, 1999, 1])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = marginals(scores, lengths, Transitions(*packed))
        decoded = decode(scores, lengths, Transitions(*packed))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length].sum(1), 1, atol=1e-6)
        for left, right in itertools.pairwise(decoded.labels[row, :length]):
            assert masks[1][left, right]
        assert masks[0][decoded.labels[row, 0]]
        assert masks[2][decoded.labels[row, length - 1]]
        assert 0 <= decoded.span_confidence(row, 0, int(length)) <= 1
        assert decoded.span_confidence(row, 0, 1) == pytest.approx(decoded.confidences[row, 0], abs=1e-6)


def test_forbidden_moves_are_never_chosen_however_much_the_scores_ask_for_them():
    moves = np.where(np.eye(2, dtype=bool), 0, -1e4).astype(np.float32)
    scores = np.where(np.arange(2) == np.repeat([0, 1], 1000)[:, None], 50, -50).astype(np.float32)[None]
    zeros = np.zeros(2, np.float32)
    found = viterbi(scores, np.array([2000]), Transitions(zeros, moves, zeros))
    assert len(np.unique(found)) == 1


def test_a_label_that_only_the_rest_of_the_sentence_saves():
    """Label 1 may only follow label 0, which the first token all but excludes; in single precision it would vanish."""
    moves = np.array([[-1e4, 0], [0, -1e4]], np.float32)
    zeros = np.zeros(2, np.float32)
    scores = np.array([[[-60, 60], [-60, 60]]], np.float32)
    found = forward_backward(scores, np.array([2]), Transitions(zeros, moves, zeros)).marginals
    np.testing.assert_allclose(found, 0.5, atol=1e-6)
