import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError, InputError
from models.tagger.labels import spans
from training.tagger.corpora import Sentence, align, cut, guess_format, read_corpus, split


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def row(number, form, upos="X", misc="_"):
    return "\t".join([str(number), form, form.lower(), upos, upos[0], "_", "0", "root", "_", misc])


def surfaces(sentence):
    return [sentence.text[start:end] for start, end in sentence.spans]


# ---- lines and files


def test_byte_order_mark_and_crlf_are_no_part_of_the_text(write):
    path = write("a.conllu", b"\xef\xbb\xbf" + (row(1, "NAME") + "\r\n\r\n" + row(1, "b\u2028c") + "\r\n").encode())
    assert [sentence.tokens for sentence in read_corpus(path)] == [["NAME"], ["b\u2028c"]]


def test_bytes_that_are_not_utf8_are_placed(write):
    path = write("a.tsv", b"good\tO\nbad\xff\tO\n")
    with pytest.raises(DataFormatError, match=r"a\.tsv:2, byte 4"):
        list(read_corpus(path))
    with pytest.raises(DataFormatError, match="UTF-16"):
        list(read_corpus(write("b.tsv", "a\tO\n".encode("utf-16"))))


def test_folders_and_globs(write, tmp_path):
    for name, token in (("x/b.conllu", "two"), ("x/a.conllu", "one"), ("x/notes.md", "no"), ("y.conllu", "three")):
        write(name, row(1, token) + "\n")
    assert [sentence.tokens[0] for sentence in read_corpus(tmp_path / "x")] == ["one", "two"]
    found = list(read_corpus(f"{tmp_path}/**/*.conllu"))
    assert [sentence.tokens[0] for sentence in found] == ["one", "two", "three"]
    assert found[0].source.endswith("x/a.conllu:1")
    for nothing in (tmp_path / "z", f"{tmp_path}/*.zip"):
        with pytest.raises(InputError):
            list(read_corpus(nothing))
    with pytest.raises(InputError, match="folder"):
        list(read_corpus(tmp_path / "x", "jsonl"))


def test_options_belong_to_a_format(write):
    path = write("a.conllu", row(1, "a") + "\n")
    with pytest.raises(ConfigError, match="check_text"):
        read_corpus(path, "conllu", column="x")
    with pytest.raises(ConfigError):
        list(read_corpus(path, strip_suffixes=True))
    with pytest.raises(ConfigError, match="slash"):
        read_corpus(path, "xml")


# ---- CoNLL-U


def test_conllu_words_columns_and_spans(write):
    text = "# text = I didn't  go.\n"
    rows = [
        row(1, "I", "PRON"),
        row("2-3", "didn't"),
        row(2, "did"),
        row(3, "n't"),
        row("3.1", "empty"),
        row(4, "go", misc="SpaceAfter=No"),
    ]
    (sentence,) = read_corpus(write("a.conllu", text + "\n".join([*rows, row(5, "."), "", ""])))
    assert sentence.tokens == ["I", "did", "n't", "go", "."]
    assert surfaces(sentence) == sentence.tokens
    assert sentence.columns["upos"][0] == "PRON"
    assert sentence.columns["lemma"] == ["i", "did", "n't", "go", "."]
    assert set(sentence.columns) == {"upos", "xpos", "feats", "lemma", "deprel"}
    assert sentence.source.endswith("a.conllu:2")


def test_words_that_do_not_spell_their_surface_share_it(write):
    rows = [row("1-2", "zum"), row(1, "zu"), row(2, "dem"), row(3, "Haus", misc="A=b|SpaceAfter=No"), row(4, ".")]
    (sentence,) = read_corpus(write("a.conllu", "\n".join(rows)))
    assert sentence.text == "zum Haus."
    assert surfaces(sentence) == ["zum", "zum", "Haus", "."]


def test_hash_is_a_word_in_conllu(write):
    (sentence,) = read_corpus(write("a.conllu", "# text = # 1\n" + row(1, "#") + "\n" + row(2, "1") + "\n"))
    assert sentence.tokens == ["#", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (row(1, "a") + "\textra", ":1: wrong number of fields: expected 10"),
        (row(1, "a") + "\n" + row(3, "b"), ":2, field ID: row numbers have a gap or repeat: expected 2, got 3"),
        (row("x", "a"), ":1, field ID: not a row number"),
        (row(1, ""), ":1, field FORM: the field is empty"),
        (row("1-2", "ab") + "\n" + row(1, "a"), ":1, field ID: the multiword row has no words"),
        (
            row("1-2", "ab") + "\n" + row(1, "a") + "\n" + row("2-3", "b") + "\n" + row(2, "b") + "\n" + row(3, "c"),
            ":3, field ID",
        ),
        ("# text = ab\n" + row(1, "b"), ":2, field FORM: the words do not spell # text: expected 'ab', got 'b'"),
        ("# text = ab\n" + row(1, "a"), ":2: # text goes on after the last word"),
        ("# only = comments", ":1: comments without a sentence"),
        (row("1.1", "a"), ":1: a sentence without words"),
    ],
)
def test_malformed_conllu_names_line_and_field(write, content, message):
    with pytest.raises(DataFormatError) as caught:
        list(read_corpus(write("a.conllu", content)))
    assert message in str(caught.value)


def test_conllu_text_may_be_left_unchecked(write):
    path = write("a.conllu", "# text = ab\n" + row(1, "b") + "\n")
    (sentence,) = read_corpus(path, check_text=False)
    assert (sentence.tokens, sentence.text, sentence.spans) == (["b"], None, None)


# ---- columns


def test_two_columns_where_hash_is_a_token(write):
    first, second = read_corpus(write("a.conll", "#\tO\n#winning\tO\nAda\tB-person\n\n \n# 1\tO\n"))
    assert first.tokens == ["#", "#winning", "Ada"]
    assert first.columns == {"label": ["O", "O", "B-person"]}
    assert second.tokens == ["# 1"]


def test_named_columns_with_comments(write):
    content = "# newdoc id = d-0\n# sent_id = s\n# text = 北京 很大\n1\t北京\tB-LOC\t-\t-\n2\t很\tO\t-\t-\n3\t大\tO\t-\t-\n"
    (guessed,) = read_corpus(write("a.iob2", content))
    (named,) = read_corpus(write("a.iob2", content), columns=["id", "token", "ner", "-", "-"])
    assert (guessed.tokens, guessed.columns) == (["北京", "很", "大"], {"label": ["B-LOC", "O", "O"]})
    assert named.columns == {"ner": ["B-LOC", "O", "O"]}
    assert named.text == "北京 很大"
    assert surfaces(named) == named.tokens
    assert named.source.endswith(":4")


def test_columns_between_white_space(write):
    content = "-DOCSTART- -X- O O\n\nEU NNP  I-NP B-ORG\n# NN O O\n"
    options = {"columns": ["token", "pos", "chunk", "ner"], "separator": None}
    (sentence,) = read_corpus(write("a.txt", content), "columns", **options)
    assert sentence.tokens == ["EU", "#"]
    assert sentence.columns["ner"] == ["B-ORG", "O"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tO\nb\n", "a.tsv:2: wrong number of fields: expected 2 (token, label), got 1"),
        ("a\tO\n\tO\n", "a.tsv:2, field token: the field is empty"),
        ("a\t\n", "a.tsv:1, field label: the field is empty"),
    ],
)
def test_malformed_columns_name_line_and_field(write, content, message):
    with pytest.raises(DataFormatError) as caught:
        list(read_corpus(write("a.tsv", content)))
    assert message in str(caught.value)


@pytest.mark.parametrize("columns", [["ner"], ["token", "token"], ["token", "ner", "ner"], []])
def test_column_names_must_describe_the_file(write, columns):
    with pytest.raises(ConfigError, match="token"):
        list(read_corpus(write("a.tsv", "a\tO\n"), columns=columns))


# ---- slash


def test_peoples_daily(write):
    content = "１２/m  [中央/n  人民/n  电台/n]nt  ，/w\n\n19980101-01-001-002/m  [/w  A//nx  ]/w\n"
    first, second = read_corpus(write("a.txt", content), fold_width=True)
    assert first.tokens == ["12", "中央", "人民", "电台", ","]
    assert first.columns == {"pos": ["m", "n", "n", "n", "w"]}
    assert first.text == "12中央人民电台,"
    assert surfaces(first) == first.tokens
    assert second.tokens == ["[", "A/", "]"]
    assert second.text == "[A/]"  # the file is Chinese, though this line is not


def test_brown(write):
    content = "\n\n\tThe/at 1/2/cd cup/nn-tl-hl ``/`` [sic/nn --/--\n"
    (sentence,) = read_corpus(write("ca01", content))
    assert sentence.tokens == ["The", "1/2", "cup", "``", "[sic", "--"]
    assert sentence.columns["pos"] == ["at", "cd", "nn-tl-hl", "``", "nn", "--"]
    assert (sentence.text, sentence.spans) == (None, None)
    (stripped,) = read_corpus(write("ca01", content), strip_suffixes=True, column="tag")
    assert stripped.columns["tag"] == ["at", "cd", "nn", "``", "nn", "--"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("好/a  坏", "field word 2: not a word with its tag"),
        ("好/a  /w", "field word 2"),
        ("好/a  坏/", "field word 2"),
        ("好/a  [坏/a  的/u  ]/w  中/n]nt  x/n]nt", "field word 6: a bracket closes"),
        ("[好/a  [坏/a  人/n]nt", "a bracket is never closed"),
    ],
)
def test_malformed_slash_text_names_the_word(write, content, message):
    with pytest.raises(DataFormatError) as caught:
        list(read_corpus(write("a.pos", "好/a\n" + content), "slash"))
    assert f"a.pos:2, {message}" in str(caught.value) or f"a.pos:2: {message}" in str(caught.value)


# ---- JSON lines


def record(**values):
    return json.dumps(values, ensure_ascii=False) + "\n"


def span(start, end, label="PER"):
    return {"start": start, "end": end, "label": label}


def test_character_offsets_become_labels(write):
    content = record(text="Ada Lovelace met x-ray.", spans=[span(17, 18, "X"), span(0, 12)])
    (sentence,) = read_corpus(write("a.jsonl", content + "\n"))
    assert surfaces(sentence) == sentence.tokens
    found = [(sentence.spans[a][0], sentence.spans[b - 1][1], kind) for a, b, kind in spans(sentence.columns["label"], "IOB2")]
    assert found == [(0, 12, "PER"), (17, 18, "X")]


@given(st.text("ab 中国😀-.\u0301", min_size=1, max_size=20), st.data(), st.sampled_from(["codepoint", "utf16"]))
def test_no_span_is_moved(text, data, offsets):
    """Any spans apart from each other, whose ends are no spaces, come back from the token labels as they were."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), unique=True, max_size=6).map(sorted))
    wanted = [
        (a, b, "T") for a, b in zip(cuts[::2], cuts[1::2], strict=False) if not text[a].isspace() and not text[b - 1].isspace()
    ]
    if not text.strip():
        return
    unit = (lambda at: at) if offsets == "codepoint" else (lambda at: len(text[:at].encode("utf-16-le")) // 2)
    from training.tagger.corpora.jsonl import read_jsonl
    from training.tagger.corpora.lines import Line

    content = json.dumps({"text": text, "spans": [span(unit(a), unit(b), kind) for a, b, kind in wanted]})
    (sentence,) = read_jsonl([Line("f", 1, content)], offsets=offsets, scheme="BIOES")
    places = sentence.spans
    assert [(places[a][0], places[b - 1][1], kind) for a, b, kind in spans(sentence.columns["label"], "BIOES")] == wanted
    assert align(text, sentence.tokens) == places


def test_tokens_with_labels(write):
    content = record(tokens=["a", "b"], labels=["O", "B-X"]) + record(text="a  b", tokens=["a", "b"], labels=["O", "O"])
    first, second = read_corpus(write("a.jsonl", content), column="ner")
    assert first == Sentence(["a", "b"], {"ner": ["O", "B-X"]}, None, None, first.source)
    assert second.spans == [(0, 1), (3, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (record(other=1), "nothing to read"),
        (record(text=1, spans=[]), "field text: not a text"),
        ('{"text": "a\\ud83d", "spans": []}', "field text: not a text"),
        (record(text=" ", spans=[]), "field text: no token"),
        (record(text="a", spans=3), "field spans: not a list"),
        (record(text="abc", spans=[{"start": 0}]), "field spans[0]: not a span"),
        (record(text="abc", spans=[span(0, 4)]), "field spans[0]: offsets are outside"),
        (record(text="abc", spans=[span(0, 1), span(2, 2)]), "field spans[1]: offsets are outside"),
        (record(text="abc", spans=[span(-1, 2)]), "field spans[0]: offsets are outside"),
        (record(text="abc", spans=[span(False, True)]), "field spans[0]: offsets are outside"),
        (record(text="abc", spans=[span(0, 1.0)]), "field spans[0]: offsets are outside"),
        (record(text="abc", spans=[span(0, 2), span(1, 3)]), "field spans: spans overlap"),
        (record(text="a b", spans=[span(0, 2)]), "field spans[0]: a span begins or ends in white space"),
        (record(text="abc", spans=[span(0, 2, "a b")]), "field spans[0].label: not a label"),
        (record(tokens=["a"], labels=[]), "tokens and labels do not match"),
        (record(tokens=["a", ""], labels=["O", "O"]), "field tokens[1]: not a word"),
        (record(tokens=["a"], labels="O"), "field labels: not a list"),
        (record(tokens=["b"], labels=["O"], text="a"), "field tokens: the tokens do not spell"),
    ],
)
def test_malformed_records_name_line_and_field(write, content, message):
    with pytest.raises(DataFormatError) as caught:
        list(read_corpus(write("a.jsonl", record(tokens=["a"], labels=["O"]) + content)))
    assert "a.jsonl:2" in str(caught.value)
    assert message in str(caught.value)


def test_offsets_inside_a_surrogate_pair_are_refused(write):
    path = write("a.jsonl", record(text="😀b", spans=[span(1, 3)]))
    with pytest.raises(DataFormatError, match="surrogate"):
        list(read_corpus(path, offsets="utf16"))
    (sentence,) = read_corpus(write("a.jsonl", record(text="😀b", spans=[span(2, 3)])), offsets="utf16")
    assert (sentence.tokens, sentence.columns["label"]) == (["😀", "b"], ["O", "B-PER"])


# ---- formats by their looks


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.conllu", "", "conllu"),
        ("a.txt", "# text = a\n" + row(1, "a"), "conllu"),
        ("a.iob2", "1\ta\tO\t-\t-\n", "columns"),
        ("a", "a\tO\n", "columns"),
        ("a.txt", "中/n  国/n\n", "slash"),
        ("a", "\n\tThe/at jury/nn\n", "slash"),
        ("a", '{"text": "a"}', "jsonl"),
        ("a.txt", "This is a text.\n", None),
        ("a.txt", "", None),
    ],
)
def test_formats_are_told_by_their_looks(write, name, content, format):
    path = write(name, content)
    assert guess_format(path) == format
    if format is None:
        with pytest.raises(DataFormatError, match="not clear"):
            list(read_corpus(path))


# ---- what is done to any sentence


def sentence_of(words):
    text = "".join(words)
    return Sentence(list(words), {"pos": [f"t{i}" for i in range(len(words))]}, text, align(text, words), "f:1")


def test_duplicates_are_dropped(write):
    path = write("a.txt", "好/a  的/u\n好/a  的/n\n好/a  的/u\n好的/a\n")
    assert len(list(read_corpus(path))) == 4
    assert [sentence.source[-2:] for sentence in read_corpus(path, drop_duplicates=True)] == [":1", ":2", ":4"]


@given(
    st.lists(st.sampled_from(["字", "。", "，", "”", "！", "词语"]), min_size=1, max_size=40), st.integers(1, 12), st.booleans()
)
def test_cut_pieces_are_the_sentence(words, longest, every_end):
    whole = sentence_of(words)
    pieces = list(cut(whole, longest, every_end))
    assert [token for piece in pieces for token in piece.tokens] == words
    assert [tag for piece in pieces for tag in piece.columns["pos"]] == whole.columns["pos"]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert all(surfaces(piece) == piece.tokens and 0 < len(piece) <= longest for piece in pieces)


def test_cuts_fall_behind_sentence_ends_and_their_quotes():
    words = ["“", "好", "。", "”", "他", "说", "，", "不", "！", "行"]
    assert ["".join(piece.tokens) for piece in cut(sentence_of(words), every_end=True)] == ["“好。”", "他说，不！", "行"]
    assert ["".join(piece.tokens) for piece in cut(sentence_of(words), 6)] == ["“好。”", "他说，不！行"]
    assert ["".join(piece.tokens) for piece in cut(sentence_of(words), 4)] == ["“好。”", "他说，", "不！行"]
    assert list(cut(sentence_of(words), 10)) == [sentence_of(words)]


def test_long_lines_are_cut_on_reading(write):
    path = write("a.txt", "好/a  。/w  是/v  。/w  啊/y\n")
    assert [len(sentence) for sentence in read_corpus(path, longest=4)] == [4, 1]
    assert [len(sentence) for sentence in read_corpus(path, split_sentences=True)] == [2, 2, 1]
    with pytest.raises(ConfigError):
        read_corpus(path, longest=0)


# ---- split


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=60),
    st.sampled_from([[1], [0.5, 0.5], [0.8, 0.1, 0.1]]),
    st.booleans(),
    st.integers(0, 3),
)
def test_no_sentence_is_on_two_sides(words, ratios, contiguous, seed):
    sentences = [Sentence([*word], source=str(number)) for number, word in enumerate(words)]
    parts = split(sentences, ratios, seed, contiguous)
    assert len(parts) == len(ratios)
    assert Counter(each.source for part in parts for each in part) == Counter(each.source for each in sentences)
    keys = [{each.key for each in part} for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert all([int(each.source) for each in part] == sorted(int(each.source) for each in part) for part in parts)
    assert split(sentences, ratios, seed, contiguous) == parts


def test_shares_are_met_and_seeds_differ():
    sentences = [Sentence([str(number)]) for number in range(1000)]
    contiguous = split(sentences, [0.8, 0.1, 0.1], contiguous=True)
    assert [len(part) for part in contiguous] == [800, 100, 100]
    assert contiguous[0] == sentences[:800]
    shuffled = [split(sentences, [0.8, 0.1, 0.1], seed) for seed in (1, 2)]
    assert [len(part) for part in shuffled[0]] == [800, 100, 100]
    assert shuffled[0] != shuffled[1]


def test_the_same_characters_stay_together_however_they_are_cut():
    sentences = [Sentence(["中国", "人"]), *(Sentence([str(number)]) for number in range(98)), Sentence(["中", "国人"])]
    for contiguous in (True, False):
        sides = [part for part in split(sentences, [0.5, 0.5], 3, contiguous) if any(each.key == "中国人" for each in part)]
        assert len(sides) == 1


@pytest.mark.parametrize("ratios", [[], [0.5, 0.4], [1.5, -0.5], [1, 0], [float("nan")]])
def test_ratios_must_add_up(ratios):
    with pytest.raises(ConfigError):
        split([], ratios)


def test_alignment():
    assert align(" a  bc", ["a", "b", "c"]) == [(1, 2), (4, 5), (5, 6)]
    assert align("a b", ["a"]) is None
    assert align("a", ["a", ""]) is None
