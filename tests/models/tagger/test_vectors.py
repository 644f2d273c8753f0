import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from models.errors import DataFormatError, InputError
from models.tagger.vectors import Coverage, VectorTable, read_vectors

WORDS = ["the", "Paris", "paris", "Über", "中国", "\x02中", "😀", ". . .", "\u2028", "x\r"]
MATRIX = np.arange(len(WORDS) * 3, dtype=np.float32).reshape(-1, 3) / 4
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), min_size=1)


@pytest.fixture
def table():
    return VectorTable(WORDS, MATRIX)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["vectors", "vectors.npy", "a.b"])
def test_saved_tables_open_as_they_were(tmp_path, dtype, name):
    VectorTable(WORDS, MATRIX.astype(dtype)).save(tmp_path / "deep" / name)
    for path in (tmp_path / "deep" / name, tmp_path / "deep"):
        opened = VectorTable.open(path)
        assert isinstance(opened.matrix, np.memmap)
        assert opened.matrix.dtype == dtype
        assert opened.words == WORDS
        np.testing.assert_array_equal(opened.matrix, MATRIX)
        assert opened.rows(WORDS).tolist() == list(range(len(WORDS)))
    assert len(list((tmp_path / "deep").iterdir())) == 2  # no partial files are left


@given(st.lists(TEXTS, max_size=40), st.lists(TEXTS, max_size=40))
def test_rows_are_exact_then_lower_case(words, asked):
    table = VectorTable(words, np.zeros((len(words), 2), np.float16))
    first = {word: row for row, word in reversed(list(enumerate(words)))}
    asked = asked + words + [word.upper() for word in words]
    expected = [first.get(word, first.get(word.lower(), -1)) for word in asked]
    rows = table.rows(asked)
    assert rows.dtype == np.int64
    assert rows.tolist() == expected


def test_words_of_one_checksum_are_told_apart():
    same = ("plumless", "buckeroo")  # the classic pair
    assert crc32(same[0].encode()) == crc32(same[1].encode())
    assert VectorTable(same, np.zeros((2, 1), np.float32)).rows(same[::-1]).tolist() == [1, 0]
    assert VectorTable(same[:1], np.zeros((1, 1), np.float32)).rows(same[::-1]).tolist() == [-1, 0]


def test_lone_surrogates_and_nothing_are_unknown(table):
    assert table.rows(["\ud83d", "", "the\n"]).tolist() == [-1, -1, -1]
    assert table.rows([]).shape == (0,)
    assert VectorTable([], np.zeros((0, 3), np.float32)).rows(["a"]).tolist() == [-1]


def test_coverage_counts_each_occurrence(table):
    coverage = table.coverage(["the", "The", "the", "Paris", "nothing"])
    assert coverage == Coverage(exact=3, lower=1, unknown=1)
    assert str(coverage) == "5 words: exact 60.00%, lower case 20.00%, unknown 20.00%"
    assert table.coverage([]).total == 0
    assert str(table.coverage([])).startswith("0 words")


def test_head_keeps_the_first_rows(table):
    head = table.head(2)
    assert (head.words, head.dim, len(head)) == (WORDS[:2], 3, 2)


@pytest.mark.parametrize(
    ("words", "matrix"),
    [
        (["a"], np.zeros((2, 2), np.float32)),
        (["a"], np.zeros((1, 2), np.float64)),
        (["a"], np.zeros(1, np.float32)),
        ([""], np.zeros((1, 2), np.float32)),
        (["a\nb"], np.zeros((1, 2), np.float32)),
        (["\ud800"], np.zeros((1, 2), np.float32)),
        (["a"], np.full((1, 2), np.nan, np.float32)),
    ],
)
def test_what_is_no_table_is_refused(words, matrix):
    with pytest.raises(DataFormatError):
        VectorTable(words, matrix)


@pytest.mark.parametrize("damage", ["cut words", "bad words", "cut array", "pickle", "fewer words"])
def test_damaged_files_are_refused(tmp_path, table, damage):
    array, words = tmp_path / "v.npy", tmp_path / "v.words.txt"
    table.save(tmp_path / "v")
    if damage == "cut words":
        words.write_bytes(words.read_bytes()[:-1])
    elif damage == "bad words":
        words.write_bytes(b"the\n\xff\n")
    elif damage == "cut array":
        array.write_bytes(array.read_bytes()[:100])
    elif damage == "pickle":
        np.save(array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        words.write_bytes(b"the\n")
    with pytest.raises(DataFormatError, match="v"):
        VectorTable.open(tmp_path / "v")


def test_missing_tables_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "v"):
        with pytest.raises(InputError):
            VectorTable.open(path)


def test_vectors_are_real_numbers_and_zeros_for_unknown_words(table):
    rows = table.rows(["PARIS", "nothing", "the"])
    vectors = VectorTable(WORDS, MATRIX.astype(np.float16)).vectors(rows)
    assert (vectors.dtype, type(vectors)) == (np.float32, np.ndarray)
    np.testing.assert_array_equal(vectors, [MATRIX[2], [0, 0, 0], MATRIX[0]])
    assert table.vectors(np.empty(0, np.int64)).shape == (0, 3)
    assert VectorTable([], np.zeros((0, 3), np.float32)).vectors(np.array([-1])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 2.0**100), (np.float16, 60000)])
@given(data=st.data())
def test_quantised_numbers_are_off_by_half_a_scale_at_most(dtype, largest, data):
    width = np.dtype(dtype).itemsize * 8
    shape = st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
    matrix = data.draw(st_numpy.arrays(dtype, shape, elements=st.floats(-largest, largest, width=width)))
    table = VectorTable(map(str, range(len(matrix))), matrix).quantised()
    assert (table.matrix.dtype, table.scale.dtype, table.scale.shape) == (np.int8, np.float32, (table.dim,))
    tiny = np.finfo(np.float32).tiny
    peaks = np.abs(matrix).max(axis=0).astype(np.float32)
    np.testing.assert_allclose(table.scale, np.maximum(peaks / 127, tiny), rtol=1e-6)
    errors = np.abs(table.vectors(np.arange(len(matrix))).astype(np.float64) - matrix.astype(np.float64))
    assert (errors <= table.scale.astype(np.float64) * (0.5 + 1e-4)).all()


def test_quantising_keeps_words_zeros_and_quantised_tables():
    matrix = np.array([[0, 1, -127], [0, 0.25, 63.4]], np.float32)
    table = VectorTable(["a", "b"], matrix).quantised()
    assert table.words == ["a", "b"]
    assert table.matrix.tolist() == [[0, 127, -127], [0, 32, 63]]
    assert table.quantised() is table
    empty = VectorTable([], np.zeros((0, 3), np.float32)).quantised()
    assert (len(empty), empty.dim) == (0, 3)


def test_quantised_tables_open_as_they_were(tmp_path, table):
    quantised = table.quantised()
    quantised.save(tmp_path / "v")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v.npy", "v.scale.npy", "v.words.txt"]
    rows = np.arange(len(table))
    for path in (tmp_path / "v", tmp_path / "v.npy", tmp_path):
        opened = VectorTable.open(path)
        assert isinstance(opened.matrix, np.memmap)
        assert opened.matrix.dtype == np.int8
        np.testing.assert_array_equal(opened.vectors(rows), quantised.vectors(rows))
        head = opened.head(2)
        assert (head.words, len(head)) == (WORDS[:2], 2)
        np.testing.assert_array_equal(head.vectors(rows[:2]), quantised.vectors(rows[:2]))
        read = read_vectors(path)
        assert read.matrix.dtype == np.float32
        np.testing.assert_array_equal(read.matrix, quantised.vectors(rows))


def test_a_scale_does_not_outlive_its_table(tmp_path, table):
    table.quantised().save(tmp_path / "v")
    table.save(tmp_path / "v")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v.npy", "v.words.txt"]
    assert VectorTable.open(tmp_path / "v").scale is None


@pytest.mark.parametrize(
    "scale",
    [
        None,
        np.ones(2, np.float32),
        np.ones((1, 3), np.float32),
        np.ones(3, np.float64),
        np.array([1, np.nan, 1], np.float32),
        np.array([1, -1, 1], np.float32),
    ],
)
def test_an_int8_table_needs_its_scale(tmp_path, table, scale):
    quantised = table.quantised()
    with pytest.raises(DataFormatError, match="scale"):
        VectorTable(WORDS, quantised.matrix, scale)
    quantised.save(tmp_path / "v")
    if scale is None:
        (tmp_path / "v.scale.npy").unlink()
    else:
        np.save(tmp_path / "v.scale.npy", scale)
    with pytest.raises(DataFormatError, match="scale"):
        VectorTable.open(tmp_path / "v")


def test_only_int8_has_a_scale():
    with pytest.raises(DataFormatError, match="only int8"):
        VectorTable(WORDS, MATRIX, np.ones(3, np.float32))


def test_what_is_not_finite_cannot_be_quantised(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1, np.inf]], np.float32))
    (tmp_path / "v.words.txt").write_text("a\n")
    with pytest.raises(DataFormatError, match="finite"):
        VectorTable.open(tmp_path / "v").quantised()


def test_vectors_and_labels_load_without_the_runtime():
    code = (
        "import sys; import models.tagger.labels, models.tagger.vectors; "
        "loaded = {'openvino', 'models.runtime', 'models.tagger.predictor'} & set(sys.modules); "
        "assert not loaded, loaded; "
        "from models.tagger import TaggedSpan, TaggedText, TaggedToken, Tagger; "
        "assert Tagger.__module__ == 'models.tagger.predictor', Tagger; "
        "import models.tagger; assert not hasattr(models.tagger, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
