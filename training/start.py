"""Weights to start from: those of a bundle, in place of random ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from models.bundle import open_bundle
from models.errors import BundleError, ConfigError

WEIGHTS = "network.safetensors"

Weights = Mapping[str, Tensor]
Settings = dict[str, Any]


def start_from(
    network: nn.Module,
    bundle: str | Path,
    meaning: Callable[[Settings], Settings],
    adapt: Callable[[Weights, Weights], Weights] | None = None,
) -> None:
    """Give a network the weights of a bundle's; the bundle may have been trained on other data, or with another optimiser.

    Args:
        network: gets them; its ``settings`` are a dataclass.
        bundle: has them.
        meaning: of a network's settings, as a dictionary, those that change what its weights mean: in them both must agree.
        adapt: makes of the bundle's weights and the network's own (its initial ones) what the network gets; for a network that
            may differ from the bundle's.

    Raises:
        BundleError: no such bundle, or one without weights.
        ConfigError: its network is another one; says which weights are missing, unknown or of another shape, or which settings
            differ.
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
    _agree(network.settings, opened.spec.network.arguments, meaning, str(bundle))
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})


def _agree(settings: Any, arguments: Mapping[str, Any], meaning: Callable[[Settings], Settings], bundle: str) -> None:
    """Weights that fit may still mean something else: an activation or a dilation has no weights."""
    defaults = asdict(type(settings)())  # of what a bundle does not tell, which is older than the setting
    own, its = (json.loads(json.dumps(meaning({**defaults, **each}))) for each in (asdict(settings), arguments))
    differing = [name for name in own if own[name] != its.get(name)]
    if differing:
        expected, got = (", ".join(f"{name} {each.get(name)}" for name in differing) for each in (its, own))
        fix = f"Set {', '.join(f'network.{name}' for name in differing)} as in the bundle, or train without `start`."
        raise ConfigError("the bundle's network is another one", where=bundle, expected=expected, got=got, fix=fix)
