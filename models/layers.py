"""The convolution block that every network here is made of, in 1, 2 or 3 dimensions.

A block is convolution → norm → activation. All that the field calls a setting of a convolution is one: kernel, stride,
padding, dilation, groups, channels, bias, norm, activation and weight initialisation. Layout is torch's:
(batch, channels, *space).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, assert_never, cast, get_args

import torch
from torch import Tensor, nn

from models.errors import ConfigError

Activation = Literal["none", "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "glu"]
Initialisation = Literal["he", "xavier", "normal", "uniform"]
Norm = Literal["none", "batch", "instance", "layer"]
Pooling = Literal["max", "mean"]
Statistics = Literal["running", "current"]

_GAINS = {"leaky_relu": "leaky_relu", "tanh": "tanh", "sigmoid": "sigmoid", "none": "linear", "glu": "linear"}
_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, type[nn.Module]] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@dataclass(frozen=True)
class Convolution:
    """Settings of one convolution block.

    Attributes:
        channels: output channels (after the gate when the activation is ``glu``).
        kernel: kernel size along each axis.
        stride: step along each axis.
        padding: zeros added on both sides of each axis; ``same`` keeps the length at stride 1 and needs an odd
            effective kernel.
        dilation: distance between kernel taps.
        groups: channel groups; equal to the input channels makes it depthwise.
        bias: whether the convolution adds a learned constant per channel.
        activation: what follows; ``glu`` is the gated linear unit of Dauphin et al. 2017.
        initialisation: ``he`` (He et al. 2015), ``xavier`` (Glorot and Bengio 2010), ``normal`` or ``uniform`` random
            numbers of standard deviation ``initial_scale``.
        initial_scale: standard deviation of the two random initialisations.
        norm: between convolution and activation; ``layer`` normalises over channels at each position, so it does not
            see the padding.
        norm_scale: whether the norm learns a scale and a shift for each channel.
        statistics: of batch norm at test time: those gathered in training, or those of the current input.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | Literal["same"] = "same"
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    activation: Activation = "relu"
    initialisation: Initialisation = "he"
    initial_scale: float = 0.05
    norm: Norm = "none"
    norm_scale: bool = True
    statistics: Statistics = "running"

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride", "dilation", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a convolution is too small", expected="at least 1", got=getattr(self, name))
        choices = {"activation": Activation, "initialisation": Initialisation, "norm": Norm, "statistics": Statistics}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"unknown {name} of a convolution", expected=", ".join(get_args(allowed)), got=getattr(self, name)
                )
        if self.padding != "same" and not (isinstance(self.padding, int) and self.padding >= 0):
            raise ConfigError("not a padding", expected="'same' or a number from 0", got=self.padding)
        if self.padding == "same" and self.reach % 2:
            raise ConfigError(
                "padding 'same' cannot be even on both sides",
                expected="an odd dilation·(kernel − 1) + 1",
                got=f"kernel {self.kernel}, dilation {self.dilation}",
                fix="Take an odd kernel, or give the padding as a number.",
            )

    @property
    def reach(self) -> int:
        """Positions between the first and the last kernel tap: dilation·(kernel − 1)."""
        return self.dilation * (self.kernel - 1)

    @property
    def pad(self) -> int:
        return self.reach // 2 if self.padding == "same" else int(self.padding)

    @property
    def keeps_length(self) -> bool:
        return self.stride == 1 and 2 * self.pad == self.reach

    def length(self, length: int) -> int:
        """Output positions for an input of ``length`` positions along one axis."""
        return (length + 2 * self.pad - self.reach - 1) // self.stride + 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ConvBlock(nn.Module):
    """Convolution → norm → activation, as ``settings`` say, in ``dimensions`` dimensions."""

    def __init__(self, in_channels: int, settings: Convolution, dimensions: int = 1) -> None:
        super().__init__()
        if in_channels % settings.groups:
            raise ConfigError("groups do not divide the channels", expected=f"a divisor of {in_channels}", got=settings.groups)
        if dimensions not in _CONVOLUTIONS:
            raise ConfigError("no convolution of so many dimensions", expected="1, 2 or 3", got=dimensions)
        self.settings = settings
        width = settings.channels * (2 if settings.activation == "glu" else 1)
        if width % settings.groups:
            raise ConfigError("groups do not divide the channels", expected=f"a divisor of {width}", got=settings.groups)
        self.convolution = _CONVOLUTIONS[dimensions](
            in_channels,
            width,
            settings.kernel,
            stride=settings.stride,
            padding=settings.pad,
            dilation=settings.dilation,
            groups=settings.groups,
            bias=settings.bias,
        )
        self.norm = _norm(settings, width, dimensions)
        initialise(self.convolution, settings.initialisation, settings.activation, settings.initial_scale)

    def forward(self, x: Tensor) -> Tensor:  # (batch, in_channels, *space) → (batch, channels, *space′)
        convolution = self.convolution
        # On a CPU the backward pass of a short 1-D convolution is several times slower than that of a matrix product.
        product = self.training and isinstance(convolution, nn.Conv1d) and _is_plain(self.settings) and x.device.type == "cpu"
        y = convolve_by_product(x, cast(nn.Conv1d, convolution)) if product else convolution(x)
        return activate(self.norm(y), self.settings.activation)


def convolve_by_product(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A 1-D convolution of stride 1 as one matrix product over its shifted inputs: (B, C, T) → (B, C′, T′)."""
    kernel, dilation, pad = convolution.kernel_size[0], convolution.dilation[0], int(convolution.padding[0])
    padded = nn.functional.pad(x.transpose(1, 2), (0, 0, pad, pad))  # (B, T + 2·pad, C)
    length = padded.shape[1] - dilation * (kernel - 1)
    taps = torch.cat([padded[:, tap * dilation : tap * dilation + length] for tap in range(kernel)], dim=2)  # (B, T′, kernel·C)
    weight = convolution.weight.permute(0, 2, 1).flatten(1)  # (C′, kernel·C)
    return nn.functional.linear(taps, weight, convolution.bias).transpose(1, 2)


def _is_plain(settings: Convolution) -> bool:
    return settings.stride == 1 and settings.groups == 1


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position: (batch, channels, *space)."""

    def __init__(self, channels: int, scale: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=scale)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.movedim(1, -1)).movedim(-1, 1))


def activate(x: Tensor, kind: Activation) -> Tensor:
    """Apply an activation by name; ``glu`` halves the channels (axis 1)."""
    match kind:
        case "none":
            return x
        case "relu":
            return torch.relu(x)
        case "leaky_relu":
            return nn.functional.leaky_relu(x, 0.01)
        case "gelu":
            return nn.functional.gelu(x)
        case "silu":
            return nn.functional.silu(x)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "glu":
            return nn.functional.glu(x, dim=1)
    assert_never(kind)


def initialise(module: nn.Module, kind: Initialisation, activation: Activation = "relu", scale: float = 0.05) -> None:
    """Fill the weight of a convolution or linear layer, and set its bias to zero."""
    weight = cast(Tensor, module.weight)
    # torch knows the gain of these; the others behave near zero like one of them.
    gain_of = _GAINS.get(activation, "relu")
    match kind:
        case "he":
            gain = (
                math.sqrt(2.0 / (1 + (0.01 if gain_of == "leaky_relu" else 0.0) ** 2))
                if gain_of in ("relu", "leaky_relu")
                else 1.0
            )
            fan, _ = nn.init._calculate_fan_in_and_fan_out(weight)
            nn.init.normal_(weight, 0.0, gain / math.sqrt(fan))
        case "xavier":
            slope = 0.01 if gain_of == "leaky_relu" else None
            nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain(cast(Any, gain_of), slope))
        case "normal":
            nn.init.normal_(weight, 0.0, scale)
        case "uniform":
            nn.init.uniform_(weight, -scale * math.sqrt(3.0), scale * math.sqrt(3.0))
    if module.bias is not None:
        nn.init.zeros_(cast(Tensor, module.bias))


def pool(x: Tensor, mask: Tensor, kind: Pooling) -> Tensor:
    """Pool over the last axis where ``mask`` is true: (rows, channels, length), (rows, length) → (rows, channels).

    A row without one true position gives zeros.
    """
    inside = mask.unsqueeze(1)
    if kind == "max":
        best = x.masked_fill(~inside, -3.0e4).amax(dim=-1)  # finite, so that half precision and 0·(−∞) are no trouble
        return best * inside.any(dim=-1)
    return (x * inside).sum(dim=-1) / inside.sum(dim=-1).clamp(min=1)


def _norm(settings: Convolution, channels: int, dimensions: int) -> nn.Module:
    scale = settings.norm_scale
    match settings.norm:
        case "none":
            return nn.Identity()
        case "batch":
            return _BATCH_NORMS[dimensions](channels, affine=scale, track_running_stats=settings.statistics == "running")
        case "instance":
            return _INSTANCE_NORMS[dimensions](channels, affine=scale)
        case "layer":
            return ChannelNorm(channels, scale)
    assert_never(settings.norm)
