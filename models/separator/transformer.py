"""A dual-path Transformer in the place of Conv-TasNet's convolutions.

Subakan et al. 2021, "Attention is All You Need in Speech Separation" (SepFormer, arXiv:2010.13154), made small: frames are
cut into overlapping chunks, attention runs inside each chunk, then across the chunks, and the overlaps are added up again.
Layout is (batch, frames, channels), as in ``network.py``: K frames, S frames in a chunk, G chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.errors import ConfigError


@dataclass(frozen=True)
class DualPathSettings:
    """Arguments of the dual-path Transformer.

    Attributes:
        width: channels of the attention.
        heads: of the attention, a divisor of the width.
        feedforward: units between the two linear maps after each attention.
        intra: layers that look inside a chunk.
        inter: layers that look across the chunks.
        repeats: of both.
        chunk: S, frames in a chunk, even; neighbours overlap by half.
        dropout: in the layers.
    """

    width: int = 128
    heads: int = 8
    feedforward: int = 256
    intra: int = 2
    inter: int = 2
    repeats: int = 2
    chunk: int = 100
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "heads", "feedforward", "intra", "inter", "repeats", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError("too small", where=f"transformer.{name}", expected="at least 1", got=getattr(self, name))
        if self.width % self.heads or self.width % 2:
            where = "transformer.width"
            raise ConfigError("heads do not divide it", where=where, expected=f"a multiple of {2 * self.heads}", got=self.width)
        if self.chunk % 2:
            raise ConfigError("chunks overlap by half", where="transformer.chunk", expected="an even number", got=self.chunk)


class DualPath(nn.Module):
    """Masks from the encoder's frames: (batch, K, N) → (batch, K, C, N)."""

    def __init__(self, settings: DualPathSettings, filters: int, sources: int, mask: str, eps: float) -> None:
        super().__init__()
        s = self.settings = settings
        self.sources, self.filters, self.mask = sources, filters, mask
        self.norm = nn.GroupNorm(1, filters, eps=eps)
        self.bottleneck = nn.Linear(filters, s.width)
        self.repeats = nn.ModuleList(
            nn.ModuleList([_layers(s, s.intra), nn.LayerNorm(s.width), _layers(s, s.inter), nn.LayerNorm(s.width)])
            for _ in range(s.repeats)
        )
        self.prelu = nn.PReLU()
        self.masks = nn.Linear(s.width, sources * filters)

    def forward(self, encoded: Tensor) -> Tensor:
        return self._masks(self._run(encoded)[-1], encoded.shape[1])

    def each_repeat(self, encoded: Tensor) -> list[Tensor]:
        """Masks as they would be if the network ended after each repeat."""
        return [self._masks(x, encoded.shape[1]) for x in self._run(encoded)]

    def _run(self, encoded: Tensor) -> list[Tensor]:
        normalised = self.norm(encoded.transpose(1, 2)).transpose(1, 2)
        x = self._cut(self.bottleneck(normalised))  # (batch, G, S, width)
        batch, chunks, size, width = x.shape
        results = []
        for repeat in self.repeats:
            intra, intra_norm, inter, inter_norm = cast(nn.ModuleList, repeat)
            inside = x.flatten(0, 1)  # (batch·G, S, width)
            x = x + intra_norm(intra(inside + positions(size, width, x))).view_as(x)
            across = x.transpose(1, 2).flatten(0, 1)  # (batch·S, G, width)
            y = inter_norm(inter(across + positions(chunks, width, x)))
            x = x + y.view(batch, size, chunks, width).transpose(1, 2)
            results.append(x)
        return results

    def _masks(self, x: Tensor, frames: int) -> Tensor:
        masks = self.masks(self.prelu(self._join(x)[:, :frames])).unflatten(2, (self.sources, self.filters))
        match self.mask:
            case "relu":
                return torch.relu(masks)
            case "softmax":
                return torch.softmax(masks, dim=2)
        return torch.sigmoid(masks)

    def _cut(self, x: Tensor) -> Tensor:
        """Chunks that overlap by half, with half a chunk of zeros at both ends: (batch, K, W) → (batch, G, S, W)."""
        half = self.settings.chunk // 2
        x = nn.functional.pad(x, (0, 0, half, half + -x.shape[1] % half))
        halves = x.reshape(x.shape[0], -1, half, x.shape[2])  # (batch, G + 1, S/2, W)
        return torch.cat([halves[:, :-1], halves[:, 1:]], dim=2)

    def _join(self, x: Tensor) -> Tensor:
        """Half the sum of the two chunks in which each frame lies: (batch, G, S, W) → (batch, ≥K, W)."""
        half = self.settings.chunk // 2
        return (0.5 * (x[:, 1:, :half] + x[:, :-1, half:])).flatten(1, 2)


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions of Vaswani et al. 2017: (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(1e4) / width))
    angles = torch.arange(length, device=like.device, dtype=like.dtype).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class Layer(nn.Module):
    """Pre-norm Transformer layer, written out so that it exports at any length: (rows, length, width)."""

    def __init__(self, settings: DualPathSettings) -> None:
        super().__init__()
        s = settings
        self.heads = s.heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.project, self.out = nn.Linear(s.width, 3 * s.width), nn.Linear(s.width, s.width)
        self.feedforward = nn.Sequential(
            nn.Linear(s.width, s.feedforward), nn.ReLU(), nn.Dropout(s.dropout), nn.Linear(s.feedforward, s.width)
        )
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))  # (rows, length, 3, heads, W/heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (rows, heads, length, W/heads) each
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return out


def _layers(settings: DualPathSettings, count: int) -> nn.Sequential:
    return nn.Sequential(*(Layer(settings) for _ in range(count)))
