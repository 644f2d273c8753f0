import json

import numpy as np
import pytest

from models.errors import ConfigError, DataFormatError, UnprocessableError
from models.tagger.features import EDGE
from models.tagger.vectors import VectorTable
from training.tagger.embed import train_vectors, write_vectors

SMALL = {"dim": 8, "epochs": 2, "min_count": 1}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("The/at cat/nn sat/vbd on/in the/at mat/nn\nThe/at dog/nn sat/vbd\n" * 20)
    return path


@pytest.mark.parametrize("algorithm", ["skipgram", "cbow", "fasttext", "fasttext-cbow"])
def test_the_same_seed_gives_the_same_vectors(tmp_path, corpus, algorithm):
    first, again, other = (
        train_vectors([corpus], tmp_path / f"v{number}", algorithm=algorithm, seed=seed, **SMALL).table
        for number, seed in enumerate([1, 1, 2])
    )
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert first.words == again.words
    assert not np.array_equal(first.matrix, other.matrix)
    assert (first.dim, first.matrix.dtype) == (8, np.float16)
    assert sorted(first.words) == ["The", "cat", "dog", "mat", "on", "sat", "the"]


def test_words_of_like_use_come_near_each_other(tmp_path):
    """Words of two topics that never meet: neighbours of the same topic are nearer than those of the other."""
    random = np.random.default_rng(1)
    topics = [["sun", "rain", "wind", "snow"], ["bread", "milk", "cheese", "salt"]]
    lines = [" ".join(random.choice(topics[number % 2], 8)) for number in range(1000)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    table = train_vectors([tmp_path / "text.txt"], tmp_path / "v", dim=16, epochs=5, dtype="float32").table
    matrix = table.matrix[table.rows(topics[0] + topics[1])]
    matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    near = matrix @ matrix.T
    assert near[:4, :4].min() > near[:4, 4:].max()


def test_table_covers_what_it_was_trained_on(tmp_path, corpus, capsys):
    made = train_vectors([corpus], tmp_path / "deep" / "v", dim=4, epochs=1, min_count=30)
    assert made.path == tmp_path / "deep" / "v.npy"
    assert set(VectorTable.open(made.path).words) == {"The", "sat"}
    assert (made.coverage.exact, made.coverage.lower, made.coverage.unknown) == (80, 0, 100)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2 vectors of 4, from 40 sentences; 180 words: exact 44.44%" in printed.err
    assert "epoch 1 of 1" in printed.err


def test_most_frequent_words_in_lower_case(tmp_path, corpus):
    table = train_vectors([corpus], tmp_path / "v", lower=True, max_words=2, **SMALL).table
    assert table.words[0] == "the"
    assert len(table) == 2
    assert table.rows(["The", "THE"]).tolist() == [0, 0]


def test_characters_and_their_pairs(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("中国/ns  人/n\n１/m  中/n\n", encoding="utf-8")
    characters = train_vectors([path], tmp_path / "c", unit="character", fold_width=True, **SMALL).table
    assert set(characters.words) == set("中国人1")
    pairs = train_vectors([path], tmp_path / "b", unit="bigram", **SMALL).table
    assert set(pairs.words) == {EDGE + "中", "中国", "国人", "人" + EDGE, EDGE + "１", "１中", "中" + EDGE}


def test_plain_text_is_cut_into_tokens(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["Don't stop.", "中文"]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("A plain line\n\nanother line", encoding="utf-8")
    table = train_vectors([tmp_path / "a.json", tmp_path / "b.txt"], tmp_path / "v", **SMALL).table
    assert {"Do", "n't", "stop", ".", "plain", "line"} <= set(table.words)
    characters = train_vectors([tmp_path / "a.json"], tmp_path / "c", unit="character", **SMALL).table
    assert {"D", "中", "文"} <= set(characters.words)
    assert " " not in characters.words


def test_other_parts_are_not_seen(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"w{number}/n\n" for number in range(10)))
    made = train_vectors([path], tmp_path / "v", ratios=[0.8, 0.2], part=0, contiguous=True, **SMALL)
    assert set(made.table.words) == {f"w{number}" for number in range(8)}
    with pytest.raises(ConfigError, match="part"):
        train_vectors([path], tmp_path / "v", ratios=[1], part=1, **SMALL)


def test_what_cannot_be_trained_is_refused(tmp_path, corpus):
    with pytest.raises(UnprocessableError, match="min_count"):
        train_vectors([corpus], tmp_path / "v", min_count=1000, dim=4)
    with pytest.raises(ConfigError, match="skipgram"):
        train_vectors([corpus], tmp_path / "v", algorithm="glove")
    with pytest.raises(ConfigError):
        train_vectors([corpus], tmp_path / "v", unit="trigram")
    for content in ("{", '{"a": 1}', "[1]"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataFormatError, match=r"a\.json"):
            train_vectors([tmp_path / "a.json"], tmp_path / "v")
    assert not list(tmp_path.glob("v*"))


def test_other_tables_become_ours(tmp_path):
    table = VectorTable(["a", "b", "c"], np.arange(6, dtype=np.float32).reshape(3, 2))
    path = write_vectors(table, tmp_path / "v", max_words=2)
    opened = VectorTable.open(path)
    assert (opened.words, opened.matrix.dtype) == (["a", "b"], np.float16)
    np.testing.assert_array_equal(opened.matrix, table.matrix[:2])
    assert VectorTable.open(write_vectors(table, tmp_path / "w", dtype="float32")).matrix.dtype == np.float32
    large = VectorTable(["a"], np.full((1, 2), 1e6, np.float32))
    with pytest.raises(UnprocessableError, match="float16"):
        write_vectors(large, tmp_path / "x")
    with pytest.raises(ConfigError):
        write_vectors(table, tmp_path / "x", max_words=0)
    with pytest.raises(ConfigError, match="dtype"):
        write_vectors(table, tmp_path / "x", dtype="float64")


def test_tables_are_quantised_and_back(tmp_path):
    table = VectorTable(["a", "b", "c"], np.array([[1, -2], [0.3, 2], [9, 9]], np.float32))
    small = VectorTable.open(write_vectors(table, tmp_path / "v", max_words=2, dtype="int8"))
    assert (small.words, small.matrix.dtype) == (["a", "b"], np.int8)
    np.testing.assert_allclose(small.vectors(np.arange(2)), table.matrix[:2], atol=2 / 127 / 2)
    back = VectorTable.open(write_vectors(small, tmp_path / "w", dtype="float32"))
    np.testing.assert_array_equal(back.matrix, small.vectors(np.arange(2)))


@pytest.mark.parametrize("format", ["auto", "text"])
@pytest.mark.parametrize("options", [{"fold_widht": True}, {"drop_duplicates": True}, {"ratios": [0.5, 0.5]}])
def test_plain_text_refuses_what_it_cannot_heed(tmp_path, format, options):
    (tmp_path / "a.txt").write_text("A plain line\n")
    with pytest.raises(ConfigError, match=f"format text.*{next(iter(options))}"):
        train_vectors([tmp_path / "a.txt"], tmp_path / "v", format=format, **options, **SMALL)


def test_plain_text_leaves_options_to_labelled_corpora_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("Ｘ y。\n" * 2, encoding="utf-8")
    (tmp_path / "b.txt").write_text("Ｐ/n\nＰ/n\nq/n\n", encoding="utf-8")
    both = [tmp_path / "b.txt", tmp_path / "a.txt"]
    options = {"fold_width": True, "drop_duplicates": True, "split_sentences": True, "ratios": [0.5, 0.5], "contiguous": True}
    made = train_vectors(both, tmp_path / "v", unit="character", **options, **SMALL)
    assert set(made.table.words) == {"P", "X", "y", "。"}
    assert made.coverage.total == 7
    with pytest.raises(ConfigError, match="separator"):
        train_vectors(both, tmp_path / "v", separator="/", **SMALL)
