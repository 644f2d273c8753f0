from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.runtime import Runtime
from models.segmenter.network import UNet, UNetSettings
from training.export import compare, write_onnx
from training.segmenter.graphs import Merged, graph

SMALL = UNetSettings(channels=(4, 6, 8), classes=3)
PAPER = replace(UNetSettings.paper(in_channels=2), channels=(3, 4, 5))
VARIANTS = {
    "practical": (SMALL, (8, 12, 16)),
    "residual": (replace(SMALL, residual=True), (8, 8, 12)),
    "nested": (replace(SMALL, nested=True, heads=2), (8, 12, 8)),
    "four depths, kernel 5": (replace(SMALL, channels=(4, 5, 6, 7), kernel=5), (16, 16, 24)),
    "batch, running": (replace(SMALL, norm="batch"), (8, 8, 8)),
    "batch, current, no scale": (replace(SMALL, norm="batch", statistics="current", norm_scale=False), (8, 8, 12)),
    "layer": (replace(SMALL, norm="layer", activation="gelu"), (8, 8, 8)),
    "no norm, gate": (replace(SMALL, norm="none", activation="glu"), (8, 8, 8)),
    "thick slices": (replace(SMALL, steps=((1, 2, 2), (1, 3, 2)), up_bias=False, in_channels=2), (5, 12, 16)),
    "the paper's form": (PAPER, (44, 44, 48)),
    "unpadded, running, constants": (replace(PAPER, statistics="running", norm_scale=True, up_bias=True), (44, 48, 44)),
}


def scattered(settings):
    """A network none of whose constants, scales and statistics is what it was made with."""
    torch.manual_seed(0)
    network = UNet(settings)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 1:
                tensor += (torch.rand_like(tensor) if name.endswith("running_var") else torch.randn_like(tensor)) / 2
    return network.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_runtime_gives_the_networks_scores(variant, tmp_path):
    settings, window = VARIANTS[variant]
    network = scattered(settings)
    exported = graph(network, window)
    volume = torch.randn(1, settings.in_channels, *window, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = network(volume)
    write_onnx(exported, tmp_path / "network.onnx")
    runtime = Runtime(tmp_path / "network.onnx", precision="f32")
    assert runtime.fixed == {"volume": (1, settings.in_channels, *window)}
    scores = torch.from_numpy(runtime.run({"volume": volume.numpy()})["scores"])
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-4)
    difference = compare(exported, tmp_path / "network.onnx")["f32"]
    assert difference is not None
    assert difference < 1e-4


def test_constants_of_up_convolutions_end_at_the_border():
    """An up-convolution that gives its constant only: the block after it sees zeros around the volume."""
    network = scattered(replace(SMALL, norm="none"))
    merged = Merged(network)
    assert merged.raised
    with torch.no_grad():
        for tensor in merged.network.up.parameters():
            assert tensor.abs().max() > 0
        volume = torch.randn(1, 1, 12, 8, 16)
        torch.testing.assert_close(merged(volume), network(volume), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"channels": (4, 8, 16, 32)}, {"0_3", "1_2"}),
        ({"channels": (4, 8, 16), "nested": True}, {"0_1", "1_1", "0_2"}),
        ({"channels": (4, 64, 128)}, {"1_1"}),  # 8 · 65 products where the two need 27 · 4 + 64
    ],
)
def test_merged_where_that_is_less_work(changes, names):
    assert set(Merged(UNet(replace(SMALL, **changes))).raised) == names


def test_the_network_given_stays_as_it_was():
    network = scattered(replace(SMALL, norm="batch", statistics="current")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph(network, (8, 8, 8))
    assert network.training
    assert any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
