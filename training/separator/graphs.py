"""The separator's networks as they are exported: what ONNX and OpenVINO need beside what ``models.separator.network`` says."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, prelu

from models.errors import ConfigError
from models.separator.network import TCN, Block, ConvTasNet, Norm, activate_masks
from training.export import Graph

EXAMPLE_SECONDS = 0.5  # of the recording on which ONNX and torch are compared
EXAMPLE_FRAMES = 100  # of the chunk on which they are compared where the network is causal
SMALLEST_EPS = 1.001e-8


def _exportable(network: ConvTasNet) -> ConvTasNet:
    """A copy whose eps survives: torch's ONNX optimiser takes constants up to 1e-8 for zero and drops their addition, which
    makes digital silence 0 / 0.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, Norm):
            module.eps = max(module.eps, SMALLEST_EPS)
    return network


class Whole(nn.Module):
    """``ConvTasNet.forward`` with the voices made consistent after they are cropped, not before: that is the same, and lets
    torch see that lengths agree.
    """

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        self.network = _exportable(network)

    def forward(self, mixture: Tensor) -> Tensor:
        """(1, T) → (1, C, T)."""
        network = self.network
        encoded = network.encode(network.pad(mixture))
        voices = network.overlap_add(encoded, network.separator(encoded))
        return network.consistent(network.crop(voices, mixture), mixture)


class Convolutions(nn.Module):
    """``ConvTasNet.forward`` with gLN as 2-D convolutions of height 1: the same function, in the form that OpenVINO runs fastest.

    It keeps (1, C, 1, K) tensors with channels last, fuses bias, PReLU, sums and γ and β into convolutions, and takes a norm for
    one operation. At the paper's size on two cores with AVX2 that needs 0.074 s for a second of sound, where the layers
    of ``network.py`` need 0.117 s at a fixed length and 0.18 s at any.
    """

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        self.network = _exportable(network)

    def forward(self, mixture: Tensor) -> Tensor:
        """(1, T) → (1, C, T)."""
        network = self.network
        s, hop = network.settings, (1, network.settings.step)
        encoded = conv2d(network.pad(mixture)[:, None, None], network.encoder.T[:, None, None], stride=hop)  # (1, N, 1, K)
        encoded = torch.relu(encoded) if s.encoder == "relu" else encoded
        voices = conv_transpose2d(self.masks(encoded) * encoded, network.decoder[:, None, None], stride=hop)[None, :, 0, 0]
        return network.consistent(network.crop(voices, mixture), mixture)

    def masks(self, encoded: Tensor) -> Tensor:
        """(1, N, 1, K) → (C, N, 1, K)."""
        s, separator = self.network.settings, cast(TCN, self.network.separator)
        path = self.linear(separator.bottleneck, self.norm(separator.norm, encoded))
        skips: Tensor | None = None
        for each in separator.blocks:
            block = cast(Block, each)
            y = self.inside(block, path)
            if block.residual_channels:
                path = path + self.linear(block.output, y, slice(block.residual_channels))
            if s.skip:
                skip = self.linear(block.output, y, slice(block.residual_channels, None))
                skips = skip if skips is None else skips + skip
        features = prelu(path if skips is None else skips, separator.prelu.weight)
        masks = self.linear(separator.masks, features).reshape(s.sources, s.filters, 1, -1)
        return activate_masks(masks, s.mask, sources=0)

    def inside(self, block: Block, path: Tensor) -> Tensor:
        """A block up to its output: (1, B, 1, K) → (1, H, 1, K)."""
        y = self.norm(block.first_norm, prelu(self.linear(block.expand, path), block.first_prelu.weight))
        taps = block.depthwise.T[:, None, None]  # (H, 1, 1, P)
        padding, dilation = (0, block.tail // 2), (1, block.dilation)
        y = conv2d(y, taps, block.depthwise_bias, padding=padding, dilation=dilation, groups=len(taps))
        return self.norm(block.second_norm, prelu(y, block.second_prelu.weight))

    def linear(self, layer: nn.Linear, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """These rows of a layer."""
        return conv2d(x, layer.weight[rows, :, None, None], layer.bias[rows])

    def norm(self, norm: Norm, x: Tensor) -> Tensor:
        """gLN, written so that OpenVINO knows it."""
        distance = x - x.mean((1, 2, 3), keepdim=True)
        y = distance / torch.sqrt((distance**2).mean((1, 2, 3), keepdim=True) + norm.eps)
        return y * norm.weight[:, None, None] + norm.bias[:, None, None]


class Step(nn.Module):
    """``ConvTasNet.advance`` with the state as arguments and results of their own, in the order of ``names``.

    State of no size (the tails of P = 1) is left out: runtimes refuse it. ConfigError where frames do not overlap.
    """

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        if network.settings.step == network.settings.length:
            fix = "Train with a hop of half the length, the default."
            raise ConfigError("a causal network whose frames do not overlap cannot be exported", where="hop", fix=fix)
        self.network = _exportable(network)
        state = network.initial_state()
        self.empty = {name: value for name, value in state.items() if not value.numel()}
        self.names = [name for name in state if name not in self.empty]

    def forward(self, samples: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(1, K·hop + L − hop) → voices (1, C, K·hop), then the new state."""
        voices, after = self.network.advance(samples, {**dict(zip(self.names, state, strict=True)), **self.empty})
        return voices, *(after[name] for name in self.names)


def graph(network: ConvTasNet, sample_rate: int) -> Graph:
    """The whole network: mixture (1, T) → voices (1, C, T), any T from 1."""
    samples = torch.randn(1, int(EXAMPLE_SECONDS * sample_rate) + 3, generator=torch.Generator().manual_seed(0))
    convolutions = isinstance(network.separator, TCN) and network.settings.norm == "gLN"
    return Graph(
        (Convolutions if convolutions else Whole)(network), {"mixture": samples}, ["voices"], {"mixture": {1: "samples"}}
    )


def step_graph(network: ConvTasNet) -> Graph:
    """One chunk of a causal network: samples (1, K·hop + L − hop) and state → voices (1, C, K·hop) and ``new_`` state."""
    hop, before, step = network.settings.step, network.settings.length - network.settings.step, Step(network)
    state = {name: value for name, value in network.initial_state().items() if name in step.names}
    samples = torch.randn(1, EXAMPLE_FRAMES * hop + before, generator=torch.Generator().manual_seed(0))
    outputs = ["voices", *(f"new_{name}" for name in state)]
    return Graph(step, {"samples": samples, **state}, outputs, {"samples": {1: ("frames", hop, before)}})
