"""Corpora of labelled sentences: one reader for each format, and a split that does not leak.

from training.tagger.corpora import read_corpus, split
sentences = list(read_corpus("en_ewt-ud-train.conllu"))
train, dev = split(sentences, [0.9, 0.1], seed=1)
"""

from training.tagger.corpora.reading import FORMATS, guess_format, read_corpus
from training.tagger.corpora.sentence import Sentence, align, cut
from training.tagger.corpora.splitting import split

__all__ = ["FORMATS", "Sentence", "align", "cut", "guess_format", "read_corpus", "split"]
