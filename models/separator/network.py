"""Conv-TasNet: the voices of a mixture, separated in the time domain.

    mixture ─ encoder ─┬──────────── × ─ decoder ─ voices
                       └─ separator ─┘ masks

Luo and Mesgarani 2019, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation"
(arXiv:1809.07454). The paper's symbols stand beside the arguments. With its best configuration (N=512, L=16, B=128,
Sc=128, H=512, P=3, X=8, R=3) the network has 4,984,881 parameters, and 5,050,545 with the last block's residual kept.

Layout is (batch, frames, channels) throughout: 1×1 convolutions are linear layers, a depthwise convolution is a sum of
P shifted products. Shapes: T samples, K frames, C sources.

The causal network is one function from chunk and state to chunk and state. Run on a whole recording from the initial
state it is the offline network; run chunk by chunk it is the stream, and both give the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from models.errors import ConfigError
from models.layers import Initialisation, initialise
from models.separator.transformer import DualPath, DualPathSettings

Mask = Literal["sigmoid", "relu", "softmax"]
NormKind = Literal["gLN", "cLN"]
State = Mapping[str, Tensor]

MEMORY = float(2**22)  # frames that a stream's statistics weigh: 70 minutes at a hop of 8 samples and 8 kHz


@dataclass(frozen=True)
class ConvTasNetSettings:
    """Arguments of the network, by default the paper's best configuration.

    Attributes:
        sources: C, speakers.
        filters: N, filters of the autoencoder.
        length: L, samples of a filter.
        hop: samples between two frames, a divisor of L; None is the paper's L/2.
        bottleneck: B, channels of the bottleneck and of the residual path.
        skip: Sc, channels of the skip path; 0 for none, and the masks are made from the residual path.
        hidden: H, channels inside a block.
        kernel: P, kernel of the depthwise convolutions, odd.
        blocks: X, blocks in a repeat, of dilations 1, 2, 4, … 2^(X−1).
        repeats: R.
        norm: ``gLN``, over channels and all frames, or ``cLN``, over channels and the frames so far.
        causal: whether no block looks ahead; needs cLN.
        mask: activation of the masks.
        encoder: ``linear``, or ``relu`` for an encoder that is not negative.
        last_residual: keep the residual convolution of the last block, which nothing reads.
        mixture_consistency: add to each voice its share of what all of them together miss of the mixture (Wisdom et al.
            2018, arXiv:1811.08521, equation 7), so that they always sum to it.
        pad: begin with L − hop zeros, so that every sample lies in as many frames; without, the first ones do not.
        initialisation: of linear layers and filters; see ``models.layers``.
        eps: added to variances.
        transformer: a dual-path Transformer in place of the convolutions (``models.separator.transformer``).
    """

    sources: int = 2
    filters: int = 512
    length: int = 16
    hop: int | None = None
    bottleneck: int = 128
    skip: int = 128
    hidden: int = 512
    kernel: int = 3
    blocks: int = 8
    repeats: int = 3
    norm: NormKind = "gLN"
    causal: bool = False
    mask: Mask = "sigmoid"
    encoder: Literal["linear", "relu"] = "linear"
    last_residual: bool = False
    mixture_consistency: bool = False
    pad: bool = True
    initialisation: Initialisation = "xavier"
    eps: float = 1e-8
    transformer: DualPathSettings | None = None

    def __post_init__(self) -> None:
        for name in ("sources", "filters", "length", "bottleneck", "hidden", "kernel", "blocks", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError("too small", where=name, expected="at least 1", got=getattr(self, name))
        if self.skip < 0:
            raise ConfigError("too small", where="skip", expected="channels, or 0 for no skip path", got=self.skip)
        for name, allowed in (("norm", NormKind), ("mask", Mask), ("encoder", Literal["linear", "relu"])):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError("unknown", where=name, expected=", ".join(get_args(allowed)), got=getattr(self, name))
        if self.kernel % 2 == 0:
            raise ConfigError("an even kernel has no middle", where="kernel", expected="an odd number", got=self.kernel)
        if (self.hop is None and self.length % 2) or self.length % self.step:
            raise ConfigError("frames do not tile", where="hop", expected=f"a divisor of length {self.length}", got=self.hop)
        if self.causal and self.norm != "cLN":
            raise ConfigError("gLN looks at the whole recording and is never causal", where="norm", expected="cLN", got=self.norm)
        if self.causal and self.transformer:
            raise ConfigError(
                "the Transformer looks at the whole recording and is never causal", where="causal", expected="false"
            )

    @property
    def step(self) -> int:
        """Samples between two frames."""
        return self.hop or self.length // 2

    @property
    def reach(self) -> int:
        """Frames that a mask depends on to each side (causal: twice as many, all before), apart from gLN's statistics."""
        return self.repeats * int(2**self.blocks - 1) * (self.kernel - 1) // 2


class Norm(nn.Module):
    """gLN (equations 9 and 10 of the paper): over channels and frames. (batch, frames, channels)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))  # γ
        self.bias = nn.Parameter(torch.zeros(channels))  # β

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)  # (batch, 1, 1)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class Moments(NamedTuple):
    """What cLN knows of the frames before: their mean and variance (batch, 1, 1), and how many there were (1)."""

    mean: Tensor
    variance: Tensor
    frames: Tensor


class CumulativeNorm(Norm):
    """cLN (equations 11 and 12): over channels and all frames so far."""

    def advance(self, x: Tensor, past: Moments) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised x, and mean and variance after its last frame.

        Sums are taken of the distance from the mean so far and merged as Chan et al. 1979 merge samples, so that they
        stay small and nothing cancels however long the stream.
        """
        channels = x.shape[2]
        distance = x - past.mean
        # Frames so far, this one included: (K, 1)
        count = past.frames + torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.float32).unsqueeze(1)
        drift = distance.sum(2, keepdim=True).float().cumsum(1) / (count * channels)  # of the mean: (batch, K, 1)
        spread = distance.square().sum(2, keepdim=True).float().cumsum(1) / (count * channels)
        variance = (past.variance * (past.frames / count) + spread - drift.square()).clamp(min=0)
        y = (distance - drift) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return y, past.mean + drift[:, -1:], variance[:, -1:]

    def forward(self, x: Tensor) -> Tensor:
        zero = x.new_zeros(1, 1, 1, dtype=torch.float32)
        return self.advance(x, Moments(zero, zero, zero[0, 0]))[0]


class Block(nn.Module):
    """1-D convolutional block of figure 1C: 1×1, depthwise, then 1×1 to the residual and to the skip path."""

    def __init__(self, settings: ConvTasNetSettings, dilation: int, residual: bool) -> None:
        super().__init__()
        s = settings
        self.dilation, self.causal = dilation, s.causal
        self.residual_channels = s.bottleneck if residual else 0
        norm = CumulativeNorm if s.norm == "cLN" else Norm
        self.expand = nn.Linear(s.bottleneck, s.hidden)  # B → H
        self.first_prelu = nn.PReLU()
        self.first_norm = norm(s.hidden, s.eps)
        self.depthwise = nn.Parameter(torch.empty(s.kernel, s.hidden))  # (P, H)
        self.depthwise_bias = nn.Parameter(torch.zeros(s.hidden))
        self.second_prelu = nn.PReLU()
        self.second_norm = norm(s.hidden, s.eps)
        self.output = nn.Linear(s.hidden, self.residual_channels + s.skip)  # H → B + Sc, both in one product
        initialise(self.expand, s.initialisation, "relu", 0.05)
        initialise(self.output, s.initialisation, "none", 0.05)
        nn.init.uniform_(self.depthwise, -(s.kernel**-0.5), s.kernel**-0.5)

    @property
    def tail(self) -> int:
        """Frames of the past that the depthwise convolution needs: (P − 1)·dilation."""
        return (self.depthwise.shape[0] - 1) * self.dilation

    def convolve(self, x: Tensor) -> Tensor:
        """Depthwise convolution without padding: (batch, K + tail, H) → (batch, K, H)."""
        frames = x.shape[1] - self.tail
        taps = [x[:, p * self.dilation : p * self.dilation + frames] * self.depthwise[p] for p in range(len(self.depthwise))]
        return torch.stack(taps).sum(0) + self.depthwise_bias if len(taps) > 7 else sum(taps, self.depthwise_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, K, B) → (batch, K, B + Sc)."""
        y = self.first_norm(self.first_prelu(self.expand(x)))  # (batch, K, H)
        before = self.tail if self.causal else self.tail // 2
        y = self.convolve(nn.functional.pad(y, (0, 0, before, self.tail - before)))
        out: Tensor = self.output(self.second_norm(self.second_prelu(y)))
        return out

    def advance(self, x: Tensor, tail: Tensor, first: Moments, second: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One chunk of a stream: its output, the new tail, and [mean, variance] of both norms (batch, 2, 1, 1) after it."""
        y, *first_after = cast(CumulativeNorm, self.first_norm).advance(self.first_prelu(self.expand(x)), first)
        y = torch.cat([tail, y], dim=1)  # (batch, tail + K, H)
        tail = y[:, y.shape[1] - self.tail :]
        z, *second_after = cast(CumulativeNorm, self.second_norm).advance(self.second_prelu(self.convolve(y)), second)
        return self.output(z), tail, torch.stack(first_after, 1), torch.stack(second_after, 1)


class TCN(nn.Module):
    """The separator: R repeats of X blocks, then the masks. (batch, K, N) → (batch, K, C, N)."""

    def __init__(self, settings: ConvTasNetSettings) -> None:
        super().__init__()
        s = self.settings = settings
        self.norm = (CumulativeNorm if s.norm == "cLN" else Norm)(s.filters, s.eps)
        self.bottleneck = nn.Linear(s.filters, s.bottleneck)  # N → B
        last = s.repeats * s.blocks - 1
        self.blocks = nn.ModuleList(
            Block(s, 2 ** (number % s.blocks), residual=number < last or s.last_residual or not s.skip)
            for number in range(last + 1)
        )
        self.prelu = nn.PReLU()
        self.masks = nn.Linear(s.skip or s.bottleneck, s.sources * s.filters)  # Sc → C·N
        initialise(self.bottleneck, s.initialisation, "none", 0.05)
        initialise(self.masks, s.initialisation, "none", 0.05)

    def forward(self, encoded: Tensor) -> Tensor:
        return self.each_repeat(encoded, final_only=True)[-1]

    def each_repeat(self, encoded: Tensor, final_only: bool = False) -> list[Tensor]:
        """Masks as they would be if the network ended after each repeat, the whole network's last."""
        path: Tensor = self.bottleneck(self.norm(encoded))  # (batch, K, B)
        skips: Tensor | None = None
        masks = []
        for number, block in enumerate(self.blocks, 1):
            path, skips = self.join(cast(Block, block), block(path), path, skips)
            if number == len(self.blocks) or (not final_only and number % self.settings.blocks == 0):
                masks.append(self.mask(path if skips is None else skips))
        return masks

    def join(self, block: Block, out: Tensor, path: Tensor, skips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add a block's output to the residual path and the skip path."""
        residual, skip = out[..., : block.residual_channels], out[..., block.residual_channels :]
        path = path + residual if block.residual_channels else path
        if not self.settings.skip:
            return path, None
        return path, skip if skips is None else skips + skip

    def mask(self, features: Tensor) -> Tensor:
        """(batch, K, Sc) → (batch, K, C, N)."""
        masks: Tensor = self.masks(self.prelu(features)).unflatten(2, (self.settings.sources, self.settings.filters))
        return activate_masks(masks, self.settings.mask, sources=2)

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        """State before the first frame; see ``advance``."""
        blocks = [cast(Block, block) for block in self.blocks]
        tails = {f"tail_{number}": torch.zeros(batch, block.tail, self.settings.hidden) for number, block in enumerate(blocks)}
        return {"count": torch.zeros(1), "moments": torch.zeros(batch, 2 * len(blocks) + 1, 2, 1, 1), **tails}

    def advance(self, encoded: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Masks of one chunk, and the state after it.

        State: ``count`` (1), frames so far, at most MEMORY: from there on the statistics forget, with that time constant;
        ``moments`` (batch, norms, [mean, variance], 1, 1); ``tail_i`` (batch, (P − 1)·dilation, H), the last normalised
        frames of block i.
        """
        moments = state["moments"]
        past = [Moments(moments[:, n, 0], moments[:, n, 1], state["count"]) for n in range(moments.shape[1])]
        encoded, *first = cast(CumulativeNorm, self.norm).advance(encoded, past[0])
        path: Tensor = self.bottleneck(encoded)
        after, tails = [torch.stack(first, 1)], {}
        skips: Tensor | None = None
        for number, module in enumerate(self.blocks):
            block = cast(Block, module)
            before = past[2 * number + 1 : 2 * number + 3]
            out, tails[f"tail_{number}"], *both = block.advance(path, state[f"tail_{number}"], *before)
            after += both
            path, skips = self.join(block, out, path, skips)
        count = (state["count"] + encoded.shape[1]).clamp(max=MEMORY)
        return self.mask(path if skips is None else skips), {"count": count, "moments": torch.stack(after, 1), **tails}


def activate_masks(masks: Tensor, kind: Mask, sources: int) -> Tensor:
    """Apply the masks' activation; ``sources`` is the axis of the voices, over which softmax sums to one."""
    match kind:
        case "sigmoid":
            return torch.sigmoid(masks)
        case "relu":
            return torch.relu(masks)
        case "softmax":
            return torch.softmax(masks, dim=sources)


class ConvTasNet(nn.Module):
    """The network. See ``ConvTasNetSettings`` for the arguments."""

    def __init__(self, settings: ConvTasNetSettings) -> None:
        super().__init__()
        s = self.settings = settings
        self.encoder = nn.Parameter(torch.empty(s.length, s.filters))  # (L, N)
        self.decoder = nn.Parameter(torch.empty(s.filters, s.length))  # (N, L)
        self.separator: TCN | DualPath = (
            TCN(s) if s.transformer is None else DualPath(s.transformer, s.filters, s.sources, s.mask, s.eps)
        )
        nn.init.xavier_uniform_(self.encoder)
        nn.init.xavier_uniform_(self.decoder)

    def forward(self, mixture: Tensor) -> Tensor:
        """(batch, T) samples → (batch, C, T)."""
        samples = self.pad(mixture)
        encoded = self.encode(samples)
        return self.crop(self.decode(encoded, self.separator(encoded), samples), mixture)

    def each_repeat(self, mixture: Tensor) -> list[Tensor]:
        """The voices as they would be if the separator ended after each of its repeats, the whole network's last."""
        samples = self.pad(mixture)
        encoded = self.encode(samples)
        return [self.crop(self.decode(encoded, masks, samples), mixture) for masks in self.separator.each_repeat(encoded)]

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        """State before the first sample: the separator's, and ``overlap`` (batch, C, L − hop), samples not yet final."""
        s = self.settings
        overlap = torch.zeros(batch, s.sources, s.length - s.step)
        return {"overlap": overlap, **cast(TCN, self.separator).initial_state(batch)}

    def advance(self, samples: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """One chunk of K frames, causal networks only.

        Args:
            samples: (batch, K·hop + L − hop); the last L − hop of them come again at the head of the next chunk. A stream
                begins with L − hop zeros.
            state: of ``initial_state`` or of the chunk before.

        Returns:
            Voices (batch, C, K·hop) at the first K·hop of the samples, now final, and the state after them.
        """
        encoded = self.encode(samples)
        masks, after = cast(TCN, self.separator).advance(encoded, state)
        voices = self.overlap_add(encoded, masks)  # (batch, C, K·hop + L − hop)
        final = voices.shape[2] - state["overlap"].shape[2]
        voices = voices + nn.functional.pad(state["overlap"], (0, final))
        after["overlap"] = voices[:, :, final:]
        return self.consistent(voices[:, :, :final], samples[:, :final]), after

    # In detail

    def pad(self, mixture: Tensor) -> Tensor:
        """Zeros before and after, so that frames cover every sample: (batch, T) → (batch, K·hop + L − hop)."""
        s = self.settings
        before = s.length - s.step if s.pad else 0
        length = max(mixture.shape[1] + 2 * before, s.length)
        return nn.functional.pad(mixture, (before, length - before - mixture.shape[1] + -(length - s.length) % s.step))

    def crop(self, voices: Tensor, mixture: Tensor) -> Tensor:
        before = self.settings.length - self.settings.step if self.settings.pad else 0
        return voices[:, :, before : before + mixture.shape[1]]

    def encode(self, samples: Tensor) -> Tensor:
        """(batch, K·hop + L − hop) → (batch, K, N), equation 2."""
        encoded = samples.unfold(1, self.settings.length, self.settings.step) @ self.encoder
        return torch.relu(encoded) if self.settings.encoder == "relu" else encoded

    def decode(self, encoded: Tensor, masks: Tensor, samples: Tensor) -> Tensor:
        """Voices (batch, C, K·hop + L − hop)."""
        return self.consistent(self.overlap_add(encoded, masks), samples)

    def overlap_add(self, encoded: Tensor, masks: Tensor) -> Tensor:
        """Masked frames through the decoder, then summed where they overlap: (batch, C, K·hop + L − hop)."""
        s = self.settings
        frames = (encoded.unsqueeze(2) * masks) @ self.decoder  # (batch, K, C, L), equation 3
        pieces = frames.reshape(*frames.shape[:3], s.length // s.step, s.step).permute(3, 0, 2, 1, 4)  # (L/hop, batch, C, K, hop)
        last = len(pieces) - 1
        # Piece p of a frame lies p hops after its beginning.
        placed = [nn.functional.pad(piece, (0, 0, p, last - p)) for p, piece in enumerate(pieces)]
        return reduce(torch.add, placed).flatten(2)

    def consistent(self, voices: Tensor, samples: Tensor) -> Tensor:
        if not self.settings.mixture_consistency:
            return voices
        return voices + (samples.unsqueeze(1) - voices.sum(1, keepdim=True)) / self.settings.sources
