from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError
from models.tagger.labels import Scheme, convert, encode, join_label, spans, split_label, transitions, validate

IOB = [Scheme.IOB1, Scheme.IOB2, Scheme.BIOES]
TYPES = ["PER", "work-of-art", ""]


@st.composite
def sentences(draw, gaps=True):
    """(spans, length) of a sentence."""
    found, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        position += draw(st.integers(0, 3)) if gaps else 0
        last = position + draw(st.integers(1, 4))
        found.append((position, last, draw(st.sampled_from(TYPES))))
        position = last
    return found, position + (draw(st.integers(0, 2)) if gaps else 0)


@given(sentences(), st.sampled_from(IOB))
def test_spans_survive_encoding(sentence, scheme):
    wanted, length = sentence
    labels = encode(wanted, length, scheme)
    validate(labels, scheme)
    assert len(labels) == length
    assert spans(labels, scheme) == wanted


@given(sentences(gaps=False))
def test_words_survive_encoding(sentence):
    wanted, length = sentence
    labels = encode(wanted, length, Scheme.BMES)
    validate(labels, Scheme.BMES)
    assert spans(labels, "BMES") == wanted


@given(sentences(), st.sampled_from(IOB), st.sampled_from(IOB))
def test_conversion_keeps_spans_and_comes_back(sentence, source, target):
    labels = encode(*sentence, source)
    assert spans(convert(labels, source, target), target) == sentence[0]
    assert convert(convert(labels, source, target), target, source) == labels


@pytest.mark.parametrize(
    ("scheme", "labels"),
    [
        ("IOB1", "I-A I-A O I-B B-B I-A"),
        ("IOB2", "B-A I-A O B-B B-B B-A"),
        ("BIOES", "B-A E-A O S-B S-B S-A"),
    ],
)
def test_documented_example(scheme, labels):
    assert encode([(0, 2, "A"), (3, 4, "B"), (4, 5, "B"), (5, 6, "A")], 6, scheme) == labels.split()


@pytest.mark.parametrize(
    ("scheme", "labels", "found"),
    [
        ("IOB2", "O I-A I-A B-A I-B", [(3, 4, "A")]),
        ("BIOES", "B-A I-A O B-A E-B I-A E-A S-A", [(7, 8, "A")]),
        ("BIOES", "B-A B-A E-A E-A", [(1, 3, "A")]),
        ("BMES", "B M E S B S E", [(0, 3, ""), (3, 4, ""), (5, 6, "")]),
        ("NONE", "B-A I-A", []),
    ],
)
def test_incomplete_spans_do_not_count(scheme, labels, found):
    assert spans(labels.split(), scheme) == found


@given(st.sampled_from([*IOB, Scheme.BMES]), st.data())
def test_transitions_allow_exactly_what_validate_accepts(scheme, data):
    letters = {"IOB1": "IB", "IOB2": "BI", "BIOES": "BIES", "BMES": "BMES"}[scheme]
    alphabet = [f"{letter}-{kind}" for letter in letters for kind in ("x", "y")] + (["O"] if scheme != "BMES" else [])
    start, allowed, end = transitions(alphabet, scheme)
    assert (start.dtype, allowed.dtype, end.dtype) == (np.bool_, np.bool_, np.bool_)
    path = data.draw(st.lists(st.integers(0, len(alphabet) - 1), min_size=1, max_size=6))
    permitted = start[path[0]] and end[path[-1]] and all(allowed[left, right] for left, right in pairwise(path))
    labels = [alphabet[index] for index in path]
    try:
        validate(labels, scheme)
        accepted = True
    except DataFormatError:
        accepted = False
    assert accepted == bool(permitted)


def test_valid_paths_are_exactly_the_encodings():
    """Every labelling of 3 tokens in BIOES that validates is what its spans encode to, and no two have the same spans."""
    alphabet = ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "xy")]
    seen = set()
    for labels in product(alphabet, repeat=3):
        try:
            validate(labels, "BIOES")
        except DataFormatError:
            continue
        found = tuple(spans(labels, "BIOES"))
        assert encode(found, 3, "BIOES") == list(labels)
        assert found not in seen
        seen.add(found)
    # compositions of 3 tokens into spans of 2 types and single outside tokens: a(n) = 3a(n-1) + 2(a(n-2) + … + a(0))
    assert len(seen) == 41


def test_everything_is_allowed_without_a_scheme():
    start, allowed, end = transitions(["NOUN", "VERB"], Scheme.NONE)
    assert start.all()
    assert allowed.all()
    assert end.all()
    assert transitions([], "IOB2")[1].shape == (0, 0)


@pytest.mark.parametrize(
    ("scheme", "labels", "message"),
    [
        ("IOB2", "O I-A", "f:3, token 2: I-A cannot follow O in IOB2"),
        ("IOB2", "B-A I-B", "f:3, token 2: I-B cannot follow B-A in IOB2"),
        ("IOB2", "O X-A", "f:3, token 2: not a label of IOB2: expected B-type, I-type or O, got X-A"),
        ("IOB2", "B-", "token 1: not a label of IOB2"),
        ("BIOES", "B-A", "token 1: a sentence cannot end in B-A in BIOES"),
        ("BMES", "S O", "token 2: not a label of BMES: expected B-type, M-type, E-type, S-type, got O"),
        ("IOB1", "B-A", "token 1: B-A cannot follow the start in IOB1"),
    ],
)
def test_faults_are_named(scheme, labels, message):
    with pytest.raises(DataFormatError) as caught:
        validate(labels.split(), scheme, where="f:3")
    assert message in str(caught.value)


@pytest.mark.parametrize("found", [[(0, 2, "A"), (1, 3, "A")], [(2, 2, "A")], [(2, 4, "A")], [(-1, 1, "A")]])
def test_impossible_spans_are_refused(found):
    with pytest.raises(DataFormatError):
        encode(found, 3, "IOB2")


def test_words_must_cover_the_sentence():
    with pytest.raises(DataFormatError, match="token 2"):
        encode([(0, 1, "n"), (2, 3, "v")], 3, "BMES")
    with pytest.raises(DataFormatError):
        convert(["O", "B-A"], "IOB2", "BMES")
    with pytest.raises(ConfigError):
        encode([], 3, "NONE")


@pytest.mark.parametrize("label", ["O", "B", "B-PER", "I-work-of-art"])
def test_labels_split_and_join(label):
    assert join_label(*split_label(label)) == label
