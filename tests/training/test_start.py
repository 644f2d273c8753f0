from __future__ import annotations

import pytest
import torch

from models.errors import BundleError, ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings
from tests.tiny import tiny_separator_bundle, tiny_separator_network
from training.start import start_from


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_separator_bundle(tmp_path_factory.mktemp("bundle"))


def test_a_network_gets_the_weights_of_a_bundle(bundle):
    trained = tiny_separator_network(causal=False)
    network = ConvTasNet(trained.settings)
    start_from(network, bundle)
    for name, weights in trained.state_dict().items():
        assert network.state_dict()[name].dtype == torch.float32
        assert torch.equal(network.state_dict()[name], weights.half().float()), name


def test_another_network_is_refused_and_left_as_it_is(bundle):
    network = ConvTasNet(ConvTasNetSettings(filters=32, length=16, bottleneck=16, skip=16, hidden=20, blocks=3, repeats=2))
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"another one.*'hidden': 24.*separator\.blocks\.0\.depthwise"):
        start_from(network, bundle)
    assert all(torch.equal(before[name], weights) for name, weights in network.state_dict().items())


def test_no_bundle_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        start_from(tiny_separator_network(causal=False), tmp_path / "nowhere")
