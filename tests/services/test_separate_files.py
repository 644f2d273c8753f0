from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import ConfigError, InputError
from models.separator.audio import Recording
from models.separator.writing import Target, write_voices
from services.separate_files import default_separator, separate_files
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
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_tree_keeps_its_form_and_a_bad_file_stops_nothing(tree, capsys):
    separator = Halves()
    assert separate_files([str(tree / "in")], tree / "out", separator, "channels", ".wav") == 1
    assert outputs(tree / "out") == ["deep/three.wav", "deep/two.wav", "one.wav"]
    assert soundfile.info(tree / "out" / "one.wav").channels == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0].startswith("1/4 error: ")
    assert "broken.ogg: not a recording" in said[0]
    assert said[1:] == [f"{number}/4 {tree}/in/{name}: 0.5 s → {tree}/out/{made}" for number, name, made in [
        (2, "deep/three.mp3", "deep/three.wav"), (3, "deep/two.FLAC", "deep/two.wav"), (4, "one.wav", "one.wav")
    ]]  # fmt: skip


def test_named_files_are_read_whatever_their_suffix(tree):
    (tree / "in" / "one.wav").rename(tree / "in" / "one.recording")
    assert separate_files([str(tree / "in" / "*.recording")], tree / "out", Halves(), "files", ".flac") == 0
    assert outputs(tree / "out") == ["one-a.flac", "one-b.flac"]


def test_stdin(tree, monkeypatch):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    content = Pipe((tree / "in" / "one.wav").read_bytes())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=content))
    assert separate_files(["-"], tree / "out", Halves(), "channels", ".wav") == 0
    assert outputs(tree / "out") == ["stdin.wav"]


def test_addresses(tree):
    assert separate_files([f"file://{tree}/in/one.wav"], tree / "out", Halves(), "channels", ".wav") == 0
    assert outputs(tree / "out") == ["one.wav"]


def test_what_cannot_begin_says_so_before_anything_is_done(tree):
    separator = Halves()
    with pytest.raises(InputError, match=r"none: no such input: expected a file, a folder with \.wav"):
        separate_files([str(tree / "none")], tree / "out", separator, "channels", ".wav")
    with pytest.raises(ConfigError, match="would overwrite its input"):
        separate_files([str(tree / "in")], tree / "in", separator, "channels", ".wav")
    soundfile.write(tree / "in" / "one.flac", np.zeros(10), 8000)
    with pytest.raises(ConfigError, match="two inputs have the same output"):
        separate_files([str(tree / "in")], tree / "out", separator, "channels", ".wav")
    assert not separator.progress


def test_an_input_is_not_overwritten_by_way_of_its_parent(tree, monkeypatch):
    monkeypatch.chdir(tree / "in")
    before = (tree / "in" / "one.wav").read_bytes()
    with pytest.raises(ConfigError, match="would overwrite its input"):
        separate_files(["one.wav"], Path("../in"), Halves(), "channels", ".wav")
    assert (tree / "in" / "one.wav").read_bytes() == before


def test_scaling_is_told(tree, capsys):
    soundfile.write(tree / "loud.wav", np.full(100, 4.0, np.float32), 8000, subtype="FLOAT")
    assert separate_files([str(tree / "loud.wav")], tree / "out", Halves(), "channels", ".flac") == 0
    assert capsys.readouterr().err.endswith("scaled by 0.5 so that nothing clips\n")


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
