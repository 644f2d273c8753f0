"""Plots of a tagger's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.plots import figure, save
from training.tagger.metrics import Calibration


def confusion_plot(labels: Sequence[str], counts: NDArray[np.int64], path: Path) -> Path:
    """Draw which gold label (row) was predicted as which (column), as shares of the row; writes a PNG."""
    size = max(4.0, 0.32 * len(labels) + 2)
    drawn = figure(size + 1, size)
    axes = drawn.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    if len(labels) <= 20:
        for row, column in np.argwhere(shares >= 0.005):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=color)
    drawn.colorbar(image, label="share of the gold label", shrink=0.8)
    return save(drawn, path)


def reliability_plot(calibration: Calibration, path: Path) -> Path:
    """Draw accuracy against confidence, bin by bin, above how many tokens fall into each; writes a PNG."""
    drawn = figure(5, 6)
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = calibration.counts > 0
    widths, lefts = np.diff(calibration.edges), calibration.edges[:-1]
    upper.bar(lefts[filled], calibration.accuracy[filled], widths[filled], align="edge", edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color="gray", label="perfectly calibrated")
    upper.plot(
        calibration.confidence[filled], calibration.accuracy[filled], "o-", color="black", markersize=3, label="mean confidence"
    )
    upper.set_ylabel("accuracy")
    upper.set_title(f"expected calibration error {calibration.error:.4f}")
    upper.legend(loc="upper left")
    lower.bar(lefts, calibration.counts, widths, align="edge", edgecolor="white")
    lower.set_yscale("symlog")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("confidence")
    lower.set_ylabel("tokens")
    return save(drawn, path)
