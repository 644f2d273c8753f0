from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.tagger.lexicon import LONGEST_TOLD, LONGEST_WORD, NOTHING, Lexicon

words = st.lists(st.text("abc", max_size=LONGEST_WORD + 2), max_size=12)
texts = st.lists(st.sampled_from("abcx"), max_size=20)


def places(lexicon: list[str], tokens: list[str]) -> list[tuple[int, int]]:
    """Every word of two letters up to the longest, looked for at every place."""
    return [
        (start, stop)
        for start in range(len(tokens))
        for stop in range(start + 2, min(start + LONGEST_WORD, len(tokens)) + 1)
        if "".join(tokens[start:stop]) in lexicon
    ]


@given(words, texts)
def test_every_word_is_found_wherever_it_stands(lexicon, tokens):
    assert Lexicon(lexicon).find(tokens) == places(lexicon, tokens)


@given(words, texts)
def test_codes_tell_the_lengths_of_the_words(lexicon, tokens):
    codes = Lexicon(lexicon).codes(tokens)
    found = [(start, stop, min(stop - start, LONGEST_TOLD)) for start, stop in places(lexicon, tokens)]
    assert len(codes) == len(tokens)
    for place, code in enumerate(codes):
        begins = sorted({length for start, _, length in found if start == place})
        ends = sorted({length for _, stop, length in found if stop == place + 1})
        inside = sorted(length for start, stop, length in found if start < place < stop - 1)[-1:]
        parts = [f"{name}{''.join(map(str, part))}" for name, part in (("b", begins), ("e", ends), ("m", inside)) if part]
        assert code == ("".join(parts) or NOTHING)


@given(words, texts, texts, texts)
def test_a_code_depends_on_nothing_beyond_the_reach(lexicon, before, tokens, after):
    finder = Lexicon(lexicon)
    assert finder.reach == max([2, *(len(word) for word in lexicon if len(word) <= LONGEST_WORD)]) - 1 or finder.reach == 0
    whole = finder.codes([*before, *tokens, *after])
    left, right = max(0, len(before) - finder.reach), len(before) + len(tokens) + finder.reach
    cut = finder.codes([*before, *tokens, *after][left:right])
    assert cut[len(before) - left :][: len(tokens)] == whole[len(before) :][: len(tokens)]


def test_an_example():
    lexicon = Lexicon(["中华", "华人", "人民", "共和", "共和国", "人民共和国", "中华人民共和国", "国", "我"])
    assert lexicon.reach == 6
    assert lexicon.codes(list("我中华人民共和国")) == ["-", "b25", "b2e2m5", "b25e2m5", "e2m5", "b23m5", "e2m5", "e35"]
    assert lexicon.codes([]) == []


def test_tokens_of_several_letters_are_tokens_all_the_same():
    lexicon = Lexicon(["北京大学"])
    assert lexicon.find(["北京", "大学", ""]) == [(0, 2), (0, 3)]
    assert lexicon.codes(["北京大学", "生"]) == ["-", "-"]


def test_an_empty_lexicon():
    assert Lexicon([]).reach == 0
    assert Lexicon(["", "a", "a" * (LONGEST_WORD + 1)]).codes(["a", "a"]) == ["-", "-"]
