"""Weights to start from: those of a bundle, in place of random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from models.bundle import open_bundle
from models.errors import BundleError, ConfigError

WEIGHTS = "network.safetensors"

Weights = Mapping[str, Tensor]


def start_from(network: nn.Module, bundle: str | Path, adapt: Callable[[Weights, Weights], Weights] | None = None) -> None:
    """Give a network the weights of a bundle's; the bundle may have been trained on other data, or with another optimiser.

    Args:
        network: gets them.
        bundle: has them.
        adapt: makes of the bundle's weights and the network's own (its initial ones) what the network gets; for a network that
            may differ from the bundle's.

    Raises:
        BundleError: no such bundle, or one without weights.
        ConfigError: its network is another one; says which weights are missing, unknown or of another shape.
    """
    opened = open_bundle(bundle)
    try:
        weights = load(opened.file(WEIGHTS).read_bytes())
    except SafetensorError as error:
        raise BundleError("weights cannot be read", where=f"{bundle}/{WEIGHTS}", got=error) from error
    own = network.state_dict()
    weights = dict(adapt(weights, own)) if adapt else weights
    differing = [name for name in weights.keys() & own.keys() if weights[name].shape != own[name].shape]
    if problems := [*sorted(weights.keys() ^ own.keys()), *sorted(differing)]:
        shown = ", ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
        raise ConfigError(
            "the bundle's network is another one",
            where=str(bundle),
            expected=f"the settings of {opened.spec.network.arguments}",
            got=f"other weights: {shown}",
            fix="Copy the network section from the config that the bundle was trained with.",
        )
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
