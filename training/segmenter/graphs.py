"""The segmenter's network as it is exported: the same function as ``models.segmenter.network``, with less to multiply.

OpenVINO runs the layers of the U-Net as they are: a norm, its scale and its activation are one operation, channels stay last from
the first convolution to the scores, and convolutions compute at the speed that the processor has. What is left is to compute
less: no activation stands between an up-convolution and the convolution after it, so both together are one transposed convolution
with a larger kernel. At the finest depths it needs 16 products where the two need 28, and the joined volume is never made.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, conv_transpose3d, max_pool3d

from models.layers import ConvBlock, activate
from models.segmenter.network import Pair, Steps, UNet, Up, crop, join
from training.export import Graph

MERGED = 2  # finest depths: weights grow eightfold where a depth gets coarser, and what there is to save does not


class Raised(nn.Module):
    """An up-convolution, the join with the skips and the convolution block after it, without making what is joined.

    Both are linear, so the part of the block's convolution that sees what was raised becomes, with the up-convolution, one
    transposed convolution of kernel step + kernel − 1. The up-convolution's constant ends at the border, where the block sees
    zeros; so it comes in as the weight of one more channel, of ones.
    """

    def __init__(self, up: Up, block: ConvBlock) -> None:
        super().__init__()
        self.up, self.block = up.convolution, block
        rising, pads = self.up.out_channels, block.settings.pad
        weight = cast(nn.Conv3d, block.convolution).weight.detach().double()  # (out, rising + skips, kernel…)
        up_weight = self.up.weight.detach().double()  # (below, rising, step…)
        if self.up.bias is not None:
            ones = self.up.bias.detach().double()[None, :, None, None, None].expand(1, -1, *up_weight.shape[2:])
            up_weight = torch.cat([up_weight, ones])
        raised = weight[:, :rising].transpose(0, 1).flip(2, 3, 4)
        self.weight = nn.Parameter(conv_transpose3d(up_weight, raised).float())  # (below + 1, out, (step + kernel − 1)…)
        self.skip_weight = nn.Parameter(weight[:, rising:].float())
        self.padding = block.settings.reach - pads

    def forward(self, below: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """(1, C, *space) and skips (1, C″, *space · step) → (1, C′, *space · step), or less space without padding."""
        block, stride = self.block, cast(Steps, self.up.stride)
        if self.up.bias is not None:
            below = torch.cat([below, below.new_ones(1, 1, *below.shape[2:])], dim=1)
        raised = conv_transpose3d(below, self.weight, stride=stride, padding=self.padding)
        kernel = block.settings.reach + 1
        seen = [size + kernel - 1 - 2 * block.settings.pad for size in raised.shape[2:]]
        joined = torch.cat([crop(skip, seen) for skip in skips], dim=1)
        kept = conv3d(joined, self.skip_weight, cast(nn.Conv3d, block.convolution).bias, padding=block.settings.pad)
        return activate(block.norm(raised + kept), block.settings.activation)


class Merged(nn.Module):
    """``UNet.forward`` for volumes one at a time, with a ``Raised`` wherever it has less to compute."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = _plain(network)
        self.raised = nn.ModuleDict()
        for depth, column in self.network.places():
            name = f"{depth}_{column}"
            up, pair = cast(Up, self.network.up[name]), cast(Pair, self.network.synthesis[name])
            if depth < MERGED and _saves(up, pair.first):
                self.raised[name] = Raised(up, pair.first)

    def forward(self, volume: Tensor) -> Tensor:
        """(1, in_channels, z, y, x) → (1, classes, z′, y′, x′)."""
        network, settings = self.network, self.network.settings
        nodes: dict[tuple[int, int], Tensor] = {}
        x = volume
        for depth in range(settings.depths):
            x = max_pool3d(x, settings.factors[depth - 1]) if depth else x
            x = nodes[depth, 0] = network.analysis[depth](x)
        for depth, column in network.places():
            skips = [nodes[depth, before] for before in range(column)] if settings.nested else [nodes[depth, 0]]
            nodes[depth, column] = self.synthesis(f"{depth}_{column}", nodes[depth + 1, column - 1], skips)
        return cast(Tensor, network.heads[0](nodes[network.scored()[0]]))

    def synthesis(self, name: str, below: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """(1, C, *space) and skips (1, C″, *space · step) → (1, C′, *space · step)."""
        pair = cast(Pair, self.network.synthesis[name])
        if name in self.raised:
            return cast(Tensor, pair.second(self.raised[name](below, skips)))
        return cast(Tensor, pair(join([self.network.up[name](below), *skips])))


def _saves(up: Up, block: ConvBlock) -> bool:
    """Whether fewer products make a voxel when both are one."""
    convolution, step = up.convolution, cast(Steps, up.convolution.stride)
    kernel = block.settings.reach + 1
    out = cast(nn.Conv3d, block.convolution).out_channels
    apart = convolution.out_channels * (convolution.in_channels + kernel**3 * out)
    taps = math.prod((each + kernel - 1) / each for each in step)
    return (convolution.in_channels + 1) * taps * out < apart


def _plain(network: UNet) -> UNet:
    """A copy for one volume at a time: batch norm of the current input is instance norm there, and a constant before a norm that
    takes the mean away is none.
    """
    network = copy.deepcopy(network).eval()
    for block in [module for module in network.modules() if isinstance(module, ConvBlock)]:
        norm = block.norm
        if isinstance(norm, nn.BatchNorm3d) and norm.running_mean is None:
            block.norm = nn.InstanceNorm3d(norm.num_features, norm.eps, affine=norm.affine)
            block.norm.load_state_dict(norm.state_dict())
        if isinstance(block.norm, nn.InstanceNorm3d):
            cast(nn.Conv3d, block.convolution).bias = None
    return network.eval()


def graph(network: UNet, window: Steps) -> Graph:
    """The network for one window: volume (1, in_channels, *window) → scores (1, classes, z′, y′, x′).

    The shape is fixed: OpenVINO then lays out its memory once, and a window is always of one size.
    """
    volume = torch.randn(1, network.settings.in_channels, *window, generator=torch.Generator().manual_seed(0))
    return Graph(Merged(network), {"volume": volume}, ["scores"], {})
