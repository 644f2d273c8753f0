from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from models.bundle import open_bundle
from models.errors import BundleError, ConfigError
from models.segmenter.network import UNetSettings
from models.separator.network import ConvTasNet, ConvTasNetSettings
from tests.tiny import tiny_segmenter_bundle, tiny_segmenter_network, tiny_separator_bundle, tiny_separator_network
from training.segmenter.module import SegmenterModule
from training.segmenter.module import meaning as segmenter_meaning
from training.separator.growth import grown, meaning
from training.start import start_from

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_separator_bundle(tmp_path_factory.mktemp("bundle"))


def test_a_network_gets_the_weights_of_a_bundle(bundle):
    trained = tiny_separator_network(causal=False)
    network = ConvTasNet(trained.settings)
    start_from(network, bundle, meaning)
    for name, weights in trained.state_dict().items():
        assert network.state_dict()[name].dtype == torch.float32
        assert torch.equal(network.state_dict()[name], weights.half().float()), name


def test_another_network_is_refused_and_left_as_it_is(bundle):
    network = ConvTasNet(ConvTasNetSettings(filters=32, length=16, bottleneck=16, skip=16, hidden=20, blocks=3, repeats=2))
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"another one.*'hidden': 24.*separator\.blocks\.0\.depthwise"):
        start_from(network, bundle, meaning)
    assert all(torch.equal(before[name], weights) for name, weights in network.state_dict().items())


def test_no_bundle_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        start_from(tiny_separator_network(causal=False), tmp_path / "nowhere", meaning)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask": "relu"}, r"expected mask sigmoid, got mask relu.*network\.mask"),
        ({"norm": "cLN"}, "expected norm gLN, got norm cLN"),
        ({"norm": "cLN", "causal": True}, "expected norm gLN, causal False, got norm cLN, causal True"),
        ({"hop": 4}, "expected hop 8, got hop 4"),
        ({"encoder": "relu"}, "expected encoder linear, got encoder relu"),
        ({"mixture_consistency": False}, "expected mixture_consistency True, got mixture_consistency False"),
        ({"pad": False}, "expected pad True, got pad False"),
        ({"blocks": 4}, "expected blocks 3, got blocks 4"),
        ({"blocks": 2, "repeats": 3}, "expected blocks 3, got blocks 2"),
    ],
)
def test_a_network_whose_weights_fit_but_mean_something_else_is_refused(bundle, change, told):
    network = ConvTasNet(replace(tiny_separator_network(causal=False).settings, **change))
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    with pytest.raises(ConfigError, match=told):
        start_from(network, bundle, meaning, adapt=grown)
    assert all(torch.equal(before[name], weights) for name, weights in network.state_dict().items())


def test_settings_that_change_nothing_may_differ(bundle):
    settings = replace(tiny_separator_network(causal=False).settings, hop=8, initialisation="he", repeats=3)
    start_from(ConvTasNet(settings), bundle, meaning, adapt=grown)
    start = str(tiny_segmenter_bundle(bundle.parent))
    settings = replace(tiny_segmenter_network().settings, steps=((2, 2, 2),), statistics="current")
    SegmenterModule(settings, start=start)
    with pytest.raises(ConfigError, match="expected activation leaky_relu, got activation relu"):
        SegmenterModule(replace(settings, activation="relu"), start=start)


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "pretrained").glob("se*-*"))])
def test_configs_go_on_from_the_published_bundle_of_their_name(name):
    told = open_bundle(ROOT / "pretrained" / name).spec.network.arguments
    network = yaml.safe_load((ROOT / f"training/configs/{name}.yaml").read_text("utf-8"))["model"]["init_args"]["network"]
    kind, same = (ConvTasNetSettings, meaning) if name.startswith("separator") else (UNetSettings, segmenter_meaning)
    own, its = (json.loads(json.dumps(same({**asdict(kind()), **each}))) for each in (network, told))
    assert own == its
