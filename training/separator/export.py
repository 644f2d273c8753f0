"""A separator's checkpoint taken apart: the network that runs, and the weights to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.bundle_spec import NetworkSpec
from models.errors import ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.separator.settings import SeparatorPreprocessing
from models.separator.transformer import DualPathSettings
from training.export import Exported, load_network, rounded
from training.separator.graphs import graph, step_graph

WINDOW_SECONDS, OVERLAP_SECONDS = 8.0, 1.0  # where the checkpoint does not say


def export(saved: dict[str, Any], folder: Path) -> Exported:
    """Take a checkpoint of ``SeparatorModule`` apart.

    Args:
        saved: ``separator``: {``settings`` of ``ConvTasNetSettings``, ``sample_rate``, and if not the defaults
            ``window_seconds`` and ``overlap_seconds``}; ``state_dict`` with keys ``network.…``.
        folder: not used; nothing but the networks is written.

    Raises:
        ConfigError: the checkpoint says no sample rate, or its weights are not those of its settings.
    """
    about = saved["separator"]
    network = rounded(network_of(saved))
    settings = network.settings
    if not about.get("sample_rate"):
        fix = "Train with the data module of training/configs/separator-*.yaml, which writes it."
        raise ConfigError("the checkpoint does not say its sample rate", expected="separator.sample_rate", fix=fix)
    windows = about.get("window_seconds", WINDOW_SECONDS), about.get("overlap_seconds", OVERLAP_SECONDS)
    preprocessing = preprocessing_of(settings, int(about["sample_rate"]), *windows)
    arguments = json.loads(json.dumps(asdict(settings)))
    return Exported(
        labels=preprocessing.sources,
        preprocessing=preprocessing.model_dump(mode="json"),
        network=NetworkSpec(class_name="models.separator.network:ConvTasNet", arguments=arguments),
        state=dict(network.state_dict()),
        networks={"network.onnx": step_graph(network) if settings.causal else graph(network, preprocessing.sample_rate)},
        files={},
    )


def preprocessing_of(
    settings: ConvTasNetSettings, sample_rate: int, window_seconds: float, overlap_seconds: float
) -> SeparatorPreprocessing:
    """What the predictor needs to know.

    Raises:
        ConfigError: such a separator could not be served; names the setting.
    """
    try:
        return SeparatorPreprocessing(
            sample_rate=sample_rate,
            sources=[f"speaker_{number}" for number in range(1, settings.sources + 1)],
            causal=settings.causal,
            length=settings.length,
            hop=settings.step,
            lead=settings.length - settings.step if settings.pad else 0,
            window_seconds=window_seconds,
            overlap_seconds=overlap_seconds,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "window_seconds, overlap_seconds"
        got = first.get("input") if first["loc"] else None
        raise ConfigError(f"cannot be served: {first['msg']}", where=where, got=got) from error


def network_of(saved: Mapping[str, Any]) -> ConvTasNet:
    """The network of a checkpoint, in evaluation mode.

    Raises:
        ConfigError: the weights are not those of the settings.
    """
    return load_network(ConvTasNet(settings_of(saved["separator"]["settings"])), saved)


def settings_of(arguments: Mapping[str, Any]) -> ConvTasNetSettings:
    """The settings that ``dataclasses.asdict`` wrote, those of the Transformer included."""
    transformer = arguments.get("transformer")
    nested = DualPathSettings(**transformer) if transformer else None
    return ConvTasNetSettings(**{**arguments, "transformer": nested})
