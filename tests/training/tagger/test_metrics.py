import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from training.tagger import metrics
from training.tagger.metrics import Report, Scores

LABELS = {
    "IOB2": ["O", "B-x", "I-x", "B-y", "I-y"],
    "BIOES": ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "xy")],
}


@st.composite
def labelled(draw, alphabet):
    """Gold and predicted labels of some sentences; predictions are often right, and need not follow the scheme."""
    gold = draw(st.lists(st.lists(st.sampled_from(alphabet), min_size=1, max_size=8), min_size=1, max_size=5))
    return gold, [[label if draw(st.booleans()) else draw(st.sampled_from(alphabet)) for label in each] for each in gold]


@pytest.mark.filterwarnings("ignore")  # seqeval warns of divisions by zero
@pytest.mark.parametrize("scheme", ["IOB2", "BIOES"])
@given(data=st.data())
def test_entities_agree_with_seqeval_strict(scheme, data):
    peer = pytest.importorskip("seqeval.metrics")
    rules = pytest.importorskip("seqeval.scheme")
    gold, predicted = data.draw(labelled(LABELS[scheme]))
    report = metrics.entity_report(gold, predicted, scheme)
    how = {"mode": "strict", "scheme": rules.IOB2 if scheme == "IOB2" else rules.IOBES, "zero_division": 0}
    if not report.types:  # seqeval cannot average over nothing
        return
    strict = pytest.importorskip("seqeval.metrics.v1").precision_recall_fscore_support
    precision, recall, f1, support = strict(gold, predicted, average=None, scheme=how["scheme"], zero_division=0)
    names = sorted(report.types)
    assert [report.types[name].gold for name in names] == support.tolist()
    for key, peers in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose([getattr(report.types[name], key) for name in names], peers)
        for average, ours in (("micro", getattr(report.micro, key)), ("macro", report.macro[key])):
            measure = {"precision": peer.precision_score, "recall": peer.recall_score, "f1": peer.f1_score}[key]
            assert ours == pytest.approx(measure(gold, predicted, average=average, **how))


@pytest.mark.filterwarnings("ignore:A single label")
@given(labelled(["NOUN", "VERB", "X"]))
def test_labels_agree_with_scikit_learn(pair):
    peer = pytest.importorskip("sklearn.metrics")
    gold, predicted = ([label for each in side for label in each] for side in pair)
    report = metrics.label_report(gold, predicted)
    names = sorted({*gold, *predicted})
    figures = peer.precision_recall_fscore_support(gold, predicted, labels=names, zero_division=0)
    assert list(report.types) == names
    for index, key in enumerate(("precision", "recall", "f1", "gold")):
        np.testing.assert_allclose([getattr(report.types[name], key) for name in names], figures[index])
    assert report.micro.f1 == pytest.approx(metrics.accuracy(gold, predicted))
    np.testing.assert_array_equal(metrics.confusion(gold, predicted, names), peer.confusion_matrix(gold, predicted, labels=names))


def test_by_hand():
    scores = Scores(correct=1, predicted=2, gold=4)
    assert (scores.precision, scores.recall) == (0.5, 0.25)
    assert scores.f1 == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    empty = Report()
    assert (empty.micro, empty.macro["f1"]) == (Scores(0, 0, 0), 0)
    assert (Scores(0, 0, 0).f1, metrics.accuracy([], [])) == (0, 0)
    assert json.loads(json.dumps(metrics.label_report(["a"], ["b"]).as_dict()))["types"]["b"]["predicted"] == 1


def places(words, tags):
    """Words one after the other as (start, end, tag)."""
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [(end - len(word), end, tag) for word, end, tag in zip(words, ends, tags, strict=True)]


def test_segmentation_by_hand():
    gold = [places(["中国", "人民", "站", "起来"], "nnvv"), places(["好"], "a")]
    found = [places(["中国", "人", "民", "站", "起来"], "nnnnv"), places(["好"], "v")]
    report = metrics.segmentation_report(gold, found)
    assert report.words == Scores(correct=4, predicted=6, gold=5)
    assert report.joint.micro == Scores(correct=2, predicted=6, gold=5)
    assert report.joint.types["n"] == Scores(correct=1, predicted=4, gold=2)
    assert report.found.tolist() == [True, False, True, True, True]


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_segmentation_counts_common_words(sizes, data):
    """Against counting on boundaries: a word is right if it starts and ends at a boundary of the other side with none inside."""
    gold, found, right = [], [], 0
    for lengths in sizes:
        bounds = [0, *np.cumsum(lengths).tolist()]
        others = sorted({0, bounds[-1], *data.draw(st.lists(st.integers(0, bounds[-1]), max_size=6))})
        gold.append([(a, b, "") for a, b in pairwise(bounds)])
        found.append([(a, b, "") for a, b in pairwise(others)])
        right += sum(a in others and b in others and not any(a < x < b for x in others) for a, b, _ in gold[-1])
    report = metrics.segmentation_report(gold, found)
    assert report.words == Scores(right, sum(map(len, found)), sum(map(len, gold)))
    assert report.found.sum() == right


def test_words_of_one_surface_count_apart():
    assert metrics.token_places([[(0, 3), (0, 3), (4, 8)]], [[(0, 3), (4, 8)]]) == Scores(correct=2, predicted=2, gold=3)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_calibration_agrees_with_its_definition(pairs, bins):
    confidences, right = zip(*pairs, strict=True)
    curve = metrics.calibration(confidences, right, bins)
    expected = 0.0
    for index in range(bins):
        low, high = curve.edges[index], curve.edges[index + 1]
        inside = [pair for pair in pairs if low < pair[0] <= high or (index == 0 and pair[0] == 0)]
        assert curve.counts[index] == len(inside)
        if inside:
            expected += abs(sum(c - r for c, r in inside)) / len(pairs)
    assert curve.error == pytest.approx(expected, abs=1e-9)
    assert sum(each["count"] for each in curve.as_dict()["bins"]) == len(pairs)


@pytest.mark.filterwarnings("ignore")
def test_calibration_agrees_with_torchmetrics():
    peer = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([0.4, 0.4, 0.4], 500)
    labels = random.integers(0, 3, 500)
    ours = metrics.calibration(probabilities.max(1), probabilities.argmax(1) == labels)
    theirs = peer.multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels), 3, n_bins=15)
    assert ours.error == pytest.approx(float(theirs), abs=1e-5)


def test_perfect_and_worst_calibration():
    assert metrics.calibration([1.0, 1.0], [True, True]).error == 0
    assert metrics.calibration([1.0, 1.0], [False, False]).error == 1
    assert metrics.calibration([], []).error == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_known_and_unknown_share_out_the_accuracy(pairs):
    right, known = np.array(pairs, bool).reshape(-1, 2).T
    counts = Counter(pairs)
    assert metrics.share_right(right, known)["count"] == counts[True, True] + counts[False, True]
    both = [metrics.share_right(right, chosen) for chosen in (known, ~known)]
    assert sum(each["accuracy"] * each["count"] for each in both) == pytest.approx(right.sum())


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError):
        metrics.accuracy(["a"], [])
    with pytest.raises(InputError):
        metrics.entity_report([["O"]], [["O", "O"]], "IOB2")
    with pytest.raises(InputError, match="between 0 and 1"):
        metrics.calibration([1.5], [True])
    with pytest.raises(InputError, match="c"):
        metrics.confusion(["a"], ["c"], ["a", "b"])
