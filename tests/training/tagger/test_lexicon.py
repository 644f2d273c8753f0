from __future__ import annotations

import gzip

import pytest

from models.errors import ConfigError, DataFormatError
from training.tagger.lexicon import read_lexicon

CEDICT = """# CC-CEDICT
#! version=1
% % [pa1] /percent (Tw)/
2019冠狀病毒病 2019冠状病毒病 [er4 ling2 yi1 jiu3 guan1 zhuang4] /COVID-19/
3Ｃ 3Ｃ [san1 C] /computers/
銀行 银行 [yin2 hang2] /bank/CL:家[jia1]/
銀 银 [yin2] /silver/
銀行 银行 [yin2 xing2] /(old) bank/
中華人民共和國 中华人民共和国 [Zhong1 hua2 Ren2 min2 Gong4 he2 guo2] /People's Republic of China/
中國共產黨中央委員會 中国共产党中央委员会 [Zhong1 guo2] /Central Committee/
以眼還眼，以牙還牙 以眼还眼，以牙还牙 [yi3 yan3] /an eye for an eye/
"""


@pytest.mark.parametrize("name", ["cedict.txt", "cedict.txt.gz"])
def test_of_cedict_the_simplified_words_are_read(tmp_path, name):
    content = CEDICT.replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_lexicon(str(tmp_path / name), True) == ["中华人民共和国", "银行"]


def test_a_list_of_words_is_read(tmp_path):
    (tmp_path / "words.txt").write_text("# mine\n 上海 \n\n北京\n上海\n銀 行\nABC\n", "utf-8")
    assert read_lexicon(str(tmp_path / "words.txt"), False) == ["上海", "北京"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", b"no gzip"),
        ("a.gz", gzip.compress(CEDICT.encode(), mtime=0)[:80]),
        ("a.txt", b"\xff\xfe"),
        ("a.txt", b"# nothing\nabc\n"),
    ],
    ids=["no gzip", "cut", "no text", "no word"],
)
def test_what_is_no_lexicon_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=name):
        read_lexicon(str(tmp_path / name), True)


def test_a_missing_lexicon_says_where_it_comes_from(tmp_path):
    with pytest.raises(ConfigError, match="convoy fetch cedict"):
        read_lexicon(str(tmp_path / "none.gz"), True)
