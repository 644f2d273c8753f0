import numpy as np
import pytest

from models.errors import ConfigError, DataFormatError, InputError
from models.tagger.vectors import VectorTable, read_vectors

WORDS = ["the", "Paris", "paris", "Über", "中国", "\x02中", "😀", ". . .", "\u2028", "x\r"]
MATRIX = np.arange(len(WORDS) * 3, dtype=np.float32).reshape(-1, 3) / 4


def keyed_vectors():
    gensim = pytest.importorskip("gensim.models")
    keyed = gensim.KeyedVectors(3)
    words = [word for word in WORDS if not word.isspace() and "\r" not in word and " " not in word]
    keyed.add_vectors(words, MATRIX[: len(words)])
    return keyed, words


@pytest.mark.parametrize(("suffix", "binary"), [(".vec", False), (".bin", True), (".txt", False), (".dat", True)])
def test_word2vec_files_that_gensim_wrote(tmp_path, suffix, binary):
    keyed, words = keyed_vectors()
    keyed.save_word2vec_format(str(tmp_path / f"v{suffix}"), binary=binary)
    table = read_vectors(tmp_path / f"v{suffix}")
    assert table.words == words
    np.testing.assert_array_equal(table.matrix, keyed.vectors)


def test_gensim_files(tmp_path):
    keyed, words = keyed_vectors()
    keyed.save(str(tmp_path / "v.kv"))
    table = read_vectors(tmp_path / "v.kv")
    assert table.words == words
    np.testing.assert_array_equal(table.matrix, keyed.vectors)


def test_original_word2vec_binary_with_line_breaks(tmp_path):
    rows = b"".join(word.encode() + b" " + MATRIX[row].tobytes() + b"\n" for row, word in enumerate(["a", "中国"]))
    (tmp_path / "v.bin").write_bytes(b"2 3\n" + rows)
    assert read_vectors(tmp_path / "v.bin").words == ["a", "中国"]


def test_glove_words_may_hold_spaces(tmp_path):
    (tmp_path / "glove.txt").write_text("the 1 2.5\n. . . -1e-3 4\n\u00a0 0 0\n", encoding="utf-8")
    table = read_vectors(tmp_path / "glove.txt")
    assert table.words == ["the", ". . .", "\u00a0"]
    np.testing.assert_allclose(table.matrix, [[1, 2.5], [-0.001, 4], [0, 0]])


@pytest.mark.parametrize("order", ["plain", "numbered"])
def test_array_with_parquet_words(tmp_path, order):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    np.save(tmp_path / "numbers.npy", MATRIX[:3])
    columns = {"index": ["the", "of", "to"]} if order == "plain" else {"word": ["to", "the", "of"], "row": [2, 0, 1]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "names.parquet")
    table = read_vectors(tmp_path)
    assert table.words == ["the", "of", "to"]
    np.testing.assert_array_equal(table.matrix, MATRIX[:3])


def test_array_with_a_list_of_words(tmp_path):
    np.save(tmp_path / "v.npy", MATRIX[:2].astype(np.float64))
    (tmp_path / "v.txt").write_bytes("the\r\n中国".encode())
    assert read_vectors(tmp_path / "v.npy").words == ["the", "中国"]


def test_own_tables_are_read_too(tmp_path):
    VectorTable(WORDS, MATRIX).save(tmp_path / "v")
    for path in (tmp_path, tmp_path / "v", tmp_path / "v.npy"):
        assert read_vectors(path).words == WORDS


@pytest.mark.parametrize(
    ("content", "format", "where"),
    [
        ("the 1 2\nof 1\n", "auto", ":2"),
        ("the 1 2\nof 1 x\n", "auto", ":2"),
        ("the 1 2\nof 1 nan\n", "auto", ":2"),
        ("2 2\nthe 1 2\n", "auto", "2 words"),
        ("the 1 2\n", "word2vec", ":1"),
        ("the\n", "auto", ":1"),
        ("2 2\nthe ", "word2vec-binary", "cut short"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, content, format, where):
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(DataFormatError, match=where):
        read_vectors(tmp_path / "v.txt", format)


def test_bytes_that_are_not_utf8_name_the_line(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"the 1 2\n\xff\xfe 1 2\n")
    with pytest.raises(DataFormatError, match=":2"):
        read_vectors(tmp_path / "v.txt")


def test_unknown_formats_are_refused(tmp_path):
    (tmp_path / "v.txt").write_text("a 1\n")
    with pytest.raises(ConfigError, match="glove"):
        read_vectors(tmp_path / "v.txt", "elmo")
    with pytest.raises(InputError):
        read_vectors(tmp_path / "nothing")
