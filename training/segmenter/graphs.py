"""The segmenter's network as it is exported."""

from __future__ import annotations

import torch

from models.segmenter.network import UNet
from models.segmenter.plan import Size
from training.export import Graph


def graph(network: UNet, window: Size) -> Graph:
    """volume (1, channels, z, y, x) of a window → scores (1, classes, z, y, x), before softmax.

    The shape is fixed: all windows have one size, and OpenVINO's CPU plugin is faster for it.
    """
    example = torch.randn(1, network.settings.in_channels, *window, generator=torch.Generator().manual_seed(0))
    return Graph(network, {"volume": example}, ["scores"], {})
