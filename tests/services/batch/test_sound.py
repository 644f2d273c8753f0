from __future__ import annotations

import io
import json
import sys
import types

import numpy as np
import pytest
import soundfile

from models.errors import ConfigError, InputError
from models.separator.audio import Recording
from models.separator.writing import Target, write_voices
from services.batch.sound import SoundHandler, default_separator
from tests.bundles import FILES, make_spec


class Halves:
    """A separator whose two voices are half the mixture each."""

    def __init__(self):
        self.progress = []

    def separate_file(self, source, target, *, layout, name, progress):
        with Recording.open(source, name) as recording:
            place = Target(target, ["a", "b"], recording.sample_rate, layout)
            progress(0.0, recording.seconds)
            self.progress.append(name)
            return write_voices((np.stack([block, block]) / 2 for block in recording.mono_blocks()), place)


@pytest.fixture
def tree(tmp_path):
    sound = 0.5 * np.random.default_rng(0).uniform(-1, 1, 4000)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "one.wav", sound, 8000)
    soundfile.write(tmp_path / "in" / "deep" / "two.FLAC", sound, 8000, format="FLAC")
    soundfile.write(tmp_path / "in" / "deep" / "three.mp3", sound, 8000)
    (tmp_path / "in" / "broken.ogg").write_bytes(b"nothing of the kind")
    (tmp_path / "in" / "notes.txt").write_text("not a recording")
    return tmp_path


def outputs(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".convoy" not in path.parts)


def test_a_tree_keeps_its_form_and_a_bad_file_stops_nothing(tree, work_through):
    made = work_through("separate", [tree / "in"], tree / "out", SoundHandler(Halves()))
    assert outputs(tree / "out") == ["deep/three.wav", "deep/two.wav", "manifest.jsonl", "manifest.parquet", "one.wav"]
    assert soundfile.info(tree / "out" / "one.wav").channels == 2
    assert [record.status for record in made] == ["failed", "done", "done", "done"]
    assert made[0].error["code"] == "audio_unsupported"
    assert made[0].error["message"].startswith(f"{tree}/in/broken.ogg: not a recording")
    assert [record.facts for record in made[1:]] == [{"seconds": 0.5}] * 3


def test_named_files_are_read_whatever_their_suffix(tree, work_through):
    (tree / "in" / "one.wav").rename(tree / "in" / "one.recording")
    handler = SoundHandler(Halves(), layout="files", ending=".flac")
    [made] = work_through("separate", [tree / "in" / "*.recording"], tree / "out", handler)
    assert [output.path for output in made.outputs] == ["one-a.flac", "one-b.flac"]


def test_stdin_is_known_by_its_content(tree, monkeypatch, work_through):
    for again in (False, True):
        pipe = io.BytesIO((tree / "in" / "one.wav").read_bytes())
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=pipe))
        [made] = work_through("separate", ["-"], tree / "out", SoundHandler(Halves()))
        assert (made.input, [output.path for output in made.outputs]) == ("-", ["stdin.wav"])
        assert bool(work_through.told) is not again


def test_addresses(tree, work_through):
    [made] = work_through("separate", [f"file://{tree}/in/one.wav"], tree / "out", SoundHandler(Halves()))
    assert [output.path for output in made.outputs] == ["one.wav"]


def test_what_cannot_begin_says_so_before_anything_is_done(tree, work_through):
    handler = SoundHandler(Halves())
    with pytest.raises(InputError, match=r"none: no such input: expected a file, a folder with \.wav"):
        work_through("separate", [tree / "none"], tree / "out", handler)
    with pytest.raises(ConfigError, match="would overwrite its input"):
        work_through("separate", [tree / "in"], tree / "in", handler)
    soundfile.write(tree / "in" / "one.flac", np.zeros(10), 8000)
    with pytest.raises(ConfigError, match="two inputs have the same output"):
        work_through("separate", [tree / "in"], tree / "out", handler)
    assert not handler._separator.progress


def test_scaling_is_told(tree, work_through):
    soundfile.write(tree / "loud.wav", np.full(100, 4.0, np.float32), 8000, subtype="FLOAT")
    [made] = work_through("separate", [tree / "loud.wav"], tree / "out", SoundHandler(Halves(), ending=".flac"))
    assert made.facts == {"seconds": 0.0125, "scale": pytest.approx(0.5, abs=1e-6)}


def _bundle(folder, name, causal):
    from models.bundle import write_bundle

    return write_bundle(folder / name, make_spec(task="separator", name=name, preprocessing={"causal": causal}), FILES)


def test_the_default_bundle(tmp_path):
    whole, causal = _bundle(tmp_path, "b-whole", False), _bundle(tmp_path, "a-causal", True)
    assert json.loads((whole / "bundle.json").read_text())["preprocessing"] == {"causal": False}
    assert default_separator([causal, whole], causal=False) == str(whole)
    assert default_separator([causal, whole], causal=True) == str(causal)
    assert default_separator([causal], causal=False) == str(causal)
    with pytest.raises(ConfigError, match=r"expected a causal separator in pretrained/\. Name one with --bundle"):
        default_separator([whole], causal=True)
    with pytest.raises(ConfigError, match="expected a separator"):
        default_separator([], causal=False)
