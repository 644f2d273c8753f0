from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.errors import ConfigError
from models.segmenter.network import UNet, UNetSettings, crop

SMALL = UNetSettings(channels=(4, 6, 8), classes=3)
VALID = replace(UNetSettings.paper(in_channels=1), channels=(2, 3, 4), statistics="running")


def test_parameters_and_shapes_are_those_of_the_paper():
    with torch.device("meta"):
        network = UNet(UNetSettings.paper())
        scores = network(torch.empty(1, 3, 116, 132, 132))
    assert sum(parameter.numel() for parameter in network.parameters()) == 19_069_955
    assert scores.shape == (1, 3, 28, 44, 44)


def test_the_valid_network_is_the_papers_figure_written_out():
    """Figure 2 with torch's functions, layer by layer, at small widths."""
    torch.manual_seed(0)
    network = UNet(VALID).eval()
    state = network.state_dict()

    def convolve(x, name):
        y = F.conv3d(x, state[f"{name}.convolution.weight"], state[f"{name}.convolution.bias"])
        return F.relu(F.batch_norm(y, state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]))

    def pair(x, name):
        return convolve(convolve(x, f"{name}.first"), f"{name}.second")

    volume = x = torch.randn(1, 1, 44, 44, 48)
    skips = []
    for depth in range(3):
        x = pair(F.max_pool3d(x, 2) if depth else x, f"analysis.{depth}")
        skips.append(x)
    for depth in (1, 0):
        place = f"{depth}_{2 - depth}"
        x = F.conv_transpose3d(x, state[f"up.{place}.convolution.weight"], stride=2)
        x = pair(torch.cat([x, crop(skips[depth], x.shape[2:])], 1), f"synthesis.{place}")
    wanted = F.conv3d(x, state["heads.0.weight"], state["heads.0.bias"])
    with torch.no_grad():
        got = network(volume)
    assert got.shape == (1, 3, 4, 4, 8)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"residual": True}, {"nested": True}, {"norm": "batch", "statistics": "current"}])
def test_the_padded_network_keeps_the_size_and_learns_everywhere(changes):
    torch.manual_seed(0)
    network = UNet(replace(SMALL, heads=2, **changes))
    fine, second = network.each_head(torch.randn(2, 1, 8, 12, 16))
    assert fine.shape == (2, 3, 8, 12, 16)
    assert second.shape == (2, 3, *((8, 12, 16) if changes.get("nested") else (4, 6, 8)))
    (fine.square().mean() + second.square().mean()).backward()
    # What comes before a norm without constants has no use for its bias: that gradient is a rounding error, not None.
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_slices_far_apart_keep_their_axis():
    network = UNet(replace(SMALL, steps=((1, 2, 2), (2, 2, 2))))
    assert network.settings.tile == (2, 4, 4)
    assert network(torch.randn(1, 1, 2, 8, 8)).shape == (1, 3, 2, 8, 8)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2))
def test_translation_by_a_tile_commutes_with_the_network(axis, tiles):
    """Where no border is near: exact up to rounding, for the network without padding."""
    torch.manual_seed(0)
    network = UNet(VALID).eval()
    volume = torch.randn(1, 1, 60, 60, 60)
    step = 4 * tiles
    with torch.no_grad():
        whole = network(volume)
        moved = network(volume.narrow(2 + axis, step, 60 - step))
    expected = whole.narrow(2 + axis, step, whole.shape[2 + axis] - step)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)


def test_a_pruned_nested_network_needs_nothing_of_the_outer_columns():
    torch.manual_seed(0)
    network = UNet(replace(SMALL, nested=True, heads=2)).eval()
    volume = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        best, second = network.each_head(volume)
        torch.testing.assert_close(network.pruned(volume, 2), best)
        for name, parameter in network.named_parameters():
            if "_2." in name or name.startswith(("heads.0", "analysis.2")):
                parameter.fill_(float("nan"))
        torch.testing.assert_close(network.pruned(volume, 1), second)
        assert network(volume).isnan().all()
    with pytest.raises(ConfigError, match="no head"):
        network.pruned(volume, 0)
    with pytest.raises(ConfigError, match="no head"):
        UNet(SMALL).pruned(volume, 1)


def test_u_net_plus_plus_joins_all_columns_before():
    """Equation 1 of Zhou et al.: x(i, j) = H([x(i, 0) … x(i, j − 1), U(x(i + 1, j − 1))])."""
    network = UNet(replace(SMALL, nested=True)).eval()
    with torch.no_grad():
        nodes = network.nodes(torch.randn(1, 1, 8, 8, 8), 2)
        raised = network.up["0_2"](nodes[1, 1])
        expected = network.synthesis["0_2"](torch.cat([raised, nodes[0, 0], nodes[0, 1]], 1))
    torch.testing.assert_close(nodes[0, 2], expected)
    assert set(nodes) == {(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (4,)}, "channels.*two numbers"),
        ({"channels": (4, 0)}, "channels"),
        ({"steps": ((2, 2, 2),)}, "steps.*2 triples"),
        ({"steps": ((2, 2, 2), (2, 0, 2))}, "steps"),
        ({"heads": 3}, "heads.*1 to 2"),
        ({"kernel": 2}, "odd"),
        ({"nested": True, "padding": False}, "nested.*padding"),
        ({"residual": True, "padding": False}, "residual.*padding"),
        ({"classes": 0}, "classes"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_settings_that_make_no_network(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)
