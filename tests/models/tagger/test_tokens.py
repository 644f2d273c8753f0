"""Tokens and sentences: nothing lost, nothing twice, in linear time, whatever the text."""

import gc
import re
import sys
import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from models.tagger import tokens
from models.tagger.tokens import character_spans, fold_width, script, sentence_slices, word_spans

ANY_TEXT = st.text(st.characters(), max_size=200)  # every code point, lone surrogates and controls included
# The characters that rules are about, densely.
NASTY_TEXT = st.text(
    st.sampled_from(
        list("aAi.,:;!?'\"`’‘“”«»-–—/\\@#$%&*()[]{}<>|=+_^~… \n\t\r\x0b\x85\u2028\u3000\xa0019sStTndm中文。！？；，\u0301\ufe0f")
    ),
    max_size=120,
)
PIECES = [
    "can't",
    "cannot",
    "``",
    "''",
    '"',
    "...",
    "U.S.",
    "p.m.",
    "https://a.b/c?d=e",
    "a@b.co",
    ":-)",
    "👩‍👩‍👧",
    "🇩🇪",
    "don’t",
    "1/2",
    "-",
    " ",
    "\n",
]
PIECED_TEXT = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TEXTS = ANY_TEXT | NASTY_TEXT | PIECED_TEXT

HARD_TEXTS = [
    "",
    " \t\n\u3000",
    "\ud800\udfff \udc00a",
    "\x00\x01\x1b[0m",
    "\ufeffBOM",
    "e\u0301\u0301\u0301 \u0301 a\u200db",
    "👨‍👩‍👧‍👦👍🏽🇬🇧1️⃣ so😀good",
    "שלום עולם مرحبا हिन्दी ภาษาไทย 한국어 日本語 中文",
    "He said \"''``'' \"\" ''\"'",
    "''\"''",
    "a\x1cb\x85c\u2028d\xa0e",
    "İstanbul'da ﬁne K'k",
    "'" * 999,
    '"' * 999,
    "a." * 999,
    "-" * 999,
]


def check_tiling(text: str, spans: list[tuple[int, int]]) -> None:
    """Spans are in order, not empty, hold no white space, and only white space lies outside of them."""
    at = 0
    for start, end in spans:
        assert at <= start < end <= len(text)
        assert start == at or text[at:start].isspace()
        assert not any(character.isspace() for character in text[start:end])
        at = end
    assert at == len(text) or text[at:].isspace()


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def sentences(text: str, longest: int = 1000) -> list[str]:
    spans = word_spans(text)
    return [text[spans[part][0][0] : spans[part][-1][1]] for part in sentence_slices(text, spans, longest)]


@given(TEXTS)
@settings(max_examples=1000)
def test_words_tile_any_text(text: str) -> None:
    check_tiling(text, word_spans(text))


@given(TEXTS)
@settings(max_examples=300)
def test_characters_tile_any_text(text: str) -> None:
    spans = character_spans(text)
    check_tiling(text, spans)
    assert all(end - start == 1 for start, end in spans)


@pytest.mark.parametrize("text", HARD_TEXTS, ids=ascii)
@pytest.mark.parametrize("times", [1, 40])
def test_words_tile_hard_text(text: str, times: int) -> None:
    for joiner in ("", " ", "\n"):
        check_tiling(joiner.join([text] * times), word_spans(joiner.join([text] * times)))


def test_every_code_point_alone_and_inside_a_word() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    check_tiling(everything, word_spans(everything))
    check_tiling(everything, character_spans(everything))
    inside = " ".join(f"a{character}b" for character in everything[:0x3100])
    check_tiling(inside, word_spans(inside))


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
def test_words_survive_the_librarys_errors(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(tokens._TREEBANK, "span_tokenize", fail)
    tokens._cut_and_remember.cache_clear()
    try:
        check_tiling("(a 'b' c's)", word_spans("(a 'b' c's)"))
    finally:
        tokens._cut_and_remember.cache_clear()


@given(st.lists(st.tuples(st.integers(-3, 25), st.integers(-3, 25))), st.integers(0, 20))
def test_tile_repairs_any_spans(spans: list[tuple[int, int]], length: int) -> None:
    tiled = list(tokens._tile(spans, length))
    assert [start for start, _ in tiled] == [0, *(end for _, end in tiled)][: len(tiled)]
    assert all(start < end for start, end in tiled)
    assert not tiled or tiled[-1][1] == length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't think we can't.", "I do n't think we ca n't ."),
        ("I don’t; it’s Kim’s.", "I do n’t ; it ’s Kim ’s ."),
        ("They cannot, and we're gonna.", "They can not , and we 're gon na ."),
        ("dont cant Im", "do nt ca nt I m"),
        ("a long-term, and/or well-known plan", "a long - term , and / or well - known plan"),
        ("my e-mail to a non-member", "my e-mail to a non-member"),
        ("Mr. W. Smith of the U.S. Army, Inc. at 5 p.m. today", "Mr. W. Smith of the U.S. Army , Inc. at 5 p.m. today"),
        ("He left. She sat. They ran etc.", "He left . She sat . They ran etc ."),
        ("see http://a.org/x-y?q=1, www.b.com.", "see http://a.org/x-y?q=1 , www.b.com ."),
        ("mail jo-ann.b@c-d.co.uk <x@y.com>", "mail jo-ann.b@c-d.co.uk < x@y.com >"),
        ("@jo_b likes #cats and item #1", "@jo_b likes #cats and item # 1"),
        ("Great!!! Why?! Well... ok :-) :( ;)", "Great !!! Why ?! Well ... ok :-) :( ;)"),
        ("on 9/11 or 11/28/2000 call 713-853-3989", "on 9/11 or 11/28/2000 call 713-853-3989"),
        ("it's 7:30PM, 16m, $3.88 and 50%", "it 's 7:30 PM , 16 m , $ 3.88 and 50 %"),
        ('She said "no" (twice).', 'She said " no " ( twice ) .'),
        ("P&L and AT&T in the 60's", "P&L and AT&T in the 60's"),
        ("so😀good 👨‍👩‍👧🇬🇧👍🏽", "so 😀 good 👨‍👩‍👧 🇬🇧 👍🏽"),
        ("wait…what–then—end", "wait … what – then — end"),
        ("*** ---- <<x>>", "*** ---- << x >>"),
    ],
)
def test_english_treebank_tokens(text: str, expected: str) -> None:
    assert words(text) == expected.split(" ")


@given(NASTY_TEXT | PIECED_TEXT)
def test_words_do_not_depend_on_what_was_cut_before(text: str) -> None:
    tokens._cut_and_remember.cache_clear()
    cold = word_spans(text)
    assert word_spans(text) == cold


def test_a_long_word_stays_whole_and_a_long_stretch_is_tiled() -> None:
    assert word_spans("a" * 100_000) == [(0, 100_000)]
    stretch = "ab1-" * 25_000
    check_tiling(stretch, word_spans(stretch))


def test_memory_stays_flat_over_distinct_texts() -> None:
    def read(first: int, last: int) -> None:
        for number in range(first, last):
            word_spans(f"word{number} don't-{number} ({number}'s)")

    tracemalloc.start()
    try:
        read(10_000, 11_500)  # fills what is remembered
        before = tracemalloc.get_traced_memory()[0]
        read(11_500, 13_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 300_000  # three times 1,500 answers would be over a megabyte


UNITS = ["word don't (e-mail) U.S. 5pm. ", "a", '"', "a.", "-", "a@", "中。", "😀", " ", "\n"]


def seconds(text: str) -> float:
    """The least processor time of two readings, so that what else the machine does matters little.

    Without the garbage collector, as timeit has it: it looks through all that other tests have left, for the longer text only.
    """
    taken = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            began = time.process_time()
            sentence_slices(text, word_spans(text), 200)
            sentence_slices(text, character_spans(text), 200)
            taken.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(taken)


@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_time_is_linear(unit: str) -> None:
    short, long = (unit * (length // len(unit)) for length in (100_000, 200_000))
    ratios = []
    for _ in range(3):  # a busy machine may spoil one comparison; time that grows with the square spoils them all
        ratios.append(seconds(long) / max(seconds(short), 0.02))
        if ratios[-1] < 3.5:
            return
    pytest.fail(f"twice the text took {ratios} times as long")


@given(TEXTS, st.integers(1, 12), st.booleans())
@settings(max_examples=500)
@example("a" * 10, 1, True)
def test_every_token_is_in_one_sentence(text: str, longest: int, characters: bool) -> None:
    spans = character_spans(text) if characters else word_spans(text)
    slices = sentence_slices(text, spans, longest)
    assert [number for part in slices for number in range(len(spans))[part]] == list(range(len(spans)))
    assert all(1 <= part.stop - part.start <= longest for part in slices)
    for part in slices:  # no line end inside a sentence
        assert not re.search(r"[\n\r\u2028]", text[spans[part][0][0] : spans[part][-1][1]])


@pytest.mark.parametrize(
    "expected",
    [
        ["Mr. Smith of the U.S. Army left.", "He was 3.5 m tall!", "Really?"],
        ["Ask J. R. Jones.", "“Why?”", "(Never.)", "He said so."],
        ["Well... maybe so... or not.", "Wait...", "What?!"],
        ["One (two. three) four.", "Five."],
    ],
)
def test_english_sentences(expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected
    assert sentences("\n".join(expected)) == expected


def test_line_ends_part_sentences() -> None:
    assert sentences("no mark\r\nnext line\n\nlast") == ["no mark", "next line", "last"]


@pytest.mark.parametrize(
    "expected",
    [
        ["他说：“你好！”", "我们走吧。", "好？", "增长3.5个百分点；", "完了……"],
        ["你好!", "再见?", "他用Yahoo!Mail."],
    ],
)
def test_chinese_sentences(expected: list[str]) -> None:
    text = "".join(expected)
    spans = character_spans(text)
    parts = sentence_slices(text, spans, 1000)
    assert [text[spans[part][0][0] : spans[part][-1][1]] for part in parts] == expected


def test_abbreviations_in_character_mode() -> None:
    text = "Dr. Wu met J. Li. They spoke."
    spans = character_spans(text)
    assert [spans[part][-1][1] for part in sentence_slices(text, spans, 1000)] == [17, len(text)]


def test_long_sentences_are_cut_after_a_comma_else_at_white_space() -> None:
    assert sentences("a b c d, e f g h", 5) == ["a b c d,", "e f g h"]
    assert sentences("a b c d e f g h", 3) == ["a b c", "d e f", "g h"]
    text = "abcd efgh"
    spans = character_spans(text)
    assert sentence_slices(text, spans, 5) == [slice(0, 4), slice(4, 8)]
    assert sentence_slices("abcdef", character_spans("abcdef"), 4) == [slice(0, 4), slice(4, 6)]


def test_no_tokens_no_sentences() -> None:
    assert sentence_slices(" ", [], 5) == []


def test_longest_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="longest"):
        sentence_slices("a", [(0, 1)], 0)


@given(ANY_TEXT | st.text(st.characters(min_codepoint=0xFEF0, max_codepoint=0xFFFF)))
def test_fold_width_keeps_length_and_other_characters(text: str) -> None:
    folded = fold_width(text)
    assert len(folded) == len(text)
    for before, after in zip(text, folded, strict=True):
        if before == after:
            continue
        assert after == (" " if before == "\u3000" else chr(ord(before) - 0xFEE0))
        assert " " <= after <= "~"


def test_fold_width_leaves_no_wide_ascii() -> None:
    wide = "".join(map(chr, range(0xFF01, 0xFF5F)))
    assert fold_width(wide + "\u3000｟￠") == "".join(map(chr, range(0x21, 0x7F))) + " ｟￠"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "en"),
        ("12:30!? 。", "en"),
        ("Ada lived in London.", "en"),
        ("我爱北京天安门。", "zh"),
        ("𠀀𠀁", "zh"),
        ("北京是中国的首都 GDP", "zh"),
        ("The word 北京 means Beijing", "en"),
        ("ひらがな漢字", "en"),
        ("\ud800", "en"),
    ],
)
def test_script(text: str, expected: str) -> None:
    assert script(text) == expected
