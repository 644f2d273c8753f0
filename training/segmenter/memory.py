"""Less memory for more time: activations that are computed again when the gradient needs them."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from models.errors import ConfigError
from models.segmenter.network import UNet


def recompute_pairs(network: UNet) -> None:
    """Let each pair of convolutions keep its input and output only; nothing of its weights or their names changes.

    Raises:
        ConfigError: the network has batch norms, whose running statistics would count every batch twice.
    """
    if network.settings.norm == "batch":
        expected = "norm: instance or none"
        raise ConfigError("not with batch norm", where="recompute", expected=expected, got="norm: batch")
    for pair in [*network.analysis, *network.synthesis.values()]:
        pair.forward = partial(checkpoint, pair.forward, use_reentrant=False, preserve_rng_state=False)
