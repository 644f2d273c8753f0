"""The bundles in pretrained/: whole, as good as the README says, and able to do what its examples show."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from models.bundle import open_bundle
from models.segmenter import Segmenter
from models.separator import Separator
from models.tagger import Tagger

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = ROOT / "pretrained"
SAMPLES = ROOT / "services" / "page" / "samples"
BUNDLES = sorted(path.parent.name for path in PRETRAINED.glob("*/bundle.json"))
# Row of the README's tables, figure of the bundle, how the README writes it.
FIGURES = {
    "tagger-en": [("accuracy", "accuracy", "{:.2%}"), ("expected calibration error", "calibration.error", "{:.4f}")],
    "tagger-zh": [("word F1", "words_f1", "{:.2%}"), ("word and part-of-speech F1", "joint_f1", "{:.2%}")],
    "separator-2speakers": [("SI-SNR better by", "si_snri", "{:.2f} dB"), ("SDR better by", "sdri", "{:.2f} dB")],
    "separator-2speakers-causal": [("SI-SNR better by", "si_snri", "{:.2f} dB"), ("SDR better by", "sdri", "{:.2f} dB")],
    "segmenter-hippocampus": [
        ("Dice of the first class", "classes.Anterior.dice", "{:.4f}"),
        ("… of the second", "classes.Posterior.dice", "{:.4f}"),
        ("surface Dice, 1 mm", "surface_dice", "{:.4f}"),
    ],
    "segmenter-flyem-boundaries": [
        ("Dice of the first class", "classes.boundary.dice", "{:.4f}"),
        ("IoU of the first class", "classes.boundary.iou", "{:.4f}"),
    ],
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_is_whole_and_has_a_card(name):
    bundle = open_bundle(PRETRAINED / name)
    assert bundle.spec.name == name
    assert bundle.spec.figures
    card = bundle.file("CARD.md").read_text("utf-8")
    assert all(f"## {part}" in card for part in ("Trained on", "Figures", "Recipe", "Limits"))
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) < 25e6


@pytest.mark.parametrize("path", sorted(PRETRAINED.glob("*/*.onnx")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_networks_tell_nothing_of_the_machine_that_wrote_them(path):
    graph = onnx.load(path).graph
    assert graph.node
    assert not [part.name for part in (*graph.node, *graph.initializer) if part.metadata_props or part.doc_string]
    assert b".py" not in path.read_bytes()


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_readme_tells_the_bundles_figures(name, readme):
    text = (ROOT / readme).read_text("utf-8")
    figures = open_bundle(PRETRAINED / name).spec.figures
    for _, figure, form in FIGURES[name]:
        # A space before the percent sign is the README's.
        assert form.format(figures[figure]).replace("%", " %") in text, figure


def test_the_readmes_tables_have_each_figure_in_its_row():
    rows = [re.split(r" *\| *", line)[1:-1] for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    for name in BUNDLES:
        header = next(row for row in rows if f"`{name}`" in row)
        column = header.index(f"`{name}`")
        below = rows[rows.index(header) :]
        for title, figure, form in FIGURES[name]:
            row = next(row for row in below if row[0] == title)
            value = open_bundle(PRETRAINED / name).spec.figures[figure]
            assert row[column] == form.format(value).replace("%", " %"), (name, title)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tagger-en", "Ada Lovelace lived in London.", "Ada/PROPN Lovelace/PROPN lived/VERB in/ADP London/PROPN ./PUNCT"),
        ("tagger-zh", "我爱北京天安门。", "我/r 爱/v 北京/ns 天安门/ns 。/w"),
    ],
)
def test_taggers_answer_as_the_readme_shows(name, text, expected):
    [tagged] = Tagger.load(PRETRAINED / name).tag([text])
    assert " ".join(f"{token.text}/{token.label}" for token in tagged.tokens) == expected


@pytest.mark.parametrize(("name", "least"), [("separator-2speakers", 5.0), ("separator-2speakers-causal", 3.0)])
def test_separators_take_the_sample_apart(name, least):
    """By so many dB of SI-SNR better than the mixture itself, each voice with its own."""
    mixture, rate = soundfile.read(SAMPLES / "two-speakers.flac", dtype="float32")
    wanted = [soundfile.read(SAMPLES / f"two-speakers-{number}.flac", dtype="float32")[0] for number in (1, 2)]
    voices = Separator.load(PRETRAINED / name).separate(mixture, rate)
    np.testing.assert_allclose(voices.sum(0), mixture, atol=1e-5)
    before = np.mean([si_snr(mixture, each) for each in wanted])
    orders = [zip(voices[list(order)], wanted, strict=True) for order in ((0, 1), (1, 0))]
    after = max(np.mean([si_snr(voice, each) for voice, each in order]) for order in orders)
    assert after - before > least


def test_a_stream_gives_what_the_whole_recording_gives():
    separator = Separator.load(PRETRAINED / "separator-2speakers-causal")
    mixture, rate = soundfile.read(SAMPLES / "two-speakers.flac", dtype="float32")
    stream, random, start, pieces = separator.stream(rate), np.random.default_rng(0), 0, []
    while start < len(mixture):
        size = int(random.integers(1, 2000))
        pieces.append(stream.push(mixture[start : start + size]))
        start += size
    live = np.concatenate([*pieces, stream.flush()], axis=1)
    np.testing.assert_allclose(live, separator.separate(mixture, rate), atol=1e-4)


def test_the_sample_of_a_brain_is_segmented_on_its_own_grid():
    """An adult's hippocampus has 2 to 5 ml, and its anterior part lies before its posterior part."""
    found = Segmenter.load(PRETRAINED / "segmenter-hippocampus").segment(SAMPLES / "hippocampus-mni152.nii.gz")
    assert found.labels.shape == found.grid.shape == (38, 52, 36)
    assert 2 < sum(each.millilitres for each in found.classes[1:]) < 6
    front, back = (np.argwhere(found.labels == label).mean(0)[1] for label in (1, 2))
    assert front > back + 10


def si_snr(estimate: np.ndarray, target: np.ndarray) -> float:
    estimate, target = (each.astype(np.float64) - each.mean() for each in (estimate, target))
    projection = target * (estimate @ target) / (target @ target)
    return 10 * np.log10((projection @ projection) / ((estimate - projection) ** 2).sum())
