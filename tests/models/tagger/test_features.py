from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from models.tagger.features import EDGE, TypeEncoder, TypeMemory, batch
from models.tagger.lexicon import Lexicon
from training.tagger.vocabulary import WordRows

sentences = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=5)


def encoder(longest: int = 3) -> TypeEncoder:
    tables = [("word", WordRows(["a", "b"])), ("left_bigram", WordRows(["ab", EDGE + "a"])), ("right_bigram", WordRows(["ab"]))]
    return TypeEncoder(tables, "abc", longest)


def test_a_type_is_what_the_views_look_at():
    plain = TypeEncoder([("word", WordRows(["a"]))], None)
    assert plain.types(["a", "b"]) == [("", "a", "", ""), ("", "b", "", "")]
    assert encoder().types(["a", "b"]) == [(EDGE, "a", "b", ""), ("a", "b", EDGE, "")]
    assert encoder().types([]) == []
    assert (plain.reach, encoder().reach) == (0, 1)


def test_the_code_of_a_lexicon_is_part_of_the_type():
    lexicon = Lexicon(["ab", "abcd"])
    codes = WordRows(["-", "b24", "e4"])
    alone = TypeEncoder([("lexicon", codes)], None, lexicon=lexicon)
    assert alone.types(list("abcde")) == [
        ("", "a", "", "b24"),
        ("", "b", "", "e2m4"),
        ("", "c", "", "m4"),
        ("", "d", "", "e4"),
        ("", "e", "", "-"),
    ]
    assert alone.encode(alone.types(list("abcde")))[0][:, 0].tolist() == [1, -1, -1, 2, 0]
    both = TypeEncoder([("left_bigram", WordRows(["ab"])), ("lexicon", codes)], None, lexicon=lexicon)
    assert both.types(list("ab")) == [(EDGE, "a", "b", "b2"), ("a", "b", EDGE, "e2")]
    assert (alone.reach, both.reach) == (3, 3)
    unused = TypeEncoder([("word", codes)], None, lexicon=lexicon)
    assert unused.types(["a", "b"]) == [("", "a", "", ""), ("", "b", "", "")]
    assert unused.reach == 0


def test_a_view_of_a_lexicon_needs_one():
    with pytest.raises(ConfigError, match="lexicon"):
        TypeEncoder([("lexicon", WordRows(["-"]))], None)


def test_rows_and_letters():
    rows, letters = encoder().encode([(EDGE, "a", "b", ""), ("a", "b", EDGE, ""), ("b", "xyz", "a", "")])
    assert rows.tolist() == [[0, 1, 0], [1, 0, -1], [-1, -1, -1]]
    assert letters.tolist() == [[2, 0, 0], [3, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("longest", "kept"), [(6, "abcdij"), (3, "abj"), (2, "ab"), (1, "a"), (10, "abcdefghij"), (12, "abcdefghij")]
)
def test_of_a_long_word_head_and_tail_are_read(longest, kept):
    alphabet = "abcdefghij"
    letters = TypeEncoder([], alphabet, longest).encode([("", alphabet, "", "")])[1][0]
    assert letters.tolist() == [2 + alphabet.index(letter) for letter in kept] + [0] * (longest - len(kept))


class Counting:
    """Computes the length of a token, and the code of its letter; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, types):
        self.asked += [word for _, word, _, _ in types]
        return [np.array([[len(word), ord(word[0])] for _, word, _, _ in types], np.float32)]


@given(st.lists(sentences, max_size=6), st.integers(1, 12))
def test_memory_answers_the_same_whatever_it_forgot(calls, capacity):
    compute = Counting()
    memory = TypeMemory(TypeEncoder([], None), compute, capacity)
    for call in calls:
        numbers = memory.number(call)
        assert [len(each) for each in numbers] == [len(sentence) for sentence in call]
        for sentence, each in zip(call, numbers, strict=True):
            for token, number in zip(sentence, each, strict=True):
                assert number > 0
                assert memory.arrays[0][number].tolist() == [1, ord(token)]
        tokens = sum(map(len, call))
        assert len(memory._numbers) <= max(capacity, tokens)
    if memory.arrays:
        assert not memory.arrays[0][0].any()


def test_each_type_is_computed_once_while_it_is_remembered():
    compute = Counting()
    memory = TypeMemory(TypeEncoder([], None), compute, 100)
    memory.number([["a", "b", "a"], ["b"]])
    memory.number([["a", "c"]])
    assert compute.asked == ["a", "b", "c"]


def test_memory_does_not_grow_beyond_its_capacity():
    memory = TypeMemory(TypeEncoder([], None), Counting(), 2000)
    for start in range(0, 50_000, 100):
        memory.number([[f"w{number}" for number in range(start, start + 100)]])
    assert len(memory._numbers) <= 2000
    assert len(memory.arrays[0]) <= 4096


@given(sentences.filter(lambda each: any(each)))
def test_a_batch_holds_each_type_once(call):
    coder = encoder()
    memory = TypeMemory(coder, coder.encode, 1000)
    encoded = batch(memory, memory.number(call), 8)
    assert encoded.index.shape == (len(call), 8)
    assert encoded.rows[0].tolist() == [-1, -1, -1]
    assert not encoded.letters[0].any()
    assert len(encoded.rows) == 1 + len({kind for sentence in call for kind in coder.types(sentence)})
    for row, sentence in zip(encoded.index, call, strict=True):
        rows, letters = coder.encode(coder.types(sentence))
        assert not row[len(sentence) :].any()
        np.testing.assert_array_equal(encoded.rows[row[: len(sentence)]], rows)
        np.testing.assert_array_equal(encoded.letters[row[: len(sentence)]], letters)
