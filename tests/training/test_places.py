"""How batches are made: by whom, how far ahead, out of which cache. Which they are does not depend on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.errors import ConfigError, OutputError
from tests.scans import write_decathlon
from tests.training.corpora import conllu
from tests.training.separator.speakers import write_speakers
from training.places import loading
from training.segmenter.augmentation import Augmentation
from training.segmenter.data import SegmenterData, Split
from training.segmenter.patches import Drawing
from training.separator.data import MixtureList, SeparatorData, Stage
from training.separator.speech import Recordings
from training.tagger.data import Corpus, TableSettings, TaggerData

WAYS = [{}, {"workers": 1, "prefetch": 1}, {"workers": 2, "prefetch": 3}]


def flat(batch) -> list[torch.Tensor]:
    """The tensors of a batch of any task."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = batch if isinstance(batch, tuple) else vars(batch).values()
    return [tensor for part in parts for tensor in (part.values() if isinstance(part, dict) else flat(part))]


def drawn(data) -> list[torch.Tensor]:
    data.setup("fit")
    return [tensor for batch in data.train_dataloader() for tensor in flat(batch)]


def all_the_same(ways: list[list[torch.Tensor]]) -> bool:
    first, *others = ways
    assert len(first) > 4
    return all(len(first) == len(other) and all(map(torch.equal, first, other)) for other in others)


def test_batches_of_sentences(tmp_path):
    path = tmp_path / "train.conllu"
    path.write_text(conllu(60), "utf-8")
    corpora, tables = [Corpus(str(path))], [TableSettings("learned", dimensions=4, trainable=True)]
    assert all_the_same([drawn(TaggerData(corpora, tables=tables, batch_tokens=64, **way)) for way in WAYS])


def test_batches_of_mixtures_whatever_the_cache(tmp_path):
    folder = tmp_path / "speech"
    write_speakers(folder, 3, rate=11_025)
    (folder / "list.csv").write_text("source_1,source_2,level\n" + "speaker_0/0.flac,speaker_1/0.flac,1\n" * 3, "utf-8")
    ways = [way | {"keep": True} for way in WAYS]
    ways += [way | {"cache": str(tmp_path / f"cache{number // 2}")} for number, way in enumerate([*WAYS, {}])]

    def data(**way):
        return SeparatorData(str(folder), MixtureList(f"{folder}/list.csv"), stages=[Stage(0, 0.4, 2)], batches=5, **way)

    assert all_the_same([drawn(data(**way)) for way in ways])
    judged = [[tensor for batch in data(**way).val_dataloader() for tensor in flat(batch)] for way in ways]
    assert all_the_same(judged)


def test_batches_of_patches_whether_their_volumes_are_prepared_or_not(tmp_path):
    folder = write_decathlon(tmp_path / "task", 3)

    def data(cache, **way):
        settings = {"split": Split(folds=1), "plan": str(tmp_path / "plan.json"), "cache": str(tmp_path / cache)}
        drawing = Drawing(patch=(8, 8, 8))
        return SegmenterData(str(folder), drawing=drawing, augmentation=Augmentation(), batches=6, **settings, **way)

    assert all_the_same([*(drawn(data("warm", **way)) for way in WAYS), drawn(data("cold"))])


@pytest.mark.parametrize(("settings", "named"), [((-1, 2), "workers"), ((0, 0), "prefetch"), ((2, -1), "prefetch")])
def test_numbers_that_are_none(settings, named):
    with pytest.raises(ConfigError, match=named):
        loading(*settings)


# ---- decoded speech on disk


def decoded(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_decoded_speech_is_mapped_by_all_and_made_again_where_a_file_has_changed(tmp_path):
    write_speakers(tmp_path / "speech", 2, files=1)
    cache = tmp_path / "cache"

    def read(keep=True):
        recordings = Recordings(str(tmp_path / "speech"), 8000, keep, cache=str(cache))
        return recordings.read(recordings.recordings[0][0], 0.25, 0.5)

    first = read()
    kept = Recordings(str(tmp_path / "speech"), 8000)
    assert np.array_equal(first, kept.read(kept.recordings[0][0], 0.25, 0.5))
    [file] = decoded(cache)  # the other speaker's was not asked for
    made = file.stat().st_mtime_ns
    assert np.array_equal(read(keep=False), first)
    assert file.stat().st_mtime_ns == made
    soundfile.write(tmp_path / "speech" / "speaker_0" / "0.flac", np.full(9000, 0.25), 8000)
    assert np.allclose(read(), 0.25, atol=1e-4)
    assert len(decoded(cache)) == 2


def test_decoding_that_was_interrupted_leaves_nothing(tmp_path, monkeypatch):
    write_speakers(tmp_path / "speech", 2, files=1)
    recordings = Recordings(str(tmp_path / "speech"), 8000, cache=str(tmp_path / "cache"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space"):
            recordings.read(recordings.recordings[0][0], 0.0, 0.5)
    assert not decoded(tmp_path / "cache")
    assert len(recordings.read(recordings.recordings[0][0], 0.0, 0.5)) == 4000
