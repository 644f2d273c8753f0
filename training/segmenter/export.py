"""A segmenter's checkpoint taken apart: the network that runs, and the weights to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.bundle_spec import NetworkSpec
from models.errors import ConfigError
from models.segmenter.network import UNet, UNetSettings
from models.segmenter.plan import Plan
from training.export import Exported, load_network, rounded
from training.segmenter.graphs import graph


def export(saved: dict[str, Any], folder: Path) -> Exported:
    """Take a checkpoint of ``SegmenterModule`` apart.

    Args:
        saved: ``segmenter``: {``settings`` of ``UNetSettings``, ``plan``}; ``state_dict`` with keys ``network.…``.
        folder: not used; nothing but the network is written.

    Raises:
        ConfigError: the checkpoint has no plan, or its weights are not those of its settings.
    """
    about = saved["segmenter"]
    if not about.get("plan"):
        fix = "Train with the data module of training/configs/segmenter-*.yaml, which writes it."
        raise ConfigError("the checkpoint has no plan", expected="segmenter.plan", fix=fix)
    plan = Plan.model_validate(about["plan"])
    network = rounded(network_of(saved))
    arguments = json.loads(json.dumps(asdict(network.settings)))
    return Exported(
        labels=list(plan.classes),
        preprocessing=plan.model_dump(mode="json"),
        network=NetworkSpec(class_name="models.segmenter.network:UNet", arguments=arguments),
        state=dict(network.state_dict()),
        networks={"network.onnx": graph(network, plan.window)},
        files={},
    )


def network_of(saved: Mapping[str, Any]) -> UNet:
    """The network of a checkpoint, in evaluation mode.

    Raises:
        ConfigError: the weights are not those of the settings.
    """
    return load_network(UNet(settings_of(saved["segmenter"]["settings"])), saved)


def settings_of(arguments: Mapping[str, Any]) -> UNetSettings:
    """The settings that ``dataclasses.asdict`` wrote, or JSON made lists of."""
    steps = arguments.get("steps")
    return UNetSettings(
        **{
            **arguments,
            "channels": tuple(arguments["channels"]),
            "steps": None if steps is None else tuple((step[0], step[1], step[2]) for step in steps),
        }
    )
