"""3-D U-Net: which class each voxel of a volume is.

    volume ─ analysis path, halving ─ synthesis path, doubling ─ scores of each class
                  └──────── skips ────────┘

Çiçek et al. 2016, "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation" (arXiv:1606.06650). With
``UNetSettings.paper()`` the network has the paper's 19,069,955 parameters and turns 132×132×116 voxels into 44×44×28.
The practical form (``UNetSettings()``) is that of nnU-Net (Isensee et al. 2021): same padding, instance norm, leaky ReLU,
scores at several depths to learn from. Options: residual blocks on the way down (He et al. 2016), and the nested decoder
of U-Net++ (Zhou et al. 2018, arXiv:1807.10165), whose outer columns may be left out at inference.

Layout is (batch, channels, z, y, x). Depth i of D begins at 0, the full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from models.errors import ConfigError
from models.layers import Activation, ConvBlock, Convolution, Initialisation, Norm, Statistics, activate, initialise

Steps = tuple[int, int, int]


@dataclass(frozen=True)
class UNetSettings:
    """Arguments of the network, by default the practical form.

    Attributes:
        in_channels: of the volume.
        classes: background included.
        channels: at each depth; as many depths as numbers.
        doubled: the paper's way to count: the last convolution of each depth's analysis has twice as many channels.
        steps: voxels (z, y, x) that become one from each depth to the next; None halves every axis. Volumes whose slices are
            far apart keep z for a while: (1, 2, 2).
        kernel: of the convolutions.
        padding: zeros around every convolution, so that scores cover the whole input; without, they cover less of it.
        norm: after each convolution; see ``models.layers``.
        norm_scale: whether norms learn a scale and a shift.
        statistics: of batch norm at test time; the paper found those of the current input best.
        activation: after each norm.
        initialisation: of convolutions.
        up_bias: whether up-convolutions add a constant.
        residual: analysis convolutions learn the difference from their depth's input.
        nested: U-Net++: every depth decodes to full resolution, and all of them feed the next.
        heads: depths that give scores, from the finest on: more than one for deep supervision. Nested: columns that do.
    """

    in_channels: int = 1
    classes: int = 2
    channels: tuple[int, ...] = (32, 64, 128, 256)
    doubled: bool = False
    steps: tuple[Steps, ...] | None = None
    kernel: int = 3
    padding: bool = True
    norm: Norm = "instance"
    norm_scale: bool = True
    statistics: Statistics = "running"
    activation: Activation = "leaky_relu"
    initialisation: Initialisation = "he"
    up_bias: bool = True
    residual: bool = False
    nested: bool = False
    heads: int = 1

    def __post_init__(self) -> None:
        for name in ("in_channels", "classes", "kernel"):
            if getattr(self, name) < 1:
                raise ConfigError("too small", where=name, expected="at least 1", got=getattr(self, name))
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ConfigError("too few depths", where="channels", expected="two numbers or more", got=self.channels)
        if self.steps is not None and (
            len(self.steps) != len(self.channels) - 1 or any(len(step) != 3 or min(step) < 1 for step in self.steps)
        ):
            expected = f"{len(self.channels) - 1} triples of numbers from 1"
            raise ConfigError("steps do not join the depths", where="steps", expected=expected, got=self.steps)
        if not 1 <= self.heads < len(self.channels):
            raise ConfigError("no such depths", where="heads", expected=f"1 to {len(self.channels) - 1}", got=self.heads)
        if self.kernel % 2 == 0:
            raise ConfigError("an even kernel has no middle", where="kernel", expected="an odd number", got=self.kernel)
        if (self.residual or self.nested) and not self.padding:
            which = "residual" if self.residual else "nested"
            raise ConfigError(
                "sums and joins need inputs of one size", where=which, expected="padding: true", got="padding: false"
            )

    @classmethod
    def paper(cls, in_channels: int = 3, classes: int = 3) -> UNetSettings:
        """The network of the paper, as it counts parameters: up-convolutions without bias, norms without scale."""
        return cls(
            in_channels=in_channels,
            classes=classes,
            doubled=True,
            padding=False,
            norm="batch",
            norm_scale=False,
            statistics="current",
            activation="relu",
            up_bias=False,
        )

    @property
    def depths(self) -> int:
        return len(self.channels)

    @property
    def factors(self) -> tuple[Steps, ...]:
        """Voxels that become one from each depth to the next."""
        return self.steps or ((2, 2, 2),) * (self.depths - 1)

    @property
    def tile(self) -> Steps:
        """Voxels that become one at the coarsest depth: padded inputs are multiples of it."""
        whole = [1, 1, 1]
        for step in self.factors:
            whole = [size * factor for size, factor in zip(whole, step, strict=True)]
        return cast(Steps, tuple(whole))

    def width(self, depth: int) -> int:
        """Channels of a depth's analysis."""
        return self.channels[depth] * (2 if self.doubled else 1)

    def convolution(self, channels: int) -> Convolution:
        return Convolution(
            channels,
            self.kernel,
            padding="same" if self.padding else 0,
            activation=self.activation,
            initialisation=self.initialisation,
            norm=self.norm,
            norm_scale=self.norm_scale,
            statistics=self.statistics,
        )


class Pair(nn.Module):
    """Two convolutions: (batch, in, *space) → (batch, out, *space), or less space without padding."""

    def __init__(self, settings: UNetSettings, in_channels: int, between: int, out_channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, settings.convolution(between), 3)
        self.second = ConvBlock(between, settings.convolution(out_channels), 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.second(self.first(x)))


class ResidualPair(nn.Module):
    """Two convolutions whose result is added to their input, before the last activation."""

    def __init__(self, settings: UNetSettings, in_channels: int, between: int, out_channels: int) -> None:
        super().__init__()
        self.activation = settings.activation
        self.first = ConvBlock(in_channels, settings.convolution(between), 3)
        self.second = ConvBlock(between, replace(settings.convolution(out_channels), activation="none"), 3)
        point = replace(settings.convolution(out_channels), kernel=1, activation="none")
        self.shortcut = nn.Identity() if in_channels == out_channels else ConvBlock(in_channels, point, 3)

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.second(self.first(x)) + self.shortcut(x), self.activation)


class Up(nn.Module):
    """An up-convolution whose kernel is its stride: (batch, C, *space) → (batch, C′, *space · step)."""

    def __init__(self, settings: UNetSettings, in_channels: int, out_channels: int, step: Steps) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose3d(in_channels, out_channels, step, step, bias=settings.up_bias)
        initialise(self.convolution, settings.initialisation, "none")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.convolution(x))


class UNet(nn.Module):
    """The network. See ``UNetSettings`` for the arguments."""

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        s = self.settings = settings
        pair = ResidualPair if s.residual else Pair
        inputs = [s.in_channels, *(s.width(depth) for depth in range(s.depths - 1))]
        self.analysis = nn.ModuleList(pair(s, inputs[depth], s.channels[depth], s.width(depth)) for depth in range(s.depths))
        self.up = nn.ModuleDict()
        self.synthesis = nn.ModuleDict()
        for depth, column in self.places():
            below, width = s.width(depth + 1), s.width(depth)
            # The paper keeps the channels in the up-convolution; nnU-Net takes those of the finer depth.
            rising = below if s.doubled else s.channels[depth]
            joined = width * (column if s.nested else 1)
            self.up[f"{depth}_{column}"] = Up(s, below, rising, s.factors[depth])
            self.synthesis[f"{depth}_{column}"] = Pair(s, rising + joined, width, width)
        self.heads = nn.ModuleList(nn.Conv3d(s.width(depth), s.classes, 1) for depth, _ in self.scored())
        for head in self.heads:
            initialise(head, s.initialisation, "none")

    def places(self) -> list[tuple[int, int]]:
        """Nodes (depth, column) of the synthesis, each after those that it needs. Not nested: the last column of each depth."""
        last = self.settings.depths - 1
        if not self.settings.nested:
            return [(depth, last - depth) for depth in range(last - 1, -1, -1)]
        return [(depth, column) for column in range(1, last + 1) for depth in range(last - column + 1)]

    def scored(self) -> list[tuple[int, int]]:
        """Nodes that have a head, the best first: the finest depths; nested: the last columns of full resolution."""
        last = self.settings.depths - 1
        if self.settings.nested:
            return [(0, last - number) for number in range(self.settings.heads)]
        return [(number, last - number) for number in range(self.settings.heads)]

    def forward(self, volume: Tensor) -> Tensor:
        """(batch, in_channels, z, y, x) → scores before softmax (batch, classes, z′, y′, x′)."""
        return self.each_head(volume, final_only=True)[0]

    def each_head(self, volume: Tensor, final_only: bool = False) -> list[Tensor]:
        """Scores of every head, the best first; those of coarser depths at their own resolution."""
        nodes = self.nodes(volume, self.scored()[0][1])
        heads = zip(self.heads, self.scored(), strict=True)
        return [head(nodes[place]) for head, place in list(heads)[: 1 if final_only else None]]

    def pruned(self, volume: Tensor, columns: int) -> Tensor:
        """Scores of a nested network as if its decoder ended after so many columns, which have a head."""
        last = self.settings.depths - 1
        if not self.settings.nested or not last - len(self.heads) < columns <= last:
            expected = f"{last - len(self.heads) + 1} to {last} columns of a nested network"
            raise ConfigError("no head there", where="columns", expected=expected, got=columns)
        return cast(Tensor, self.heads[last - columns](self.nodes(volume, columns)[0, columns]))

    def nodes(self, volume: Tensor, columns: int) -> dict[tuple[int, int], Tensor]:
        """Every node that the first ``columns`` of the synthesis need; (depth, 0) is the analysis."""
        s = self.settings
        depths = range(columns + 1) if s.nested else range(s.depths)
        nodes: dict[tuple[int, int], Tensor] = {}
        x = volume
        for depth in depths:
            x = nn.functional.max_pool3d(x, s.factors[depth - 1]) if depth else x
            x = nodes[depth, 0] = self.analysis[depth](x)
        for depth, column in self.places():
            if s.nested and depth + column > columns:
                continue
            raised = self.up[f"{depth}_{column}"](nodes[depth + 1, column - 1])
            skips = [nodes[depth, before] for before in range(column)] if s.nested else [nodes[depth, 0]]
            nodes[depth, column] = self.synthesis[f"{depth}_{column}"](join([raised, *skips]))
        return nodes


def join(parts: Sequence[Tensor]) -> Tensor:
    """Stack channels; larger parts lose their borders evenly (the paper's cropped skips)."""
    size = parts[0].shape[2:]
    return torch.cat([crop(part, size) for part in parts], dim=1)


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of (batch, channels, *space)."""
    for axis, wanted in enumerate(size, 2):
        x = x.narrow(axis, (x.shape[axis] - wanted) // 2, wanted)
    return x
