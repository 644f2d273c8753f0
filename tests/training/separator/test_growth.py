"""A deeper network that begins with a shallower one's weights computes the same, and learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.errors import ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings
from tests.tiny import tiny_separator_bundle, tiny_separator_network
from training.separator.growth import grown, meaning
from training.start import start_from

SMALL = ConvTasNetSettings(filters=32, length=16, bottleneck=12, skip=10, hidden=16, blocks=2, repeats=1)


@pytest.mark.parametrize("last_residual", [False, True])
@pytest.mark.parametrize("skip", [0, 10])
@pytest.mark.parametrize("kind", [{"norm": "gLN"}, {"norm": "cLN", "causal": True}])
def test_a_deeper_network_begins_as_the_shallower_one(kind, skip, last_residual):
    torch.manual_seed(0)
    settings = replace(SMALL, skip=skip, last_residual=last_residual, **kind)
    small, deep = ConvTasNet(settings), ConvTasNet(replace(settings, repeats=3))
    deep.load_state_dict(grown(small.state_dict(), deep.state_dict()))
    mixture = torch.randn(2, 500)
    torch.testing.assert_close(deep(mixture), small(mixture), rtol=0, atol=1e-6)
    deep(mixture).square().mean().backward()
    assert deep.separator.blocks[5].output.weight.grad.abs().max() > 0


def test_a_network_of_the_same_depth_gets_the_weights_as_they_are():
    weights = ConvTasNet(SMALL).state_dict()
    assert all(tensor is weights[name] for name, tensor in grown(weights, ConvTasNet(SMALL).state_dict()).items())


def test_a_bundle_with_fewer_repeats_is_a_start(tmp_path):
    trained = tiny_separator_network(causal=False)
    deep = ConvTasNet(replace(trained.settings, repeats=trained.settings.repeats + 1))
    start_from(deep, tiny_separator_bundle(tmp_path), meaning, adapt=grown)
    mixture = torch.randn(1, 400)
    torch.testing.assert_close(deep(mixture), trained(mixture), rtol=0, atol=3e-3)  # weights of 16 bits


@pytest.mark.parametrize("width", [{"hidden": 28}, {"skip": 4}, {"bottleneck": 4}])
def test_a_bundle_of_another_width_is_none(tmp_path, width):
    trained = tiny_separator_network(causal=False)
    other = ConvTasNet(replace(trained.settings, repeats=trained.settings.repeats + 1, **width))
    with pytest.raises(ConfigError, match="another one"):
        start_from(other, tiny_separator_bundle(tmp_path), meaning, adapt=grown)


def test_a_network_without_blocks_is_no_start():
    weights = {"separator.norm.weight": torch.ones(3)}
    assert grown(weights, ConvTasNet(SMALL).state_dict()) == weights
