from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.tagger.features import EDGE
from models.tagger.lexicon import Lexicon
from models.tagger.vectors import VectorTable
from training.tagger.vocabulary import Table, Vocabulary, WordRows, count_letters, count_views

words = st.lists(st.text("abAB", min_size=1, max_size=3), max_size=12)


@given(words, words)
def test_rows_are_those_of_the_table_that_the_bundle_will_hold(held, asked):
    table = VectorTable(held, np.zeros((len(held), 2), np.float32))
    np.testing.assert_array_equal(WordRows(held).rows(asked), table.rows(asked))


def test_letters_are_counted():
    assert count_letters([["ab", "b"], ["c", "ba"]], 1) == "abc"
    assert count_letters([["ab", "b"], ["c", "ba"]], 2) == "ab"
    assert count_letters([], 1) == ""


def test_views_are_counted_most_frequent_first():
    sentences = [["a", "b"], ["a", "b", "a"]]
    assert count_views(sentences, ["word"], 1) == ["a", "b"]
    assert count_views(sentences, ["word"], 3) == ["a"]
    assert count_views(sentences, ["left_bigram"], 2) == [EDGE + "a", "ab"]
    assert set(count_views(sentences, ["word", "right_bigram"], 1)) == {"a", "b", EDGE + "a", "ab", "ba", "b" + EDGE, "a" + EDGE}


def test_codes_of_a_lexicon_are_counted():
    lexicon = Lexicon(["ab"])
    assert count_views([["a", "b", "a"], ["b"]], ["lexicon"], 1, lexicon) == ["-", "b2", "e2"]
    assert count_views([["a", "b", "a"], ["b"]], ["lexicon"], 2, lexicon) == ["-"]


def test_a_vocabulary_holds_its_lexicon():
    tables = [Table("codes", ["lexicon"], ["b2", "e2"], 3, True)]
    vocabulary = Vocabulary({"labels": ["X"]}, None, 0, tables, [], ["ab"])
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict())))
    assert again == vocabulary
    coder = again.encoder()
    assert coder.encode(coder.types(list("cab")))[0].tolist() == [[-1], [0], [1]]
    older = {name: value for name, value in vocabulary.as_dict().items() if name != "lexicon"}
    assert Vocabulary.from_dict({**older, "tables": []}).lexicon == []


def test_a_vocabulary_goes_through_plain_types():
    tables = [Table("words", ["word"], ["a"], 3, True), Table("pairs", ["left_bigram", "right_bigram"], ["ab"], 2, False)]
    vocabulary = Vocabulary({"labels": ["X", "Y"], "aux": ["P"]}, "ab", 5, tables, ["a", "b"])
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict())))
    assert again == vocabulary
    assert vocabulary.width == 3 + 2 * 2
    assert again.label_ids == {"labels": {"X": 0, "Y": 1}, "aux": {"P": 0}}
    rows, letters = again.encoder().encode([("", "a", "b", ""), ("a", "b", "", "")])
    assert rows.tolist() == [[0, -1, 0], [-1, 0, -1]]
    assert letters.tolist() == [[2, 0, 0, 0, 0], [3, 0, 0, 0, 0]]
