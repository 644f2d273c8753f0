from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from models.bundle import open_bundle
from models.bundle_spec import NetworkSpec, PrecisionParity
from models.errors import BundleError, ConfigError
from models.runtime import Runtime
from models.tagger import Tagger
from tests.tiny import tiny_tagger_bundle
from training import export as export_module
from training.export import Card, Exported, export_bundle, flatten, read_card, read_figures, write_card

CARD = Card(name="x", languages=["en"], licence="MIT", summary="Does it.", data=[], recipe="convoy fit", limits="None known.")
EXPORTED = Exported(["A", "B"], {}, NetworkSpec(class_name="m:N", arguments={}), {"w": torch.zeros(2, 3)}, {}, {})


# ── the card ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("bf16", "said"), [(None, "not measured in bf16"), (0.0123, "0.012 in bf16")])
def test_the_card_says_what_was_measured(bf16, said):
    card = write_card(CARD, EXPORTED, {"accuracy": 0.95123, "tokens": 12, "a.b.c": 1.0}, PrecisionParity(f32=1e-6, bf16=bf16))
    assert f"1e-06 in f32, {said}" in card
    assert "| accuracy | 0.9512 |" in card
    assert "| tokens | 12 |" in card
    assert "a.b.c" not in card
    assert "6 parameters" in card
    assert "None were measured" in write_card(CARD, EXPORTED, {}, PrecisionParity(f32=0.0))


def test_figures_are_flattened():
    figures = {"accuracy": 0.9, "per": {"NOUN": {"f1": 0.5}, "list": [1, 2]}, "name": "dev", "nothing": None}
    assert flatten(figures) == {"accuracy": 0.9, "per.NOUN.f1": 0.5, "name": "dev"}


GOOD = "name: x\nlanguages: [en]\nlicence: MIT\nsummary: s\ndata: []\nrecipe: r\nlimits: l\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot read the card"),
        (GOOD.replace("licence: MIT\n", ""), "licence"),
        (GOOD + "colour: red\n", "colour"),
        (GOOD.replace("name: x", "name: 3"), "name"),
        (GOOD.replace("data: []", "data: [{name: EWT}]"), r"data\.0\.source"),
        ("", "card"),
    ],
)
def test_a_card_that_is_not_complete(tmp_path, text, said):
    (tmp_path / "card.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=said):
        read_card(tmp_path / "card.yaml")


def test_a_missing_card(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_card(tmp_path / "nowhere.yaml")


# ── the checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────────


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_checkpoint_is_not_unpickled(tmp_path, capsys):
    torch.save({"task": "tagger", "trap": Trap()}, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="safely"):
        export_bundle(tmp_path / "x.ckpt", tmp_path / "bundle")
    assert "unpickled" not in capsys.readouterr().out
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2]], ids=["no task", "a list"])
def test_another_programs_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="task"):
        export_bundle(tmp_path / "x.ckpt", tmp_path / "bundle")


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"x\.ckpt"):
        export_bundle(tmp_path / "x.ckpt", tmp_path / "bundle")


# ── the bundle ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["en", "zh"])
def bundle(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "capabilities", lambda: ["FP32"])
        return tiny_tagger_bundle(tmp_path_factory.mktemp("export"), request.param)


def test_where_bf16_cannot_be_measured_the_bundle_says_so(bundle):
    parity = open_bundle(bundle).spec.parity
    assert parity.precision.bf16 is None
    assert parity.precision.f32 == parity.max_abs_difference < 1e-4
    assert "not measured in bf16" in (bundle / "CARD.md").read_text("utf-8")
    assert json.loads((bundle / "bundle.json").read_text("utf-8"))["parity"]["precision"]["bf16"] is None
    assert {Tagger.load(bundle).packer.words.precision, Tagger.load(bundle).packer.context.precision} == {"f32"}


def test_weights_are_there_to_start_from(bundle):
    """The class and arguments that the bundle names take the weights that it holds."""
    from models.layers import Convolution
    from models.tagger.network import Letters, TextCNN, TextCNNSettings

    spec, weights = open_bundle(bundle).spec, load((bundle / "network.safetensors").read_bytes())
    arguments = json.loads(json.dumps(spec.network.arguments))
    arguments["stack"] = [Convolution(**each) for each in arguments["stack"]]
    if arguments["letters"]:
        arguments["letters"]["convolutions"] = [Convolution(**each) for each in arguments["letters"]["convolutions"]]
        arguments["letters"] = Letters(**arguments["letters"])
    assert spec.network.class_name == "models.tagger.network:TextCNN"
    network = TextCNN(TextCNNSettings(**arguments))
    assert not network.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.items()}).missing_keys


def test_transitions_are_those_of_the_scheme(bundle):
    if "crf.npy" not in open_bundle(bundle).spec.files:
        assert open_bundle(bundle).spec.preprocessing["decoder"] == "softmax"
        return
    packed, labels = np.load(bundle / "crf.npy"), open_bundle(bundle).spec.labels
    assert packed.shape == (len(labels) + 2, len(labels))
    forbidden = packed < -5000
    for number, label in enumerate(labels):
        assert forbidden[0, number] == (label[0] in "ME")
        assert forbidden[-1, number] == (label[0] in "BM")
        for following, other in enumerate(labels):
            follows = other[0] in "ME" and other[1:] == label[1:] if label[0] in "BM" else other[0] in "BS"
            assert forbidden[1 + number, following] != follows


def test_a_bundle_that_is_cut_short_is_found_out(bundle, tmp_path):
    import shutil

    shutil.copytree(bundle, tmp_path / "cut")
    (tmp_path / "cut/network.onnx").write_bytes((bundle / "network.onnx").read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"network\.onnx"):
        Tagger.load(tmp_path / "cut")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "JSON"),
        ("[1]", "an object, got list"),
        ('{"a": {"b": NaN}}', r"a\.b: a figure is no number"),
        ('{"a": 1e999}', "inf"),
    ],
)
def test_figures_that_are_none_are_refused(tmp_path, content, message):
    (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"metrics\.json.*{message}"):
        read_figures(tmp_path / "metrics.json")


def test_weights_are_halved_where_that_loses_nothing(tmp_path):
    """The same answers to the last bit, from half the file; numbers that 16 bits do not hold stay."""
    torch.manual_seed(0)
    exact = export_module.rounded(torch.nn.Linear(96, 96))
    wide = torch.nn.Linear(96, 96)
    huge = torch.nn.Linear(96, 96)
    torch.nn.init.constant_(huge.weight, 1e6)
    for name, network, share in (("exact", exact, 0.6), ("wide", wide, 1.01), ("huge", huge, 1.01)):
        path = tmp_path / f"{name}.onnx"
        graph = export_module.Graph(network, {"x": torch.randn(1, 96)}, ["y"], {})
        export_module.write_onnx(graph, path)
        before, size = Runtime(path).run({"x": graph.inputs["x"].numpy()})["y"], path.stat().st_size
        export_module.halve(path)
        assert path.stat().st_size < share * size
        assert np.array_equal(Runtime(path).run({"x": graph.inputs["x"].numpy()})["y"], before)


def test_no_line_of_code_by_its_path_is_exported(tmp_path):
    """torch writes the stack of each operation into the file."""
    torch.manual_seed(0)
    network, path = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()), tmp_path / "network.onnx"
    graph = export_module.Graph(network, {"x": torch.randn(1, 8)}, ["y"], {})
    export_module.write_onnx(graph, path)
    before = Runtime(path).run({"x": graph.inputs["x"].numpy()})["y"]
    assert b".py" in path.read_bytes()
    export_module.strip(path)
    assert b".py" not in path.read_bytes()
    assert np.array_equal(Runtime(path).run({"x": graph.inputs["x"].numpy()})["y"], before)


def test_torch_does_not_speak_of_torchvision(tmp_path):
    """It would warn of four operators that no network has."""
    said: list[logging.LogRecord] = []
    listener, exporter = logging.Handler(), logging.getLogger("torch.onnx._internal.exporter")
    listener.emit = said.append
    exporter.addHandler(listener)
    try:
        graph = export_module.Graph(torch.nn.Linear(2, 2), {"x": torch.randn(1, 2)}, ["y"], {})
        export_module.write_onnx(graph, tmp_path / "network.onnx")
    finally:
        exporter.removeHandler(listener)
    assert not [record.getMessage() for record in said if record.levelno >= logging.WARNING]
